"""The pytest plugin, in a pytest of its own; and the laws of the smaller parts."""

import subprocess
import sys
from pathlib import Path

import pytest

TEST_FILE = """
import kitaru
from datetime import timedelta
from kitaru import checkpoint, flow

CHARGES = []

@checkpoint
def charge(order):
    CHARGES.append(order)
    return len(CHARGES)

@checkpoint
def ship(order):
    return f"{order} is on its way"

@flow
def sound(order):
    kitaru.sleep(timedelta(days=1))
    return ship(order)

@flow
def unsound(order):
    charge(order)
    ship(order)
    return len(CHARGES)

def test_sound(kitaru_runtime, kitaru_clock):
    assert kitaru_runtime.run(sound, "a") == "a is on its way"
    assert kitaru_clock is kitaru_runtime.clock
    assert kitaru_clock.now.day == 2

def test_unsound(kitaru_runtime):
    CHARGES.clear()
    assert kitaru_runtime.run(unsound, "a") == 1

async def test_awaited(kitaru_runtime):
    handle = await sound.aio.run("a")
    assert await handle.wait() == "a is on its way"

def test_scripted(kitaru_runtime):
    kitaru_runtime.script("charge", results=[1])
    kitaru_runtime.script("ship", result="no")
    CHARGES.clear()
    kitaru_runtime.run(unsound, "a")

def test_of_something_else():
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_shop.py").write_text(TEST_FILE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    return tmp_path


def run_pytest(project: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_fixtures_give_each_test_a_runtime_and_its_clock(project: Path) -> None:
    done = run_pytest(project)
    assert "5 passed" in done.stdout, done.stdout
    assert "crash sweep" not in done.stdout


def test_flows_that_tests_have_run_are_swept_when_that_is_asked_for(project: Path) -> None:
    done = run_pytest(project, "--kitaru-crash-sweep")
    assert "1 failed, 4 passed" in done.stdout, done.stdout
    assert "unsound, where the process dies" in done.stdout
    assert "sound: 4 boundaries, 8 runs with one crash, 0 with two of 40, chosen" in done.stdout


def test_pairs_are_swept_when_that_is_asked_for_too(project: Path) -> None:
    done = run_pytest(project, "--kitaru-crash-sweep", "--kitaru-crash-pairs=4", "-k", "test_sound")
    assert "1 passed" in done.stdout, done.stdout
    assert "4 with two" in done.stdout


def test_a_test_that_fails_is_not_swept(project: Path) -> None:
    file = project / "test_shop.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"a") == 1', '"a") == 2'), encoding="utf-8")
    done = run_pytest(project, "--kitaru-crash-sweep", "-k", "unsound")
    assert "assert 1 == 2" in done.stdout
    assert "the process dies" not in done.stdout


def test_nothing_of_kitaru_is_loaded_before_it_is_needed() -> None:
    program = (
        "import sys; before = set(sys.modules); import kitaru.testing.plugin; "
        "new = {n for n in set(sys.modules) - before if n.startswith(('kitaru', 'journal'))}; "
        "heavy = {'msgspec', 'anyio', 'hypothesis', 'structlog'} & set(sys.modules); "
        "print(sorted(new), sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import pytest; {program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "['kitaru', 'kitaru.testing', 'kitaru.testing.plugin'] []", done


def test_a_run_that_uses_none_of_it_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert not {'kitaru.sdk.flow', 'msgspec', 'journal'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    done = run_pytest(tmp_path)
    assert "1 passed" in done.stdout, done.stdout


def test_nothing_is_left_to_be_loaded_by_flows_while_tests_run(tmp_path: Path) -> None:
    (tmp_path / "test_flow.py").write_text(
        """
import sys
import kitaru

@kitaru.flow
def ask() -> object:
    return kitaru.now()

def test_it():
    before = {name for name in sys.modules if name.startswith(("kitaru", "journal"))}
    assert {"kitaru.sdk.wait", "kitaru.engine.divergence_story"} <= before
    ask.run().wait()
    after = {name for name in sys.modules if name.startswith(("kitaru", "journal"))}
    assert after - before == set()
""",
        encoding="utf-8",
    )
    done = run_pytest(tmp_path)
    assert "1 passed" in done.stdout, done.stdout
