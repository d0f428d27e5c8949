"""A candidate's code is loaded in another process, and what that says or fails to say is told."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kitaru.domain.deployment.events import EntryPoint
from kitaru.engine.bundles import Bundle, bundle_of
from kitaru.errors import KitaruBackendError
from kitaru.stacks import candidates
from kitaru.stacks.candidates import CandidateReport, judge_candidate

PROGRAM = """
import os, sys
from kitaru import flow
print("not an answer")
{top}

@flow
def agent() -> int:
    return 1
"""


def bundled(tmp_path: Path, top: str = "") -> Bundle:
    root = tmp_path / "project"
    root.mkdir()
    (root / "flows.py").write_text(PROGRAM.format(top=top))
    return bundle_of(str(root))


def judge(tmp_path: Path, bundle: Bundle, qualname: str = "agent") -> CandidateReport:
    entry = EntryPoint(module="flows", qualname=qualname, file="flows.py", import_roots=("",))
    journal = f"sqlite:///{tmp_path}/journal.db"
    return judge_candidate(journal, "agent", bundle.data, bundle.digest, entry, seconds=5)


async def test_code_that_loads_judges_what_there_is(tmp_path: Path, journal_url: str) -> None:
    from journal import open_journal

    await (await open_journal(journal_url)).close()
    assert judge(tmp_path, bundled(tmp_path)) == CandidateReport()


def test_code_that_does_not_load_is_told_with_its_place_in_the_bundle(tmp_path: Path) -> None:
    told = judge(tmp_path, bundled(tmp_path, "import no_such_library"))
    assert told.problem.startswith("Loading flows failed at flows.py:5 with ModuleNotFoundError")
    (tmp_path / "project" / "flows.py").unlink()
    (tmp_path / "project").rmdir()
    assert "is not a flow" in judge(tmp_path, bundled(tmp_path), "other").problem


def test_a_process_without_an_answer_is_told_with_its_last_words(tmp_path: Path) -> None:
    bundle = bundled(tmp_path, "print('farewell', file=sys.stderr, flush=True); os._exit(7)")
    with pytest.raises(KitaruBackendError, match=r"exit code 7[\s\S]*farewell"):
        judge(tmp_path, bundle)


LEAVES = """
import subprocess, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
left = subprocess.Popen(["sleep", "600"])
with open({file!r}, "w") as file:
    file.write(f"{{left.pid}} {{os.getpid()}} ")
"""
ASKS = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.kitaru.stacks.test_candidates import bundled, judge
judge(Path({folder!r}), bundled(Path({folder!r}), Path({top!r}).read_text()))
"""


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody reaps here has, too."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < end, "something of the check goes on"
        time.sleep(0.02)


async def test_nothing_that_code_leaves_holds_up_the_answer_or_goes_on(
    tmp_path: Path, journal_url: str
) -> None:
    from journal import open_journal

    await (await open_journal(journal_url)).close()
    left = tmp_path / "left"
    assert judge(tmp_path, bundled(tmp_path, LEAVES.format(file=str(left)))) == CandidateReport()
    until_gone([int(pid) for pid in left.read_text().split()])


def test_code_that_never_finishes_loading_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "LOAD_SECONDS", 1.5)
    bundle = bundled(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(KitaruBackendError, match=r"did not come on for 1\.5 s"):
        judge(tmp_path, bundle)


def test_a_machine_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundled(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(KitaruBackendError, match="gone"):
        judge(tmp_path, bundle)


def test_what_cannot_be_written_is_told_in_escapes(tmp_path: Path) -> None:
    told = judge(tmp_path, bundled(tmp_path, "raise ValueError('\\udc80 is no text')"))
    assert told.problem.endswith("ValueError: \\udc80 is no text")


def test_it_ends_with_whoever_asks(tmp_path: Path) -> None:
    left = tmp_path / "left"
    top = tmp_path / "top"
    top.write_text(LEAVES.format(file=str(left)) + "time.sleep(600)\n")
    here = str(Path(__file__).parents[3])
    program = ASKS.format(tests=here, folder=str(tmp_path), top=str(top))
    asker = subprocess.Popen([sys.executable, "-c", program])
    end = time.monotonic() + 60
    while not left.exists() or len(left.read_text().split()) < 2:
        assert time.monotonic() < end, "it does not begin"
        time.sleep(0.02)
    os.kill(asker.pid, signal.SIGKILL)
    asker.wait()
    until_gone([int(pid) for pid in left.read_text().split()])
