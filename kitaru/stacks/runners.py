"""Runner processes: what one is told, and how it is started. It loads code; the starter never does.

A runner outlives whoever started it: it is a session of its own, with its output in a file.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kitaru.errors import KitaruBackendError

IDLE_SECONDS = 60.0
NOT_PASSED_ON = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONSTARTUP", "PYTHONINSPECT")
"""What would make the starter's files importable, or start something else."""


class RunnerSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a runner process needs to know."""

    journal: str
    """The URL of the journal, which other processes must be able to open."""
    route: str
    """Which executions it runs: those on this route, whatever their flow."""
    bundle: str = ""
    """The digest of the bundle with the code; empty: each execution's own source is loaded."""
    exec_id: str = ""
    """Only this execution, and then it ends; empty: all of the route, until there are none."""
    idle_seconds: float = IDLE_SECONDS
    """After how long without work it ends."""
    lease_seconds: float = 30.0
    log_file: str = ""
    """Where its standard output and error go; empty: nowhere."""
    slots: tuple[int, ...] = ()
    """The open files that it inherits and keeps as long as it lives: its places among others."""
    python: str = ""
    """The interpreter; empty: that of the starter."""
    environment: dict[str, str] = {}
    """Variables that it has beside those of the starter. They are not on its command line."""

    @property
    def command(self) -> list[str]:
        """The command line that runs it."""
        told = replace(self, environment={}, python="", log_file=self.log_file)
        # -P: neither the working directory nor a script's folder is on the path.
        python = self.python or sys.executable
        return [
            python,
            "-P",
            "-m",
            "kitaru",
            "runner",
            "--spec",
            msgspec.json.encode(told).decode(),
        ]


class RunnerProcess:
    """A runner that this process has started."""

    def __init__(self, spec: RunnerSpec, process: "subprocess.Popen[bytes]") -> None:
        self.spec = spec
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code once it has ended, and then it is reaped; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """Asks it to give back what it has and to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()


def spec_from(text: str) -> RunnerSpec:
    """The spec that a command line holds. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=RunnerSpec)


def start_runner(spec: RunnerSpec, *, inherited: Sequence[int] = ()) -> RunnerProcess:
    """Starts a runner process that outlives this one; `inherited` are files that it keeps open.

    Raises KitaruBackendError when it cannot be started.
    """
    spec = replace(spec, slots=tuple(inherited))
    environment = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
    environment["KITARU_JOURNAL"] = spec.journal
    environment |= spec.environment
    try:
        with _log(spec.log_file) as log:
            process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
                spec.command,
                cwd=tempfile.gettempdir(),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=tuple(inherited),
                start_new_session=True,
            )
    except (OSError, ValueError) as error:
        raise KitaruBackendError(f"A runner process cannot be started: {error}") from error
    return RunnerProcess(spec, process)


@contextlib.contextmanager
def _log(file: str) -> Iterator[int]:
    if not file:
        yield subprocess.DEVNULL
        return
    Path(file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
