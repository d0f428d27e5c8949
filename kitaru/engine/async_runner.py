"""Drives one execution of an async flow: one recorded outcome at a time, live as in a replay."""

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

from msgspec import Raw

from journal import JournalError
from kitaru.domain.execution.events import (
    RUN_AGAIN,
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    ExecutionEvent,
    MetadataLogged,
    RetryHastened,
    TimerFired,
)
from kitaru.engine.arguments_policy import may_be_given, misfit_of
from kitaru.engine.async_attempts import Attempts
from kitaru.engine.async_ending import Ending
from kitaru.engine.async_lookups import LookUps
from kitaru.engine.async_pass import GONE, PassState, guarded
from kitaru.engine.async_recording import Recording
from kitaru.engine.async_resting import Resting
from kitaru.engine.async_waits import Timer, Timers, Waits
from kitaru.engine.cache import ResultCache
from kitaru.engine.calls import Call, Delivery, UnreadableValueError, delivery_of
from kitaru.engine.context import ExecutionSuspended, FlowScope, scope
from kitaru.engine.divergence import (
    Asked,
    Mismatch,
    changed_kind,
    never_asked_for,
    not_asked_for,
)
from kitaru.engine.executions import Foreign, ignore
from kitaru.engine.flow_loop import FlowLoop, FlowTask
from kitaru.engine.history import History, Outcome
from kitaru.engine.runner import DRAW, Host, Loaded, Rest, clock_of, isolates, seed_of
from kitaru.engine.values import Blobs
from kitaru.engine.waits import Wait, WaitOutcome
from kitaru.telemetry import LogEvent, report

REFUSALS = 1_000
"""How many calls of a dropped body raise; after that they wait."""


class AsyncRunner:
    """Everything happens in callbacks of the host's loop, outside any of its tasks.

    It makes the passes of the body, and answers what the body asks for. What becomes of that is for
    its parts, which know each other, the state of the pass, and of the runner no more than `Driver`
    says.
    """

    def __init__(self, host: Host, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self.host = host
        self.definition = loaded.definition
        self.execution = loaded.execution
        self.exec_id = loaded.execution.exec_id
        self.main_module = loaded.main_module
        self.seed = seed_of(loaded)
        self._arguments = arguments
        self._started_at = clock_of(loaded)
        self.state = state = PassState(self, host, loaded)
        self.recording = recording = self._new_recording()
        self.attempts = Attempts(state, recording, isolates(loaded))
        self.lookups = LookUps(state, recording, self.attempts, ResultCache(loaded))
        self.waits = self._new_waits()
        self.timers = Timers(state, recording)
        self.resting = Resting(
            state, recording, self.attempts, self.lookups, self.waits, self.timers
        )
        self.execution.on_foreign = self._on_foreign
        self._advancing = False
        self._holding = False
        self._begin_pass()
        self._is_fresh = True
        """Whether nothing has happened yet in the pass."""

    def _new_recording(self) -> Recording:
        return Recording(self.state)

    def _new_waits(self) -> Waits:
        return Waits(self.state, self.recording)

    def _begin_pass(self) -> None:
        self.submitted: list[FlowTask] = []
        """The calls that the body has started with `submit`."""
        self.blobs: dict[int, bytes | None] = {}
        """Those that the next outcomes need, by version; None while one is read."""
        self.loop: FlowLoop | None = None
        self.root: FlowTask | None = None
        self._live = False
        self._refused = 0

    def _next_pass(self) -> None:
        for part in (
            self.state,
            self.recording,
            self.attempts,
            self.lookups,
            self.waits,
            self.timers,
            self.resting,
        ):
            part.next_pass()
        self._begin_pass()

    @property
    def history(self) -> History:
        """What is recorded, and what of it the body has not been given yet."""
        return self.state.history

    # the pass

    @guarded
    def begin(self) -> None:
        """Starts a pass of the body from its first line."""
        if not self._is_fresh:
            self._next_pass()
        self._is_fresh = False
        # Not abstract: what it refuses is set from a list, which mypy does not see.
        self.loop = loop = FlowLoop(  # type: ignore[abstract]
            self.timers, self._started_at, self.state.history.began_at
        )
        loop.unhandled = self._report_unhandled
        context = contextvars.Context()
        context.run(scope.set, FlowScope(self))
        args, kwargs = self.definition.binder.spread(self._arguments)
        body = _whole_body(loop, self.definition.function, args, kwargs, self.submitted)
        self.root = loop.run_flow(body, context)
        self.advance()

    def advance(self) -> None:
        """Gives the body what is recorded, one outcome at a time, then lets it go on live."""
        loop, state = self.loop, self.state
        if state.stopped or state.ending or loop is None or self._advancing:
            return
        root = self._root
        self._advancing = True
        try:
            loop.drive()
            while not state.stopped and state.divergence is None and not root.done():
                if not self._deliver_next():
                    break
                loop.drive()
        finally:
            self._advancing = False
        if state.stopped:
            return
        is_done = root.done()
        if is_done and state.divergence is None:
            self._check_nothing_left()
        if state.divergence is not None:
            self._diverge(state.divergence)
        elif is_done:
            if not self.attempts.committing:
                self._end_pass()
        elif not state.history.order and not state.kept_ready:
            self._go_live()
            if not self.resting.consider_suspending(self):
                self._end_stuck()

    @property
    def _root(self) -> FlowTask:
        assert self.root is not None
        return self.root

    def _deliver_next(self) -> bool:
        """Delivers one thing; False when there is nothing (yet)."""
        state = self.state
        history = state.history
        if state.kept_ready:
            outcome = history.kept[state.kept_ready[0]]
            if self._needs_blob(outcome):
                return False
            path = state.kept_ready.popleft()
            self._deliver(outcome, path)
            return True
        order, cancelled_at = history.order, history.cancelled_at
        if (
            cancelled_at is not None
            and not state.cancel_delivered
            and (not order or order[0].version > cancelled_at)
            and not self._root.ends_group
        ):
            state.cancel_delivered = True
            self._root.cancel()
            return True
        if not order:
            return False
        outcome = order[0]
        if outcome.event.path not in state.requested:
            state.divergence = not_asked_for(outcome.event.path, self.asked_now())
            return False
        if self._needs_blob(outcome):
            return False
        order.popleft()
        history.log.pop(outcome.event.path, None)
        self._deliver(outcome, outcome.event.path)
        return True

    def _deliver(self, outcome: Outcome, path: str) -> None:
        assert self.loop is not None
        self.loop.advance_clock(outcome.recorded_at)
        event, requested = outcome.event, self.state.requested
        waiting, requested[path] = requested[path], None
        if waiting is None:
            return
        if isinstance(waiting, Timer):
            assert isinstance(event, TimerFired)
            self.timers.open.pop(id(waiting.handle), None)
            self.loop.advance_clock(event.due_at)
            self.loop.fire(waiting.handle)
            return
        blob = self.blobs.pop(outcome.version, None)
        if isinstance(waiting, Wait):
            delivery = self.waits.answer(waiting, outcome, blob)
        else:
            assert isinstance(event, CheckpointCompleted | CheckpointFailed)
            delivery = waiting.delivery or self._delivery(event, waiting, blob)
        if delivery is not None:
            _settle(waiting.future, delivery)

    def _delivery(
        self, event: CheckpointCompleted | CheckpointFailed, call: Call, blob: bytes | None
    ) -> Delivery | None:
        """What the body is given; None when it cannot be given what is recorded."""
        try:
            return delivery_of(event, call, self.host.codec, blob, self.main_module)
        except UnreadableValueError as error:
            self.state.divergence = self.state.divergence or error.mismatch
            return None

    def _needs_blob(self, outcome: Outcome) -> bool:
        event = outcome.event
        blob = outcome.blob
        if blob is None:
            return False
        if outcome.version in self.blobs:
            return self.blobs[outcome.version] is None
        waiting = self.state.requested[event.path]
        if waiting is None or (isinstance(waiting, Call) and waiting.delivery):
            return False
        self.blobs[outcome.version] = None
        task = self.host.loop.create_task(self.host.journal.get_blob(blob))
        task.add_done_callback(lambda done: self._blob_read(outcome.version, done))
        return True

    @guarded
    def _blob_read(self, version: int, task: "asyncio.Task[bytes]") -> None:
        error = task.exception()
        if self.state.stopped:
            return
        if error is not None:
            self.give_up(error)
            return
        self.blobs[version] = task.result()
        self.advance()

    def asked_now(self) -> list[Asked]:
        """What the body waits for; what is not recorded comes first."""
        calls = [
            call.asked
            for call in self.state.requested.values()
            if isinstance(call, Call | Wait) and not call.future.done()
        ]
        timers = [timer.asked for timer in self.timers.open.values()]
        return sorted([*calls, *timers], key=lambda asked: asked.path in self.state.history.log)

    def _check_nothing_left(self) -> None:
        paths = [outcome.event.path for outcome in self.state.history.order]
        left = next((path for path in paths if path not in self.state.requested), self._left_wait())
        if left is not None:
            root = self._root
            error = asyncio.CancelledError() if root.cancelled() else root.exception()
            self.state.divergence = never_asked_for(left, error)

    def _left_wait(self) -> str | None:
        """An open wait, or an offer that was taken before, that the body has not asked for."""
        waits = self.state.history.waits
        left = next((p for p in waits if not isinstance(self.state.requested.get(p), Wait)), None)
        return left or self.state.history.unasked(self.state.requested)

    # what the body asks for

    def new_path(self, name: str, given_id: str | None = None) -> str:
        """Fixes the identity of a call or a wait of the body."""
        if self.state.stopped or self.loop is None:
            self._refuse()
            return name
        task = self.loop.current()
        return task.path_of(name) if given_id is None else given_id

    def _refuse(self) -> None:
        """Ends a call of a dropped body.

        A body that catches even this, again and again, would never come to an end: in the long run
        its calls wait, for ever, and the loop leaves it where it stands.
        """
        self._refused += 1
        if self._refused <= REFUSALS:
            raise ExecutionSuspended

    def time(self) -> int:
        """The time in the body, in microseconds since the Unix epoch."""
        if self.state.stopped or self.loop is None:
            self._refuse()
            return self._started_at
        return self.loop.now

    def draw(self) -> tuple[str, str]:
        """The execution's seed, and a text that no other draw of the body has."""
        return self.seed, self.new_path(DRAW)

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Starts a call that the body will look at later; the flow does not end before it."""
        if self.state.stopped or self.loop is None:
            coroutine.close()
            self._refuse()
            # As good as a task that is never done, which nobody runs any more.
            return cast("asyncio.Task[Any]", asyncio.get_running_loop().create_future())
        task = self.loop.create_task(coroutine)
        self.submitted.append(task)
        return task

    async def perform(self, call: Call) -> Any:
        """Gives the call's recorded outcome, or runs it; inside the flow's body."""
        if self.state.stopped or self.loop is None:
            self._refuse()
            return await _never()
        self.loop.current()
        if any(map(_holds_future, call.arguments.values())):
            call.arguments = {name: await _resolve(value) for name, value in call.arguments.items()}
        self.state.check_unused(call.path)
        call.encode(self.host.codec)
        self._request(call)
        delivery = self._given_at_once(call)
        if delivery is not None:
            if delivery.error is not None:
                raise _raisable(delivery.error)
            return delivery.value
        call.future = future = self.loop.create_future()
        call.context = contextvars.copy_context()
        try:
            return await future
        except asyncio.CancelledError:
            self.attempts.abandon(call)
            raise

    def _request(self, call: Call) -> None:
        state = self.state
        history = state.history
        state.requested[call.path] = call
        recorded = history.log.get(call.path)
        if recorded is not None:
            if not recorded.is_of(call.definition.name, call.digest):
                state.divergence = state.divergence or misfit_of(recorded, call)
                self.recording.note_changed_arguments(recorded, call)
            return
        kept = history.kept.get(call.path)
        if kept is not None and may_be_given(kept, call, history):
            self.recording.note_changed_arguments(kept, call)
            state.kept_ready.append(call.path)
        elif kept is not None and call.path in history.owed:
            state.divergence = state.divergence or misfit_of(kept, call)
        else:
            state.unstarted.append(call)

    def _given_at_once(self, call: Call) -> Delivery | None:
        """What the body is given of a call that need not be waited for in a replay.

        Only when waiting would come to the same: nothing else of the body is ready to run, nobody
        has cancelled this task, and this very outcome is the next thing that the body is given.
        """
        state = self.state
        history = state.history
        if not history.order and not state.kept_ready:
            return None
        if state.divergence is not None or self.loop is None or self.loop.is_busy:
            return None
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return None
        if state.kept_ready:
            outcome = history.kept[call.path] if state.kept_ready[0] == call.path else None
        elif history.order[0].event.path == call.path:
            cancel_pending = history.cancelled_at is not None and not state.cancel_delivered
            outcome = None if cancel_pending else history.order[0]
        else:
            return None
        return None if outcome is None or outcome.blob is not None else self._taken(outcome, call)

    def _taken(self, outcome: Outcome, call: Call) -> Delivery | None:
        assert self.loop is not None
        event, state = outcome.event, self.state
        assert isinstance(event, CheckpointCompleted | CheckpointFailed)
        delivery = self._delivery(event, call, None)
        if delivery is None:
            return None
        if state.kept_ready:
            state.kept_ready.popleft()
        else:
            state.history.order.popleft()
            state.history.log.pop(call.path, None)
        state.requested[call.path] = None
        self.loop.advance_clock(outcome.recorded_at)
        return delivery

    async def wait(self, wait: Wait) -> Any:
        """Waits for somebody's answer; inside the flow's body."""
        if self.state.stopped or self.loop is None:
            self._refuse()
            return await _never()
        self.loop.current()
        state = self.state
        state.check_unused(wait.path)
        wait.future = future = self.loop.create_future()
        state.requested[wait.path] = wait
        recorded = state.history.log.get(wait.path)
        kept = state.history.kept.get(wait.path)
        if recorded is not None:
            if not isinstance(recorded.event, WaitOutcome):
                state.divergence = state.divergence or changed_kind(recorded, wait.asked)
        elif kept is not None and isinstance(kept.event, WaitOutcome):
            state.kept_ready.append(wait.path)
        else:
            state.unstarted.append(wait)
        try:
            return await future
        except asyncio.CancelledError:
            self.waits.abandon(wait)
            raise

    # going live

    def _go_live(self) -> None:
        if not self.host.may_start(self.exec_id):
            # The lease may be over: the heartbeat asks again, and tells when it is lost.
            if not self._holding:
                self._holding = True
                self.host.loop.call_later(0.05, self._go_on)
            return
        state = self.state
        fired = bool(self.timers.open) and self.timers.fire_due()
        if not self._live:
            self._live = True
            left = self._left_wait()
            if left is not None:
                state.divergence = not_asked_for(left, self.asked_now())
                self._diverge(state.divergence)
                return
            if fired:
                # Times that went by while nobody ran the flow may end what it would start now.
                self.recording.flush()
                return
        unstarted, state.unstarted = state.unstarted, []
        calls: list[Call] = []
        for waiting in unstarted:
            if state.requested.get(waiting.path) is not waiting:
                # Its outcome came while the replay still waited for something, such as a blob.
                continue
            if isinstance(waiting, Timer):
                self.timers.start(waiting)
            elif isinstance(waiting, Wait):
                self.waits.start(waiting)
            elif not waiting.abandoned:
                calls.append(waiting)
        if calls:
            self.lookups.look_up_or_start(calls)
        self.recording.flush()

    @guarded
    def _go_on(self) -> None:
        self._holding = False
        self.advance()

    # recording

    def note(self, event: MetadataLogged | ArtifactSaved, blobs: Blobs = ()) -> None:
        """Records an event together with the next one."""
        self.recording.note(event, blobs)

    def log(self, metadata: Raw) -> None:
        """Records what the body logs, unless it is recorded already."""
        entry = self.new_path("log")
        if not self.state.history.is_logged(entry, bytes(metadata)):
            self.note(MetadataLogged(metadata=metadata, entry=entry))

    def _report_unhandled(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, asyncio.CancelledError):
            # What asyncio.gather() gives whose parts were cancelled.
            return
        report(
            LogEvent.FLOW_ERROR_NOT_LOOKED_AT,
            exec_id=self.exec_id,
            flow=self.execution.state.flow,
            error=context["message"] if error is None else f"{type(error).__name__}: {error}",
        )

    def notice(self) -> None:
        """Reads what clients have appended, after the append that is under way."""
        self.recording.notice()

    def _on_foreign(self, foreign: Foreign) -> None:
        event = foreign.event
        self.state.history.add(foreign.version, foreign.recorded_at, event)
        if isinstance(event, CheckpointResolved):
            call = self.attempts.reviews.pop(event.path, None)
            if call is not None and event.decision == RUN_AGAIN:
                self.state.unstarted.append(call)
        if isinstance(event, RetryHastened):
            self.attempts.hasten(event.path)

    # letting go

    def consider_suspending(self) -> None:
        """Looks whether the body only waits for people and times from now on."""
        if not self.resting.consider_suspending(self):
            self._end_stuck()

    def let_go(self) -> None:
        """Parks the execution at once if it only waits for people and times."""
        self.resting.let_go()

    def rest(self) -> Rest | None:
        """What the runner waits for; None while there is something that it does."""
        if not self._live or self._advancing or self._holding:
            return None
        return self.resting.rest()

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now."""
        self.resting.look_at_clock()

    # the end

    def _end_pass(self) -> None:
        self.state.ending = True
        self.attempts.abandon_all()
        self._ending.end(self._root)

    def _end_stuck(self) -> None:
        """Nothing can happen any more that the body could be waiting for."""
        self.state.ending = True
        self._ending.end_stuck([] if self.loop is None else self.loop.places())

    def _diverge(self, mismatch: Mismatch) -> None:
        self.state.ending = True
        self._ending.diverge(mismatch, self.asked_now(), self.loop)

    @property
    def _ending(self) -> Ending:
        return Ending(self.state, self.recording, self.definition)

    def begin_again(self, history: History) -> None:
        """Starts the next attempt of the flow, with what is recorded by now."""
        self.state.history = history
        self.begin()

    def give_up(self, error: BaseException | None) -> None:
        """The lease is lost, or the store fails: this process can do nothing more here."""
        self.finish(None, _as_exception(error))

    def finish(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        """Stops, and tells the host: of the execution's last event; or, without one, of why."""
        if not self.state.stopped:
            self.stop()
            self.host.ended(self, event, error)

    def stop(self) -> None:
        """Drops the body where it stands; nothing that it does from now on has an effect."""
        self.state.stopped = True
        self.resting.stop()
        self.drop_body()
        self.attempts.abandon_transactions("its execution goes on elsewhere, or later")
        self.recording.let_all_in()
        # So that nothing of a finished execution waits for the garbage collector.
        self.root = None
        self.execution.on_foreign = ignore
        self.state.driver = GONE

    def drop_body(self) -> None:
        """Ends the body where it stands, and all that runs for it."""
        for waiting in self.state.requested.values():
            if isinstance(waiting, Timer):
                if waiting.waiting is not None:
                    waiting.waiting.cancel()
            elif isinstance(waiting, Wait):
                if waiting.expiry is not None:
                    waiting.expiry.cancel()
            elif waiting is not None and waiting.running is not None:
                # A thread cannot be cancelled; what it returns is not looked at.
                waiting.running.cancel()
        loop, self.loop = self.loop, None
        if loop is not None:
            loop.drop()


async def _whole_body(
    loop: FlowLoop,
    function: Callable[..., Coroutine[Any, Any, Any]],
    args: list[Any],
    kwargs: dict[str, Any],
    submitted: list[FlowTask],
) -> Any:
    try:
        result = await function(*args, **kwargs)
        for task in submitted:
            # An error of a submitted call that the body never looked at is the body's own.
            if not task.done() or (not task.cancelled() and task._log_traceback):
                await task
        return result
    finally:
        await loop.finish()


@types.coroutine
def _never() -> Generator[None, None, None]:
    while True:
        yield


def _holds_future(value: Any) -> bool:
    if isinstance(value, asyncio.Future):
        return True
    return type(value) in (list, tuple) and any(isinstance(v, asyncio.Future) for v in value)


async def _resolve(value: Any) -> Any:
    if isinstance(value, asyncio.Future):
        return await value
    if _holds_future(value):
        return type(value)([await _resolve(item) for item in value])
    return value


def _settle(future: "asyncio.Future[Any]", delivery: Delivery) -> None:
    if future.done():
        return
    if delivery.error is None:
        future.set_result(delivery.value)
    else:
        future.set_exception(_raisable(delivery.error))


def _raisable(error: BaseException) -> BaseException:
    if isinstance(error, StopIteration | GeneratorExit):
        # Either would end the coroutine that awaits it, instead of being raised there.
        replacement = RuntimeError(f"checkpoint raised {error!r}")
        replacement.__cause__ = error
        return replacement
    return error


def _as_exception(error: BaseException | None) -> Exception | None:
    if error is None or isinstance(error, Exception):
        return error
    return JournalError(str(error))
