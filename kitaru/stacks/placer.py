"""Sees that every due execution of a stack finds a runner, whoever has started it and is gone."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from journal import Head, Journal, JournalError
from kitaru.domain.execution.events import ExecutionStarted
from kitaru.domain.execution.state import STACK_ROUTES
from kitaru.engine.deployed import code_of
from kitaru.engine.executions import CATEGORY, exec_id_of
from kitaru.engine.upcasts import decode_event
from kitaru.errors import KitaruError, KitaruStateError
from kitaru.image import NO_IMAGE
from kitaru.stacks.lookout import Backoff, FreeExecutions, Lookout, told
from kitaru.stacks.port import Ended, Executor, Work
from kitaru.telemetry import LogEvent, report

PATIENCE_SECONDS = 3.0
"""How long a new execution may be free before another process than its starter's places it: so long
a runner takes to come up. One that had a runner already is placed at once by whoever sees it."""


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
        self._free = FreeExecutions(journal, STACK_ROUTES)
        self._backoff = Backoff()
        """By stream: placements that came to nothing."""
        self._lookout = Lookout(journal, self.look)

    def start(self) -> None:
        """Begins to look for work, now and for as long as it is open."""
        self._lookout.start()

    async def close(self) -> None:
        """Stops looking; runners go on."""
        await self._lookout.close()
        for executor in self.executors.values():
            executor.ended()

    async def place(self, kind: str, work: Work, secrets: dict[str, str]) -> bool:
        """Places an execution at once; False when there is no room for it now.

        Raises KitaruError when no runner can be started.
        """
        return await asyncio.to_thread(self.executors[kind].place, work, secrets)

    async def look(self, patience: float = PATIENCE_SECONDS) -> None:
        """One look at what is due, with a runner placed wherever one is missing."""
        for runner in await asyncio.to_thread(self._tidy_up):
            await self._say_what_it_was(runner)
        free = await self._free.see()
        full: set[str] = set()
        # The longest free first: there may not be room for all.
        for head in sorted(free, key=lambda head: self._free.waits_since(head.stream)):
            waited = time.monotonic() - self._free.waits_since(head.stream)
            is_time = (waited >= patience or head.epoch) and self._backoff.is_time(head.stream)
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
        except Exception as error:
            # Whatever a record of this execution does to us, the others must be placed.
            self._backoff.failed(head.stream)
            report(LogEvent.EXECUTION_NOT_PLACED, exec_id=exec_id, error=told(error))
            await self._record(exec_id, f"its stack cannot give it a runner: {told(error)}")
            return True

    async def _record(self, exec_id: str, problem: str) -> None:
        try:
            await self._tell(exec_id, problem)
        except (KitaruError, JournalError) as error:
            report(LogEvent.POLL_FAILED, error=str(error))

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

    async def _say_what_it_was(self, runner: Ended) -> None:
        """Where a runner died before it had the execution, nobody else has said anything of it."""
        head = await self._journal.head(f"{CATEGORY}-{runner.exec_id}")
        if head is not None and head.epoch == runner.epoch:
            said = f"; what it said is in {runner.log}" if runner.log else ""
            problem = f"its runner, {runner.where}, had not begun when {runner.problem}{said}"
            await self._record(runner.exec_id, problem)

    def _tidy_up(self) -> list[Ended]:
        died = []
        for executor in self.executors.values():
            for runner in executor.ended():
                stream = f"{CATEGORY}-{runner.exec_id}"
                if not runner.problem:
                    self._backoff.succeeded(stream)
                    continue
                self._backoff.failed(stream)
                report(
                    LogEvent.STACK_RUNNER_DIED,
                    exec_id=runner.exec_id,
                    where=runner.where,
                    error=runner.problem,
                    log=runner.log,
                )
                died.append(runner)
        return died
