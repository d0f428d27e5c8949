"""One journal in memory, the processes over it, and their time: what a test drives."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from journal import Head, HeadQuery, Journal, RecordedEvent, open_journal
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import SourceReference
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.executions import CATEGORY, exec_id_of
from kitaru.engine.runner import Rest
from kitaru.sdk.flow import AsyncFlow, Flow
from kitaru.status import ExecutionStatus
from kitaru.testing.bodies import Bodies
from kitaru.testing.clock import StillClock
from kitaru.testing.errors import NothingHappens
from kitaru.testing.process import (
    Fate,
    NoFate,
    Process,
    TestedWorker,
    end_lease,
    keep_lease,
    open_runtime,
)
from kitaru.testing.timeline import timeline_text

AnyFlow = AsyncFlow[..., Any] | Flow[..., Any]
Served = tuple[SourceReference, FlowDefinition]
PATIENCE_SECONDS = 30.0
"""How long a body may do something of its own before it is called stuck."""
GRACE_SECONDS = 1.0
"""How long bodies that have ended are held back for one that still runs, while none begins or ends:
long enough for a machine that is busy, so that a rehearsal is the same there."""
STILL_LOOKS = 3
_MANY = 1_000_000


class Running:
    """A living process: its view of the journal, and its runtime."""

    def __init__(self, process: Process, runtime: Runtime) -> None:
        self.process = process
        self.runtime = runtime

    @property
    def worker(self) -> TestedWorker:
        """What runs its executions."""
        return cast("TestedWorker", self.runtime.worker)


class World:
    """Everything that outlives a process: the journal, the clock, and what bodies have done."""

    def __init__(self, journal: Journal, clock: StillClock, bodies: Bodies, fate: Fate) -> None:
        self.journal = journal
        self.clock = clock
        self.bodies = bodies
        self.fate = fate
        self.reuses_results = False
        """Whether processes reuse results of earlier executions, as their flows say."""
        self.started = 0
        """How many processes there have been."""
        self.patience_seconds = PATIENCE_SECONDS

    @classmethod
    async def open(cls, clock: StillClock, bodies: Bodies, fate: Fate | None = None) -> "World":
        """An empty journal, on the running event loop."""
        journal = await open_journal("memory://", clock=clock)
        return cls(journal, clock, bodies, fate or NoFate())

    def begin_process(self, flows: Sequence[Served], *, notes_starts: bool) -> Running:
        """A new process that runs and takes over these flows."""
        self.started += 1
        process = Process(self.started, self.journal, self.clock, self.fate)
        process.reuses_results = self.reuses_results
        runtime = open_runtime(process, self.bodies, notes_starts=notes_starts)
        running = Running(process, runtime)
        for reference, definition in flows:
            runtime.worker.registry.serve(reference, definition)
        runtime.worker.look_now()
        return running

    async def end_process(self, running: Running) -> None:
        """Kills a process, unless it is dead, and waits until nothing of it runs any more.

        Its leases are over then: whoever comes next takes its executions over.
        """
        running.process.die()
        await running.runtime.close()
        running.worker.let_all_go()
        end = time.monotonic() + self.patience_seconds
        while running.worker.active:
            if time.monotonic() > end:
                raise NothingHappens(
                    "a process has been killed, and a checkpoint's body of it still runs after "
                    f"{self.patience_seconds:g} s: a thread cannot be ended from outside. Let the "
                    "body come to an end by itself."
                )
            await asyncio.sleep(0.0005)
        for head in await self.heads():
            if head.owner == running.worker.owner:
                end_lease(self.journal, self.clock, head)

    async def heads(self) -> list[Head]:
        """One for each execution."""
        return await self.journal.heads(HeadQuery(category=CATEGORY, limit=_MANY))

    # time

    async def move_to(self, instant: int, running: Running | None) -> None:
        """It is another time now: who lives keeps its leases, and what is due goes on."""
        self.clock.move_to(instant)
        if running is None or running.process.is_dead:
            return
        for head in await self.heads():
            if head.owner == running.worker.owner:
                keep_lease(self.journal, head)
        for runner in list(running.worker.runners.values()):
            runner.look_at_clock()
        running.worker.look_now()

    async def next_due(self, running: Running) -> int | None:
        """When something goes on by itself, after now."""
        now = self.clock()
        rests = [runner.rest() for runner in running.worker.runners.values()]
        instants = [rest.due_at for rest in rests if rest is not None]
        runners = running.worker.runners
        parked = [it for it in await self.heads() if exec_id_of(it.stream) not in runners]
        instants += [
            max(head.due_at, head.lease_until)
            for head in parked
            if _goes_on(head) and head.due_at is not None
        ]
        return min((due for due in instants if due is not None and due > now), default=None)

    # rest

    async def settle(
        self,
        running: Running,
        is_over: Callable[[], bool],
        is_blind: Callable[[], bool] = lambda: False,
    ) -> None:
        """Returns when nothing happens any more but by time, by somebody's act, or when it is over.

        Bodies that are held count as resting. When it `is_blind`, news may have been lost, and what
        a runner does not know of does not count. Raises NothingHappens when something is busy for
        too long.
        """
        end = time.monotonic() + self.patience_seconds
        grace = time.monotonic() + GRACE_SECONDS
        looks = seen = 0
        while looks < STILL_LOOKS:
            for _ in range(3):
                await asyncio.sleep(0)
            if is_over():
                return
            if await self._is_still(running, is_blind()):
                looks += 1
                continue
            looks = 0
            now = time.monotonic()
            happened = len(self.bodies.begun) + len(self.bodies.ended)
            if happened != seen:
                seen, grace = happened, now + GRACE_SECONDS
            if now > grace and running.worker.held:
                # Something takes its time: perhaps it waits for what has ended already.
                return
            if now > end:
                raise NothingHappens(await self._told_stuck(running))
            await asyncio.sleep(0.0005)

    async def is_still_for_a_while(self, running: Running) -> bool:
        """Whether nothing happens now, nor in the next passes of the loop."""
        for _ in range(STILL_LOOKS):
            for _ in range(3):
                await asyncio.sleep(0)
            if not await self._is_still(running, blind=False):
                return False
        return True

    async def _is_still(self, running: Running, blind: bool) -> bool:
        worker = running.worker
        bodies = 0
        now = self.clock()
        for head in await self.heads():
            runner = worker.runners.get(exec_id_of(head.stream))
            if runner is None:
                if self._is_claimable(running, head, now):
                    return False
                continue
            rest: Rest | None = runner.rest()
            if rest is None or not (blind or runner.execution.version >= head.version):
                return False
            bodies += rest.running
        return bodies == len(worker.held) + len(worker.hanging) == worker.active

    def _is_claimable(self, running: Running, head: Head, now: int) -> bool:
        """Whether the process is about to take an execution up."""
        worker = running.worker
        return (
            _goes_on(head)
            and head.due_at is not None
            and max(head.due_at, head.lease_until) <= now
            and head.name in worker.registry.names
            and worker.why_not(exec_id_of(head.stream)) is None
        )

    async def _told_stuck(self, running: Running) -> str:
        problem = (
            f"something is busy for more than {self.patience_seconds:g} s of real time: a body "
            "that waits for what never comes, or takes long. Times in a test pass only while "
            "nothing runs; let kitaru.testing.never stand in for a checkpoint that hangs."
        )
        lines = [problem]
        begun = [run for run in self.bodies.begun if run.process == running.process.number]
        ended = [known.run for known in self.bodies.ended]
        lines += [f"still runs: {run.path}" for run in begun if run not in ended]
        for exec_id in running.worker.runners:
            lines += [f"--- execution {exec_id}", await self.text(exec_id)]
        return "\n".join(lines)

    # reading

    async def recorded(self, exec_id: str) -> list[RecordedEvent]:
        """An execution's journal."""
        return await self.journal.read_stream(f"{CATEGORY}-{exec_id}")

    async def text(self, exec_id: str) -> str:
        """An execution's journal, for people."""
        return timeline_text(await self.recorded(exec_id))

    def head(self, exec_id: str) -> Head | None:
        """Where an execution stands."""
        return self.journal.head_blocking(f"{CATEGORY}-{exec_id}")

    async def close(self) -> None:
        """The journal is gone."""
        with contextlib.suppress(Exception):
            await self.journal.close()


def _goes_on(head: Head) -> bool:
    return head.state in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING)
