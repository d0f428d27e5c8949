"""A runner process ends when it has nothing to do, or when it is told to."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru.operations import running
from kitaru.stacks.runners import RunnerSpec


def spec(tmp_path: Path, *, idle_seconds: float) -> RunnerSpec:
    return RunnerSpec(
        journal=f"sqlite:///{tmp_path}/journal.db",
        route="deployment:ab",
        bundle="ab",
        idle_seconds=idle_seconds,
    )


def test_an_idle_runner_ends_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    async def seen(_: asyncio.Event) -> None:
        folders.append(os.getcwd())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "_pause", seen)
    running.run(spec(tmp_path, idle_seconds=0.2))
    assert folders
    assert os.path.realpath(folders[0]) != os.path.realpath(tmp_path)
    assert not os.path.exists(folders[0])


async def test_a_signal_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = asyncio.Event()
    wait = running._pause

    async def seen(stopped: asyncio.Event) -> None:
        opened.set()
        await wait(stopped)

    monkeypatch.setattr(running, "_pause", seen)
    going = asyncio.create_task(running._run(spec(tmp_path, idle_seconds=600)))
    await opened.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await going


FORKS = """
import os, sys
from kitaru.operations.running import _keep_to_this_process

slot = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
_keep_to_this_process([slot])
if os.fork():
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    os.fstat(slot)
    sys.exit()
# The number is free in the child, and the next file gets it.
other = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
assert other == slot
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.write(other, b"kept")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_children_have_none_of_its_places_and_keep_files_of_their_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path / "slot"), str(tmp_path / "own")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "own").read_text() == "kept"
