"""Appends what comes of an async flow to its journal: one append at a time."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from journal import Appended, RecordedEvent, WrongExpectedVersion
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionEvent,
    MetadataLogged,
    TimerFired,
)
from kitaru.engine.arguments_policy import changed_and_kept
from kitaru.engine.async_pass import PassState, guarded
from kitaru.engine.calls import Call
from kitaru.engine.executions import Outgoing
from kitaru.engine.history import Outcome
from kitaru.engine.values import Blobs


class OutgoingOutcome(Outgoing, frozen=True, gc=False, kw_only=True):
    """An outcome on its way into the journal, and from there to the body."""

    event: CheckpointCompleted | CheckpointFailed | TimerFired
    order: deque[Outcome]

    def tell(self, fact: RecordedEvent) -> None:
        """The outcome is durable: it is the next one that the body is given."""
        self.order.append(Outcome(fact.version, fact.recorded_at, self.event))


class Recording:
    """Everything happens in callbacks of the host's loop, but for `note`.

    It is the `Recorder` of the bodies of checkpoints, too.
    """

    __slots__ = (
        "_batch",
        "_slot_wanted",
        "_state_after",
        "_to_notice",
        "exec_id",
        "execution",
        "flushing",
        "host",
        "state",
        "unshared",
    )

    def __init__(self, state: PassState) -> None:
        self.state = state
        self.host = state.host
        self.execution = state.execution
        self.exec_id = state.exec_id
        self.flushing = False
        """Whether something is being appended, or looked for; or a transaction has the slot."""
        self._slot_wanted: list[Callable[[], None]] = []
        """Transactions that wait until they are the only ones to append."""
        self._to_notice = False
        """Whether to look for what clients have appended once the running append is done."""
        self._batch: list[Outgoing] = []
        """What is being appended, and the state that it leads to."""
        self._state_after = self.execution.state
        self.next_pass()

    def next_pass(self) -> None:
        """No call of the pass that begins has done anything yet."""
        self.unshared: set[str] = set()
        """The calls whose attempt has done something for its own execution alone."""

    def note(self, event: MetadataLogged | ArtifactSaved, blobs: Blobs = ()) -> None:
        """Records an event together with the next one."""
        if event.path is not None:
            self.unshared.add(event.path)
        self.execution.put(Outgoing(event, blobs))

    def note_later(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records that something has begun, unless the pass is over."""
        if not self.state.stopped and not self.state.ending:
            self.execution.put(Outgoing(event, blobs))
            self.flush()

    def note_changed_arguments(self, recorded: Outcome, call: Call) -> None:
        """Records that a call is given what was recorded for other arguments, if it is."""
        event = changed_and_kept(self.exec_id, recorded, call, self.state.history)
        if event is not None:
            self.execution.put(Outgoing(event))

    def put_outcome(
        self, event: CheckpointCompleted | CheckpointFailed | TimerFired, blobs: Blobs = ()
    ) -> None:
        """Adds an outcome to the next append; the body is given it once it is durable."""
        self.execution.put(
            OutgoingOutcome(event=event, blobs=blobs, order=self.state.history.order)
        )

    def flush(self) -> None:
        """Appends what there is, unless something is being appended."""
        if self._slot_wanted and (self.state.stopped or not self.flushing):
            self.flushing = True
            self._slot_wanted.pop(0)()
            return
        if self.flushing or self.state.stopped or not self.execution.outbox:
            return
        batch = self.execution.take()
        if not batch:
            return
        self.flushing = True
        append, state = self.execution.prepare(batch)
        self._batch, self._state_after = batch, state
        self.host.journal.append_soon(append, self._appended)

    @guarded
    def _appended(self, appended: Appended | None, error: BaseException | None) -> None:
        batch, self._batch = self._batch, []
        if self.state.stopped:
            return
        if appended is not None:
            self.flushing = False
            self.execution.accept(batch, appended, self._state_after)
            self.state.driver.advance()
            self._flush_or_notice()
        elif isinstance(error, WrongExpectedVersion):
            task = self.host.loop.create_task(self.execution.append_again(batch))
            task.add_done_callback(self._flushed)
        else:
            self.state.driver.give_up(error)

    @guarded
    def _flushed(self, task: "asyncio.Task[None]") -> None:
        self.flushing = False
        error = None if task.cancelled() else task.exception()
        if self.state.stopped:
            return
        if error is not None or task.cancelled():
            self.state.driver.give_up(error)
        else:
            self.state.driver.advance()
            self._flush_or_notice()

    def _flush_or_notice(self) -> None:
        self.flush()
        if self._to_notice and not self.flushing:
            self.notice()

    def notice(self) -> None:
        """Reads what clients have appended, after the append that is under way."""
        if self.flushing:
            # It may be durable already, and then it does not meet what came after it.
            self._to_notice = True
        elif not self.state.stopped:
            self._to_notice = False
            self.flushing = True
            task = self.host.loop.create_task(self.execution.catch_up())
            task.add_done_callback(self._flushed)

    def ask_for_slot(self, given: Callable[[], None]) -> None:
        """Calls `given` when nothing of the execution is being appended, and nothing will be."""
        self._slot_wanted.append(given)
        self.flush()

    def free_slot(self) -> None:
        """What has asked for the slot has ended."""
        self.flushing = False
        self._flush_or_notice()

    def let_all_in(self) -> None:
        """Keeps nobody who has asked for the slot: nothing is appended any more."""
        while self._slot_wanted:
            self._slot_wanted.pop(0)()


class Slot:
    """The right to be the only one that appends to an execution, for threads."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def acquire(self) -> None:
        """Blocks until nothing is being appended."""
        given = threading.Event()
        self._recording.host.loop.call_soon_threadsafe(self._recording.ask_for_slot, given.set)
        given.wait()

    def release(self) -> None:
        """Lets the runner append again."""
        # A transaction may be rolled back after its runtime was closed.
        with contextlib.suppress(RuntimeError):
            self._recording.host.loop.call_soon_threadsafe(self._recording.free_slot)
