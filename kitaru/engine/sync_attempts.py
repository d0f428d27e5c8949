"""Attempts of a sync flow's checkpoints: how they start, run, end, and are tried again."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from journal import BlobNotFound, JournalError
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import CheckpointCompleted, CheckpointFailed
from kitaru.engine.cache import ResultCache
from kitaru.engine.calls import Call, Delivery
from kitaru.engine.context import CheckpointScope, scope
from kitaru.engine.executions import Outgoing
from kitaru.engine.history import Outcome
from kitaru.engine.isolated import IsolatedAttempt
from kitaru.engine.once import review_of, tell_review
from kitaru.engine.runner import tell_inline
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_recording import Recording
from kitaru.engine.sync_resting import Resting
from kitaru.engine.sync_transactions import Transactions
from kitaru.engine.transactions import AttemptTransaction
from kitaru.engine.values import Blobs
from kitaru.errors import KitaruError


class StartedCall:
    """A running checkpoint whose start is written down if it lasts."""

    __slots__ = ("attempt", "call", "recording")

    def __init__(self, recording: Recording, call: Call) -> None:
        self.recording = recording
        self.call = call
        self.attempt = call.attempt

    def note_started(self) -> None:
        """Writes down that the attempt runs."""
        call = self.call
        if call.running and call.attempt == self.attempt and not call.noted:
            call.noted = True
            self.recording.note_later(*call.started_event())


class Attempts:
    """Those of one execution: they run on the body's thread, or on one of a submitted call."""

    def __init__(
        self,
        state: PassState,
        recording: Recording,
        resting: Resting,
        cache: ResultCache,
        isolates: bool,
    ) -> None:
        """`isolates` says whether isolated checkpoints have a process of their own."""
        self.state = state
        self._recording = recording
        self._resting = resting
        self._cache = cache
        self._isolates = isolates
        self._host = state.host
        self._transactions: Transactions | None = None
        """Made at the first one, with the lock held: most executions have none."""
        self.next_pass()

    def next_pass(self) -> None:
        """Nothing is looked up in the pass that begins."""
        self._cache.next_pass()

    def run(self, call: Call, recorded: Callable[[Outcome], None], pass_number: int) -> Outcome:
        """Tries the call until it has an outcome, which is durable then."""
        state = self.state
        tried = state.history.attempts_of(call.path)
        call.attempt, call.tried = state.history.last_attempt_of(call.path), tried.this_pass
        call.comes_after(state.history.completed_attempt_of(call.path))
        if self.is_in_doubt(call):
            reviewed = self._reviewed(call)
            if reviewed is not None:
                return reviewed
        if tried.retry_at is not None:
            self._back_off(call.path, tried.retry_at, tried.failed_version, pass_number)
        if self._cache.give_key(call):
            reused = self._cached(call)
            if reused is not None:
                return self._recording.append_outcome(*reused, recorded, pass_number)
        while True:
            self._resting.wait_for_lease()
            state.check_pass(pass_number)
            self._recording.unshared.discard(call.path)
            call.begin()
            if call.definition.once:
                self._record_start(call, pass_number)
            call.running = True
            self._host.watch_duration(StartedCall(self._recording, call))
            if call.definition.transaction is None:
                delivery = self.run_here(call)
                call.running = None
                state.check_pass(pass_number)
                outcome = self.record_outcome(call, delivery, recorded, pass_number)
            else:
                transact = self._transacting().transact
                outcome = transact(call, call.definition.transaction, recorded, pass_number)
            event = outcome.event
            if not isinstance(event, CheckpointFailed) or event.retry_at is None:
                return outcome
            self._back_off(call.path, event.retry_at, outcome.version, pass_number)

    def _back_off(self, path: str, until: int, failed_version: int, pass_number: int) -> None:
        """Waits for a call's next attempt; the body's own thread hears of a cancel meanwhile."""
        state = self.state

        def hastened() -> bool:
            return state.history.is_hastened(path, failed_version)

        if threading.get_ident() == state.thread:
            self._resting.block(hastened, until)
        else:
            self._resting.block_thread(hastened, until, pass_number)

    def _cached(self, call: Call) -> tuple[CheckpointCompleted, Blobs] | None:
        """The outcome of a call whose result an earlier execution has."""
        cache, journal = self._cache, self._host.journal
        try:
            hit = cache.hit(call, journal.find_blocking(cache.query([call])))
            if hit is None:
                return None
            blob = hit.event.result.blob
            data = None if blob is None else self._recording.on_loop(journal.get_blob(blob))
        except BlobNotFound:
            return None
        except JournalError as error:
            raise self._recording.let_down(error) from error
        return call.reused(hit, data, self._host.codec)

    # one attempt

    def run_here(self, call: Call) -> Delivery:
        """Runs an attempt's body on this thread, or on the host's loop."""
        context = contextvars.copy_context() if call.context is None else call.context.copy()
        here = CheckpointScope(
            self._recording, call.path, call.attempt, call.identity, call.transaction
        )
        context.run(scope.set, here)
        if call.definition.isolated:
            if self._isolates:
                attempt = IsolatedAttempt(call, self._host.codec, self._recording)
                return context.run(attempt.run, self._why_end)
            tell_inline(call.definition, self.state.exec_id)
        body = self._host.body_of(self.state.execution, call)
        with self.state.changed:
            self.state.bodies += 1
        try:
            if call.definition.asynchronous:
                return self._run_on_loop(context, body)
            return context.run(_run_sync, body)
        finally:
            with self.state.changed:
                self.state.bodies -= 1

    def _why_end(self) -> str:
        if self.state.stopped:
            return "its execution goes on elsewhere, or later"
        return "its execution is being cancelled" if self.state.cancel_pending else ""

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

        loop = self._host.loop
        tasks: set[asyncio.Task[None]] = set()
        loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(run(), context=context)))
        done.wait()
        return deliveries[0]

    def record_outcome(
        self,
        call: Call,
        delivery: Delivery,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        """Records what came of an attempt; `recorded` is called unless another one follows."""
        event, blobs = self._outcome_event(call, delivery)
        final = not isinstance(event, CheckpointFailed) or event.retry_at is None
        return self._recording.append_outcome(
            event, blobs, recorded if final else ignore, pass_number
        )

    def _outcome_event(
        self, call: Call, delivery: Delivery
    ) -> tuple[CheckpointCompleted | CheckpointFailed, Blobs]:
        error = delivery.error
        if error is None:
            try:
                offered = call.path not in self._recording.unshared
                return call.completed(delivery.value, self._host.codec, offered=offered)
            except KitaruError as refused:
                error = refused
        now = self._host.journal.now()
        command, blobs = call.failed(error, self._host.codec, now, self._host.jitter())
        (event,) = decide(self.state.execution.state, command)
        assert isinstance(event, CheckpointFailed)
        return event, blobs

    # what writes into a database of its own

    def _transacting(self) -> Transactions:
        with self.state.changed:
            if self._transactions is None:
                self._transactions = Transactions(self.state, self._recording, self)
            return self._transactions

    @property
    def transactions(self) -> list[AttemptTransaction]:
        """Those of the attempts that run; with the lock held."""
        return [] if self._transactions is None else self._transactions.running

    # what may run only once

    def is_in_doubt(self, call: Call) -> bool:
        """Whether an attempt of a call that may run only once was lost."""
        return call.definition.once and self.state.history.attempts_of(call.path).in_doubt

    def _record_start(self, call: Call, pass_number: int) -> None:
        """Makes the start durable before the body has any effect."""
        event, blobs = call.started_event()
        call.noted = True
        with self.state.changed:
            self.state.check_pass(pass_number)
            self.state.execution.put(Outgoing(event, blobs))
        self._recording.flush()
        self._resting.wait_for_lease()
        self.state.check_pass(pass_number)

    def request_review(self, call: Call) -> None:
        """Asks what came of an attempt that was lost, unless that is asked already."""
        self._resting.wait_for_lease()
        if call.path not in self.state.history.reviews:
            last = self.state.history.attempts_of(call.path).last_attempt
            self._recording.put_noted(*review_of(call, last))
            self._recording.flush()
        tell_review(self.state.execution.exec_id, call)

    def _reviewed(self, call: Call) -> Outcome | None:
        """Blocks the body until somebody has reviewed the call; None: it is to run again."""
        self.request_review(call)
        path, state = call.path, self.state
        self._resting.block(lambda: path in state.history.log or path in state.run_again, None)
        with state.changed:
            return state.history.log.pop(path, None)


def ignore(outcome: Outcome) -> None:
    """Nobody waits for it."""


def _run_sync(body: Callable[[], Any]) -> Delivery:
    try:
        return Delivery(body())
    except BaseException as error:
        return Delivery(error=error)
