"""One execution in the hands of its owner: load, decide, append."""

import threading
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec import Struct

from journal import (
    Append,
    Appended,
    CommitRefused,
    HeadChange,
    Journal,
    Lease,
    NewEvent,
    RecordedEvent,
    StaleLease,
    TransactionOver,
    WrongExpectedVersion,
)
from kitaru.domain.execution.decide import as_it_ends, still_holds
from kitaru.domain.execution.events import (
    TAGS,
    ArtifactSaved,
    CheckpointCompleted,
    CodeNotLoaded,
    ExecutionEvent,
    ExecutionParked,
    MetadataLogged,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.engine.upcasts import decode_event
from kitaru.engine.values import Blobs
from kitaru.status import ExecutionStatus

CATEGORY = "execution"
_LETTING_GO = (ExecutionParked, CodeNotLoaded)
_GOING_ON = frozenset({ExecutionStatus.RUNNING, ExecutionStatus.WAITING})
_encode = msgspec.json.Encoder().encode


def stream_of(exec_id: str) -> str:
    """The stream of an execution."""
    return f"{CATEGORY}-{exec_id}"


def exec_id_of(stream: str) -> str:
    """The execution of a stream."""
    return stream.removeprefix(f"{CATEGORY}-")


def new_event(event: ExecutionEvent) -> NewEvent:
    """The event as it is appended."""
    tag, schema = TAGS[type(event)]
    key = None
    if isinstance(event, CheckpointCompleted) and event.cache_key:
        key = lookup_key(event.cache_key)
    return NewEvent(tag, _encode(event), schema, key)


def lookup_key(cache_key: str) -> int:
    """What the journal finds a result by: 63 bits of its key."""
    return int(cache_key[:16], 16) >> 1


def fold(state: ExecutionState, events: Sequence[ExecutionEvent]) -> ExecutionState:
    """The state after these events."""
    for event in events:
        state = evolve(state, event)
    return state


def head_of(state: ExecutionState) -> HeadChange:
    """The head row that stands for a state."""
    assert state.status is not None
    return HeadChange(
        state=state.status.value,
        name=state.flow,
        due_at=state.due_at if state.status in _GOING_ON else None,
        parent=stream_of(state.forked_from) if state.forked_from else None,
        summary=_encode(state),
        route=state.route,
    )


class Outgoing(Struct, frozen=True, gc=False):
    """An event on its way into the journal."""

    event: ExecutionEvent
    blobs: Blobs = ()
    recorded: Callable[[RecordedEvent], None] | None = None
    """Called when it is durable, in the order of the journal."""
    seen: int | None = None
    """The version up to which clients' events were known when it was decided that it holds; None:
    it holds whatever clients write."""

    def tell(self, fact: RecordedEvent) -> None:
        """The event is durable."""
        if self.recorded is not None:
            self.recorded(fact)


class Foreign(Struct, frozen=True):
    """An event that a client appended: an input, a cancel request."""

    version: int
    recorded_at: int
    event: ExecutionEvent


class OwnedExecution:
    """What the owner of an execution knows and writes. Nobody else appends under its lease.

    Events are put into the outbox and flushed together. This one belongs to the event loop;
    `ThreadedExecution` is for a flow with a thread of its own.
    """

    def __init__(
        self, journal: Journal, exec_id: str, state: ExecutionState, version: int, lease: Lease
    ) -> None:
        self.journal = journal
        self.exec_id = exec_id
        self.stream = stream_of(exec_id)
        self.state = state
        self.version = version
        self.foreign_version = 0
        """The version of the last client's event that was taken in."""
        self.lease = lease
        self.outbox: list[Outgoing] = []
        self.on_foreign: Callable[[Foreign], None] = ignore
        self.preface: Callable[[], ExecutionEvent | None] = nothing
        """Makes what is to be written before the next events, whenever those come."""

    @property
    def is_about_to_write(self) -> bool:
        """Whether there is something in the outbox that does not wait for company."""
        company = (MetadataLogged, ArtifactSaved)
        return any(not isinstance(outgoing.event, company) for outgoing in list(self.outbox))

    def put(self, outgoing: Outgoing) -> None:
        """Adds an event to the next flush."""
        self.outbox.append(outgoing)

    def take(self) -> list[Outgoing]:
        """Empties the outbox."""
        batch, self.outbox = self.outbox, []
        for outgoing in batch:
            if outgoing.seen is not None and outgoing.seen < self.foreign_version:
                # A client's event was taken in between the decision and now: no append will be
                # refused.
                batch = self.what_still_holds(batch)
                break
        if batch and (first := self.preface()) is not None:
            batch.insert(0, Outgoing(first))
        return batch

    def take_with(self, outgoing: Outgoing) -> list[Outgoing]:
        """Empties the outbox in front of an event that is never in it."""
        batch = [*self.take(), outgoing]
        first = self.preface()
        return batch if first is None else [Outgoing(first), *batch]

    def put_back(self, batch: Sequence[Outgoing]) -> None:
        """Puts events back that were taken, and not appended."""
        self.outbox[:0] = batch

    async def append_alongside(
        self, outgoing: Outgoing, append: Callable[[Append], Awaitable[Appended]]
    ) -> None:
        """Appends an event, and what is in the outbox, in a transaction that only it belongs to.

        Raises CommitRefused or TransactionOver when that one is at fault: then the others are in
        the outbox again.
        """
        batch = self.take_with(outgoing)
        try:
            while True:
                prepared, state = self.prepare(batch)
                try:
                    appended = await append(prepared)
                except WrongExpectedVersion as refused:
                    self._check_not_cut(refused)
                    await self.catch_up()
                    batch = self.what_still_holds(batch)
                else:
                    self.accept(batch, appended, state)
                    return
        except (CommitRefused, TransactionOver):
            self.put_back([other for other in batch if other is not outgoing])
            raise

    async def flush(self) -> None:
        """Appends what is in the outbox; returns when it is durable.

        Raises StaleLease when the execution has another owner, JournalUnavailable or
        CommitOutcomeUnknown when the store fails, and WrongExpectedVersion when the journal has
        become shorter.
        """
        batch = self.take()
        while batch:
            append, state = self.prepare(batch)
            try:
                appended = await self.journal.append(append)
            except WrongExpectedVersion as refused:
                self._check_not_cut(refused)
                await self.catch_up()
                batch = self.what_still_holds(batch)
            else:
                self.accept(batch, appended, state)
                return

    def _check_not_cut(self, refused: WrongExpectedVersion) -> None:
        # A journal that was put back from a backup under this process: reading on finds nothing.
        if refused.actual < self.version:
            raise refused

    async def append_again(self, batch: Sequence[Outgoing]) -> None:
        """Appends events whose first append found a client's event in front of them."""
        await self.catch_up()
        self.outbox[:0] = self.what_still_holds(batch)
        await self.flush()

    def what_still_holds(self, batch: Sequence[Outgoing]) -> list[Outgoing]:
        """The events that may follow what clients wrote in front of them."""
        state, held = self.state, []
        for outgoing in batch:
            if still_holds(state, outgoing.event):
                held.append(outgoing)
                state = evolve(state, outgoing.event)
        return held

    async def catch_up(self) -> None:
        """Takes in what clients have appended since."""
        self.accept_foreign(await self.journal.read_stream(self.stream, after=self.version))

    def prepare(self, batch: Sequence[Outgoing]) -> tuple[Append, ExecutionState]:
        """The append of these events, and the state after it.

        What is recorded may be another event than was put: see `as_it_ends`.
        """
        state = self.state
        events: list[NewEvent] = []
        blobs: Blobs = ()
        for outgoing in batch:
            event = as_it_ends(state, outgoing.event)
            state = evolve(state, event)
            events.append(new_event(event))
            if event is outgoing.event:
                blobs += outgoing.blobs
        append = Append(
            stream=self.stream,
            events=tuple(events),
            expected_version=self.version,
            head=None if state is self.state else head_of(state),
            lease=self.lease,
            release=state.status not in _GOING_ON or isinstance(batch[-1].event, _LETTING_GO),
            blobs=blobs,
        )
        return append, state

    def accept(self, batch: Sequence[Outgoing], appended: Appended, state: ExecutionState) -> None:
        """The append is durable: the state moves on, and who waits is told."""
        self.state = state
        self.version = appended.version
        for outgoing, recorded in zip(batch, appended.events, strict=True):
            outgoing.tell(recorded)

    def accept_foreign(self, recorded: Sequence[RecordedEvent]) -> None:
        """Takes in events that this owner did not write.

        Raises StaleLease at the first one of a later owner's: what that one has recorded is not for
        the body that runs here, which has gone another way since.
        """
        for fact in recorded:
            if fact.version <= self.version:
                continue
            if fact.epoch > self.lease.epoch:
                raise StaleLease(self.stream, self.lease.epoch, fact.epoch)
            event = decode_event(fact)
            self.state = evolve(self.state, event)
            self.version = self.foreign_version = fact.version
            self.on_foreign(Foreign(fact.version, fact.recorded_at, event))


class ThreadedExecution(OwnedExecution):
    """The same for a sync flow: its thread and its checkpoints' threads append without a hop."""

    def __init__(
        self,
        journal: Journal,
        exec_id: str,
        state: ExecutionState,
        version: int,
        lease: Lease,
    ) -> None:
        super().__init__(journal, exec_id, state, version, lease)
        self.read_blocking: Callable[[int], list[RecordedEvent]] | None = None
        self._flushing = threading.Lock()
        self._outbox_lock = threading.Lock()
        self._broken: BaseException | None = None

    def put(self, outgoing: Outgoing) -> None:
        """Adds an event to the next flush; from any thread."""
        with self._outbox_lock:
            super().put(outgoing)

    def take(self) -> list[Outgoing]:
        """Empties the outbox; from any thread."""
        with self._outbox_lock:
            return super().take()

    def put_back(self, batch: Sequence[Outgoing]) -> None:
        """Puts events back that were taken, and not appended; from any thread."""
        with self._outbox_lock:
            super().put_back(batch)

    @property
    def gate(self) -> threading.Lock:
        """Whoever holds it is the only one that flushes."""
        return self._flushing

    def flush_alongside(self, outgoing: Outgoing, append: Callable[[Append], Appended]) -> None:
        """As `append_alongside`, on the caller's thread, which holds the gate."""
        if self._broken is not None:
            raise self._broken
        batch = self.take_with(outgoing)
        try:
            while not self._append_by(append, batch):
                assert self.read_blocking is not None
                self.accept_foreign(self.read_blocking(self.version))
                batch = self.what_still_holds(batch)
        except (CommitRefused, TransactionOver):
            self.put_back([other for other in batch if other is not outgoing])
            raise
        except BaseException as error:
            self._broken = error
            raise

    def flush_blocking(self) -> None:
        """As `flush`, on the caller's thread; threads that come together share a commit."""
        with self._flushing:
            if self._broken is not None:
                # Another thread's flush failed, perhaps with this thread's event in it.
                raise self._broken
            batch = self.take()
            try:
                while batch and not self._append_by(self.journal.append_blocking, batch):
                    assert self.read_blocking is not None
                    self.accept_foreign(self.read_blocking(self.version))
                    batch = self.what_still_holds(batch)
            except BaseException as error:
                self._broken = error
                raise

    def _append_by(self, how: Callable[[Append], Appended], batch: Sequence[Outgoing]) -> bool:
        append, state = self.prepare(batch)
        try:
            appended = how(append)
        except WrongExpectedVersion as refused:
            self._check_not_cut(refused)
            return False
        self.accept(batch, appended, state)
        return True

    def accept_at_once(self, recorded: Sequence[RecordedEvent]) -> bool:
        """As `accept_foreign`, unless a flush is under way; then False."""
        if not self._flushing.acquire(blocking=False):
            return False
        try:
            self.accept_foreign(recorded)
        finally:
            self._flushing.release()
        return True

    def accept_in_turn(self, recorded: Sequence[RecordedEvent]) -> None:
        """As `accept_foreign`, after the flush that is under way."""
        with self._flushing:
            self.accept_foreign(recorded)

    def wait_for_flush(self) -> None:
        """Returns when no flush is under way: what was durable before is known now."""
        with self._flushing:
            pass


def owned_execution(
    asynchronous: bool,
    journal: Journal,
    exec_id: str,
    state: ExecutionState,
    version: int,
    lease: Lease,
) -> OwnedExecution:
    """The execution in its owner's hands, for a flow of this colour."""
    kind = OwnedExecution if asynchronous else ThreadedExecution
    return kind(journal, exec_id, state, version, lease)


def state_of(recorded: Sequence[RecordedEvent]) -> ExecutionState:
    """The state that a stream's events lead to."""
    return fold(ABSENT, [decode_event(fact) for fact in recorded])


def ignore(foreign: Foreign) -> None:
    """Nobody needs to know."""


def nothing() -> None:
    """Nothing is to be written."""
