"""Drives one execution of a sync flow: its body has a thread, and blocks for each outcome."""

import contextlib
import contextvars
import sys
import threading
import time
from typing import Any

from msgspec import Raw

from kitaru.domain.execution.events import (
    RUN_AGAIN,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    ExecutionEvent,
    FlowAttemptFailed,
    MetadataLogged,
)
from kitaru.engine.arguments_policy import may_be_given, misfit_of
from kitaru.engine.cache import ResultCache
from kitaru.engine.calls import Call, UnreadableValueError
from kitaru.engine.code_reading import body_frames
from kitaru.engine.context import ExecutionSuspended, FlowScope, scope
from kitaru.engine.divergence import Mismatch
from kitaru.engine.executions import Foreign
from kitaru.engine.history import History, Outcome
from kitaru.engine.runner import DRAW, Host, Loaded, Rest, isolates, seed_of
from kitaru.engine.sync_attempts import Attempts, ignore
from kitaru.engine.sync_deliveries import Deliveries
from kitaru.engine.sync_ending import Ending
from kitaru.engine.sync_futures import CallFuture, futures_in, resolve
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_recording import Recording
from kitaru.engine.sync_replay import Replay
from kitaru.engine.sync_resting import Resting
from kitaru.engine.sync_submissions import Submissions
from kitaru.engine.sync_waits import Waits
from kitaru.engine.values import Blobs
from kitaru.engine.waits import Wait
from kitaru.errors import KitaruCancelled, KitaruContextError, KitaruUsageError

REFUSALS = 1_000
"""How many calls raise at once after the pass has ended; after that each takes its time."""


class SyncRunner:
    """The body's thread runs direct calls itself; submitted ones run on worker threads.

    It makes the passes of the body, and answers what the body asks for. What becomes of that is for
    its parts, which know each other, the state of the pass, and of the runner no more than `Driver`
    says.
    """

    # What a rehearsal has others of.
    resting_class: type[Resting] = Resting
    attempts_class: type[Attempts] = Attempts
    submissions_class: type[Submissions] = Submissions
    waits_class: type[Waits] = Waits

    def __init__(self, host: Host, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self.host = host
        self.definition = loaded.definition
        self.state = state = PassState(self, host, loaded)
        self.execution = state.execution
        self.exec_id = state.exec_id
        self.seed = seed_of(loaded)
        self._arguments = arguments
        self._end_told = False
        self.recording = self._new_recording()
        self.replay = Replay(state)
        self.deliveries = Deliveries(self.recording, loaded.main_module)
        self.resting = resting = self.resting_class(state, self.recording, self.replay)
        self.attempts = attempts = self.attempts_class(
            state, self.recording, resting, ResultCache(loaded), isolates(loaded)
        )
        self.submissions = self.submissions_class(
            state, self.replay, self.deliveries, attempts, self._request_submitted
        )
        self.waits = self.waits_class(
            state, self.recording, self.replay, self.deliveries, resting, self.submissions
        )
        self.execution.on_foreign = self._on_foreign
        self.execution.read_blocking = self.recording.read_blocking
        self._begin_pass()

    def _new_recording(self) -> Recording:
        return Recording(self.state)

    def _begin_pass(self) -> None:
        self.names: dict[str, int] = {}
        self._refused = 0

    @property
    def history(self) -> History:
        """What is recorded, and what of it the body has not been given yet."""
        return self.state.history

    # the pass

    def begin(self) -> None:
        """Starts the body on a thread that it has for itself."""
        self.host.spawn_body(self._run)

    def _run(self) -> None:
        self.state.thread = threading.get_ident()
        threading.current_thread().name = f"kitaru-flow-{self.exec_id[:8]}"
        event: ExecutionEvent | None = None
        error: Exception | None = None
        try:
            event = self._run_passes()
        except ExecutionSuspended:
            error = self.state.fatal
        except Exception as raised:
            error = raised
        finally:
            self.state.stopped = True
            self.tell_end(event, error)

    def tell_end(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        """Tells the host, once: of the execution's last event; or, without one, of why it ends."""
        if self._end_told:
            return
        self._end_told = True
        # A body may come to its next durable call after its runtime was closed.
        with contextlib.suppress(RuntimeError):
            self.host.loop.call_soon_threadsafe(self.host.ended, self, event, error)

    def _run_passes(self) -> ExecutionEvent:
        while True:
            context = contextvars.Context()
            context.run(scope.set, FlowScope(self))
            event = self._settle(*context.run(self._run_body))
            if not isinstance(event, FlowAttemptFailed):
                return event
            self.resting.sleep_until(event.retry_at)
            self._next_pass()

    def _next_pass(self) -> None:
        """Begins anew, with what the journal holds."""
        while True:
            history = self.recording.read_history()
            with self.state.changed:
                # What was taken in since it was read would be missing in it.
                if history.version >= self.execution.version:
                    self.state.history = history
                    for part in (
                        self.state,
                        self.recording,
                        self.resting,
                        self.attempts,
                        self.submissions,
                    ):
                        part.next_pass()
                    self._begin_pass()
                    return

    def _run_body(self) -> tuple[Any, BaseException | None]:
        args, kwargs = self.definition.binder.spread(self._arguments)
        try:
            return self.definition.function(*args, **kwargs), None
        except BaseException as error:
            return None, error

    def _settle(self, result: Any, error: BaseException | None) -> ExecutionEvent:
        """Records how the body ended."""
        return self._ending.settle(result, error, self._finish_submitted)

    def _finish_submitted(self) -> BaseException | None:
        """Waits for what the body has submitted; an error that it never looked at is its own."""
        for future in self.state.submitted:
            try:
                if not future.seen:
                    self._take_future(future)
            except ExecutionSuspended:
                raise
            except BaseException as error:
                # Also a cancel request that comes now, or a checkpoint's own SystemExit.
                return error
        return None

    def diverge(self, mismatch: Mismatch) -> ExecutionSuspended:
        """Records the divergence at once: whatever the body does with what it is raised here."""
        if self.state.divergence is not None:
            return ExecutionSuspended()
        frames = body_frames(sys._getframe(), SyncRunner._run_body.__code__)
        return self._ending.diverge(mismatch, frames)

    @property
    def _ending(self) -> Ending:
        return Ending(self.state, self.recording, self.replay, self.definition)

    # what the body asks for

    def new_path(self, name: str, given_id: str | None) -> str:
        """Fixes the identity of a call of the body."""
        self._check_thread()
        if given_id is not None:
            path = given_id
        else:
            ordinal = self.names.get(name, 0) + 1
            self.names[name] = ordinal
            path = name if ordinal == 1 else f"{name}#{ordinal}"
        if path in self.state.requested:
            raise KitaruUsageError(
                f"Two calls have the id {path!r} in this execution: give each its own id=."
            )
        return path

    def time(self) -> int:
        """The time in the body, in microseconds since the Unix epoch."""
        self._check_thread()
        return self.state.clock

    def draw(self) -> tuple[str, str]:
        """The execution's seed, and a text that no other draw of the body has."""
        return self.seed, self.new_path(DRAW, None)

    def _check_thread(self) -> None:
        if self.state.stopped:
            self._refused += 1
            if self._refused > REFUSALS:
                # A body that catches even this, again and again, must not take a processor.
                time.sleep(1.0)
            raise ExecutionSuspended
        if threading.get_ident() != self.state.thread:
            raise KitaruContextError(
                "Checkpoints of a sync flow can be called only from the flow's own thread: the "
                "order of calls from other threads would differ in a replay. Use .submit(...)."
            )

    def perform(self, call: Call) -> Any:
        """Gives the call's recorded outcome, or runs it on this thread."""
        self.replay.check_fits()
        call.arguments = self._resolved(call.arguments)
        call.encode(self.host.codec)
        outcome = self._request(call)
        if outcome is None:
            self.submissions.before_live(call.asked)
            self.replay.deliver_cancel_before(None)
            outcome = self.attempts.run(call, ignore, self.state.pass_number)
        return self._take(outcome, call)

    def submit(self, call: Call, after: list[CallFuture]) -> CallFuture:
        """Starts the call on a worker thread, once what it depends on is there."""
        future = CallFuture(self, call)
        call.context = contextvars.copy_context()
        self.submissions.submit(future, [*after, *futures_in(call.arguments)])
        return future

    def _request_submitted(self, call: Call) -> Outcome | None:
        return self._request(call, submitted=True)

    def _request(self, call: Call, submitted: bool = False) -> Outcome | None:
        state = self.state
        state.requested.add(call.path)
        recorded = state.history.log.get(call.path)
        if recorded is not None:
            if not recorded.is_of(call.definition.name, call.digest):
                state.misfit = state.misfit or misfit_of(recorded, call)
                if state.misfit is not None:
                    if submitted:
                        # What the body submits beside it tells what has happened to the code. It
                        # may be blocked already by what depends on this call.
                        state.changed.notify_all()
                        return None
                    raise self.diverge(state.misfit)
                self.recording.note_changed_arguments(recorded, call)
            del state.history.log[call.path]
            return recorded
        kept = state.history.kept.get(call.path)
        if kept is None:
            return None
        if may_be_given(kept, call, state.history):
            self.recording.note_changed_arguments(kept, call)
            state.history.take(call.path)
            return kept
        if call.path in state.history.owed:
            state.misfit = state.misfit or misfit_of(kept, call)
            if state.misfit is not None and not submitted:
                raise self.diverge(state.misfit)
            if state.misfit is not None:
                state.changed.notify_all()
        return None

    def wait(self, wait: Wait) -> Any:
        """Blocks until somebody has answered; gives the answer."""
        return self.waits.wait(wait)

    def sleep(self, path: str, seconds: float, site: str) -> None:
        """Blocks for a time that goes on while the process is down."""
        self.waits.sleep(path, seconds, site)

    def note(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records an event together with the next one."""
        self.recording.note(event, blobs)

    def log(self, metadata: Raw) -> None:
        """Records what the body logs, unless it is recorded already."""
        entry = self.new_path("log", None)
        if not self.state.history.is_logged(entry, bytes(metadata)):
            self.recording.note(MetadataLogged(metadata=metadata, entry=entry))

    # what the body is given

    def result_of(self, future: CallFuture) -> Any:
        """Blocks until the submitted call has its outcome, and gives it."""
        self._check_thread()
        self.replay.check_fits()
        return self._take_future(future)

    def _take_future(self, future: CallFuture) -> Any:
        future.seen = True
        if not future.settled:
            self.submissions.before_live(future.call.asked)
            self.submissions.start_withheld(future)
        self.resting.wait_until(lambda: future.settled)
        if self.state.stopped:
            raise ExecutionSuspended
        if not future.settled:
            # An append that came before the cancel request may be durable and not settled yet.
            self.execution.wait_for_flush()
            if not future.settled:
                self.replay.deliver_cancel_before(None)
        if future.outcome is None:
            assert future.failure is not None
            if isinstance(future.failure, UnreadableValueError):
                raise self.diverge(future.failure.mismatch)
            raise future.failure
        return self._take(future.outcome, future.call)

    def first_of(self, futures: list[CallFuture]) -> CallFuture:
        """Blocks until one of the submitted calls has its outcome; the earliest in the journal."""
        self._check_thread()
        self.replay.check_fits()
        if not any(future.settled for future in futures):
            self.submissions.before_live(futures[0].call.asked)
            for future in futures:
                self.submissions.start_withheld(future)
            self.resting.wait_until(lambda: any(future.settled for future in futures))
            if self.state.stopped:
                raise ExecutionSuspended
            # What became durable together is told apart by its place in the journal.
            self.execution.wait_for_flush()
            if not any(future.settled for future in futures):
                self.replay.deliver_cancel_before(None)
        settled = [future for future in futures if future.settled]
        first = min(settled, key=lambda future: (future.settled_at, future.follows))
        self.replay.deliver_cancel_before(first.settled_at)
        self.replay.check_passed_over(first.settled_at, first.call.asked)
        if first.outcome is not None:
            self.state.advance_clock(first.outcome)
        return first

    def wait_for(self, future: CallFuture) -> None:
        """Blocks until the submitted call has its outcome, whichever it is."""
        try:
            self.result_of(future)
        except (ExecutionSuspended, KitaruCancelled):
            raise
        except BaseException:
            if not future.settled:
                raise

    def _take(self, outcome: Outcome, call: Call) -> Any:
        self.replay.deliver_cancel_before(outcome.version)
        self.replay.check_passed_over(outcome.version, call)
        try:
            delivery = self.deliveries.of_outcome(outcome, call)
        except UnreadableValueError as error:
            raise self.diverge(error.mismatch) from error
        self.state.advance_clock(outcome)
        if delivery.error is not None:
            raise delivery.error
        return delivery.value

    def _resolved(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if not futures_in(arguments):
            return arguments
        return {name: resolve(value, self._take_future) for name, value in arguments.items()}

    # what others do, and may know

    def notice(self) -> None:
        """Reads what clients have appended, so that a blocked body hears of it."""
        self.recording.notice()

    def _on_foreign(self, foreign: Foreign) -> None:
        state = self.state
        with state.changed:
            event = foreign.event
            state.history.add(foreign.version, foreign.recorded_at, event)
            match event:
                case CheckpointResolved(path=path, decision=decision):
                    if decision == RUN_AGAIN:
                        state.run_again.add(path)
                        self.submissions.take_review(path)
                case CheckpointCompleted(path=path) | CheckpointFailed(path=path):
                    self.submissions.take_review(path)
                case _:
                    pass
            state.changed.notify_all()

    def let_go(self) -> None:
        """Parks the execution at once if its body is blocked by people or times."""
        self.resting.let_go()

    def rest(self) -> Rest | None:
        """What the runner waits for; None while there is something that it does."""
        return self.resting.rest()

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now."""
        self.resting.look_at_clock()

    def stop(self) -> None:
        """Ends the pass at the body's next durable call; nothing that it does now has an effect."""
        with self.state.changed:
            self.state.stopped = True
            self.state.changed.notify_all()
            transactions = self.attempts.transactions
        for transaction in transactions:
            transaction.abandon("its execution goes on elsewhere, or later")
