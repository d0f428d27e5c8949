"""Transactional checkpoints of a sync flow: opened, committed, adopted, freed."""

import sqlite3
from collections.abc import Callable
from typing import Any, Protocol

from journal import CommitOutcomeUnknown, CommitRefused, RecordedEvent, TransactionOver
from kitaru.engine.arguments_policy import misfit_of
from kitaru.engine.calls import Call, Delivery, UnreadableValueError
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.executions import Outgoing
from kitaru.engine.history import Outcome
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_recording import Recording
from kitaru.engine.transactions import (
    AttemptTransaction,
    Database,
    Found,
    failure_of,
    open_attempt,
)
from kitaru.errors import KitaruError


class AttemptRunner(Protocol):
    """What a transactional attempt has in common with every other one."""

    def run_here(self, call: Call) -> Delivery:
        """Runs an attempt's body on this thread, or on the host's loop."""
        ...

    def record_outcome(
        self,
        call: Call,
        delivery: Delivery,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        """Records what came of an attempt."""
        ...


class Transactions:
    """Those of one execution's attempts; made at the first one."""

    def __init__(self, state: PassState, recording: Recording, attempts: AttemptRunner) -> None:
        self.state = state
        self._recording = recording
        self._attempts = attempts
        self._host = state.host
        self._running: set[AttemptTransaction] = set()
        """Those of the attempts that run; guarded by `changed`."""

    @property
    def running(self) -> list[AttemptTransaction]:
        """Those of the attempts that run; with the lock held."""
        return list(self._running)

    def transact(
        self,
        call: Call,
        database: Database,
        recorded: Callable[[Outcome], None],
        pass_number: int,
    ) -> Outcome:
        """One attempt of a transactional checkpoint: its writes and its outcome, or neither."""
        attempts = self._attempts
        try:
            transaction = self._open(call, database)
        except KitaruError as error:
            call.running = None
            return attempts.record_outcome(call, Delivery(error=error), recorded, pass_number)
        call.transaction = transaction
        try:
            found, delivery = self._found_or_run(call, transaction)
            call.running = None
            self.state.check_pass(pass_number)
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
            self.state.check_pass(pass_number)
            return attempts.record_outcome(call, Delivery(error=failure), recorded, pass_number)
        finally:
            call.transaction = None
            transaction.abandon("its checkpoint has ended")
            with self.state.changed:
                self._running.discard(transaction)

    def _open(self, call: Call, database: Database) -> AttemptTransaction:
        host, gate = self._host, self.state.execution.gate
        opened = open_attempt(
            database,
            host.journal,
            host.lease_seconds,
            gate,
            self.state.exec_id,
            call.identity,
        )
        with self.state.changed:
            if self.state.stopped:
                raise ExecutionSuspended
            self._running.add(opened)
        return opened

    def _found_or_run(
        self, call: Call, transaction: AttemptTransaction
    ) -> tuple[Found | None, Delivery]:
        try:
            found = transaction.found()
        except sqlite3.Error as error:
            return None, Delivery(error=error)
        return found, Delivery() if found else self._attempts.run_here(call)

    def _complete(
        self, call: Call, value: Any, recorded: Callable[[Outcome], None], pass_number: int
    ) -> Outcome | Found:
        """Commits what an attempt has written, and records its outcome; or gives another's."""
        state = self.state
        with state.changed:
            state.check_pass(pass_number)
            state.committing += 1
        try:
            return self._commit(call, value, recorded, pass_number)
        finally:
            with state.changed:
                state.committing -= 1
                state.changed.notify_all()

    def _commit(
        self, call: Call, value: Any, recorded: Callable[[Outcome], None], pass_number: int
    ) -> Outcome | Found:
        transaction = call.transaction
        assert transaction is not None
        event, blobs = call.completed(value, self._host.codec, offered=False)
        try:
            found = transaction.settle(event, blobs)
        except CommitOutcomeUnknown as error:
            raise self._recording.let_down(error) from error
        if found is not None:
            return found
        if not transaction.joins_append:
            return self._recording.append_outcome(event, blobs, recorded, pass_number)
        outcomes: list[Outcome] = []

        def keep(fact: RecordedEvent) -> None:
            outcomes.append(Outcome(fact.version, fact.recorded_at, event))
            recorded(outcomes[0])

        self.state.check_pass(pass_number)
        try:
            self.state.execution.flush_alongside(Outgoing(event, blobs, keep), transaction.append)
        except (CommitRefused, TransactionOver):
            raise
        except Exception as error:
            raise self._recording.let_down(error) from error
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
                raise self.state.driver.diverge(misfit)
            self._recording.note_changed_arguments(known, call)
        try:
            event, blobs = call.adopted(found, self._host.codec)
        except UnreadableValueError as error:
            raise self.state.driver.diverge(error.mismatch) from error
        return self._recording.append_outcome(event, blobs, recorded, pass_number)
