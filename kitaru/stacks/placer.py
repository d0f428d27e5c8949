"""Sees that every due execution of a stack finds a runner, whoever has started it and is gone."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from journal import Head, Journal, JournalError, RecordedEvent
from kitaru.domain.execution.events import ExecutionStarted
from kitaru.domain.execution.state import STACK_ROUTES
from kitaru.engine.deployed import code_of
from kitaru.engine.executions import CATEGORY, exec_id_of
from kitaru.engine.upcasts import decode_event
from kitaru.errors import KitaruError, KitaruStateError
from kitaru.image import NO_IMAGE
from kitaru.stacks.free import free_executions
from kitaru.stacks.port import Executor, Work
from kitaru.telemetry import LogEvent, report

LOOK_SECONDS = 1.0
LEAST_SECONDS = 0.1
"""How long there is between two looks at least: a journal that many write to wakes it all the
time."""
PATIENCE_SECONDS = 3.0
"""How long a new execution may be free before another process than its starter's places it: so long
a runner takes to come up. One that had a runner already is placed at once by whoever sees it."""
LONGEST_PAUSE_SECONDS = 60.0


class _Failures(Struct):
    """Placements of an execution that came to nothing."""

    in_a_row: int = 0
    not_before: float = 0.0
    """The monotonic instant before which it is not tried again."""


class Placer:
    """Places executions by the executors of their stacks' types. It belongs to the journal's loop.

    Runners go on when it is closed.
    """

    def __init__(
        self,
        journal: Journal,
        executors: Mapping[str, Executor],
        tell: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._tell = tell
        """Records, for an execution, why it could not be placed."""
        self.executors = executors
        self._free_since: dict[str, float] = {}
        """When an execution was first seen that is due and that nobody has, by stream."""
        self._failures: dict[str, _Failures] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stop_watching: Callable[[], None] = _nothing

    def start(self) -> None:
        """Begins to look for work, now and for as long as it is open."""
        if self._task is None:
            self._stop_watching = self._journal.watch(None, self._on_commit)
            self._task = asyncio.get_running_loop().create_task(self._look_for_ever())

    async def close(self) -> None:
        """Stops looking; runners go on."""
        if self._task is not None:
            self._stop_watching()
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        for executor in self.executors.values():
            executor.ended()

    async def place(self, kind: str, work: Work, secrets: dict[str, str]) -> bool:
        """Places an execution at once; False when there is no room for it now.

        Raises KitaruError when no runner can be started.
        """
        return await asyncio.to_thread(self.executors[kind].place, work, secrets)

    async def look(self, patience: float = PATIENCE_SECONDS) -> None:
        """One look at what is due, with a runner placed wherever one is missing."""
        await asyncio.to_thread(self._tidy_up)
        free = await free_executions(self._journal, STACK_ROUTES)
        now = time.monotonic()
        known = self._free_since
        self._free_since = {head.stream: known.get(head.stream, now) for head in free}
        full: set[str] = set()
        # The longest free first: there may not be room for all.
        for head in sorted(free, key=lambda head: self._free_since[head.stream]):
            failures = self._failures.get(head.stream, _Failures())
            waited = now - self._free_since[head.stream]
            is_time = (waited >= patience or head.epoch) and now >= failures.not_before
            if is_time and head.route not in full and not await self._place(head):
                full.add(head.route)

    async def place_head(self, head: Head) -> bool:
        """Places the execution of this head; False when there is no room for it now.

        Raises KitaruError when no runner can be started.
        """
        kind, work = await self._work(head)
        return await self.place(kind, work, {})

    async def _place(self, head: Head) -> bool:
        exec_id = exec_id_of(head.stream)
        try:
            return await self.place_head(head)
        except KitaruError as error:
            self._note_failure(head.stream)
            report(LogEvent.EXECUTION_NOT_PLACED, exec_id=exec_id, error=str(error))
            await self._tell(exec_id, f"its stack cannot give it a runner: {error}")
            return True

    async def _work(self, head: Head) -> tuple[str, Work]:
        recorded = await self._journal.read_stream(head.stream)
        events = [decode_event(fact) for fact in recorded]
        started = events[0]
        assert isinstance(started, ExecutionStarted)
        stack = started.options.stack
        assert stack is not None
        if stack.type not in self.executors:
            raise KitaruStateError(
                f"this version of Kitaru has no stacks of type {stack.type!r}; use the one that "
                "started it, or a later one"
            )
        deployment = code_of(events).deployment
        work = Work(
            exec_id=exec_id_of(head.stream),
            epoch=head.epoch,
            stack=stack.name,
            image=started.options.image or NO_IMAGE,
            bundle="" if deployment is None else deployment.bundle,
        )
        return stack.type, work

    def _tidy_up(self) -> None:
        for executor in self.executors.values():
            for runner in executor.ended():
                stream = f"{CATEGORY}-{runner.exec_id}"
                if not runner.problem:
                    self._failures.pop(stream, None)
                    continue
                self._note_failure(stream)
                report(
                    LogEvent.STACK_RUNNER_DIED,
                    exec_id=runner.exec_id,
                    where=runner.where,
                    error=runner.problem,
                    log=runner.log,
                )

    def _note_failure(self, stream: str) -> None:
        failures = self._failures.setdefault(stream, _Failures())
        failures.in_a_row += 1
        pause = min(2.0 ** min(failures.in_a_row - 2, 10), LONGEST_PAUSE_SECONDS)
        # One may die of anything; those that follow it make a rule.
        failures.not_before = time.monotonic() + (pause if failures.in_a_row > 1 else 0.0)

    async def _look_for_ever(self) -> None:
        while True:
            self._wake.clear()
            looked_at = time.monotonic()
            try:
                await self.look()
            except JournalError as error:
                report(LogEvent.POLL_FAILED, error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            await asyncio.sleep(looked_at + LEAST_SECONDS - time.monotonic())

    def _on_commit(self, events: Sequence[RecordedEvent]) -> None:
        if not events or any(event.epoch == 0 for event in events):
            self._wake.set()


def _nothing() -> None:
    """There is nothing to stop yet."""
