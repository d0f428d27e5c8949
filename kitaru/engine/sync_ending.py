"""The end of one pass of a sync flow's body: what it leads to, and what is recorded of it."""

from collections.abc import Callable
from types import FrameType
from typing import Any

from kitaru.domain.execution.commands import Complete, FailAttempt
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import ExecutionEvent
from kitaru.engine.code_reading import read_code
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.divergence import Mismatch, Seen, divergence_event
from kitaru.engine.failures import describe
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_recording import Recording
from kitaru.engine.sync_replay import Replay
from kitaru.engine.values import stored
from kitaru.errors import KitaruError
from kitaru.status import FailureOrigin


class Ending:
    """Made when the pass ends; it has one of two ends."""

    def __init__(
        self, state: PassState, recording: Recording, replay: Replay, definition: FlowDefinition
    ) -> None:
        self.state = state
        self._recording = recording
        self._replay = replay
        self._definition = definition
        self._host = state.host

    def settle(
        self,
        result: Any,
        error: BaseException | None,
        finish_submitted: Callable[[], BaseException | None],
    ) -> ExecutionEvent:
        """Records how the body ended, once what it has submitted has."""
        state = self.state
        if state.stopped:
            raise ExecutionSuspended
        self._replay.check_all_fits([], error, ended=True)
        error = finish_submitted() or error if error is None else error
        with state.changed:
            # What a database has of this execution, the journal must have before its end.
            while state.committing and not state.stopped:
                state.changed.wait()
            if state.stopped:
                raise ExecutionSuspended
            state.ended = True
            state.changed.notify_all()
        if error is None:
            try:
                data = self._host.codec.encode(result, where="result", types=self._definition.types)
            except KitaruError as refused:
                error = refused
            else:
                value, blobs = stored(data)
                ending = Complete(value, state.cancel_delivered)
                (completed,) = decide(state.execution.state, ending)
                return self._recording.record(completed, blobs)
        command = FailAttempt(
            error=describe(error, self._host.codec),
            origin=FailureOrigin.USER_CODE,
            now=self._host.journal.now(),
            retryable=not isinstance(error, KitaruError),
        )
        (event,) = decide(state.execution.state, command)
        return self._recording.record(event)

    def diverge(self, mismatch: Mismatch, frames: list[FrameType]) -> ExecutionSuspended:
        """Records the divergence; the body's own frames tell where it stands."""
        state, execution = self.state, self.state.execution
        state.divergence = mismatch
        execution.take()
        seen = self._seen(mismatch, frames)
        found = divergence_event(execution.journal, execution.stream, mismatch, seen)
        try:
            event = self._recording.record(self._recording.on_loop(found))
        except Exception as error:
            return self._recording.let_down(error)
        state.driver.tell_end(event, None)
        state.driver.stop()
        return ExecutionSuspended()

    def _seen(self, mismatch: Mismatch, frames: list[FrameType]) -> Seen:
        asked = mismatch.asked
        submitted = self.state.submitted
        waiting = [future.call.asked for future in submitted if not future.settled]
        others = [each for each in waiting if asked is None or each.path != asked.path]
        code = read_code(self._definition.function, frames, asked, self._host.codec)
        return Seen(set(self.state.requested), others, code)
