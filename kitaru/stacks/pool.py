"""A pool of runner processes: it sees that every due execution of a deployed version finds one."""

import asyncio
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from journal import Head, Journal
from kitaru.domain.execution.state import DEPLOYMENT_ROUTES, ExecutionState
from kitaru.engine.executions import exec_id_of
from kitaru.errors import KitaruError
from kitaru.stacks.logs import ENDING, make_room
from kitaru.stacks.lookout import Backoff, FreeExecutions, Lookout
from kitaru.stacks.runners import IDLE_SECONDS, RunnerProcess, RunnerSpec, start_runner
from kitaru.stacks.slots import Slots
from kitaru.telemetry import LogEvent, report

PATIENCE_SECONDS = 1.5
"""How long an execution may stay free while runners of its route are there."""
EACH_RUNS = 16
"""How many waiting executions justify another runner."""
USEFUL_SECONDS = 30.0
"""A runner that has lived so long says nothing of the next one by its death."""


_decode_state = msgspec.json.Decoder(ExecutionState).decode


class PoolSettings(Struct, frozen=True, kw_only=True):
    """How a pool works."""

    journal: str
    """Its URL."""
    folder: Path
    """Where the runners' logs and locks are."""
    lease_seconds: float
    most_per_route: int
    idle_seconds: float = IDLE_SECONDS


_left: list[RunnerProcess] = []
"""Runners whose pool is closed: they go on, and are reaped by the next pool of this process."""


class RunnerPool:
    """Starts runners on demand, and reaps them. Its coroutines run on the journal's loop.

    Runners are bounded for each route and machine, whoever starts them. They are left running when
    the pool is closed, and end by themselves when they are idle.
    """

    def __init__(self, journal: Journal, settings: PoolSettings) -> None:
        self._journal = journal
        self.settings = settings
        self.runners: list[RunnerProcess] = []
        """Those that this pool has started and that have not ended."""
        self._free = FreeExecutions(journal, DEPLOYMENT_ROUTES)
        self._backoff = Backoff()
        """By route: runners that ended without having been of use."""
        self._started_at: dict[int, float] = {}
        self._told: set[str] = set()
        self._lookout = Lookout(journal, self.look)
        self._looking = asyncio.Lock()

    def start(self) -> None:
        """Begins to look for work, now and for as long as the pool is open."""
        self._lookout.start()

    async def close(self) -> None:
        """Stops looking; runners go on."""
        await self._lookout.close()
        self._reap()
        _left.extend(self.runners)
        self.runners = []

    def look_now(self) -> None:
        """Looks at once: something may have become due."""
        self._lookout.look_now()

    async def look(self) -> None:
        """One look at what is due, with a runner started wherever one is missing.

        Raises JournalError.
        """
        async with self._looking:
            self._reap()
            free = await self._free.see()
            self._tell(free)
            for route, count in Counter(head.route for head in free).items():
                streams = [head.stream for head in free if head.route == route]
                waited = time.monotonic() - min(map(self._free.waits_since, streams))
                self._provide(route, count, waited)

    async def run_one(self, route: str, exec_id: str) -> None:
        """Starts a runner for one execution, whether it is due or not.

        Raises KitaruBackendError where the runners' folder cannot be used.
        """
        slots = Slots(self.settings.folder, route, self.settings.most_per_route).take(1)
        try:
            self._start(route, slots, exec_id)
        finally:
            for slot in slots:
                os.close(slot)

    def _tell(self, free: Sequence[Head]) -> None:
        """Says, once for each route, that its code could not be loaded the last time."""
        for head in free:
            if head.route in self._told:
                continue
            state = _state_of(head)
            if state is not None and state.load_failures:
                self._told.add(head.route)
                report(
                    LogEvent.FLOW_NOT_LOADABLE,
                    exec_id=exec_id_of(head.stream),
                    flow=head.name,
                    error=state.reason,
                )

    def _provide(self, route: str, count: int, waited: float) -> None:
        if not self._backoff.is_time(route):
            return
        try:
            self._fill(route, count, waited)
        except KitaruError as error:
            self._backoff.failed(route)
            report(LogEvent.RUNNER_NOT_STARTED, route=route, error=str(error))

    def _fill(self, route: str, count: int, waited: float) -> None:
        most = self.settings.most_per_route
        slots = Slots(self.settings.folder, route, most)
        there = most - slots.free()
        wanted = min(most, math.ceil(count / EACH_RUNS))
        if there:
            # They will take it, unless they are all busy, or stuck.
            wanted = min(most, there + 1) if waited >= PATIENCE_SECONDS else there
        for slot in slots.take(max(0, wanted - there)):
            try:
                self._start(route, [slot])
            finally:
                os.close(slot)

    def _start(self, route: str, slots: Sequence[int], exec_id: str = "") -> None:
        make_room(self.settings.folder)
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}"
        spec = RunnerSpec(
            journal=self.settings.journal,
            route=route,
            bundle=route.removeprefix(DEPLOYMENT_ROUTES),
            exec_id=exec_id,
            idle_seconds=self.settings.idle_seconds,
            lease_seconds=self.settings.lease_seconds,
            log_file=str(self.settings.folder / f"{name}{ENDING}"),
        )
        runner = start_runner(spec, inherited=slots)
        self.runners.append(runner)
        self._started_at[runner.pid] = time.monotonic()
        report(LogEvent.RUNNER_STARTED, route=route, pid=runner.pid, log=spec.log_file)

    def _reap(self) -> None:
        _left[:] = [runner for runner in _left if runner.poll() is None]
        going_on = []
        for runner in self.runners:
            code = runner.poll()
            if code is None:
                going_on.append(runner)
            elif code == 0:
                self._started_at.pop(runner.pid, None)
                self._backoff.succeeded(runner.spec.route)
            else:
                if time.monotonic() - self._started_at.pop(runner.pid, 0.0) >= USEFUL_SECONDS:
                    self._backoff.succeeded(runner.spec.route)
                self._backoff.failed(runner.spec.route)
                report(
                    LogEvent.RUNNER_DIED,
                    route=runner.spec.route,
                    pid=runner.pid,
                    code=code,
                    log=runner.spec.log_file,
                )
        self.runners = going_on


def _state_of(head: Head) -> ExecutionState | None:
    """The state that a head holds; None for one that this version cannot read."""
    try:
        return _decode_state(head.summary)
    except (msgspec.DecodeError, RecursionError):
        return None
