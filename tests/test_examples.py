"""The examples do what they say: as programs, over real files, killed in the middle."""

import ast
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any

import pytest

from journal import open_reader

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PROGRAMS = ["digest_folder.py", "digest_folder_async.py"]
FILES = {
    "a.md": "# Apples\n\nSee [the pears](pears/b.md) and [nothing](absent.md).\n",
    "pears/b.md": "# Pears\n\n```\nnot [at](all)\n```\n\nBack to [apples](../a.md#apples).\n",
    "c.md": "Pears, apples, pears: [elsewhere](https://example.org/) and `[code](x)`.\n",
    **{f"more/{number}.md": f"Number {number}\n" for number in range(9)},
}

RunProgram = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digest_folder", EXAMPLES / "digest_folder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pages"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def summary_of(output: str) -> dict[str, Any]:
    summary: dict[str, Any] = ast.literal_eval(output.splitlines()[-1])
    return summary


def test_a_page_is_counted_without_its_code(example: ModuleType) -> None:
    page = example.page_of("pears/b.md", FILES["pears/b.md"].encode())
    assert page["words"] == {"pears": 1, "back": 1, "to": 1, "apples": 1}
    assert (page["headings"], page["links"]) == (1, ["../a.md#apples"])
    assert page["sha256"] == hashlib.sha256(FILES["pears/b.md"].encode()).hexdigest()


def test_broken_links_are_the_relative_ones_that_lead_nowhere(
    example: ModuleType, folder: Path
) -> None:
    links = ["pears/b.md", "absent.md", "https://example.org/", "#here", "a.md#apples"]
    assert example.broken_links(folder, "a.md", links) == ["absent.md"]
    assert example.broken_links(folder, "pears/b.md", ["../a.md", "a.md"]) == ["a.md"]


def test_the_index_adds_up(example: ModuleType) -> None:
    pages = [example.page_of(name, text.encode()) for name, text in FILES.items()]
    index = example.index_of(pages)
    assert index["files"] == len(FILES)
    assert index["words"] == sum(sum(page["words"].values()) for page in pages)
    assert index["frequent"][0] == ("number", 9)
    assert example.index_of(pages) == index


def test_an_empty_folder_has_a_digest(example: ModuleType) -> None:
    report = example.report_of([], example.index_of([]), {})
    assert "0 files, 0 words" in report
    assert "None." in report


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_digests_a_folder(
    program: str, folder: Path, tmp_path: Path, run_program: RunProgram
) -> None:
    report = tmp_path / "new" / "report.md"
    done = run_program(EXAMPLES / program, str(folder), "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    summary = summary_of(done.stdout)
    assert (summary["files"], summary["broken_links"]) == (len(FILES), 1)
    assert summary["report"] == str(report)
    assert "- a.md: absent.md" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_documentation_has_no_broken_links(program: str, run_program: RunProgram) -> None:
    done = run_program(EXAMPLES / program)
    assert done.returncode == 0, done.stderr
    assert summary_of(done.stdout)["broken_links"] == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_second_run_looks_again_and_writes_its_report(
    run_program: RunProgram, folder: Path, tmp_path: Path, program: str
) -> None:
    report = tmp_path / "report.md"
    for number in range(2):
        (folder / f"new-{number}.md").write_text("One more.\n")
        result = run_program(EXAMPLES / program, str(folder), "--report", str(report))
        assert result.returncode == 0, result.stderr
        assert summary_of(result.stdout)["files"] == len(FILES) + number + 1
        assert report.exists()
        report.unlink()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_killed_example_goes_on_and_reads_nothing_twice(
    program: str,
    folder: Path,
    tmp_path: Path,
    journal_url: str,
    run_program: RunProgram,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KITARU_LEASE_SECONDS", "1")
    arguments = [str(EXAMPLES / program), str(folder), "--name", "n", "--pause-seconds", "0.3"]
    environment = {**os.environ, "KITARU_JOURNAL": journal_url}
    running = subprocess.Popen(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    with running.stdout:
        exec_id = running.stdout.readline().decode().split()[-1]
        wait_for_events(journal_url, f"execution-{exec_id}", "checkpoint_completed", 6)
        running.send_signal(signal.SIGKILL)
        running.wait()
    read_before = (folder / "a.md").read_bytes()
    (folder / "a.md").write_text("Not this again.\n", encoding="utf-8")

    done = run_program(EXAMPLES / program, *arguments[1:], timeout=30)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == exec_id
    report = (tmp_path / "digest-report.md").read_text(encoding="utf-8")
    assert hashlib.sha256(read_before).hexdigest()[:12] in report
    assert summary_of(done.stdout)["files"] == len(FILES)


def wait_for_events(journal_url: str, stream: str, kind: str, count: int) -> None:
    """Waits until a stream has as many events of a kind."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with open_reader(journal_url) as reader:
            if sum(event.type == kind for event in reader.read_stream(stream)) >= count:
                return
        time.sleep(0.02)
    pytest.fail(f"{stream} did not get {count} events {kind}")
