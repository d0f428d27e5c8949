"""Appends what comes of a sync flow to its journal, and takes in what clients append to it."""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any

from journal import RecordedEvent, StaleLease
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionEvent,
    MetadataLogged,
)
from kitaru.engine.arguments_policy import changed_and_kept
from kitaru.engine.calls import Call
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.executions import Outgoing
from kitaru.engine.history import History, Outcome
from kitaru.engine.sync_pass import PassState
from kitaru.engine.upcasts import decode_event
from kitaru.engine.values import Blobs
from kitaru.errors import KitaruError

NOTICE_AGAIN_SECONDS = 0.5
"""After how long it looks again for what clients have appended, when the journal could not say."""


class Recording:
    """Blocks the thread that records, but for `note`, `note_later` and `notice`.

    It is the `Recorder` of the bodies of checkpoints, too.
    """

    def __init__(self, state: PassState) -> None:
        self.state = state
        self.host = state.host
        self.execution = state.execution
        self.exec_id = state.exec_id
        self.next_pass()

    def next_pass(self) -> None:
        """No call of the pass that begins has done anything yet."""
        self.unshared: set[str] = set()
        """The calls whose attempt has done something for its own execution alone."""

    # what is recorded

    def record(self, event: ExecutionEvent, blobs: Blobs = ()) -> ExecutionEvent:
        """Records an event; gives what became of it, should a client's have come before it."""
        written: list[ExecutionEvent] = []
        self.execution.put(Outgoing(event, blobs, lambda fact: written.append(decode_event(fact))))
        self.flush()
        return written[0]

    def append_outcome(
        self,
        event: CheckpointCompleted | CheckpointFailed,
        blobs: Blobs,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        """Records what came of a call in this pass."""
        outcomes: list[Outcome] = []

        def keep(fact: RecordedEvent) -> None:
            outcomes.append(Outcome(fact.version, fact.recorded_at, event))
            recorded(outcomes[0])

        with self.state.changed:
            # In front of the event that ends the pass, or not at all.
            self.state.check_pass(pass_number)
            self.execution.put(Outgoing(event, blobs, keep))
        self.flush()
        return outcomes[0]

    def put_noted(self, event: ExecutionEvent, blobs: Blobs = (), seen: int | None = None) -> None:
        """Records an event of our own that the history keeps account of, with the next flush."""

        def note(fact: RecordedEvent) -> None:
            with self.state.changed:
                self.state.history.add(fact.version, fact.recorded_at, event)

        self.execution.put(Outgoing(event, blobs, note, seen))

    def note(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records an event together with the next one."""
        if isinstance(event, MetadataLogged | ArtifactSaved) and event.path is not None:
            self.unshared.add(event.path)
        with self.state.changed:
            if not self.state.ended:
                self.execution.put(Outgoing(event, blobs))

    def note_later(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records that something has begun; called on the host's loop, which must not block."""
        self.note(event, blobs)
        self.host.spawn(self._flush_notes)

    def _flush_notes(self) -> None:
        if not (self.state.stopped or self.state.ended):
            # A failure is kept in `fatal`: the body's thread ends with it.
            with contextlib.suppress(ExecutionSuspended):
                self.flush()

    def note_changed_arguments(self, recorded: Outcome, call: Call) -> None:
        """Records that a call is given what was recorded for other arguments, if it is."""
        event = changed_and_kept(self.exec_id, recorded, call, self.state.history)
        if event is not None:
            self.execution.put(Outgoing(event))

    def flush(self) -> None:
        """Appends what there is. Raises ExecutionSuspended where the store fails."""
        try:
            self.execution.flush_blocking()
        except Exception as error:
            raise self.let_down(error) from error

    def let_down(self, error: Exception) -> ExecutionSuspended:
        """The store fails: this pass can do nothing more, and the body must not make of it."""
        self.state.fatal = self.state.fatal or error
        self.state.driver.stop()
        return ExecutionSuspended()

    # what others have recorded

    def notice(self) -> None:
        """Reads what clients have appended, so that a blocked body hears of it."""
        if not self.state.stopped:
            after = self.execution.version
            read = self.host.journal.read_stream(self.execution.stream, after=after)
            self.host.loop.create_task(read).add_done_callback(self._noticed)

    def _noticed(self, task: "asyncio.Task[list[RecordedEvent]]") -> None:
        if task.cancelled() or task.exception() is not None:
            # A body that only waits appends nothing which would meet the same events.
            if not task.cancelled():
                self.host.loop.call_later(NOTICE_AGAIN_SECONDS, self.notice)
            return
        self._take_in(task.result())

    def _take_in(self, recorded: list[RecordedEvent], *, in_turn: bool = False) -> None:
        """Takes in what clients wrote, after what this process wrote before it."""
        try:
            if in_turn:
                self.execution.accept_in_turn(recorded)
            elif not self.execution.accept_at_once(recorded):
                # The loop must not wait for the flush that is under way.
                self.host.spawn(functools.partial(self._take_in, recorded, in_turn=True))
        except (KitaruError, StaleLease) as error:
            # Written by a newer version or a later owner, or damaged.
            self.let_down(error)

    def read_history(self) -> History:
        """All that is recorded of the execution."""
        recorded = self.read_blocking(0)
        return History((fact.version, fact.recorded_at, decode_event(fact)) for fact in recorded)

    def read_blocking(self, after: int) -> list[RecordedEvent]:
        """What is recorded after this version."""
        recorded: list[RecordedEvent] = self.on_loop(
            self.host.journal.read_stream(self.execution.stream, after=after)
        )
        return recorded

    def on_loop(self, coroutine: Any) -> Any:
        """Blocks until the host's loop has run a coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.host.loop).result()
