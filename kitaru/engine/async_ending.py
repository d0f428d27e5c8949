"""The end of one pass of an async flow's body: what it leads to, and what is recorded of it."""

import asyncio
from types import FrameType

from journal import RecordedEvent
from kitaru.domain.execution.commands import Complete, FailAttempt
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import ExecutionDiverged, ExecutionEvent, FlowAttemptFailed
from kitaru.engine.async_pass import PassState, guarded
from kitaru.engine.async_recording import Recording
from kitaru.engine.code_reading import chain_at, read_code, suspended_frames
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.divergence import Asked, Mismatch, Seen, divergence_event
from kitaru.engine.executions import Outgoing
from kitaru.engine.failures import describe
from kitaru.engine.flow_loop import FlowLoop, FlowTask, explained
from kitaru.engine.history import History
from kitaru.engine.upcasts import decode_event
from kitaru.engine.values import Blobs, stored
from kitaru.errors import KitaruError, KitaruRuntimeError
from kitaru.status import FailureOrigin


class Ending:
    """Made when the pass ends; it has one of three ends."""

    __slots__ = ("_definition", "_host", "_recording", "state")

    def __init__(self, state: PassState, recording: Recording, definition: FlowDefinition) -> None:
        self.state = state
        self._recording = recording
        self._definition = definition
        self._host = state.host

    def end(self, root: FlowTask) -> None:
        """The body has returned, or raised."""
        for event, blobs in self._last_events(root):
            self.state.execution.put(Outgoing(event, blobs, self._recorded_end))
        self._recording.flush()

    def end_stuck(self, places: list[str]) -> None:
        """Nothing can happen any more that the body, which waits there, could be waiting for."""
        error = KitaruRuntimeError(
            "The flow's body waits for something that can never come: none of its checkpoints, "
            "waits and timers is open. Look for a lock, event, queue or future that no task of the "
            f"body sets: {'; '.join(places)}. What comes from elsewhere, such as from "
            "a thread, put into a @checkpoint."
        )
        command = FailAttempt(
            error=describe(error, self._host.codec),
            origin=FailureOrigin.RUNTIME,
            now=self._host.journal.now(),
            retryable=False,
        )
        execution = self.state.execution
        for event in decide(execution.state, command):
            execution.put(Outgoing(event, recorded=self._recorded_end))
        self._recording.flush()

    def diverge(self, mismatch: Mismatch, waiting: list[Asked], loop: FlowLoop | None) -> None:
        """The body, which waits for these, has not asked for what is recorded."""
        execution = self.state.execution
        seen = self._seen(mismatch, waiting, loop)
        found = divergence_event(execution.journal, execution.stream, mismatch, seen)
        self._host.loop.create_task(found).add_done_callback(self._record_divergence)

    # the body has ended

    def _last_events(self, root: FlowTask) -> list[tuple[ExecutionEvent, Blobs]]:
        state = self.state
        error: BaseException | None
        error = asyncio.CancelledError("the flow was cancelled") if root.cancelled() else None
        error = error or root.exception()
        if error is None:
            try:
                data = self._host.codec.encode(
                    root.result(), where="result", types=self._definition.types
                )
            except KitaruError as refused:
                error = refused
            else:
                result, blobs = stored(data)
                command = Complete(result, state.cancel_delivered)
                events = decide(state.execution.state, command)
                return [(event, blobs) for event in events]
        events = decide(state.execution.state, self._failure(explained(error)))
        return [(event, ()) for event in events]

    def _failure(self, error: BaseException) -> FailAttempt:
        return FailAttempt(
            error=describe(error, self._host.codec),
            origin=FailureOrigin.USER_CODE,
            now=self._host.journal.now(),
            retryable=not isinstance(error, KitaruError),
        )

    def _recorded_end(self, fact: RecordedEvent) -> None:
        # Perhaps not as it was put: a cancel request may have come before it.
        event = decode_event(fact)
        if isinstance(event, FlowAttemptFailed):
            self.state.driver.drop_body()
            self._read_again()
        else:
            self.state.driver.finish(event, None)

    def _read_again(self) -> None:
        self._host.loop.create_task(self._next_attempt()).add_done_callback(self._reread)

    async def _next_attempt(self) -> History:
        execution = self.state.execution
        recorded = await execution.journal.read_stream(execution.stream)
        return History((fact.version, fact.recorded_at, decode_event(fact)) for fact in recorded)

    @guarded
    def _reread(self, task: "asyncio.Task[History]") -> None:
        error = task.exception()
        if self.state.stopped:
            return
        if error is not None:
            self.state.driver.give_up(error)
            return
        history = task.result()
        if history.version < self.state.execution.version:
            # A client's event was taken in since it was read.
            self._read_again()
            return
        self.state.driver.begin_again(history)

    # what is recorded is not what it asks for

    def _seen(self, mismatch: Mismatch, waiting: list[Asked], loop: FlowLoop | None) -> Seen:
        asked = mismatch.asked
        others = [each for each in waiting if asked is None or each.path != asked.path]
        frames: list[FrameType] = []
        if asked is not None and loop is not None:
            chains = [suspended_frames(coroutine) for coroutine in loop.coroutines()]
            frames = chain_at(chains, asked.site)
        code = read_code(self._definition.function, frames, asked, self._host.codec)
        return Seen(set(self.state.requested), others, code)

    @guarded
    def _record_divergence(self, task: "asyncio.Task[ExecutionDiverged]") -> None:
        state = self.state
        if state.stopped:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None or task.cancelled():
            state.driver.give_up(error)
            return
        event = task.result()
        state.execution.take()
        state.execution.put(Outgoing(event, recorded=lambda _: state.driver.finish(event, None)))
        self._recording.flush()
