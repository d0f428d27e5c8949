"""Drives one execution of a sync flow: its body has a thread, and blocks for each outcome."""

import asyncio
import contextlib
import contextvars
import functools
import math
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from journal import (
    BlobNotFound,
    CommitOutcomeUnknown,
    CommitRefused,
    JournalError,
    RecordedEvent,
    StaleLease,
    TransactionOver,
)
from kitaru.domain.execution.commands import Complete, FailAttempt
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    RUN_AGAIN,
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    ExecutionEvent,
    ExecutionParked,
    FlowAttemptFailed,
    InputRejected,
    MetadataLogged,
    TimerFired,
    TimerStarted,
    WaitExpired,
)
from kitaru.engine.arguments_policy import changed_and_kept, may_be_given, misfit_of
from kitaru.engine.cache import ResultCache
from kitaru.engine.calls import Call, Delivery, UnreadableValueError, delivery_of
from kitaru.engine.code_reading import body_frames, read_code
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
from kitaru.engine.executions import Foreign, Outgoing, ThreadedExecution
from kitaru.engine.failures import describe
from kitaru.engine.history import History, Outcome
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
    KitaruCancelled,
    KitaruContextError,
    KitaruError,
    KitaruUsageError,
    KitaruWaitValidationError,
)
from kitaru.status import FailureOrigin

REFUSALS = 1_000
"""How many calls raise at once after the pass has ended; after that each takes its time."""
RECHECK_SECONDS = 60.0
"""How long a time is waited for by the process's clock alone: the store's may jump."""
IDLE_SECONDS = 5.0
"""How long a body that only waits for a time keeps its thread."""
NOTICE_AGAIN_SECONDS = 0.5
"""After how long it looks again for what clients have appended, when the journal could not say."""
BODY = 0
"""Stands for the thread of the flow's body."""


class CallFuture:
    """The outcome of one submitted call, to be: filled by any thread, read by the flow's."""

    def __init__(self, runner: "SyncRunner", call: Call) -> None:
        self.runner = runner
        self.call = call
        self.outcome: Outcome | None = None
        self.seen = False
        """Whether the body, or a call that depends on it, has looked at the outcome."""
        self.failure: BaseException | None = None
        """Set when the call never began, because a call it depends on failed."""
        self.pass_number = runner.pass_number
        self.failed_at = 0
        """Then, the version of the outcome that it failed with."""
        self.follows = 0
        """How many calls stand between it and the one whose outcome settled it, too."""
        self.needs: Sequence[CallFuture] = ()
        """The calls that it begins after."""
        self._followers: list[Callable[[], None]] = []

    @property
    def settled(self) -> bool:
        """Whether its outcome is known; guarded by the runner's lock."""
        return self.outcome is not None or self.failure is not None

    @property
    def settled_at(self) -> int:
        """The version of the event that settled it: outcomes are seen in this order."""
        return self.failed_at if self.outcome is None else self.outcome.version

    def follow(self, follower: Callable[[], None]) -> bool:
        """Calls `follower` once settled; False when it is settled already."""
        with self.runner.changed:
            if self.settled:
                return False
            self._followers.append(follower)
            return True

    def settle(
        self, outcome: Outcome | None, failure: BaseException | None = None, failed_at: int = 0
    ) -> None:
        """Sets the outcome and wakes who waits for it."""
        with self.runner.changed:
            self.outcome, self.failure, self.failed_at = outcome, failure, failed_at
            followers, self._followers = self._followers, []
            self.runner.changed.notify_all()
        for follower in followers:
            follower()


class StartedCall:
    """A running checkpoint whose start is written down if it lasts."""

    __slots__ = ("attempt", "call", "runner")

    def __init__(self, runner: "SyncRunner", call: Call) -> None:
        self.runner = runner
        self.call = call
        self.attempt = call.attempt

    def note_started(self) -> None:
        """Writes down that the attempt runs."""
        call = self.call
        if call.running and call.attempt == self.attempt and not call.noted:
            call.noted = True
            self.runner.note_later(*call.started_event())


class SyncRunner:
    """The body's thread runs direct calls itself; submitted ones run on worker threads."""

    def __init__(self, host: Host, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self.host = host
        self.definition = loaded.definition
        assert isinstance(loaded.execution, ThreadedExecution)
        self.execution: ThreadedExecution = loaded.execution
        self.exec_id = loaded.execution.exec_id
        self.main_module = loaded.main_module
        self.seed = seed_of(loaded)
        self._isolates = isolates(loaded)
        self.history = History(loaded.facts)
        self.cache = ResultCache(loaded)
        self.execution.on_foreign = self._on_foreign
        self.execution.read_blocking = self._read_blocking
        self.changed = threading.Condition(threading.RLock())
        self._arguments = arguments
        self._started_at = clock_of(loaded)
        self._stopped = False
        self.transactions: set[AttemptTransaction] = set()
        """Those of the attempts that run; guarded by `changed`."""
        self._fatal: Exception | None = None
        """Why the store let this runner down; nothing that the body catches hides it."""
        self._thread = 0
        self.bodies = 0
        """How many checkpoints' bodies run, of an earlier pass too; guarded by `changed`."""
        self.committing = 0
        """How many calls commit writes and record their outcome now; guarded by `changed`."""
        self._end_told = False
        self._let_go_at = 0.0
        """When the body, where it is blocked, has waited for long enough."""
        self._new_pass_state()

    def _new_pass_state(self) -> None:
        self.requested: set[str] = set()
        self.execution.preface = self.history.note_taken
        self.held: list[Callable[[], None]] = []
        """Submitted calls that wait until the replay has come to its end."""
        self.withheld: dict[CallFuture, None] = {}
        """Those that were submitted after a cancel request, before the body was given it: they
        run only if the body looks at them nevertheless. Guarded by `changed`."""
        self.names: dict[str, int] = {}
        self.submitted: list[CallFuture] = []
        self.clock = self._started_at
        """The instant of the last outcome that the body was given, in microseconds."""
        self._refused = 0
        self.ended = False
        self.unshared: set[str] = set()
        """The calls whose attempt has done something for its own execution alone."""
        self.cache.next_pass()
        self.divergence: Mismatch | None = None
        self._misfit: Mismatch | None = None
        """A submitted call that does not fit: told once the body needs a value."""
        self.reviews: dict[str, CallFuture] = {}
        """The submitted calls that somebody has to review."""
        self.run_again: set[str] = set()
        """The calls of which somebody has said, in this pass, that they are to run again."""
        self.resting: dict[int, tuple[int | None, Callable[[], bool]]] = {}
        """The threads that wait, until when and for what; guarded by `changed`."""
        self._cancel_delivered = False
        self.pass_number = getattr(self, "pass_number", 0) + 1

    # the pass

    def begin(self) -> None:
        """Starts the body on a thread that it has for itself."""
        self.host.spawn_body(self._run)

    def _run(self) -> None:
        self._thread = threading.get_ident()
        threading.current_thread().name = f"kitaru-flow-{self.exec_id[:8]}"
        event: ExecutionEvent | None = None
        error: Exception | None = None
        try:
            event = self._run_passes()
        except ExecutionSuspended:
            error = self._fatal
        except Exception as raised:
            error = raised
        finally:
            self._stopped = True
            self._tell_end(event, error)

    def _tell_end(self, event: ExecutionEvent | None, error: Exception | None) -> None:
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
            self._sleep_until(event.retry_at)
            self._next_pass()

    def _next_pass(self) -> None:
        """Begins anew, with what the journal holds."""
        while True:
            recorded = self._read_blocking(0)
            history = History(
                (fact.version, fact.recorded_at, decode_event(fact)) for fact in recorded
            )
            with self.changed:
                # What was taken in since it was read would be missing in it.
                if history.version >= self.execution.version:
                    self.history = history
                    self._new_pass_state()
                    return

    def _run_body(self) -> tuple[Any, BaseException | None]:
        args, kwargs = self.definition.binder.spread(self._arguments)
        try:
            return self.definition.function(*args, **kwargs), None
        except BaseException as error:
            return None, error

    def _settle(self, result: Any, error: BaseException | None) -> ExecutionEvent:
        """Records how the body ended."""
        if self._stopped:
            raise ExecutionSuspended
        self._check_all_fits([], error, ended=True)
        error = self._finish_submitted() or error if error is None else error
        with self.changed:
            # What a database has of this execution, the journal must have before its end.
            while self.committing and not self._stopped:
                self.changed.wait()
            if self._stopped:
                raise ExecutionSuspended
            self.ended = True
            self.changed.notify_all()
        if error is None:
            try:
                data = self.host.codec.encode(result, where="result", types=self.definition.types)
            except KitaruError as refused:
                error = refused
            else:
                value, blobs = stored(data)
                ending = Complete(value, self._cancel_delivered)
                (completed,) = decide(self.execution.state, ending)
                return self._record(completed, blobs)
        command = FailAttempt(
            error=describe(error, self.host.codec),
            origin=FailureOrigin.USER_CODE,
            now=self.host.journal.now(),
            retryable=not isinstance(error, KitaruError),
        )
        (event,) = decide(self.execution.state, command)
        return self._record(event)

    def _finish_submitted(self) -> BaseException | None:
        """Waits for what the body has submitted; an error that it never looked at is its own."""
        for future in self.submitted:
            try:
                if not future.seen:
                    self._take_future(future)
            except ExecutionSuspended:
                raise
            except BaseException as error:
                # Also a cancel request that comes now, or a checkpoint's own SystemExit.
                return error
        return None

    def _record(self, event: ExecutionEvent, blobs: Blobs = ()) -> ExecutionEvent:
        written: list[ExecutionEvent] = []
        self.execution.put(Outgoing(event, blobs, lambda fact: written.append(decode_event(fact))))
        self._flush()
        return written[0]

    def _flush(self) -> None:
        try:
            self.execution.flush_blocking()
        except Exception as error:
            raise self._let_down(error) from error

    def _let_down(self, error: Exception) -> ExecutionSuspended:
        """The store fails: this pass can do nothing more, and the body must not make of it."""
        self._fatal = self._fatal or error
        self.stop()
        return ExecutionSuspended()

    def _diverge(self, mismatch: Mismatch) -> ExecutionSuspended:
        """Records the divergence at once: whatever the body does with what it is raised here."""
        if self.divergence is None:
            self.divergence = mismatch
            self.execution.take()
            frames = body_frames(sys._getframe(), SyncRunner._run_body.__code__)
            found = divergence_event(
                self.execution.journal, self.execution.stream, mismatch, self._seen(frames)
            )
            try:
                event = self._record(self._await(found))
            except Exception as error:
                return self._let_down(error)
            self._tell_end(event, None)
            self.stop()
        return ExecutionSuspended()

    def _seen(self, frames: list[FrameType]) -> Seen:
        asked = None if self.divergence is None else self.divergence.asked
        waiting = [future.call.asked for future in self.submitted if not future.settled]
        others = [each for each in waiting if asked is None or each.path != asked.path]
        code = read_code(self.definition.function, frames, asked, self.host.codec)
        return Seen(set(self.requested), others, code)

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
        if path in self.requested:
            raise KitaruUsageError(
                f"Two calls have the id {path!r} in this execution: give each its own id=."
            )
        return path

    def time(self) -> int:
        """The time in the body, in microseconds since the Unix epoch."""
        self._check_thread()
        return self.clock

    def draw(self) -> tuple[str, str]:
        """The execution's seed, and a text that no other draw of the body has."""
        return self.seed, self.new_path(DRAW, None)

    def _check_thread(self) -> None:
        if self._stopped:
            self._refused += 1
            if self._refused > REFUSALS:
                # A body that catches even this, again and again, must not take a processor.
                time.sleep(1.0)
            raise ExecutionSuspended
        if threading.get_ident() != self._thread:
            raise KitaruContextError(
                "Checkpoints of a sync flow can be called only from the flow's own thread: the "
                "order of calls from other threads would differ in a replay. Use .submit(...)."
            )

    def perform(self, call: Call) -> Any:
        """Gives the call's recorded outcome, or runs it on this thread."""
        self._check_fits()
        call.arguments = self._resolved(call.arguments)
        call.encode(self.host.codec)
        outcome = self._request(call)
        if outcome is None:
            self._before_live(call.asked)
            self._deliver_cancel_before(None)
            outcome = self._attempts(call, _ignore, self.pass_number)
        return self._take(outcome, call)

    def submit(self, call: Call, after: list[CallFuture]) -> CallFuture:
        """Starts the call on a worker thread, once what it depends on is there."""
        future = CallFuture(self, call)
        call.context = contextvars.copy_context()
        needed = [*after, *futures_in(call.arguments)]
        future.needs = needed
        for each in needed:
            # What goes wrong in it is this call's error from now on, whenever that turns out.
            each.seen = True
        if not needed:
            self._admit(future)
        elif call.path in self.history.log and all(each.settled for each in needed):
            # Not by taking their outcomes: the body has not looked at them, and a cancel request
            # that stands between them is for what the body looks at next.
            self._start_dependent(needed, future)
        else:
            self.requested.add(call.path)
            self._when_settled(needed, future)
        self.submitted.append(future)
        return future

    def _admit(self, future: CallFuture) -> None:
        """Hands over the recorded outcome of a submitted call, or lets it run."""
        future.call.encode(self.host.codec)
        with self.changed:
            # A thread that belongs to a pass that is over must not ask on behalf of the next.
            self._check_pass(future.pass_number)
            outcome = self._request(future.call, submitted=True)
            if outcome is None:
                self._start_or_hold(future)
                return
        future.settle(outcome)

    def _start_or_hold(self, future: CallFuture) -> None:
        if self._misfit or self._first_unrequested() or self._unrequested_wait():
            self.held.append(functools.partial(self._start, future))
            return
        self._release_held()
        self._start(future)

    def _when_settled(self, needed: list[CallFuture], future: CallFuture) -> None:
        left = [len(needed)]

        def one_settled() -> None:
            with self.changed:
                left[0] -= 1
                # What waited in a pass that is over asks nothing on behalf of the next.
                ready = left[0] == 0 and future.pass_number == self.pass_number
            if ready and not (self._failed_with(needed, future) or self._reused(needed, future)):
                self.host.spawn(functools.partial(self._start_dependent, needed, future))

        for dependency in needed:
            if not dependency.follow(one_settled):
                one_settled()

    def _failed_with(self, needed: list[CallFuture], future: CallFuture) -> bool:
        """Settles a call that cannot begin; at once, so that the order is that of the journal."""
        for dependency in needed:
            outcome = dependency.outcome
            if outcome is not None and not isinstance(outcome.event, CheckpointFailed):
                continue
            failure = self._delivery(dependency).error
            last = max(each.settled_at for each in needed)
            future.settle(None, failure, failed_at=last)
            return True
        return False

    def _reused(self, needed: list[CallFuture], future: CallFuture) -> bool:
        """Settles a call whose kept outcome fits the results it depends on; at once, too."""
        call = future.call
        kept = self.history.kept.get(call.path)
        if kept is None:
            return False
        try:
            arguments = {
                name: self._resolve(value, self._value_of) for name, value in call.arguments.items()
            }
            known = Call(call.definition, call.path, call.site, arguments)
            known.encode(self.host.codec)
        except KitaruError:
            # Told when the call is started.
            return False
        if not kept.is_of(call.definition.name, known.digest):
            return False
        call.arguments, call.encoded, call.digest = arguments, known.encoded, known.digest
        self.history.take(call.path)
        last = max(needed, key=lambda each: (each.settled_at, each.follows))
        future.follows = last.follows + 1
        future.settle(replace(kept, version=max(kept.version, last.settled_at)))
        return True

    def _start_dependent(self, needed: list[CallFuture], future: CallFuture) -> None:
        try:
            self._begin_dependent(needed, future)
        except BaseException as error:
            # ExecutionSuspended, or a fault: the body's thread raises it where it needs it.
            future.settle(None, error)

    def _begin_dependent(self, needed: list[CallFuture], future: CallFuture) -> None:
        call = future.call
        for dependency in needed:
            delivery = self._delivery(dependency)
            if delivery.error is not None:
                last = max(each.settled_at for each in needed)
                future.settle(None, delivery.error, failed_at=last)
                return
        try:
            call.arguments = {
                name: self._resolve(value, self._value_of) for name, value in call.arguments.items()
            }
            self._admit(future)
        except (KitaruError, ExecutionSuspended) as error:
            future.settle(None, error)

    def _request(self, call: Call, submitted: bool = False) -> Outcome | None:
        self.requested.add(call.path)
        recorded = self.history.log.get(call.path)
        if recorded is not None:
            if not recorded.is_of(call.definition.name, call.digest):
                self._misfit = self._misfit or misfit_of(recorded, call)
                if self._misfit is not None:
                    if submitted:
                        # What the body submits beside it tells what has happened to the code. It
                        # may be blocked already by what depends on this call.
                        self.changed.notify_all()
                        return None
                    raise self._diverge(self._misfit)
                self._note_changed_arguments(recorded, call)
            del self.history.log[call.path]
            return recorded
        kept = self.history.kept.get(call.path)
        if kept is None:
            return None
        if may_be_given(kept, call, self.history):
            self._note_changed_arguments(kept, call)
            self.history.take(call.path)
            return kept
        if call.path in self.history.owed:
            self._misfit = self._misfit or misfit_of(kept, call)
            if self._misfit is not None and not submitted:
                raise self._diverge(self._misfit)
            if self._misfit is not None:
                self.changed.notify_all()
        return None

    def _note_changed_arguments(self, recorded: Outcome, call: Call) -> None:
        event = changed_and_kept(self.exec_id, recorded, call, self.history)
        if event is not None:
            self.execution.put(Outgoing(event))

    def _check_fits(self) -> None:
        """The body needs a value: what it has submitted so far must fit."""
        if self._misfit is not None:
            raise self._diverge(self._misfit)

    def _check_passed_over(self, version: int, asked: Asked | Call) -> None:
        """Whatever is recorded before an outcome was asked for before the body was given it."""
        if not self.history.order:
            return
        unrequested = self._first_unrequested()
        if unrequested is not None and unrequested.version < version:
            shown = asked.asked if isinstance(asked, Call) else asked
            raise self._diverge(not_asked_for(unrequested.event.path, [shown]))

    def _first_unrequested(self) -> Outcome | None:
        with self.changed:
            order = self.history.order
            while order and order[0].event.path in self.requested:
                order.popleft()
            return order[0] if order else None

    def _before_live(self, asked: Asked) -> None:
        """The body blocks on something that is not recorded: the replay must be at its end."""
        self._check_all_fits([asked])
        self._release_held()

    def _check_all_fits(
        self, asked: list[Asked], error: BaseException | None = None, *, ended: bool = False
    ) -> None:
        """All that is recorded, open waits too, must have been asked for."""
        self._check_fits()
        unrequested = self._first_unrequested()
        if unrequested is not None and not ended:
            # Recorded by a handler, if a cancel request stands before it.
            self._deliver_cancel_before(unrequested.version)
        path = unrequested.event.path if unrequested is not None else self._unrequested_wait()
        if path is None:
            return
        raise self._diverge(never_asked_for(path, error) if ended else not_asked_for(path, asked))

    def _unrequested_wait(self) -> str | None:
        with self.changed:
            left = next((path for path in self.history.waits if path not in self.requested), None)
            return left or self.history.unasked(self.requested)

    # waiting for people and times

    def wait(self, wait: Wait) -> Any:
        """Blocks until somebody has answered; gives the answer."""
        self._check_fits()
        self.requested.add(wait.path)
        while True:
            outcome = self._recorded_outcome(wait.path, wait.asked, WaitOutcome)
            if outcome is None:
                outcome = self._await_answer(wait)
            self._deliver_cancel_before(outcome.version)
            self._check_passed_over(outcome.version, wait.asked)
            delivery = self._answer(wait, outcome)
            if delivery is not None:
                self._advance_clock(outcome)
                if delivery.error is not None:
                    raise delivery.error
                return delivery.value

    def _recorded_outcome(self, path: str, asked: Asked, kinds: Any) -> Outcome | None:
        recorded = self.history.log.get(path)
        if recorded is not None:
            if not isinstance(recorded.event, kinds):
                raise self._diverge(changed_kind(recorded, asked))
            return recorded
        kept = self.history.kept.get(path)
        return kept if kept is not None and isinstance(kept.event, kinds) else None

    def _answer(self, wait: Wait, outcome: Outcome) -> Delivery | None:
        """What the body is given; None for an answer that does not do, which is told."""
        assert isinstance(outcome.event, WaitOutcome)
        blob = self._blob_of(outcome)
        try:
            delivery = wait.delivery(outcome.event, blob, self.host.codec)
        except KitaruError as problem:
            is_refused = isinstance(problem, KitaruWaitValidationError)
            with self.changed:
                is_of_another = self.history.answers_another(
                    outcome, wait.terms.json_schema, self.requested
                )
            if is_of_another or not is_refused:
                raise self._diverge(unreadable(wait.asked, str(problem))) from problem
            if wait.path not in self.history.log and self.history.refuse(wait.path):
                return None
            rejected = InputRejected(path=wait.path, name=wait.terms.name, problem=str(problem))
            self._put_noted(rejected, seen=self.history.version)
            self._flush()
            return None
        with self.changed:
            if self.history.log.pop(wait.path, None) is None and wait.path in self.history.kept:
                self.history.take(wait.path)
        return delivery

    def _await_answer(self, wait: Wait) -> Outcome:
        self._before_live(wait.asked)
        self._deliver_cancel_before(None)
        self._wait_for_lease()
        with self.changed:
            # An answer may have come since the body asked: then the wait is not open any more.
            outcome = self.history.log.get(wait.path)
            known, seen = self.history.waits.get(wait.path), self.history.version
        if outcome is not None:
            return outcome
        if known is None:
            self._put_noted(wait.requested(self.host.journal.now()))
            self._flush()
        else:
            wait.deadline_at = known.deadline_at
            again = wait.requested_again(known, self.host.journal.now())
            if again is not None:
                self._put_noted(again, seen=seen)
                self._flush()
        self._block(lambda: wait.path in self.history.log, wait.deadline_at, wait.terms.patience)
        with self.changed:
            outcome, seen = self.history.log.get(wait.path), self.history.version
        if outcome is None:
            self._put_noted(WaitExpired(path=wait.path), seen=seen)
            # Somebody's answer may have come before it: then the answer counts.
            self._flush()
            outcome = self.history.log[wait.path]
        return outcome

    def sleep(self, path: str, seconds: float, site: str) -> None:
        """Blocks for a time that goes on while the process is down."""
        self._check_fits()
        self.requested.add(path)
        asked = Asked(path, "sleep", site, kind="sleep")
        outcome = self._recorded_outcome(path, asked, TimerFired)
        if outcome is None:
            outcome = self._await_time(asked, seconds)
        self._deliver_cancel_before(outcome.version)
        self._check_passed_over(outcome.version, asked)
        with self.changed:
            if outcome is self.history.kept.get(path):
                self.history.take(path)
            self.history.log.pop(path, None)
        self._advance_clock(outcome)
        assert isinstance(outcome.event, TimerFired)
        self.clock = max(self.clock, outcome.event.due_at)

    def _await_time(self, asked: Asked, seconds: float) -> Outcome:
        path = asked.path
        self._before_live(asked)
        self._deliver_cancel_before(None)
        self._wait_for_lease()
        now = max(self.clock, self.history.began_at)
        due_at = self.history.timers.get(path, now + round(seconds * 1_000_000))
        if due_at > self.host.journal.now():
            if path not in self.history.timers:
                self._put_noted(TimerStarted(path=path, due_at=due_at, site=asked.site))
                self._flush()
            self._block(_never, due_at, IDLE_SECONDS)
        outcomes: list[Outcome] = []
        event = TimerFired(path=path, due_at=due_at)
        self.execution.put(
            Outgoing(
                event,
                recorded=lambda fact: outcomes.append(
                    Outcome(fact.version, fact.recorded_at, event)
                ),
            )
        )
        self._flush()
        return outcomes[0]

    def _block(self, ready: Callable[[], bool], due_at: int | None, patience: float) -> None:
        """Returns when it is ready or due; lets go of the execution when its patience is over.

        Raises KitaruCancelled when a cancel request comes first.
        """
        self._let_go_at = time.monotonic() + patience
        self.host.idle(self)
        try:
            self._block_idle(ready, due_at)
        finally:
            self.host.busy(self)

    def let_go(self) -> None:
        """Parks the execution at once if its body is blocked by people or times."""
        with self.changed:
            self._let_go_at = 0.0
            self.changed.notify_all()

    def _block_idle(self, ready: Callable[[], bool], due_at: int | None) -> None:
        while True:
            left = math.inf
            if due_at is not None:
                left = (due_at - self.host.journal.now()) / 1_000_000
            with self.changed:
                if self._stopped:
                    raise ExecutionSuspended
                if ready() or left <= 0:
                    return
                pending = self._cancel_pending
                if not pending:
                    idle = self._is_idle()
                    patient = self._let_go_at - time.monotonic()
                    if idle and patient <= 0 and (left > IDLE_SECONDS or not self._let_go_at):
                        seen = self.history.version
                        break
                    # Futures that settle wake it up; else it looks again in a while.
                    with self._rests(BODY, due_at, ready):
                        self.changed.wait(min(left, max(patient, 0.05), RECHECK_SECONDS))
            if pending:
                self.execution.wait_for_flush()
                if ready():
                    return
                self._deliver_cancel_before(None)
        self._park(due_at, seen)
        # Something came first: there is no hurry to let go of it again.
        self._let_go_at = time.monotonic() + IDLE_SECONDS
        self._block_idle(ready, due_at)

    def _is_idle(self) -> bool:
        """Whether nothing runs for the body: all that it has submitted waits, or has ended."""
        return not any(self._has_thread(future) for future in self.submitted)

    def _has_thread(self, future: CallFuture) -> bool:
        return not (
            future.settled
            or future in self.withheld
            or future.call.path in self.reviews
            or any(not needed.settled for needed in future.needs)
        )

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Blocks until it is ready or a cancel request has come; meanwhile calls run."""
        idle = True
        with self.changed:
            while not (ready() or self._stopped or self._cancel_pending or self._misfit):
                if self.reviews and self._is_idle():
                    break
                with self._rests(BODY, None, ready):
                    self.changed.wait()
            else:
                idle = False
        if idle:
            self._block(ready, None, IDLE_SECONDS)
        if not self._stopped:
            # A call that is made only now that what it depends on has ended may not fit its record.
            self._check_fits()

    def _park(self, due_at: int | None, seen: int) -> None:
        """Lets go of the execution, unless a client's event came after this version."""
        parked: list[bool] = []
        event = ExecutionParked(due_at=due_at)
        self.execution.put(Outgoing(event, recorded=lambda _: parked.append(True), seen=seen))
        self._flush()
        if parked:
            self.stop()
            raise ExecutionSuspended

    def _put_noted(self, event: ExecutionEvent, blobs: Blobs = (), seen: int | None = None) -> None:
        """Records an event of our own that the history keeps account of."""

        def note(fact: RecordedEvent) -> None:
            with self.changed:
                self.history.add(fact.version, fact.recorded_at, event)

        self.execution.put(Outgoing(event, blobs, note, seen))

    def _advance_clock(self, outcome: Outcome) -> None:
        self.clock = max(self.clock, outcome.recorded_at)

    def _release_held(self) -> None:
        with self.changed:
            held, self.held = self.held, []
        for start in held:
            start()

    # running

    def _start(self, future: CallFuture) -> None:
        with self.changed:
            if self._cancel_pending:
                self.withheld[future] = None
                return
        self.host.spawn(functools.partial(self._run_submitted, future))

    def _start_withheld(self, future: CallFuture) -> None:
        """The body, which was given the cancel request, looks at a call from before it."""
        looked_at: dict[CallFuture, None] = {}
        left = [future]
        while left and self.withheld:
            each = left.pop()
            if each not in looked_at:
                looked_at[each] = None
                left.extend(each.needs)
        with self.changed:
            ready = [] if self._cancel_pending else [f for f in looked_at if f in self.withheld]
            for each in ready:
                del self.withheld[each]
        for each in ready:
            self._start(each)

    def _run_submitted(self, future: CallFuture) -> None:
        try:
            if self._is_in_doubt(future.call):
                self._submit_for_review(future)
            else:
                self._attempts(future.call, future.settle, future.pass_number)
        except BaseException as error:
            # ExecutionSuspended, or a fault: the body's thread raises it where it needs it.
            future.settle(None, error)

    def _attempts(
        self, call: Call, recorded: Callable[[Outcome], None], pass_number: int
    ) -> Outcome:
        """Tries the call until it has an outcome, which is durable then."""
        tried = self.history.attempts_of(call.path)
        call.attempt, call.tried = self.history.last_attempt_of(call.path), tried.this_pass
        call.comes_after(self.history.completed_attempt_of(call.path))
        if self._is_in_doubt(call):
            reviewed = self._reviewed(call)
            if reviewed is not None:
                return reviewed
        if tried.retry_at is not None:
            self._back_off(call.path, tried.retry_at, tried.failed_version, pass_number)
        if self.cache.give_key(call):
            reused = self._cached(call)
            if reused is not None:
                return self._append_outcome(*reused, recorded, pass_number)
        while True:
            self._wait_for_lease()
            self._check_pass(pass_number)
            self.unshared.discard(call.path)
            call.begin()
            if call.definition.once:
                self._record_start(call, pass_number)
            call.running = True
            self.host.watch_duration(StartedCall(self, call))
            if call.definition.transaction is None:
                delivery = self._run_here(call)
                call.running = None
                self._check_pass(pass_number)
                outcome = self._record_outcome(call, delivery, recorded, pass_number)
            else:
                outcome = self._transact(call, call.definition.transaction, recorded, pass_number)
            event = outcome.event
            if not isinstance(event, CheckpointFailed) or event.retry_at is None:
                return outcome
            self._back_off(call.path, event.retry_at, outcome.version, pass_number)

    def _check_pass(self, pass_number: int) -> None:
        """Ends what was begun for a pass of the body that is over."""
        if self._stopped or self.ended or pass_number != self.pass_number:
            raise ExecutionSuspended

    def _back_off(self, path: str, until: int, failed_version: int, pass_number: int) -> None:
        """Waits for a call's next attempt; the body's own thread hears of a cancel meanwhile."""

        def hastened() -> bool:
            return self.history.is_hastened(path, failed_version)

        if threading.get_ident() == self._thread:
            self._block(hastened, until, IDLE_SECONDS)
            return
        while (left := until - self.host.journal.now()) > 0:
            with self.changed:
                self._check_pass(pass_number)
                if hastened():
                    return
                with self._rests(threading.get_ident(), until, hastened):
                    self.changed.wait(min(left / 1_000_000, RECHECK_SECONDS))

    # what writes into a database of its own

    def _transact(
        self,
        call: Call,
        database: Database,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        """One attempt of a transactional checkpoint: its writes and its outcome, or neither."""
        try:
            transaction = self._open_transaction(call, database)
        except KitaruError as error:
            call.running = None
            return self._record_outcome(call, Delivery(error=error), recorded, pass_number)
        call.transaction = transaction
        try:
            found, delivery = self._found_or_run(call, transaction)
            call.running = None
            self._check_pass(pass_number)
            failure = delivery.error
            if failure is None:
                try:
                    if found is None:
                        outcome = self._complete(call, delivery.value, recorded, pass_number)
                        if isinstance(outcome, Outcome):
                            return outcome
                        found = outcome
                    return self._adopt(call, found, recorded, pass_number)
                except (CommitRefused, TransactionOver, KitaruError, sqlite3.Error) as refused:
                    failure = failure_of(refused)
            # First: nobody else can record anything while it holds the gate.
            transaction.abandon("its checkpoint has failed")
            self._check_pass(pass_number)
            return self._record_outcome(call, Delivery(error=failure), recorded, pass_number)
        finally:
            call.transaction = None
            transaction.abandon("its checkpoint has ended")
            with self.changed:
                self.transactions.discard(transaction)

    def _found_or_run(
        self, call: Call, transaction: AttemptTransaction
    ) -> tuple[Found | None, Delivery]:
        try:
            found = transaction.found()
        except sqlite3.Error as error:
            return None, Delivery(error=error)
        return found, Delivery() if found else self._run_here(call)

    def _open_transaction(self, call: Call, database: Database) -> AttemptTransaction:
        host, gate = self.host, self.execution.gate
        opened = open_attempt(
            database,
            host.journal,
            host.lease_seconds,
            gate,
            self.exec_id,
            call.identity,
        )
        with self.changed:
            if self._stopped:
                raise ExecutionSuspended
            self.transactions.add(opened)
        return opened

    def _complete(
        self, call: Call, value: Any, recorded: Callable[[Outcome], None], pass_number: int
    ) -> Outcome | Found:
        """Commits what an attempt has written, and records its outcome; or gives another's."""
        with self.changed:
            self._check_pass(pass_number)
            self.committing += 1
        try:
            return self._commit(call, value, recorded, pass_number)
        finally:
            with self.changed:
                self.committing -= 1
                self.changed.notify_all()

    def _commit(
        self, call: Call, value: Any, recorded: Callable[[Outcome], None], pass_number: int
    ) -> Outcome | Found:
        transaction = call.transaction
        assert transaction is not None
        event, blobs = call.completed(value, self.host.codec, offered=False)
        try:
            found = transaction.settle(event, blobs)
        except CommitOutcomeUnknown as error:
            raise self._let_down(error) from error
        if found is not None:
            return found
        if not transaction.joins_append:
            return self._append_outcome(event, blobs, recorded, pass_number)
        outcomes: list[Outcome] = []

        def keep(fact: RecordedEvent) -> None:
            outcomes.append(Outcome(fact.version, fact.recorded_at, event))
            recorded(outcomes[0])

        self._check_pass(pass_number)
        try:
            self.execution.flush_alongside(Outgoing(event, blobs, keep), transaction.append)
        except (CommitRefused, TransactionOver):
            raise
        except Exception as error:
            raise self._let_down(error) from error
        return outcomes[0]

    def _adopt(
        self,
        call: Call,
        found: Found,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        """Records the outcome that the body's database remembers of an earlier attempt."""
        known = Outcome(0, 0, found.completed(call.path))
        if not known.is_of(call.definition.name, call.digest):
            misfit = misfit_of(known, call)
            if misfit is not None:
                raise self._diverge(misfit)
            self._note_changed_arguments(known, call)
        try:
            event, blobs = call.adopted(found, self.host.codec)
        except UnreadableValueError as error:
            raise self._diverge(error.mismatch) from error
        return self._append_outcome(event, blobs, recorded, pass_number)

    # what may run only once

    def _is_in_doubt(self, call: Call) -> bool:
        return call.definition.once and self.history.attempts_of(call.path).in_doubt

    def _record_start(self, call: Call, pass_number: int) -> None:
        """Makes the start durable before the body has any effect."""
        event, blobs = call.started_event()
        call.noted = True
        with self.changed:
            self._check_pass(pass_number)
            self.execution.put(Outgoing(event, blobs))
        self._flush()
        self._wait_for_lease()
        self._check_pass(pass_number)

    def _request_review(self, call: Call) -> None:
        """Asks what came of an attempt that was lost, unless that is asked already."""
        self._wait_for_lease()
        if call.path not in self.history.reviews:
            self._put_noted(*review_of(call, self.history.attempts_of(call.path).last_attempt))
            self._flush()
        tell_review(self.execution.exec_id, call)

    def _reviewed(self, call: Call) -> Outcome | None:
        """Blocks the body until somebody has reviewed the call; None: it is to run again."""
        self._request_review(call)
        path = call.path
        self._block(lambda: path in self.history.log or path in self.run_again, None, IDLE_SECONDS)
        with self.changed:
            return self.history.log.pop(path, None)

    def _submit_for_review(self, future: CallFuture) -> None:
        """No thread waits for what comes of it."""
        self._request_review(future.call)
        with self.changed:
            self._check_pass(future.pass_number)
            self.reviews[future.call.path] = future
            self._take_review(future.call.path)
            self.changed.notify_all()

    def _take_review(self, path: str) -> None:
        """Goes on with a submitted call that somebody has reviewed; with the lock held."""
        future = self.reviews.get(path)
        if future is None:
            return
        outcome = self.history.log.pop(path, None)
        if outcome is not None:
            del self.reviews[path]
            future.settle(outcome)
        elif path in self.run_again:
            del self.reviews[path]
            self._start(future)

    def _cached(self, call: Call) -> tuple[CheckpointCompleted, Blobs] | None:
        """The outcome of a call whose result an earlier execution has."""
        try:
            hit = self.cache.hit(call, self.host.journal.find_blocking(self.cache.query([call])))
            if hit is None:
                return None
            blob = hit.event.result.blob
            data = None if blob is None else self._await(self.host.journal.get_blob(blob))
        except BlobNotFound:
            return None
        except JournalError as error:
            raise self._let_down(error) from error
        return call.reused(hit, data, self.host.codec)

    def _outcome_event(
        self, call: Call, delivery: Delivery
    ) -> tuple[CheckpointCompleted | CheckpointFailed, Blobs]:
        error = delivery.error
        if error is None:
            try:
                offered = call.path not in self.unshared
                return call.completed(delivery.value, self.host.codec, offered=offered)
            except KitaruError as refused:
                error = refused
        now = self.host.journal.now()
        command, blobs = call.failed(error, self.host.codec, now, self.host.jitter())
        (event,) = decide(self.execution.state, command)
        assert isinstance(event, CheckpointFailed)
        return event, blobs

    def _record_outcome(
        self,
        call: Call,
        delivery: Delivery,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        event, blobs = self._outcome_event(call, delivery)
        final = not isinstance(event, CheckpointFailed) or event.retry_at is None
        return self._append_outcome(event, blobs, recorded if final else _ignore, pass_number)

    def _append_outcome(
        self,
        event: CheckpointCompleted | CheckpointFailed,
        blobs: Blobs,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        outcomes: list[Outcome] = []

        def keep(fact: RecordedEvent) -> None:
            outcomes.append(Outcome(fact.version, fact.recorded_at, event))
            recorded(outcomes[0])

        with self.changed:
            # In front of the event that ends the pass, or not at all.
            self._check_pass(pass_number)
            self.execution.put(Outgoing(event, blobs, keep))
        self._flush()
        return outcomes[0]

    def _run_here(self, call: Call) -> Delivery:
        context = contextvars.copy_context() if call.context is None else call.context.copy()
        here = CheckpointScope(self, call.path, call.attempt, call.identity, call.transaction)
        context.run(scope.set, here)
        if call.definition.isolated:
            if self._isolates:
                attempt = IsolatedAttempt(call, self.host.codec, self)
                return context.run(attempt.run, self._why_end)
            tell_inline(call.definition, self.exec_id)
        body = self.host.body_of(self.execution, call)
        with self.changed:
            self.bodies += 1
        try:
            if call.definition.asynchronous:
                return self._run_on_loop(context, body)
            return context.run(_run_sync, body)
        finally:
            with self.changed:
                self.bodies -= 1

    def _why_end(self) -> str:
        if self._stopped:
            return "its execution goes on elsewhere, or later"
        return "its execution is being cancelled" if self._cancel_pending else ""

    def _run_on_loop(self, context: contextvars.Context, body: Callable[[], Any]) -> Delivery:
        done = threading.Event()
        deliveries: list[Delivery] = []

        async def run() -> None:
            try:
                deliveries.append(Delivery(await body()))
            except BaseException as error:
                deliveries.append(Delivery(error=error))
            finally:
                done.set()

        loop = self.host.loop
        tasks: set[asyncio.Task[None]] = set()
        loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(run(), context=context)))
        done.wait()
        return deliveries[0]

    def _wait_for_lease(self) -> None:
        while not self.host.may_start(self.exec_id):
            if self._stopped:
                raise ExecutionSuspended
            time.sleep(0.05)
        if self._stopped:
            raise ExecutionSuspended

    def _sleep_until(self, instant: int) -> None:
        while (left := instant - self.host.journal.now()) > 0:
            with self.changed:
                if self._stopped:
                    raise ExecutionSuspended
                with self._rests(BODY, instant, _never):
                    self.changed.wait(min(left / 1_000_000, RECHECK_SECONDS))

    # what others may know of it

    @contextlib.contextmanager
    def _rests(self, whose: int, due_at: int | None, ready: Callable[[], bool]) -> Iterator[None]:
        """The thread waits: for a time, or for something that is ready then; with the lock held."""
        self.resting[whose] = (due_at, ready)
        try:
            yield
        finally:
            self.resting.pop(whose, None)

    def rest(self) -> Rest | None:
        """What the runner waits for; None while there is something that it does."""
        if self.execution.gate.locked():
            return None
        now = self.host.journal.now()
        with self.changed:
            if self._stopped or self.ended or self._cancel_pending:
                return None
            if self.execution.is_about_to_write:
                return None
            resting = self.resting.values()
            if any(ready() or (due is not None and due <= now) for due, ready in resting):
                return None
            at_work = [future for future in self.submitted if self._has_thread(future)]
            # Each has a thread, and so has the flow's body: all of them must rest, or run bodies.
            if len(at_work) + 1 != len(resting) + self.bodies:
                return None
            due_at = min((due for due, _ in resting if due is not None), default=None)
            return Rest(due_at, self.bodies)

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now."""
        with self.changed:
            self.changed.notify_all()

    # what the body is given

    def result_of(self, future: CallFuture) -> Any:
        """Blocks until the submitted call has its outcome, and gives it."""
        self._check_thread()
        self._check_fits()
        return self._take_future(future)

    def _take_future(self, future: CallFuture) -> Any:
        future.seen = True
        if not future.settled:
            self._before_live(future.call.asked)
            self._start_withheld(future)
        self._wait_until(lambda: future.settled)
        if self._stopped:
            raise ExecutionSuspended
        if not future.settled:
            # An append that came before the cancel request may be durable and not settled yet.
            self.execution.wait_for_flush()
            if not future.settled:
                self._deliver_cancel_before(None)
        if future.outcome is None:
            assert future.failure is not None
            if isinstance(future.failure, UnreadableValueError):
                raise self._diverge(future.failure.mismatch)
            raise future.failure
        return self._take(future.outcome, future.call)

    def first_of(self, futures: list[CallFuture]) -> CallFuture:
        """Blocks until one of the submitted calls has its outcome; the earliest in the journal."""
        self._check_thread()
        self._check_fits()
        if not any(future.settled for future in futures):
            self._before_live(futures[0].call.asked)
            for future in futures:
                self._start_withheld(future)
            self._wait_until(lambda: any(future.settled for future in futures))
            if self._stopped:
                raise ExecutionSuspended
            # What became durable together is told apart by its place in the journal.
            self.execution.wait_for_flush()
            if not any(future.settled for future in futures):
                self._deliver_cancel_before(None)
        settled = [future for future in futures if future.settled]
        first = min(settled, key=lambda future: (future.settled_at, future.follows))
        self._deliver_cancel_before(first.settled_at)
        self._check_passed_over(first.settled_at, first.call.asked)
        if first.outcome is not None:
            self._advance_clock(first.outcome)
        return first

    @property
    def _cancel_pending(self) -> bool:
        return self.history.cancelled_at is not None and not self._cancel_delivered

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
        self._deliver_cancel_before(outcome.version)
        self._check_passed_over(outcome.version, call)
        try:
            delivery = self._outcome_delivery(outcome, call)
        except UnreadableValueError as error:
            raise self._diverge(error.mismatch) from error
        self._advance_clock(outcome)
        if delivery.error is not None:
            raise delivery.error
        return delivery.value

    def _deliver_cancel_before(self, version: int | None) -> None:
        """Raises the cancel request once, before the first outcome that was recorded after it."""
        cancelled_at = self.history.cancelled_at
        if cancelled_at is None or self._cancel_delivered:
            return
        if version is None or version > cancelled_at:
            self._cancel_delivered = True
            raise KitaruCancelled(self.history.cancel_reason)

    def _outcome_delivery(self, outcome: Outcome, call: Call) -> Delivery:
        if call.delivery is not None:
            return call.delivery
        event = outcome.event
        assert isinstance(event, CheckpointCompleted | CheckpointFailed)
        blob = self._blob_of(outcome)
        return delivery_of(event, call, self.host.codec, blob, self.main_module)

    def _blob_of(self, outcome: Outcome) -> bytes | None:
        if outcome.blob is None:
            return None
        try:
            blob: bytes = self._await(self.host.journal.get_blob(outcome.blob))
        except JournalError as error:
            raise self._let_down(error) from error
        return blob

    def _delivery(self, future: CallFuture) -> Delivery:
        if future.outcome is None:
            return Delivery(error=future.failure)
        try:
            return self._outcome_delivery(future.outcome, future.call)
        except KitaruError as error:
            return Delivery(error=error)

    def _value_of(self, future: CallFuture) -> Any:
        return self._delivery(future).value

    def _resolved(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if not futures_in(arguments):
            return arguments
        return {name: self._resolve(value, self._take_future) for name, value in arguments.items()}

    def _resolve(self, value: Any, taken: Callable[[CallFuture], Any]) -> Any:
        if isinstance(value, FutureLike):
            return taken(value.call_future)
        if type(value) in (list, tuple):
            return type(value)(
                [taken(v.call_future) if isinstance(v, FutureLike) else v for v in value]
            )
        return value

    # recording

    def note(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records an event together with the next one."""
        if isinstance(event, MetadataLogged | ArtifactSaved) and event.path is not None:
            self.unshared.add(event.path)
        with self.changed:
            if not self.ended:
                self.execution.put(Outgoing(event, blobs))

    def note_later(self, event: ExecutionEvent, blobs: Blobs = ()) -> None:
        """Records that something has begun; called on the host's loop, which must not block."""
        self.note(event, blobs)
        self.host.spawn(self._flush_notes)

    def _flush_notes(self) -> None:
        if not (self._stopped or self.ended):
            # A failure is kept in `_fatal`: the body's thread ends with it.
            with contextlib.suppress(ExecutionSuspended):
                self._flush()

    def log(self, metadata: Raw) -> None:
        """Records what the body logs, unless it is recorded already."""
        entry = self.new_path("log", None)
        if not self.history.is_logged(entry, bytes(metadata)):
            self.note(MetadataLogged(metadata=metadata, entry=entry))

    def notice(self) -> None:
        """Reads what clients have appended, so that a blocked body hears of it."""
        if not self._stopped:
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
            self._let_down(error)

    def _on_foreign(self, foreign: Foreign) -> None:
        with self.changed:
            event = foreign.event
            self.history.add(foreign.version, foreign.recorded_at, event)
            match event:
                case CheckpointResolved(path=path, decision=decision):
                    if decision == RUN_AGAIN:
                        self.run_again.add(path)
                        self._take_review(path)
                case CheckpointCompleted(path=path) | CheckpointFailed(path=path):
                    self._take_review(path)
                case _:
                    pass
            self.changed.notify_all()

    def _read_blocking(self, after: int) -> list[RecordedEvent]:
        recorded: list[RecordedEvent] = self._await(
            self.host.journal.read_stream(self.execution.stream, after=after)
        )
        return recorded

    def _await(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.host.loop).result()

    def stop(self) -> None:
        """Ends the pass at the body's next durable call; nothing that it does now has an effect."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()
            transactions = list(self.transactions)
        for transaction in transactions:
            transaction.abandon("its execution goes on elsewhere, or later")


class FutureLike:
    """What the flow's body holds of a submitted call: the SDK's future derives from it."""

    __slots__ = ("call_future",)

    def __init__(self, call_future: CallFuture) -> None:
        self.call_future = call_future


def _ignore(outcome: Outcome) -> None:
    pass


def _never() -> bool:
    return False


def _run_sync(body: Callable[[], Any]) -> Delivery:
    try:
        return Delivery(body())
    except BaseException as error:
        return Delivery(error=error)


def futures_in(arguments: dict[str, Any]) -> list[CallFuture]:
    """The futures among the arguments, alone or in a list."""
    found: list[CallFuture] = []
    for value in arguments.values():
        if isinstance(value, FutureLike):
            found.append(value.call_future)
        elif type(value) in (list, tuple):
            found.extend(item.call_future for item in value if isinstance(item, FutureLike))
    return found
