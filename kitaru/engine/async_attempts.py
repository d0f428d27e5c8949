"""Attempts of an async flow's checkpoints: how they start, run, end, and are tried again."""

import asyncio
import contextvars
import functools
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import CheckpointFailed
from kitaru.engine.async_pass import PassState, guarded
from kitaru.engine.async_recording import Recording
from kitaru.engine.async_transactions import Transactions
from kitaru.engine.calls import Call
from kitaru.engine.context import CheckpointScope, scope
from kitaru.engine.executions import Outgoing
from kitaru.engine.isolated import IsolatedAttempt
from kitaru.engine.once import review_of, tell_review
from kitaru.engine.runner import tell_inline
from kitaru.engine.transactions import AttemptTransaction, Database
from kitaru.errors import KitaruError


class Raised(Struct, frozen=True):
    """What a checkpoint's body raised, as what it returned."""

    error: BaseException


class Attempt:
    """One running attempt of a call: told when it is done, and when it lasts."""

    __slots__ = ("attempts", "call", "number")

    def __init__(self, attempts: "Attempts", call: Call) -> None:
        self.attempts = attempts
        self.call = call
        self.number = call.attempt

    def __call__(self, task: "asyncio.Future[Any]") -> None:
        """What ran the attempt is done."""
        self.attempts.task_done(self.call, task)

    async def run(self, body: Callable[[], Any]) -> None:
        """Runs the body of an async checkpoint, and tells of its end without another hop.

        A task that raised SystemExit or KeyboardInterrupt would end the host's loop.
        """
        try:
            result = await body()
        except BaseException as error:
            result = Raised(error)
        # What the engine does next is not to happen in the context of the body.
        self.attempts.context.run(self.attempts.attempt_done, self.call, result)

    def note_started(self) -> None:
        """Writes down that the attempt runs."""
        call = self.call
        task = call.running
        if not isinstance(task, asyncio.Future) or call.attempt != self.number:
            return
        if task.done():
            # It was cancelled before it had begun: the body could not tell of its end.
            self.attempts.task_done(call, task)
        elif not call.noted:
            call.noted = True
            self.attempts.recording.note_later(*call.started_event())


class Attempts:
    """Those of one execution. All happens on the host's loop, but for what bodies do."""

    __slots__ = (
        "_host",
        "_isolates",
        "_transactions",
        "committing",
        "context",
        "recording",
        "retrying",
        "reviews",
        "running",
        "state",
    )

    def __init__(self, state: PassState, recording: Recording, isolates: bool) -> None:
        """`isolates` says whether isolated checkpoints have a process of their own."""
        self.state = state
        self.recording = recording
        self._host = state.host
        self._isolates = isolates
        self._transactions: Transactions | None = None
        """Made at the first one: most executions have none."""
        self.context = contextvars.copy_context()
        """That of what is done for no body in particular."""
        self.next_pass()

    def next_pass(self) -> None:
        """None has begun in the pass that begins."""
        self.running: dict[str, Call] = {}
        self.retrying: dict[str, int] = {}
        """When calls that failed are due to be tried again, by path."""
        self.reviews: dict[str, Call] = {}
        """The calls that somebody has to review."""
        self.committing: set[str] = set()
        """The calls whose writes are on their way into a database: the pass does not end before
        what has come of them is recorded."""

    # their starts

    def start_call(self, call: Call) -> None:
        """Begins the next attempt of a call that has no outcome: now, or when it is due."""
        history = self.state.history
        if not history.knows(call.path):
            self._start_attempt(call)
            return
        tried = history.attempts_of(call.path)
        call.attempt = history.last_attempt_of(call.path)
        call.tried = tried.this_pass
        call.comes_after(history.completed_attempt_of(call.path))
        if call.definition.once and tried.in_doubt:
            self._request_review(call)
            return
        retry_at = history.due_at(call.path)
        wait_us = 0 if retry_at is None else retry_at - self._host.journal.now()
        self._start_attempt_after(call, wait_us)

    def _request_review(self, call: Call) -> None:
        """Asks what came of an attempt that was lost, unless that is asked already."""
        self.reviews[call.path] = call
        if call.path not in self.state.history.reviews:
            event, blobs = review_of(call, call.attempt)
            self.state.execution.put(Outgoing(event, blobs, self.state.noted(event)))
        tell_review(self.state.exec_id, call)

    def _start_attempt_after(self, call: Call, wait_us: int) -> None:
        if call.abandoned:
            return
        if wait_us > 0:
            self.retrying[call.path] = self._host.journal.now() + wait_us
            call.running = self._host.loop.call_later(
                wait_us / 1_000_000, self._start_attempt, call
            )
        else:
            self._start_attempt(call)

    def hasten(self, path: str) -> None:
        """Begins a call's next attempt at once, if it is to be tried again."""
        if path not in self.retrying:
            return
        call = self.state.requested.get(path)
        if isinstance(call, Call) and isinstance(call.running, asyncio.TimerHandle):
            call.running.cancel()
            call.running = self._host.loop.call_later(0, self._start_attempt, call)
            self.retrying[call.path] = self._host.journal.now()

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now begins now."""
        now = self._host.journal.now()
        for path, due_at in list(self.retrying.items()):
            call = self.state.requested.get(path)
            if isinstance(call, Call) and isinstance(call.running, asyncio.TimerHandle):
                call.running.cancel()
                self._start_attempt_after(call, due_at - now)

    @guarded
    def _start_attempt(self, call: Call) -> None:
        state = self.state
        if state.stopped or state.ending or state.requested.get(call.path) is not call:
            return
        if call.abandoned:
            # The body stopped waiting for it while its failed attempt was written down.
            return
        if not self._host.may_start(state.exec_id):
            self.retrying[call.path] = self._host.journal.now()
            call.running = self._host.loop.call_later(0.05, self._start_attempt, call)
            return
        self.retrying.pop(call.path, None)
        self.recording.unshared.discard(call.path)
        call.begin()
        if call.definition.once:
            self.running[call.path] = call
            event, blobs = call.started_event()
            call.noted = True
            state.execution.put(Outgoing(event, blobs, lambda _: self._run_attempt(call)))
            self.recording.flush()
        else:
            self._run_attempt(call)

    # their runs

    def _run_attempt(self, call: Call) -> None:
        if self.state.stopped or self.state.ending or call.abandoned:
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
            task = self._host.loop.create_task(attempt.run(body), context=context)
            if task.done():
                # The application's loop begins its tasks at once, and this one is over.
                return
        else:
            if definition.transaction is None:
                task = self._run_body(call, context)
            else:
                transacted = self._run_transacted(call, definition.transaction, context)
                task = self._host.loop.create_task(transacted)
            task.add_done_callback(attempt)
        call.running = task
        self._host.watch_duration(attempt)

    def _body(self, call: Call, context: contextvars.Context) -> Callable[[], Any]:
        here = CheckpointScope(
            self.recording, call.path, call.attempt, call.identity, call.transaction
        )
        context.run(scope.set, here)
        return self._host.body_of(self.state.execution, call)

    def _run_body(self, call: Call, context: contextvars.Context) -> "asyncio.Future[Any]":
        body = self._body(call, context)
        if call.definition.isolated:
            if self._isolates:
                attempt = IsolatedAttempt(call, self._host.codec, self.recording)
                return self._host.in_thread(lambda: context.run(self._run_isolated, attempt, call))
            tell_inline(call.definition, self.state.exec_id)
        if call.definition.asynchronous:
            return self._host.loop.create_task(_run_async(body), context=context)
        return self._host.in_thread(lambda: context.run(_run_sync, body))

    def _run_isolated(self, attempt: IsolatedAttempt, call: Call) -> Any:
        def why_end() -> str:
            if self.state.stopped:
                return "its execution goes on elsewhere, or later"
            return "nobody waits for it any more" if call.abandoned else ""

        delivery = attempt.run(why_end)
        return delivery.value if delivery.error is None else Raised(delivery.error)

    async def _run_transacted(
        self, call: Call, database: Database, context: contextvars.Context
    ) -> Any:
        """What the body returned, raised as `Raised`, or the `Found` outcome of an earlier one."""
        if self._transactions is None:
            self._transactions = Transactions(self.state, self.recording)
        try:
            found = await self._transactions.open(call, database)
        except (KitaruError, sqlite3.Error) as error:
            return Raised(error)
        return await self._run_body(call, context) if found is None else found

    # their ends

    @guarded
    def task_done(self, call: Call, task: "asyncio.Future[Any]") -> None:
        """What runs an attempt has ended, unless that was told already; on the host's loop."""
        # Looked at, so that asyncio does not complain about an error that nobody needs.
        error = None if task.cancelled() else task.exception()
        if call.running is not task:
            return
        if error is not None and self.state.is_waited_for(call):
            self.state.driver.give_up(error)
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
        if not self.state.is_waited_for(call):
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
            self.state.execution.put(Outgoing(call.cancelled()))
        else:
            self._failed(call, result.error)
        self.recording.flush()

    def _end_transaction(self, call: Call) -> None:
        if self._transactions is not None:
            self._transactions.end(call)

    def _start_committing(self, call: Call, result: Any) -> None:
        assert self._transactions is not None
        self.committing.add(call.path)
        task = self._host.loop.create_task(self._transactions.commit(call, result))
        task.add_done_callback(functools.partial(self._committed, call))

    @guarded
    def _committed(self, call: Call, task: "asyncio.Task[BaseException | None]") -> None:
        self.committing.discard(call.path)
        if self.running.get(call.path) is call:
            del self.running[call.path]
        self._end_transaction(call)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self.state.stopped:
            return
        if error is not None:
            self.state.driver.give_up(error)
            return
        failure = task.result()
        if failure is not None and self.state.is_waited_for(call):
            self._failed(call, failure)
        self.state.driver.advance()
        self.recording.flush()

    def _completed(self, call: Call, value: Any) -> None:
        try:
            offered = call.path not in self.recording.unshared
            event, blobs = call.completed(value, self._host.codec, offered=offered)
        except KitaruError as error:
            self._failed(call, error)
            return
        self.recording.put_outcome(event, blobs)

    def _failed(self, call: Call, error: BaseException) -> None:
        now = self._host.journal.now()
        command, blobs = call.failed(error, self._host.codec, now, self._host.jitter())
        (event,) = decide(self.state.execution.state, command)
        assert isinstance(event, CheckpointFailed)
        if event.retry_at is None:
            self.recording.put_outcome(event, blobs)
        else:
            wait_us = event.retry_at - now
            self.state.execution.put(
                Outgoing(event, blobs, lambda _: self._start_attempt_after(call, wait_us))
            )

    def abandon(self, call: Call) -> None:
        """The body no longer waits for the call: its attempt is cancelled, and none follows it."""
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

    def abandon_all(self) -> None:
        """The pass ends: what runs is cancelled, and nobody waits for it."""
        for call in list(self.running.values()):
            call.abandoned = True
            if call.running is not None:
                call.running.cancel()

    @property
    def transactions(self) -> Mapping[str, AttemptTransaction]:
        """Those of the attempts that run, by path."""
        return {} if self._transactions is None else self._transactions.running

    def abandon_transactions(self, reason: str) -> None:
        """Rolls back what is not committed, whatever runs still."""
        if self._transactions is not None:
            self._transactions.abandon_all(reason)


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
