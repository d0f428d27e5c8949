"""Processes that deploy and invoke, each in a folder of its own; none of them stays running."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from journal import Head, HeadQuery, open_reader
from kitaru.operations import reading
from kitaru.projections.views import Execution

DEADLINE_SECONDS = 90.0
"""How long anything may take before a test calls it stuck; nothing is measured against it."""


class Machine:
    """One journal, and the processes that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.db"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "KITARU_JOURNAL": str(self.journal),
            "KITARU_LEASE_SECONDS": "3",
            "KITARU_RUNNER_IDLE_SECONDS": "30",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def project(self, name: str, files: dict[str, str]) -> Path:
        """A folder with these files."""
        root = self.folder / name
        for path, content in files.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(textwrap.dedent(content), encoding="utf-8")
        root.mkdir(exist_ok=True)
        return root

    def run(self, folder: Path, *command: str, fails: bool = False, code: int | None = None) -> str:
        """Runs a command of Python in a folder; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        told = done.stdout + done.stderr
        if code is None:
            assert (done.returncode != 0) == fails, told
        else:
            assert done.returncode == code, told
        return told if fails or code == 1 else done.stdout

    def program(self, folder: Path, program: str, *, fails: bool = False) -> str:
        """Runs a program that is in no file of the folder."""
        return self.run(folder, "-c", textwrap.dedent(program), fails=fails)

    def start(self, folder: Path, program: str) -> "subprocess.Popen[str]":
        """The same, without waiting for its end."""
        return self._begun(folder, "-c", textwrap.dedent(program))

    def start_file(self, folder: Path, file: str) -> "subprocess.Popen[str]":
        """Runs a file of the folder, without waiting for its end."""
        return self._begun(folder, file)

    def start_kitaru(self, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
        """Runs the command line, without waiting for its end."""
        return self._begun(folder, "-m", "kitaru", *arguments)

    def _begun(self, folder: Path, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def heads(self) -> list[Head]:
        """The heads of all executions."""
        with open_reader(str(self.journal)) as reader:
            return reader.heads(HeadQuery(category="execution", limit=10_000))

    def serve(self) -> "subprocess.Popen[bytes]":
        """A worker, until the test ends, that starts runners for what is due."""
        return self.start_command(self.project("worker", {}), "worker")

    def start_command(self, folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
        """A command of the command line that runs until the test ends."""
        process = subprocess.Popen(
            [sys.executable, "-m", "kitaru", *arguments],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.workers.append(process)
        return process

    def end(self) -> None:
        """Ends all that this journal's processes are."""
        self.kill_workers()
        self.kill_runners()

    def kill_workers(self) -> None:
        """Kills what was started to run until the test ends; runners go on."""
        while self.workers:
            worker = self.workers.pop()
            worker.kill()
            worker.wait()

    def kitaru(
        self, folder: Path, *arguments: str, fails: bool = False, code: int | None = None
    ) -> str:
        """Runs the command line."""
        return self.run(folder, "-m", "kitaru", *arguments, fails=fails, code=code)

    def execution(self, exec_id: str) -> Execution:
        """An execution as it stands now."""
        with open_reader(str(self.journal)) as reader:
            return reading.get(reader, exec_id)

    def until(self, holds: Callable[[], Any]) -> Any:
        """Waits until something is true, and returns it."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not (found := holds()):
            assert time.monotonic() < end, "this never became true"
            time.sleep(0.05)
        return found

    @property
    def runners(self) -> list[int]:
        """The ids of the runner processes of this journal."""
        return [pid for pid in _processes() if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"runner" in command and any(str(self.journal).encode() in part for part in command)

    def kill(self, pid: int) -> int:
        """Kills one runner of this journal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def terminate(self, pid: int) -> None:
        """Tells one runner of this journal to end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    def terminate_runners(self) -> None:
        """Tells every runner of this journal to end."""
        for pid in self.runners:
            self.terminate(pid)

    def kill_runners(self) -> int:
        """Kills every runner of this journal; returns how many there were."""
        killed = 0
        for pid in self.runners:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        return killed


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A journal of this test's own; its runners end with the test."""
    machine = Machine(tmp_path)
    yield machine
    machine.end()
