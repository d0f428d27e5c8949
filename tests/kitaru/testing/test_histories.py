"""`pytest --kitaru-histories DIR`: one test for each file, and failures that say where."""

import subprocess
import sys
from pathlib import Path

import pytest

import kitaru
from kitaru import checkpoint, flow

FLOWS = """
from kitaru import checkpoint, flow

@checkpoint
def fetch(url: str) -> str:
    raise AssertionError("a checkpoint has run")

@flow
def agent(url: str) -> str:
    return fetch(url)
"""


@checkpoint
def fetch(url: str) -> str:
    return url


@flow
def agent(url: str) -> str:
    return fetch(url)


@pytest.fixture
async def project(tmp_path: Path) -> Path:
    """A project with flows, a test and two histories."""
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_own.py").write_text("def test_it():\n    pass\n", encoding="utf-8")
    folder = tmp_path / "kept" / "deeper"
    folder.mkdir(parents=True)
    async with kitaru.runtime(journal="memory://"):
        for url in ("a", "b"):
            handle = agent.aio.run(url)
            await handle.wait()
            content = await kitaru.AsyncKitaruClient().executions.export(handle.exec_id)
            (folder / f"{url}.history.jsonl").write_bytes(content)
    return tmp_path


def run_pytest(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.timeout(400)  # each pytest is a process of its own
def test_each_history_is_a_test(project: Path) -> None:
    options = ["--kitaru-histories", "kept", "--kitaru-flows", "flows.py"]
    done = run_pytest(project, *options, "tests")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert "PASSED kept/deeper/a.history.jsonl::replay" in done.stdout
    # Also where the folder is among what is collected anyway: each once.
    assert "3 passed" in run_pytest(project, *options).stdout
    # Without the option nobody looks at them.
    assert "1 passed" in run_pytest(project).stdout


def test_a_divergence_is_told_with_its_place(project: Path) -> None:
    changed = FLOWS.replace("    return fetch(url)", '    return fetch(url + "!")')
    (project / "flows.py").write_text(changed, encoding="utf-8")
    line = 1 + changed.splitlines().index('    return fetch(url + "!")')
    done = run_pytest(project, "--kitaru-histories=kept", "--kitaru-flows=flows.py", "kept")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert f"diverges at flows.py:{line}, at event 2" in done.stdout
    assert "url: 'a' -> 'a!'" in done.stdout
    assert "Traceback" not in done.stdout
    assert "runtest" not in done.stdout


def test_what_cannot_be_judged_fails_too(project: Path) -> None:
    file = project / "kept" / "deeper" / "a.history.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    done = run_pytest(project, "--kitaru-histories=kept", "--kitaru-flows=flows.py", "kept")
    assert "1 failed, 1 passed" in done.stdout
    assert "unknown beyond event 0" in done.stdout
    assert "its last line is cut off" in done.stdout


def test_a_folder_that_is_not_there_is_a_mistake(project: Path) -> None:
    done = run_pytest(project, "--kitaru-histories=nowhere")
    assert done.returncode == 4
    assert "there is no such folder" in done.stderr


def test_nothing_of_kitaru_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    program = (
        "import sys, kitaru.testing.histories; "
        "print(sorted(name for name in sys.modules if name.startswith('kitaru.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "['kitaru.testing', 'kitaru.testing.histories']\n"
