"""Drives one execution of an async flow: one recorded outcome at a time, live as in a replay."""

import asyncio
import contextlib
import contextvars
import functools
import sqlite3
import threading
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from types import FrameType
from typing import Any, cast

from msgspec import Raw, Struct

from journal import (
    Appended,
    BlobNotFound,
    CommitRefused,
    JournalError,
    RecordedEvent,
    TransactionOver,
    WrongExpectedVersion,
)
from kitaru.domain.execution.commands import Complete, FailAttempt
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    RUN_AGAIN,
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionParked,
    FlowAttemptFailed,
    InputRejected,
    MetadataLogged,
    RetryHastened,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
)
from kitaru.engine.arguments_policy import changed_and_kept, may_be_given, misfit_of
from kitaru.engine.cache import ResultCache
from kitaru.engine.calls import Call, Delivery, Hit, UnreadableValueError, delivery_of
from kitaru.engine.code_reading import chain_at, read_code, suspended_frames
from kitaru.engine.context import CheckpointScope, ExecutionSuspended, FlowScope, scope
from kitaru.engine.divergence import (
    Asked,
    Mismatch,
    Seen,
    changed_kind,
    divergence_event,
    never_asked_for,
    not_asked_for,
    unreadable,
)
from kitaru.engine.executions import Foreign, Outgoing, ignore
from kitaru.engine.failures import describe
from kitaru.engine.flow_loop import FlowLoop, FlowTask, explained
from kitaru.engine.history import History, KeptReady, Outcome
from kitaru.engine.isolated import IsolatedAttempt
from kitaru.engine.once import review_of, tell_review
from kitaru.engine.runner import (
    DRAW,
    Host,
    Loaded,
    Rest,
    clock_of,
    isolates,
    seed_of,
    tell_inline,
)
from kitaru.engine.transactions import (
    AttemptTransaction,
    Database,
    Found,
    failure_of,
    open_attempt,
)
from kitaru.engine.upcasts import decode_event
from kitaru.engine.values import Blobs, stored
from kitaru.engine.waits import Wait, WaitOutcome
from kitaru.errors import (
    KitaruError,
    KitaruRuntimeError,
    KitaruUsageError,
    KitaruWaitValidationError,
)
from kitaru.status import FailureOrigin
from kitaru.telemetry import LogEvent, report

LONGEST_PATIENCE_SECONDS = 86_400.0
RECHECK_SECONDS = 60.0
"""How long a time is waited for by the process's clock alone: the store's may jump."""
REFUSALS = 1_000
"""How many calls of a dropped body raise; after that they wait."""
IDLE_SECONDS = 5.0
"""How long a body that only waits for a time is kept in memory."""


class Timer:
    """One durable timer of the body."""

    __slots__ = ("due_at", "handle", "noted", "path", "runner", "waiting")

    def __init__(
        self, runner: "AsyncRunner", path: str, due_at: int, handle: asyncio.TimerHandle
    ) -> None:
        self.runner = runner
        self.path = path
        self.due_at = due_at
        self.handle = handle
        self.waiting: asyncio.TimerHandle | None = None
        self.noted = False

    @property
    def asked(self) -> Asked:
        """The timer, for a divergence report."""
        return Asked(self.path, "sleep", "", kind="sleep")

    def note_started(self) -> None:
        """Writes down that the body waits for a time, so that people see it."""
        if self.waiting is not None and not self.noted and not self.handle.cancelled():
            self.noted = True
            if self.runner.history.timers.get(self.path) != self.due_at:
                self.runner.note_later(TimerStarted(path=self.path, due_at=self.due_at))


class Attempt:
    """One running attempt of a call: told when it is done, and when it lasts."""

    __slots__ = ("call", "number", "runner")

    def __init__(self, runner: "AsyncRunner", call: Call) -> None:
        self.runner = runner
        self.call = call
        self.number = call.attempt

    def __call__(self, task: "asyncio.Future[Any]") -> None:
        """What ran the attempt is done."""
        self.runner.task_done(self.call, task)

    async def run(self, body: Callable[[], Any]) -> None:
        """Runs the body of an async checkpoint, and tells of its end without another hop.

        A task that raised SystemExit or KeyboardInterrupt would end the host's loop.
        """
        try:
            result = await body()
        except BaseException as error:
            result = Raised(error)
        # What the engine does next is not to happen in the context of the body.
        self.runner.context.run(self.runner.attempt_done, self.call, result)

    def note_started(self) -> None:
        """Writes down that the attempt runs."""
        call = self.call
        task = call.running
        if not isinstance(task, asyncio.Future) or call.attempt != self.number:
            return
        if task.done():
            # It was cancelled before it had begun: the body could not tell of its end.
            self.runner.task_done(call, task)
        elif not call.noted:
            call.noted = True
            self.runner.note_later(*call.started_event())


class Slot:
    """The right to be the only one that appends to an execution, for threads."""

    def __init__(self, runner: "AsyncRunner") -> None:
        self._runner = runner

    def acquire(self) -> None:
        """Blocks until nothing is being appended."""
        given = threading.Event()
        self._runner.host.loop.call_soon_threadsafe(self._runner.ask_for_slot, given.set)
        given.wait()

    def release(self) -> None:
        """Lets the runner append again."""
        # A transaction may be rolled back after its runtime was closed.
        with contextlib.suppress(RuntimeError):
            self._runner.host.loop.call_soon_threadsafe(self._runner.free_slot)


class Raised(Struct, frozen=True):
    """What a checkpoint's body raised, as what it returned."""

    error: BaseException


class OutgoingOutcome(Outgoing, frozen=True, gc=False, kw_only=True):
    """An outcome on its way into the journal, and from there to the body."""

    event: CheckpointCompleted | CheckpointFailed | TimerFired
    order: deque[Outcome]

    def tell(self, fact: RecordedEvent) -> None:
        """The outcome is durable: it is the next one that the body is given."""
        self.order.append(Outcome(fact.version, fact.recorded_at, self.event))


def guarded(step: Callable[..., None]) -> Callable[..., None]:
    """A step that, should the engine itself fail in it, ends the runner and tells its host."""

    @functools.wraps(step)
    def guard(self: "AsyncRunner", *arguments: Any) -> None:
        try:
            step(self, *arguments)
        except Exception as error:
            self._give_up(error)

    return guard


class AsyncRunner:
    """Everything happens in callbacks of the host's loop, outside any of its tasks."""

    def __init__(self, host: Host, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self.host = host
        self.definition = loaded.definition
        self.execution = loaded.execution
        self.exec_id = loaded.execution.exec_id
        self.main_module = loaded.main_module
        self.context = contextvars.copy_context()
        """That of what is done for no body in particular."""
        self.seed = seed_of(loaded)
        self._isolates = isolates(loaded)
        self.history = History(loaded.facts)
        self.cache = ResultCache(loaded)
        self.execution.on_foreign = self._on_foreign
        self._arguments = arguments
        self._started_at = clock_of(loaded)
        self._stopped = False
        self._flushing = False
        self._slot_wanted: list[Callable[[], None]] = []
        """Transactions that wait until they are the only ones to append."""
        self.transactions: dict[str, AttemptTransaction] = {}
        """Those of the attempts that run, by path."""
        self._to_notice = False
        """Whether to look for what clients have appended once the running append is done."""
        self._batch: list[Outgoing] = []
        """What is being appended, and the state that it leads to."""
        self._state_after = self.execution.state
        self._advancing = False
        self._holding = False
        self._new_pass_state()
        self._is_fresh = True
        """Whether nothing has happened yet in the pass."""

    def _new_pass_state(self) -> None:
        self.requested: dict[str, Call | Timer | Wait | None] = {}
        """What the body has asked for, by path; None once it has been given the outcome."""
        self.timers: dict[int, Timer] = {}
        self.submitted: list[FlowTask] = []
        """The calls that the body has started with `submit`."""
        self.kept_ready = KeptReady(self.history)
        self.execution.preface = self.history.note_taken
        self.waits: dict[str, Wait] = {}
        """The waits that are open."""
        self.reviews: dict[str, Call] = {}
        """The calls that somebody has to review."""
        self.retrying: dict[str, int] = {}
        """When calls that failed are due to be tried again, by path."""
        self.unstarted: list[Call | Timer | Wait] = []
        self.running: dict[str, Call] = {}
        self.committing: set[str] = set()
        """The calls whose writes are on their way into a database: the pass does not end before
        what has come of them is recorded."""
        self.looking_up: dict[str, Call] = {}
        """Calls that may be answered by an earlier execution's results."""
        self.unshared: set[str] = set()
        """The calls whose attempt has done something for its own execution alone."""
        self.cache.next_pass()
        self.blobs: dict[int, bytes | None] = {}
        """Those that the next outcomes need, by version; None while one is read."""
        self.logs = 0
        self.divergence: Mismatch | None = None
        self.loop: FlowLoop | None = None
        self.root: FlowTask | None = None
        self._ending = False
        self._live = False
        self._refused = 0
        self._suspension: asyncio.TimerHandle | None = None
        self._park_at = 0.0
        self._idle_version = 0
        """The execution's version since which its body only waits."""
        self._cancel_delivered = False

    # the pass

    @guarded
    def begin(self) -> None:
        """Starts a pass of the body from its first line."""
        if not self._is_fresh:
            self._new_pass_state()
        self._is_fresh = False
        # Not abstract: what it refuses is set from a list, which mypy does not see.
        self.loop = loop = FlowLoop(  # type: ignore[abstract]
            self, self._started_at, self.history.began_at
        )
        loop.unhandled = self._report_unhandled
        context = contextvars.Context()
        context.run(scope.set, FlowScope(self))
        args, kwargs = self.definition.binder.spread(self._arguments)
        body = _whole_body(loop, self.definition.function, args, kwargs, self.submitted)
        self.root = loop.run_flow(body, context)
        self._advance()

    def _advance(self) -> None:
        """Gives the body what is recorded, one outcome at a time, then lets it go on live."""
        loop = self.loop
        if self._stopped or self._ending or loop is None or self._advancing:
            return
        root = self._root
        self._advancing = True
        try:
            loop.drive()
            while not self._stopped and self.divergence is None and not root.done():
                if not self._deliver_next():
                    break
                loop.drive()
        finally:
            self._advancing = False
        if self._stopped:
            return
        is_done = root.done()
        if is_done and self.divergence is None:
            self._check_nothing_left()
        if self.divergence is not None:
            self._diverge(self.divergence)
        elif is_done:
            if not self.committing:
                self._end_pass()
        elif not self.history.order and not self.kept_ready:
            self._go_live()
            self._consider_suspending()

    @property
    def _root(self) -> FlowTask:
        assert self.root is not None
        return self.root

    def _deliver_next(self) -> bool:
        """Delivers one thing; False when there is nothing (yet)."""
        if self.kept_ready:
            outcome = self.history.kept[self.kept_ready[0]]
            if self._needs_blob(outcome):
                return False
            path = self.kept_ready.popleft()
            self._deliver(outcome, path)
            return True
        order, cancelled_at = self.history.order, self.history.cancelled_at
        if (
            cancelled_at is not None
            and not self._cancel_delivered
            and (not order or order[0].version > cancelled_at)
            and not self._root.ends_group
        ):
            self._cancel_delivered = True
            self._root.cancel()
            return True
        if not order:
            return False
        outcome = order[0]
        if outcome.event.path not in self.requested:
            self.divergence = not_asked_for(outcome.event.path, self._asked_now())
            return False
        if self._needs_blob(outcome):
            return False
        order.popleft()
        self.history.log.pop(outcome.event.path, None)
        self._deliver(outcome, outcome.event.path)
        return True

    def _deliver(self, outcome: Outcome, path: str) -> None:
        assert self.loop is not None
        self.loop.advance_clock(outcome.recorded_at)
        event = outcome.event
        waiting, self.requested[path] = self.requested[path], None
        if waiting is None:
            return
        if isinstance(waiting, Timer):
            assert isinstance(event, TimerFired)
            self.timers.pop(id(waiting.handle), None)
            self.loop.advance_clock(event.due_at)
            self.loop.fire(waiting.handle)
            return
        blob = self.blobs.pop(outcome.version, None)
        if isinstance(waiting, Wait):
            assert isinstance(event, WaitOutcome)
            self._deliver_answer(waiting, outcome, blob)
            return
        assert isinstance(event, CheckpointCompleted | CheckpointFailed)
        delivery = waiting.delivery or self._delivery(event, waiting, blob)
        if delivery is not None:
            _settle(waiting.future, delivery)

    def _deliver_answer(self, wait: Wait, outcome: Outcome, blob: bytes | None) -> None:
        assert isinstance(outcome.event, WaitOutcome)
        try:
            delivery = wait.delivery(outcome.event, blob, self.host.codec)
        except KitaruError as problem:
            is_refused = isinstance(problem, KitaruWaitValidationError)
            schema = wait.terms.json_schema
            if is_refused and not self.history.answers_another(outcome, schema, self.requested):
                self._reject(wait, str(problem))
            else:
                self.divergence = self.divergence or unreadable(wait.asked, str(problem))
            return
        self.waits.pop(wait.path, None)
        if wait.expiry is not None:
            wait.expiry.cancel()
        _settle(wait.future, delivery)

    def _reject(self, wait: Wait, problem: str) -> None:
        """Opens a wait again whose answer does not do."""
        self.requested[wait.path] = wait
        wait.expiring = False
        if self.history.refuse(wait.path):
            self.unstarted.append(wait)
            return
        self.waits[wait.path] = wait
        wait.deadline_at = self.history.asked[wait.path].deadline_at
        event = InputRejected(path=wait.path, name=wait.terms.name, problem=problem)
        note = self._noted(event)

        def recorded(fact: RecordedEvent) -> None:
            note(fact)
            if not wait.abandoned:
                self._watch_deadline(wait)

        self.execution.put(Outgoing(event, recorded=recorded, seen=self.history.version))

    def _noted(self, event: ExecutionEvent) -> Callable[[RecordedEvent], None]:
        """Takes in an event of our own that the history keeps account of."""
        return lambda fact: self.history.add(fact.version, fact.recorded_at, event)

    def _delivery(
        self, event: CheckpointCompleted | CheckpointFailed, call: Call, blob: bytes | None
    ) -> Delivery | None:
        """What the body is given; None when it cannot be given what is recorded."""
        try:
            return delivery_of(event, call, self.host.codec, blob, self.main_module)
        except UnreadableValueError as error:
            self.divergence = self.divergence or error.mismatch
            return None

    def _needs_blob(self, outcome: Outcome) -> bool:
        event = outcome.event
        blob = outcome.blob
        if blob is None:
            return False
        if outcome.version in self.blobs:
            return self.blobs[outcome.version] is None
        waiting = self.requested[event.path]
        if waiting is None or (isinstance(waiting, Call) and waiting.delivery):
            return False
        self.blobs[outcome.version] = None
        task = self.host.loop.create_task(self.host.journal.get_blob(blob))
        task.add_done_callback(lambda done: self._blob_read(outcome.version, done))
        return True

    @guarded
    def _blob_read(self, version: int, task: "asyncio.Task[bytes]") -> None:
        error = task.exception()
        if self._stopped:
            return
        if error is not None:
            self._give_up(error)
            return
        self.blobs[version] = task.result()
        self._advance()

    def _asked_now(self) -> list[Asked]:
        """What the body waits for; what is not recorded comes first."""
        calls = [
            call.asked
            for call in self.requested.values()
            if isinstance(call, Call | Wait) and not call.future.done()
        ]
        timers = [timer.asked for timer in self.timers.values()]
        return sorted([*calls, *timers], key=lambda asked: asked.path in self.history.log)

    def _check_nothing_left(self) -> None:
        paths = [outcome.event.path for outcome in self.history.order]
        left = next((path for path in paths if path not in self.requested), self._left_wait())
        if left is not None:
            root = self._root
            error = asyncio.CancelledError() if root.cancelled() else root.exception()
            self.divergence = never_asked_for(left, error)

    def _left_wait(self) -> str | None:
        """An open wait, or an offer that was taken before, that the body has not asked for."""
        waits = self.history.waits
        left = next((p for p in waits if not isinstance(self.requested.get(p), Wait)), None)
        return left or self.history.unasked(self.requested)

    # what the body asks for

    def new_path(self, name: str, given_id: str | None = None) -> str:
        """Fixes the identity of a call or a wait of the body."""
        if self._stopped or self.loop is None:
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
        if self._stopped or self.loop is None:
            self._refuse()
            return self._started_at
        return self.loop.now

    def draw(self) -> tuple[str, str]:
        """The execution's seed, and a text that no other draw of the body has."""
        return self.seed, self.new_path(DRAW)

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Starts a call that the body will look at later; the flow does not end before it."""
        if self._stopped or self.loop is None:
            coroutine.close()
            self._refuse()
            # As good as a task that is never done, which nobody runs any more.
            return cast("asyncio.Task[Any]", asyncio.get_running_loop().create_future())
        task = self.loop.create_task(coroutine)
        self.submitted.append(task)
        return task

    async def perform(self, call: Call) -> Any:
        """Gives the call's recorded outcome, or runs it; inside the flow's body."""
        if self._stopped or self.loop is None:
            self._refuse()
            return await _never()
        self.loop.current()
        if any(map(_holds_future, call.arguments.values())):
            call.arguments = {name: await _resolve(value) for name, value in call.arguments.items()}
        self._check_unused(call.path)
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
            self._abandon(call)
            raise

    def _check_unused(self, path: str) -> None:
        if path in self.requested:
            raise KitaruUsageError(
                f"Two calls have the id {path!r} in this execution: give each its own id=."
            )

    def _request(self, call: Call) -> None:
        self.requested[call.path] = call
        recorded = self.history.log.get(call.path)
        if recorded is not None:
            if not recorded.is_of(call.definition.name, call.digest):
                self.divergence = self.divergence or misfit_of(recorded, call)
                self._note_changed_arguments(recorded, call)
            return
        kept = self.history.kept.get(call.path)
        if kept is not None and may_be_given(kept, call, self.history):
            self._note_changed_arguments(kept, call)
            self.kept_ready.append(call.path)
        elif kept is not None and call.path in self.history.owed:
            self.divergence = self.divergence or misfit_of(kept, call)
        else:
            self.unstarted.append(call)

    def _given_at_once(self, call: Call) -> Delivery | None:
        """What the body is given of a call that need not be waited for in a replay.

        Only when waiting would come to the same: nothing else of the body is ready to run, nobody
        has cancelled this task, and this very outcome is the next thing that the body is given.
        """
        history = self.history
        if not history.order and not self.kept_ready:
            return None
        if self.divergence is not None or self.loop is None or self.loop.is_busy:
            return None
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return None
        if self.kept_ready:
            outcome = history.kept[call.path] if self.kept_ready[0] == call.path else None
        elif history.order[0].event.path == call.path:
            cancel_pending = history.cancelled_at is not None and not self._cancel_delivered
            outcome = None if cancel_pending else history.order[0]
        else:
            return None
        return None if outcome is None or outcome.blob is not None else self._taken(outcome, call)

    def _taken(self, outcome: Outcome, call: Call) -> Delivery | None:
        assert self.loop is not None
        event = outcome.event
        assert isinstance(event, CheckpointCompleted | CheckpointFailed)
        delivery = self._delivery(event, call, None)
        if delivery is None:
            return None
        if self.kept_ready:
            self.kept_ready.popleft()
        else:
            self.history.order.popleft()
            self.history.log.pop(call.path, None)
        self.requested[call.path] = None
        self.loop.advance_clock(outcome.recorded_at)
        return delivery

    def _note_changed_arguments(self, recorded: Outcome, call: Call) -> None:
        event = changed_and_kept(self.exec_id, recorded, call, self.history)
        if event is not None:
            self.execution.put(Outgoing(event))

    async def wait(self, wait: Wait) -> Any:
        """Waits for somebody's answer; inside the flow's body."""
        if self._stopped or self.loop is None:
            self._refuse()
            return await _never()
        self.loop.current()
        self._check_unused(wait.path)
        wait.future = future = self.loop.create_future()
        self.requested[wait.path] = wait
        recorded = self.history.log.get(wait.path)
        kept = self.history.kept.get(wait.path)
        if recorded is not None:
            if not isinstance(recorded.event, WaitOutcome):
                self.divergence = self.divergence or changed_kind(recorded, wait.asked)
        elif kept is not None and isinstance(kept.event, WaitOutcome):
            self.kept_ready.append(wait.path)
        else:
            self.unstarted.append(wait)
        try:
            return await future
        except asyncio.CancelledError:
            wait.abandoned = True
            if wait.path in self.waits:
                self._end_abandoned(wait)
            raise

    def _end_abandoned(self, wait: Wait) -> None:
        """Nobody is to be asked any longer for what the body does not wait for."""
        self.waits.pop(wait.path, None)
        if wait.expiry is not None:
            wait.expiry.cancel()
        if wait.expiring or self.history.has_answer(wait.path, wait.terms.name):
            # It has its outcome, or is about to: the body is gone before it was given that.
            return
        if not self._stopped and not self._ending:
            event = WaitAborted(path=wait.path, reason="the flow no longer waits")
            seen = self.history.version
            self.execution.put(Outgoing(event, recorded=self._noted(event), seen=seen))

    def timer_set(self, path: str, due_at: int, handle: asyncio.TimerHandle) -> None:
        """The body sleeps, or has set a time limit."""
        self._check_unused(path)
        timer = Timer(self, path, due_at, handle)
        self.requested[path] = timer
        self.timers[id(handle)] = timer
        recorded = self.history.log.get(path)
        if recorded is not None:
            if not isinstance(recorded.event, TimerFired):
                self.divergence = self.divergence or changed_kind(recorded, timer.asked)
        elif path in self.history.kept and self.history.kept[path].is_timer:
            self.kept_ready.append(path)
        else:
            self.unstarted.append(timer)

    def timer_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The body no longer waits for the time."""
        timer = self.timers.pop(id(handle), None)
        if timer is not None and timer.waiting is not None:
            timer.waiting.cancel()
            timer.waiting = None

    # going live

    def _go_live(self) -> None:
        if not self.host.may_start(self.exec_id):
            # The lease may be over: the heartbeat asks again, and tells when it is lost.
            if not self._holding:
                self._holding = True
                self.host.loop.call_later(0.05, self._go_on)
            return
        fired = bool(self.timers) and self._fire_due()
        if not self._live:
            self._live = True
            left = self._left_wait()
            if left is not None:
                self.divergence = not_asked_for(left, self._asked_now())
                self._diverge(self.divergence)
                return
            if fired:
                # Times that went by while nobody ran the flow may end what it would start now.
                self._flush()
                return
        unstarted, self.unstarted = self.unstarted, []
        calls: list[Call] = []
        for waiting in unstarted:
            if self.requested.get(waiting.path) is not waiting:
                # Its outcome came while the replay still waited for something, such as a blob.
                continue
            if isinstance(waiting, Timer):
                self._start_timer(waiting)
            elif isinstance(waiting, Wait):
                self._start_wait(waiting)
            elif not waiting.abandoned:
                calls.append(waiting)
        if calls:
            self._look_up_or_start(calls)
        self._flush()

    def _fire_due(self) -> bool:
        """Fires the new timers that are due already, in the order of their times."""
        now = self.host.journal.now()
        due = [it for it in self.unstarted if isinstance(it, Timer) and it.due_at <= now]
        if not due:
            return False
        self.unstarted = [it for it in self.unstarted if it not in due]
        for timer in sorted(due, key=lambda timer: timer.due_at):
            self._start_timer(timer)
        # Not by what is in the outbox: it may have been flushed already.
        return any(timer.waiting is None and not timer.handle.cancelled() for timer in due)

    @guarded
    def _go_on(self) -> None:
        self._holding = False
        self._advance()

    @guarded
    def _start_timer(self, timer: Timer) -> None:
        if timer.handle.cancelled() or self._stopped:
            return
        left = (timer.due_at - self.host.journal.now()) / 1_000_000
        if left > 0:
            # Looked at again when it is due: the process's clock and the store's may differ.
            delay = min(left, RECHECK_SECONDS)
            timer.waiting = self.host.loop.call_later(delay, self._start_timer, timer)
            self.host.watch_duration(timer)
            return
        timer.waiting = None
        event = TimerFired(path=timer.path, due_at=timer.due_at)
        self._put_outcome(event)
        self._flush()

    def _start_wait(self, wait: Wait) -> None:
        known = self.history.waits.get(wait.path)
        if wait.abandoned:
            if known is not None:
                self._end_abandoned(wait)
            return
        self.waits[wait.path] = wait
        if known is not None:
            wait.deadline_at = known.deadline_at
            again = wait.requested_again(known, self.host.journal.now())
            if again is not None:
                noted, seen = self._noted(again), self.history.version
                self.execution.put(Outgoing(again, recorded=noted, seen=seen))
            self._watch_deadline(wait)
            return
        event = wait.requested(self.host.journal.now())
        note = self._noted(event)

        def recorded(fact: RecordedEvent) -> None:
            note(fact)
            self._watch_deadline(wait)

        self.execution.put(Outgoing(event, recorded=recorded))

    @guarded
    def _watch_deadline(self, wait: Wait) -> None:
        if wait.expiry is not None:
            # A wait that goes on after a rejected answer is watched already.
            wait.expiry.cancel()
            wait.expiry = None
        if wait.deadline_at is None or wait.path not in self.history.waits or self._stopped:
            return
        left = (wait.deadline_at - self.host.journal.now()) / 1_000_000
        if left > 0:
            delay = min(left, RECHECK_SECONDS)
            wait.expiry = self.host.loop.call_later(delay, self._watch_deadline, wait)
            return
        event = WaitExpired(path=wait.path)
        wait.expiring = True
        seen = self.history.version
        self.execution.put(Outgoing(event, recorded=self._noted(event), seen=seen))
        self._flush()

    def _look_up_or_start(self, calls: list[Call]) -> None:
        """Starts calls, but for those whose result an earlier execution has."""
        wanted = list(filter(self.cache.give_key, calls))
        if not wanted:
            self._looked_up(calls, {})
            return
        self.looking_up.update((call.path, call) for call in calls)
        query = self.cache.query(wanted)
        self.host.journal.find_soon(query, functools.partial(self._found, calls))

    @guarded
    def _found(
        self,
        calls: list[Call],
        found: dict[int, RecordedEvent] | None,
        error: BaseException | None,
    ) -> None:
        if self._stopped:
            return
        if found is None:
            self._give_up(error)
            return
        self._looked_up([call for call in calls if self._is_looked_up(call)], found)
        self._flush()
        if not self.running:
            self._consider_suspending()

    def _is_looked_up(self, call: Call) -> bool:
        """Whether the pass still waits for what a call's look-up brings."""
        if self.looking_up.get(call.path) is not call:
            return False
        del self.looking_up[call.path]
        return not (self._ending or call.abandoned)

    def _looked_up(self, calls: list[Call], found: Mapping[int, RecordedEvent]) -> None:
        for call in calls:
            hit = self.cache.hit(call, found) if found else None
            if hit is None:
                self._start_call(call)
            elif hit.event.result.blob is None:
                self._reuse(call, hit, None)
            else:
                self.looking_up[call.path] = call
                task = self.host.loop.create_task(self.host.journal.get_blob(hit.event.result.blob))
                task.add_done_callback(functools.partial(self._blob_found, call, hit))

    @guarded
    def _blob_found(self, call: Call, hit: Hit, task: "asyncio.Task[bytes]") -> None:
        if self._stopped or not self._is_looked_up(call):
            _ = task.cancelled() or task.exception()
        elif isinstance(task.exception(), BlobNotFound):
            self._start_call(call)
        else:
            self._reuse(call, hit, task.result())
        self._flush()
        self._consider_suspending()

    def _reuse(self, call: Call, hit: Hit, blob: bytes | None) -> None:
        call.attempt = self.history.last_attempt_of(call.path)
        reused = call.reused(hit, blob, self.host.codec)
        if reused is None:
            self._start_call(call)
        else:
            self._put_outcome(*reused)

    def _start_call(self, call: Call) -> None:
        if not self.history.knows(call.path):
            self._start_attempt(call)
            return
        tried = self.history.attempts_of(call.path)
        call.attempt = self.history.last_attempt_of(call.path)
        call.tried = tried.this_pass
        call.comes_after(self.history.completed_attempt_of(call.path))
        if call.definition.once and tried.in_doubt:
            self._request_review(call)
            return
        retry_at = self.history.due_at(call.path)
        wait_us = 0 if retry_at is None else retry_at - self.host.journal.now()
        self._start_attempt_after(call, wait_us)

    def _request_review(self, call: Call) -> None:
        """Asks what came of an attempt that was lost, unless that is asked already."""
        self.reviews[call.path] = call
        if call.path not in self.history.reviews:
            event, blobs = review_of(call, call.attempt)
            self.execution.put(Outgoing(event, blobs, self._noted(event)))
        tell_review(self.execution.exec_id, call)

    def _start_attempt_after(self, call: Call, wait_us: int) -> None:
        if call.abandoned:
            return
        if wait_us > 0:
            self.retrying[call.path] = self.host.journal.now() + wait_us
            call.running = self.host.loop.call_later(wait_us / 1_000_000, self._start_attempt, call)
        else:
            self._start_attempt(call)

    @guarded
    def _start_attempt(self, call: Call) -> None:
        if self._stopped or self._ending or self.requested.get(call.path) is not call:
            return
        if call.abandoned:
            # The body stopped waiting for it while its failed attempt was written down.
            return
        if not self.host.may_start(self.exec_id):
            self.retrying[call.path] = self.host.journal.now()
            call.running = self.host.loop.call_later(0.05, self._start_attempt, call)
            return
        self.retrying.pop(call.path, None)
        self.unshared.discard(call.path)
        call.begin()
        if call.definition.once:
            self.running[call.path] = call
            event, blobs = call.started_event()
            call.noted = True
            self.execution.put(Outgoing(event, blobs, lambda _: self._run_attempt(call)))
            self._flush()
        else:
            self._run_attempt(call)

    def _run_attempt(self, call: Call) -> None:
        if self._stopped or self._ending or call.abandoned:
            self.running.pop(call.path, None)
            return
        # A later attempt must not see what an earlier one has set.
        retried = call.definition.policy.max_attempts > 1
        context: contextvars.Context = call.context.copy() if retried else call.context
        attempt = Attempt(self, call)
        definition = call.definition
        task: asyncio.Future[Any]
        self.running[call.path] = call
        if definition.asynchronous and not definition.isolated and definition.transaction is None:
            body = self._body(call, context)
            task = self.host.loop.create_task(attempt.run(body), context=context)
            if task.done():
                # The application's loop begins its tasks at once, and this one is over.
                return
        else:
            if definition.transaction is None:
                task = self._run_body(call, context)
            else:
                transacted = self._run_transacted(call, definition.transaction, context)
                task = self.host.loop.create_task(transacted)
            task.add_done_callback(attempt)
        call.running = task
        self.host.watch_duration(attempt)

    def _body(self, call: Call, context: contextvars.Context) -> Callable[[], Any]:
        here = CheckpointScope(self, call.path, call.attempt, call.identity, call.transaction)
        context.run(scope.set, here)
        return self.host.body_of(self.execution, call)

    def _run_body(self, call: Call, context: contextvars.Context) -> "asyncio.Future[Any]":
        body = self._body(call, context)
        if call.definition.isolated:
            if self._isolates:
                attempt = IsolatedAttempt(call, self.host.codec, self)
                return self.host.in_thread(lambda: context.run(self._run_isolated, attempt, call))
            tell_inline(call.definition, self.exec_id)
        if call.definition.asynchronous:
            return self.host.loop.create_task(_run_async(body), context=context)
        return self.host.in_thread(lambda: context.run(_run_sync, body))

    def _run_isolated(self, attempt: IsolatedAttempt, call: Call) -> Any:
        def why_end() -> str:
            if self._stopped:
                return "its execution goes on elsewhere, or later"
            return "nobody waits for it any more" if call.abandoned else ""

        delivery = attempt.run(why_end)
        return delivery.value if delivery.error is None else Raised(delivery.error)

    @guarded
    def task_done(self, call: Call, task: "asyncio.Future[Any]") -> None:
        """What runs an attempt has ended, unless that was told already; on the host's loop."""
        # Looked at, so that asyncio does not complain about an error that nobody needs.
        error = None if task.cancelled() else task.exception()
        if call.running is not task:
            return
        if error is not None and self._is_waited_for(call):
            self._give_up(error)
        elif task.cancelled() or error is not None:
            self.attempt_done(call, Raised(error or asyncio.CancelledError()))
        else:
            self.attempt_done(call, task.result())

    @guarded
    def attempt_done(self, call: Call, result: Any) -> None:
        """An attempt has ended, with what its body returned or with `Raised`; on the host's loop.

        It is called in a context of the engine's own, and perhaps by the task that ran the body.
        """
        call.running = None
        if not self._is_waited_for(call):
            self._end_transaction(call)
            return
        if call.transaction is not None and type(result) is not Raised:
            self._start_committing(call, result)
            return
        self._end_transaction(call)
        self.running.pop(call.path, None)
        if type(result) is not Raised:
            self._completed(call, result)
        elif call.abandoned and isinstance(result.error, asyncio.CancelledError):
            self.execution.put(Outgoing(call.cancelled()))
        else:
            self._failed(call, result.error)
        self._flush()

    # what writes into a database of its own

    async def _run_transacted(
        self, call: Call, database: Database, context: contextvars.Context
    ) -> Any:
        """What the body returned, raised as `Raised`, or the `Found` outcome of an earlier one."""
        host = self.host
        try:
            transaction = open_attempt(
                database,
                host.journal,
                host.lease_seconds,
                Slot(self),
                self.exec_id,
                call.identity,
            )
            self.transactions[call.path] = call.transaction = transaction
            found = await host.in_transaction(transaction.found)
        except (KitaruError, sqlite3.Error) as error:
            return Raised(error)
        return await self._run_body(call, context) if found is None else found

    def _start_committing(self, call: Call, result: Any) -> None:
        self.committing.add(call.path)
        task = self.host.loop.create_task(self._commit(call, result))
        task.add_done_callback(functools.partial(self._committed, call))

    async def _commit(self, call: Call, result: Any) -> BaseException | None:
        """Commits what an attempt has written, and records its outcome; or says why not."""
        transaction = call.transaction
        assert transaction is not None
        try:
            found = result if isinstance(result, Found) else None
            if found is None:
                event, blobs = call.completed(result, self.host.codec, offered=False)
                settling = functools.partial(transaction.settle, event, blobs)
                found = await self.host.in_transaction(settling)
            if found is not None:
                event, blobs = self._adopted(call, found)
        except UnreadableValueError as error:
            self.divergence = self.divergence or error.mismatch
            return None
        except (CommitRefused, TransactionOver, KitaruError, sqlite3.Error) as error:
            return failure_of(error)
        if not self._is_waited_for(call) or self.divergence is not None:
            return None
        if not transaction.joins_append:
            self._put_outcome(event, blobs)
            return None
        outgoing = OutgoingOutcome(event=event, blobs=blobs, order=self.history.order)
        try:
            await self.execution.append_alongside(
                outgoing,
                lambda append: self.host.in_transaction(lambda: transaction.append(append)),
            )
        except (CommitRefused, TransactionOver) as error:
            return failure_of(error)
        return None

    def _adopted(self, call: Call, found: Found) -> tuple[CheckpointCompleted, Blobs]:
        """The outcome that the body's database remembers of an earlier attempt."""
        known = Outcome(0, 0, found.completed(call.path))
        if not known.is_of(call.definition.name, call.digest):
            self.divergence = self.divergence or misfit_of(known, call)
            self._note_changed_arguments(known, call)
        return call.adopted(found, self.host.codec)

    @guarded
    def _committed(self, call: Call, task: "asyncio.Task[BaseException | None]") -> None:
        self.committing.discard(call.path)
        if self.running.get(call.path) is call:
            del self.running[call.path]
        self._end_transaction(call)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._stopped:
            return
        if error is not None:
            self._give_up(error)
            return
        failure = task.result()
        if failure is not None and self._is_waited_for(call):
            self._failed(call, failure)
        self._advance()
        self._flush()

    def _is_waited_for(self, call: Call) -> bool:
        """Whether the pass that has made the call goes on, and it has no outcome yet."""
        return not (self._stopped or self._ending) and self.requested.get(call.path) is call

    def _end_transaction(self, call: Call) -> None:
        """Rolls back what is not committed; lets the next one append."""
        transaction, call.transaction = call.transaction, None
        if transaction is not None:
            self.transactions.pop(call.path, None)
            transaction.abandon("its checkpoint has ended")

    def ask_for_slot(self, given: Callable[[], None]) -> None:
        """Calls `given` when nothing of the execution is being appended, and nothing will be."""
        self._slot_wanted.append(given)
        self._flush()

    def free_slot(self) -> None:
        """What has asked for the slot has ended."""
        self._flushing = False
        self._flush_or_notice()

    def _completed(self, call: Call, value: Any) -> None:
        try:
            offered = call.path not in self.unshared
            event, blobs = call.completed(value, self.host.codec, offered=offered)
        except KitaruError as error:
            self._failed(call, error)
            return
        self._put_outcome(event, blobs)

    def _failed(self, call: Call, error: BaseException) -> None:
        now = self.host.journal.now()
        command, blobs = call.failed(error, self.host.codec, now, self.host.jitter())
        (event,) = decide(self.execution.state, command)
        assert isinstance(event, CheckpointFailed)
        if event.retry_at is None:
            self._put_outcome(event, blobs)
        else:
            wait_us = event.retry_at - now
            self.execution.put(
                Outgoing(event, blobs, lambda _: self._start_attempt_after(call, wait_us))
            )

    def _put_outcome(
        self, event: CheckpointCompleted | CheckpointFailed | TimerFired, blobs: Blobs = ()
    ) -> None:
        self.execution.put(OutgoingOutcome(event=event, blobs=blobs, order=self.history.order))

    def _abandon(self, call: Call) -> None:
        call.abandoned = True
        self.retrying.pop(call.path, None)
        self.reviews.pop(call.path, None)
        if isinstance(call.running, asyncio.TimerHandle):
            call.running.cancel()
            call.running = None
        elif call.running is not None:
            call.running.cancel()
            # One that is cancelled before it has begun cannot tell by itself.
            call.running.add_done_callback(functools.partial(self.task_done, call))

    # recording

    def note(self, event: MetadataLogged | ArtifactSaved, blobs: Blobs = ()) -> None:
        """Records an event together with the next one."""
        if event.path is not None:
            self.unshared.add(event.path)
        self.execution.put(Outgoing(event, blobs))

    def note_later(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records that something has begun, unless the pass is over."""
        if not self._stopped and not self._ending:
            self.execution.put(Outgoing(event, blobs))
            self._flush()

    def log(self, metadata: Raw) -> None:
        """Records what the body logs, unless it is recorded already."""
        entry = self.new_path("log")
        if not self.history.is_logged(entry, bytes(metadata)):
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

    def _flush(self) -> None:
        if self._slot_wanted and (self._stopped or not self._flushing):
            self._flushing = True
            self._slot_wanted.pop(0)()
            return
        if self._flushing or self._stopped or not self.execution.outbox:
            return
        batch = self.execution.take()
        if not batch:
            return
        self._flushing = True
        append, state = self.execution.prepare(batch)
        self._batch, self._state_after = batch, state
        self.host.journal.append_soon(append, self._appended)

    @guarded
    def _appended(self, appended: Appended | None, error: BaseException | None) -> None:
        batch, self._batch = self._batch, []
        if self._stopped:
            return
        if appended is not None:
            self._flushing = False
            self.execution.accept(batch, appended, self._state_after)
            self._advance()
            self._flush_or_notice()
        elif isinstance(error, WrongExpectedVersion):
            task = self.host.loop.create_task(self.execution.append_again(batch))
            task.add_done_callback(self._flushed)
        else:
            self._give_up(error)

    @guarded
    def _flushed(self, task: "asyncio.Task[None]") -> None:
        self._flushing = False
        error = None if task.cancelled() else task.exception()
        if self._stopped:
            return
        if error is not None or task.cancelled():
            self._give_up(error)
        else:
            self._advance()
            self._flush_or_notice()

    def _flush_or_notice(self) -> None:
        self._flush()
        if self._to_notice and not self._flushing:
            self.notice()

    def notice(self) -> None:
        """Reads what clients have appended, after the append that is under way."""
        if self._flushing:
            # It may be durable already, and then it does not meet what came after it.
            self._to_notice = True
        elif not self._stopped:
            self._to_notice = False
            self._flushing = True
            task = self.host.loop.create_task(self.execution.catch_up())
            task.add_done_callback(self._flushed)

    def _on_foreign(self, foreign: Foreign) -> None:
        event = foreign.event
        self.history.add(foreign.version, foreign.recorded_at, event)
        if isinstance(event, CheckpointResolved):
            call = self.reviews.pop(event.path, None)
            if call is not None and event.decision == RUN_AGAIN:
                self.unstarted.append(call)
        if isinstance(event, RetryHastened) and event.path in self.retrying:
            self._hasten(self.requested.get(event.path))

    def _hasten(self, call: Call | Timer | Wait | None) -> None:
        """Begins a call's next attempt at once."""
        if isinstance(call, Call) and isinstance(call.running, asyncio.TimerHandle):
            call.running.cancel()
            call.running = self.host.loop.call_later(0, self._start_attempt, call)
            self.retrying[call.path] = self.host.journal.now()

    # letting go

    def _consider_suspending(self) -> None:
        """When the body only waits for people and times, this process need not hold it for long."""
        if self._suspension is not None:
            self._suspension.cancel()
            self._suspension = None
            self.host.busy(self)
        if self._is_busy():
            return
        if not (self.waits or self.timers or self.retrying or self.reviews):
            self._end_stuck()
            return
        patience = max((wait.terms.patience for wait in self.waits.values()), default=IDLE_SECONDS)
        due_at = self._due_at()
        if due_at is not None:
            left = (due_at - self.host.journal.now()) / 1_000_000
            if left <= IDLE_SECONDS:
                return
        if self._idle_version != self.execution.version:
            # Looking for news that there are not does not begin the patience anew.
            self._idle_version = self.execution.version
            self._park_at = self.host.loop.time() + min(patience, LONGEST_PATIENCE_SECONDS)
        self._suspension = self.host.loop.call_at(self._park_at, self._suspend)
        self.host.idle(self)

    def let_go(self) -> None:
        """Parks the execution at once if it only waits for people and times."""
        self.host.loop.call_soon_threadsafe(self._suspend)

    def _end_stuck(self) -> None:
        """Nothing can happen any more that the body could be waiting for."""
        places = [] if self.loop is None else self.loop.places()
        error = KitaruRuntimeError(
            "The flow's body waits for something that can never come: none of its checkpoints, "
            "waits and timers is open. Look for a lock, event, queue or future that no task of the "
            f"body sets: {'; '.join(places)}. What comes from elsewhere, such as from "
            "a thread, put into a @checkpoint."
        )
        self._ending = True
        command = FailAttempt(
            error=describe(error, self.host.codec),
            origin=FailureOrigin.RUNTIME,
            now=self.host.journal.now(),
            retryable=False,
        )
        for event in decide(self.execution.state, command):
            self.execution.put(Outgoing(event, recorded=self._recorded_end))
        self._flush()

    def _is_busy(self) -> bool:
        return bool(self.running or self.execution.outbox) or self._has_work

    @property
    def _has_work(self) -> bool:
        """Whether the runner itself has something to do, whatever runs for the body."""
        return bool(
            self.looking_up
            or self._flushing
            or self._ending
            or self._stopped
            or self.unstarted
            or self.kept_ready
            or self.history.order
        )

    def rest(self) -> Rest | None:
        """What the runner waits for; None while there is something that it does."""
        if self._has_work or not self._live or self._advancing or self._holding:
            return None
        if self.execution.is_about_to_write:
            return None
        due_at = self._due_at()
        if due_at is not None and due_at <= self.host.journal.now():
            return None
        return Rest(due_at, len(self.running))

    @guarded
    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now."""
        for timer in sorted(self.timers.values(), key=lambda timer: timer.due_at):
            if timer.waiting is not None:
                timer.waiting.cancel()
                self._start_timer(timer)
        for wait in list(self.waits.values()):
            if wait.expiry is not None:
                wait.expiry.cancel()
                self._watch_deadline(wait)
        now = self.host.journal.now()
        for path, due_at in list(self.retrying.items()):
            call = self.requested.get(path)
            if isinstance(call, Call) and isinstance(call.running, asyncio.TimerHandle):
                call.running.cancel()
                self._start_attempt_after(call, due_at - now)

    def _due_at(self) -> int | None:
        """When the body goes on by itself."""
        deadlines = [wait.deadline_at for wait in self.waits.values()]
        instants = [instant for instant in deadlines if instant is not None]
        instants += [timer.due_at for timer in self.timers.values()]
        return min([*instants, *self.retrying.values()], default=None)

    @guarded
    def _suspend(self) -> None:
        if self._suspension is not None:
            self._suspension.cancel()
            self._suspension = None
        if self._is_busy() or not (self.waits or self.timers or self.retrying or self.reviews):
            return
        event = ExecutionParked(due_at=self._due_at())
        seen = self.history.version
        self.execution.put(Outgoing(event, recorded=lambda _: self._finish(None, None), seen=seen))
        self._flush()

    # the end

    def _end_pass(self) -> None:
        self._ending = True
        for call in list(self.running.values()):
            call.abandoned = True
            if call.running is not None:
                call.running.cancel()
        for event, blobs in self._last_events():
            self.execution.put(Outgoing(event, blobs, self._recorded_end))
        self._flush()

    def _last_events(self) -> list[tuple[ExecutionEvent, Blobs]]:
        error: BaseException | None
        root = self._root
        error = asyncio.CancelledError("the flow was cancelled") if root.cancelled() else None
        error = error or root.exception()
        if error is None:
            try:
                data = self.host.codec.encode(
                    root.result(), where="result", types=self.definition.types
                )
            except KitaruError as refused:
                error = refused
            else:
                result, blobs = stored(data)
                command = Complete(result, self._cancel_delivered)
                events = decide(self.execution.state, command)
                return [(event, blobs) for event in events]
        events = decide(self.execution.state, self._failure(explained(error)))
        return [(event, ()) for event in events]

    def _failure(self, error: BaseException) -> FailAttempt:
        return FailAttempt(
            error=describe(error, self.host.codec),
            origin=FailureOrigin.USER_CODE,
            now=self.host.journal.now(),
            retryable=not isinstance(error, KitaruError),
        )

    def _recorded_end(self, fact: RecordedEvent) -> None:
        # Perhaps not as it was put: a cancel request may have come before it.
        event = decode_event(fact)
        if isinstance(event, FlowAttemptFailed):
            self._drop_body()
            self._read_again()
        else:
            self._finish(event, None)

    def _read_again(self) -> None:
        self.host.loop.create_task(self._next_attempt()).add_done_callback(self._reread)

    async def _next_attempt(self) -> History:
        recorded = await self.execution.journal.read_stream(self.execution.stream)
        return History((fact.version, fact.recorded_at, decode_event(fact)) for fact in recorded)

    @guarded
    def _reread(self, task: "asyncio.Task[History]") -> None:
        error = task.exception()
        if self._stopped:
            return
        if error is not None:
            self._give_up(error)
            return
        history = task.result()
        if history.version < self.execution.version:
            # A client's event was taken in since it was read.
            self._read_again()
            return
        self.history = history
        self.begin()

    def _diverge(self, mismatch: Mismatch) -> None:
        self._ending = True
        found = divergence_event(
            self.execution.journal, self.execution.stream, mismatch, self._seen(mismatch)
        )
        self.host.loop.create_task(found).add_done_callback(self._record_divergence)

    def _seen(self, mismatch: Mismatch) -> Seen:
        asked = mismatch.asked
        others = [each for each in self._asked_now() if asked is None or each.path != asked.path]
        frames: list[FrameType] = []
        if asked is not None and self.loop is not None:
            chains = [suspended_frames(coroutine) for coroutine in self.loop.coroutines()]
            frames = chain_at(chains, asked.site)
        code = read_code(self.definition.function, frames, asked, self.host.codec)
        return Seen(set(self.requested), others, code)

    @guarded
    def _record_divergence(self, task: "asyncio.Task[ExecutionDiverged]") -> None:
        if self._stopped:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None or task.cancelled():
            self._give_up(error)
            return
        event = task.result()
        self.execution.take()
        self.execution.put(Outgoing(event, recorded=lambda _: self._finish(event, None)))
        self._flush()

    def _give_up(self, error: BaseException | None) -> None:
        """The lease is lost, or the store fails: this process can do nothing more here."""
        self._finish(None, _as_exception(error))

    def _finish(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        if not self._stopped:
            self.stop()
            self.host.ended(self, event, error)

    def stop(self) -> None:
        """Drops the body where it stands; nothing that it does from now on has an effect."""
        self._stopped = True
        if self._suspension is not None:
            self._suspension.cancel()
        self._drop_body()
        for transaction in list(self.transactions.values()):
            transaction.abandon("its execution goes on elsewhere, or later")
        while self._slot_wanted:
            self._slot_wanted.pop(0)()
        # So that nothing of a finished execution waits for the garbage collector.
        self.root = None
        self.execution.on_foreign = ignore

    def _drop_body(self) -> None:
        for waiting in self.requested.values():
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


async def _run_async(body: Callable[[], Any]) -> Any:
    # A task that raised SystemExit or KeyboardInterrupt would end the host's loop.
    try:
        return await body()
    except BaseException as error:
        return Raised(error)


def _run_sync(body: Callable[[], Any]) -> Any:
    try:
        return body()
    except BaseException as error:
        return Raised(error)


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
