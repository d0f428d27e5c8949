"""Stacks of type `process`: every execution has a runner process of its own on this machine."""

import contextlib
import os
import secrets as chance
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from kitaru.domain.execution.state import STACK_ROUTES
from kitaru.errors import KitaruStateError, KitaruUsageError
from kitaru.image import ImageSettings
from kitaru.stacks.images.environments import python_for, with_frozen_packages
from kitaru.stacks.logs import ENDING, make_room
from kitaru.stacks.port import Ended, Placed, Work
from kitaru.stacks.runners import IDLE_SECONDS, RunnerProcess, RunnerSpec, start_runner
from kitaru.stacks.slots import Slots

EACH_RUNNER_SETTING = 4
"""How many executions of one stack run at once on this machine, for each of `runners`: a process
that calls services only waits, mostly."""


class ProcessSettings(Struct, frozen=True, kw_only=True):
    """How runner processes are started."""

    journal: str
    """Its URL."""
    folder: Path
    """Where the runners' logs and locks are."""
    environments: Path
    """Where the environments are that are made for images."""
    lease_seconds: float
    most_per_stack: int
    idle_seconds: float = IDLE_SECONDS
    """How long an execution that only waits keeps its process."""


_started: list[RunnerProcess] = []
"""The runners of this process that have not ended, also those whose executor is gone: they go on,
and are reaped when the next one looks."""


class ProcessExecutor:
    """Starts one process for each execution; it goes on when its starter ends."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._running: dict[tuple[str, int], RunnerProcess] = {}
        """By execution and epoch: one that was placed for an earlier epoch has had its lease, and
        is about to end."""
        self._ended: list[Ended] = []
        self._lock = threading.Lock()

    def prepare(self, image: ImageSettings) -> ImageSettings:
        """Builds the environment; a variable that is to be handed on must be there."""
        frozen = with_frozen_packages(image)
        missing = _missing(frozen, os.environ)
        if missing:
            raise KitaruUsageError(
                f"image.secret_environment_from: {', '.join(missing)} is not set here; set it in "
                "the environment of the process that starts the flow."
            )
        python_for(frozen, self._settings.environments)
        return frozen

    def place(self, work: Work, secrets: dict[str, str]) -> bool:
        """Starts a process for the execution, unless one runs that was placed for this epoch."""
        image = work.image
        missing = _missing(image, {**os.environ, **secrets})
        if missing:
            raise KitaruStateError(
                f"Execution {work.exec_id} needs {', '.join(missing)} in its environment, which "
                "this process does not have; start a worker that has it."
            )
        python = python_for(image, self._settings.environments)
        with self._lock:
            self._reap()
            if any(
                exec_id == work.exec_id and epoch >= work.epoch for exec_id, epoch in self._running
            ):
                return True
            slots = Slots(self._settings.folder, f"stack-{work.stack}", self._most)
            taken = slots.take(1)
            try:
                if not taken and os.name == "posix":
                    return False
                make_room(self._settings.folder)
                runner = start_runner(self._spec(work, python, secrets), inherited=taken)
            finally:
                for slot in taken:
                    os.close(slot)
            self._running[work.exec_id, work.epoch] = runner
            _started.append(runner)
        return True

    def placed(self) -> Sequence[Placed]:
        """The processes that run."""
        with self._lock:
            self._reap()
            return [
                Placed(exec_id, f"process {runner.pid}", runner.spec.log_file)
                for (exec_id, _), runner in self._running.items()
            ]

    def ended(self) -> Sequence[Ended]:
        """The processes that have ended since; they are reaped."""
        with self._lock:
            self._reap()
            found, self._ended = self._ended, []
            return found

    def stop(self, exec_id: str) -> bool:
        """Asks the process to end with SIGTERM."""
        with self._lock:
            self._reap()
            found = [runner for (known, _), runner in self._running.items() if known == exec_id]
            for runner in found:
                runner.terminate()
            return bool(found)

    @property
    def _most(self) -> int:
        return self._settings.most_per_stack

    def _spec(self, work: Work, python: str, secrets: dict[str, str]) -> RunnerSpec:
        name = f"{work.exec_id}-{time.strftime('%Y%m%dT%H%M%S')}-{chance.token_hex(2)}"
        return RunnerSpec(
            journal=self._settings.journal,
            route=f"{STACK_ROUTES}{work.stack}",
            bundle=work.bundle,
            exec_id=work.exec_id,
            idle_seconds=self._settings.idle_seconds,
            lease_seconds=self._settings.lease_seconds,
            log_file=str(self._settings.folder / f"{name}{ENDING}"),
            python=python,
            environment={**(work.image.environment or {}), **secrets},
        )

    def _reap(self) -> None:
        _started[:] = [runner for runner in _started if runner.poll() is None]
        for key, runner in list(self._running.items()):
            code = runner.poll()
            if code is None:
                continue
            del self._running[key]
            _forget_empty(runner.spec.log_file)
            problem = "" if code == 0 else f"it ended with code {code}"
            self._ended.append(
                Ended(key[0], f"process {runner.pid}", problem, runner.spec.log_file)
            )


def _forget_empty(log: str) -> None:
    """A runner that has said nothing needs no file for it."""
    with contextlib.suppress(OSError):
        if os.path.getsize(log) == 0:
            os.unlink(log)


def _missing(image: ImageSettings, environment: Mapping[str, str]) -> list[str]:
    given = {**environment, **(image.environment or {})}
    return [name for name in image.secret_environment_from or () if name not in given]
