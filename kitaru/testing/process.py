"""Processes over one journal in memory: each can die, hang, or lose its lease at any event."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from journal import (
    Append,
    Appended,
    Claim,
    ClaimQuery,
    CommitOutcomeUnknown,
    Head,
    Journal,
    JournalError,
    JournalUnavailable,
    KeyQuery,
    Lease,
    RecordedEvent,
    Watcher,
    WrongExpectedVersion,
)
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import ExecutionEvent
from kitaru.engine.calls import Call
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.executions import OwnedExecution
from kitaru.engine.runner import Runner, Started
from kitaru.engine.worker import Worker
from kitaru.testing.bodies import Bodies, BodyRun, Ended, never
from kitaru.testing.clock import StillClock

LEASE_SECONDS = 30.0
_IN_THE_PAST = 1_000_000 * 86_400 * 365 * 40
"""Microseconds; further back than a clock is made to jump."""


class Fate(Protocol):
    """What befalls the processes of a rehearsal."""

    def before(self, process: "Process", append: Append) -> None:
        """A process is about to append. Raises when it dies of that."""
        ...

    def after(self, process: "Process", appended: Appended) -> None:
        """What a process has appended is durable; it has not been told yet."""
        ...

    def loses(self, events: Sequence[RecordedEvent]) -> bool:
        """Whether the news of these events is lost on its way."""
        ...

    def holds(self, process: "Process", execution: OwnedExecution) -> bool:
        """Whether bodies of the execution, when they have ended, wait to be let through."""
        ...

    def repeated(self, process: "Process", execution: OwnedExecution, call: Call) -> None:
        """A body is about to begin."""
        ...


class NoFate:
    """Nothing happens to anybody."""

    def before(self, process: "Process", append: Append) -> None:
        pass

    def after(self, process: "Process", appended: Appended) -> None:
        pass

    def loses(self, events: Sequence[RecordedEvent]) -> bool:
        return False

    def holds(self, process: "Process", execution: OwnedExecution) -> bool:
        return False

    def repeated(self, process: "Process", execution: OwnedExecution, call: Call) -> None:
        pass


class Process:
    """What one process sees of the journal, until it dies; it stands where a journal stands."""

    def __init__(self, number: int, journal: Journal, clock: StillClock, fate: Fate) -> None:
        self.number = number
        self.journal = journal
        self.clock = clock
        self.fate = fate
        self.is_dead = False
        self.hangs = False
        """Whether it takes no part in the hunt for leases any more."""
        self.reuses_results = False
        """Whether it finds the results of earlier executions."""
        self.followed = 0
        """How many wait for news of one stream."""
        self._news: list[tuple[str | None, Watcher]] = []

    def __getattr__(self, name: str) -> Any:
        if self.is_dead and name not in ("now", "location", "shares_store_with"):
            raise JournalUnavailable("this process is dead")
        return getattr(self.journal, name)

    def die(self) -> None:
        """Nothing of it reaches the journal from now on; from any thread."""
        self.is_dead = True

    async def append(self, append: Append) -> Appended:
        return self.append_blocking(append)

    def append_soon(
        self, append: Append, done: Callable[[Appended | None, BaseException | None], object]
    ) -> None:
        call_soon = asyncio.get_running_loop().call_soon
        try:
            call_soon(done, self.append_blocking(append), None)
        except JournalError as error:
            call_soon(done, None, error)

    def append_blocking(self, append: Append) -> Appended:
        if self.is_dead:
            raise JournalUnavailable("this process is dead")
        self.fate.before(self, append)
        appended = self.journal.append_blocking(append)
        self.fate.after(self, appended)
        if self.is_dead:
            raise CommitOutcomeUnknown("the process died before it was told")
        return appended

    def find_blocking(self, query: KeyQuery) -> dict[int, RecordedEvent]:
        return self.journal.find_blocking(query) if self.reuses_results else {}

    def find_soon(
        self,
        query: KeyQuery,
        done: Callable[[dict[int, RecordedEvent] | None, BaseException | None], None],
    ) -> None:
        done(self.find_blocking(query), None)

    async def claim(self, query: ClaimQuery) -> list[tuple[Head, Lease]]:
        if self.is_dead or self.hangs:
            return []
        return await self.journal.claim(query)

    async def release(self, lease: Lease) -> None:
        if not (self.is_dead or self.hangs):
            await self.journal.release(lease)

    def watch(self, stream: str | None, watcher: Watcher) -> Callable[[], None]:
        def pass_on(events: Sequence[RecordedEvent]) -> None:
            if not self.is_dead and not (events and self.fate.loses(events)):
                watcher(events)

        stop = self.journal.watch(stream, pass_on)
        entry = (stream, watcher)
        self._news.append(entry)
        self.followed += stream is not None

        def stop_both() -> None:
            stop()
            if entry in self._news:
                self._news.remove(entry)
                self.followed -= stream is not None

        return stop_both

    def look_again(self) -> None:
        """What looks regularly whether something has been missed does so now; on the loop."""
        for _, watcher in list(self._news):
            watcher(())

    async def close(self) -> None:
        self.is_dead = True


class Held:
    """A body that has ended, and whose process does not know yet."""

    def __init__(self, path: str, let_through: Callable[[], None]) -> None:
        self.path = path
        self.let_through = let_through


class TestedWorker(Worker):
    """A worker whose checkpoints a test can replace, count and hold back."""

    __test__ = False

    process: Process
    bodies: Bodies
    notes_starts: bool

    @classmethod
    def of(
        cls, process: Process, bodies: Bodies, notes_starts: bool
    ) -> "Callable[..., TestedWorker]":
        """What makes one for a process."""
        return functools.partial(cls._made, process, bodies, notes_starts)

    @classmethod
    def _made(
        cls, process: Process, bodies: Bodies, notes_starts: bool, *args: Any, **kwargs: Any
    ) -> "TestedWorker":
        # People read it in timelines, which are to be the same each time.
        kwargs["owner"] = f"process {process.number}"
        worker = cls(*args, **kwargs)
        worker.process, worker.bodies, worker.notes_starts = process, bodies, notes_starts
        worker.held = []
        worker.hanging = []
        worker.active = 0
        worker._counting = threading.Lock()
        return worker

    held: list[Held]
    """The bodies that wait to be let through, in the order in which they ended."""
    hanging: list[Held]
    """The bodies that never end by themselves."""
    active: int
    """How many bodies have begun and not ended, held ones too."""
    _counting: threading.Lock

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for the end of an execution."""
        return bool(self._endings) or self.process.followed > 0

    def watch_duration(self, started: Started) -> None:
        # How long something takes in a rehearsal must not change what is recorded.
        if self.notes_starts:
            super().watch_duration(started)

    def ended(self, runner: Runner, event: ExecutionEvent | None, error: Exception | None) -> None:
        # Whoever is dead complains of nothing.
        super().ended(runner, event, None if self.process.is_dead else error)

    def body_of(self, execution: OwnedExecution, call: Call) -> Callable[[], Any]:
        """The checkpoint's function, or what stands in for it; counted, and perhaps held."""
        if call.definition.asynchronous:
            return functools.partial(self._run_async, execution, call)
        return functools.partial(self._run_sync, execution, call)

    def let_through(self, held: Held) -> None:
        """Tells the process that a body has ended."""
        with self._counting:
            self.held.remove(held)
        held.let_through()

    def let_all_go(self) -> None:
        """Ends what waits for the test: its process has died."""
        for held in list(self.held):
            self.let_through(held)
        for hanging in list(self.hanging):
            hanging.let_through()

    def _run_sync(self, execution: OwnedExecution, call: Call) -> Any:
        run = self._begin_body(execution, call)
        try:
            try:
                if self.bodies.stand_in_for(call) is never:
                    self._hang(call.path)
                result = self.bodies.result_of(run.exec_id, call, self.codec)
                return self._note_end(run, result)
            except BaseException as error:
                self.bodies.note_end(Ended(run, error=error))
                raise
            finally:
                if self.process.fate.holds(self.process, execution):
                    gate = threading.Event()
                    self._hold(call.path, gate.set, self.held)
                    gate.wait()
        finally:
            self._end_body()

    async def _run_async(self, execution: OwnedExecution, call: Call) -> Any:
        run = self._begin_body(execution, call)
        try:
            try:
                if self.bodies.stand_in_for(call) is never:
                    await self._hang_async(call.path)
                result = await self.bodies.result_of(run.exec_id, call, self.codec)
                return self._note_end(run, result)
            except BaseException as error:
                self.bodies.note_end(Ended(run, error=error))
                raise
            finally:
                if self.process.fate.holds(self.process, execution):
                    await self._held_async(call.path)
        finally:
            self._end_body()

    async def _held_async(self, path: str) -> None:
        await self._gate(path, self.held)

    async def _gate(self, path: str, among: list[Held]) -> None:
        gate = asyncio.Event()
        held = self._hold(path, gate.set, among)
        try:
            await gate.wait()
        finally:
            # The flow may have stopped waiting for it meanwhile.
            self._drop(held, among)

    def _hold(self, path: str, let_through: Callable[[], None], among: list[Held]) -> Held:
        held = Held(path, let_through)
        with self._counting:
            among.append(held)
        if self.process.is_dead:
            # Whoever ends the process may have looked before this.
            let_through()
        return held

    def _drop(self, held: Held, among: list[Held]) -> None:
        with self._counting, contextlib.suppress(ValueError):
            among.remove(held)

    def _hang(self, path: str) -> NoReturn:
        gate = threading.Event()
        held = self._hold(path, gate.set, self.hanging)
        gate.wait()
        self._drop(held, self.hanging)
        raise ExecutionSuspended

    async def _hang_async(self, path: str) -> NoReturn:
        await self._gate(path, self.hanging)
        raise ExecutionSuspended

    def _begin_body(self, execution: OwnedExecution, call: Call) -> BodyRun:
        if self.process.is_dead:
            raise ExecutionSuspended
        self.process.fate.repeated(self.process, execution, call)
        own = self.codec.own_copy(call.arguments, call.encoded, call.definition.types)
        run = BodyRun(
            execution.exec_id,
            call.path,
            call.definition.name,
            call.attempt,
            own,
            self.process.number,
        )
        self.bodies.note(run)
        with self._counting:
            self.active += 1
        return run

    def _note_end(self, run: BodyRun, value: Any) -> Any:
        self.bodies.note_end(Ended(run, value))
        return value

    def _end_body(self) -> None:
        with self._counting:
            self.active -= 1


def open_runtime(process: Process, bodies: Bodies, *, notes_starts: bool) -> Runtime:
    """A runtime for a process, on the running event loop."""
    kind = TestedWorker.of(process, bodies, notes_starts)
    journal: Any = process
    return Runtime.over(journal, "memory://", LEASE_SECONDS, kind)


def end_lease(journal: Journal, clock: StillClock, head: Head) -> None:
    """Makes a stream's lease run out, as if its owner had not been heard of for long.

    No time passes, so that nothing else becomes due.
    """
    if head.owner is None:
        return
    lease = Lease(head.stream, head.owner, head.epoch, head.lease_until)
    with clock.at(clock() - _IN_THE_PAST):
        journal.renew_blocking([lease], 1.0)


def keep_lease(journal: Journal, head: Head) -> None:
    """Makes a stream's lease last, as if its owner had renewed it now."""
    if head.owner is not None:
        lease = Lease(head.stream, head.owner, head.epoch, head.lease_until)
        journal.renew_blocking([lease], LEASE_SECONDS)


def usurp(journal: Journal, clock: StillClock, stream: str, owner: str) -> None:
    """Takes a stream's lease from whoever has it; the usurper's own is over at once.

    As if somebody had taken over a stream whose owner stalled, and had died of it.
    """
    claim = Claim(owner, 1.0)
    while True:
        head = journal.head_blocking(stream)
        if head is None or head.owner is None:
            return
        end_lease(journal, clock, head)
        take = Append(stream=stream, events=(), expected_version=head.version, claim=claim)
        with clock.at(clock() - _IN_THE_PAST // 2), contextlib.suppress(WrongExpectedVersion):
            journal.append_blocking(take)
            return
