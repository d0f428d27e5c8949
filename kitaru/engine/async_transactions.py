"""Transactional checkpoints of an async flow: opened, committed, adopted, freed."""

import functools
import sqlite3
from typing import Any

from journal import CommitRefused, TransactionOver
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.arguments_policy import misfit_of
from kitaru.engine.async_pass import PassState
from kitaru.engine.async_recording import OutgoingOutcome, Recording, Slot
from kitaru.engine.calls import Call, UnreadableValueError
from kitaru.engine.history import Outcome
from kitaru.engine.transactions import (
    AttemptTransaction,
    Database,
    Found,
    failure_of,
    open_attempt,
)
from kitaru.engine.values import Blobs
from kitaru.errors import KitaruError


class Transactions:
    """Those of one execution's attempts; made at the first one."""

    __slots__ = ("_host", "_recording", "running", "state")

    def __init__(self, state: PassState, recording: Recording) -> None:
        self.state = state
        self._host = state.host
        self._recording = recording
        self.running: dict[str, AttemptTransaction] = {}
        """Those of the attempts that run, by path."""

    async def open(self, call: Call, database: Database) -> Found | None:
        """Opens the attempt's transaction, and gives the outcome that an earlier one has left.

        Raises KitaruError, and SQLite's own errors.
        """
        host = self._host
        transaction = open_attempt(
            database,
            host.journal,
            host.lease_seconds,
            Slot(self._recording),
            self.state.exec_id,
            call.identity,
        )
        self.running[call.path] = call.transaction = transaction
        found: Found | None = await host.in_transaction(transaction.found)
        return found

    async def commit(self, call: Call, result: Any) -> BaseException | None:
        """Commits what an attempt has written, and records its outcome; or says why not."""
        transaction = call.transaction
        assert transaction is not None
        try:
            found = result if isinstance(result, Found) else None
            if found is None:
                event, blobs = call.completed(result, self._host.codec, offered=False)
                settling = functools.partial(transaction.settle, event, blobs)
                found = await self._host.in_transaction(settling)
            if found is not None:
                event, blobs = self._adopted(call, found)
        except UnreadableValueError as error:
            self.state.divergence = self.state.divergence or error.mismatch
            return None
        except (CommitRefused, TransactionOver, KitaruError, sqlite3.Error) as error:
            return failure_of(error)
        if not self.state.is_waited_for(call) or self.state.divergence is not None:
            return None
        if not transaction.joins_append:
            self._recording.put_outcome(event, blobs)
            return None
        outgoing = OutgoingOutcome(event=event, blobs=blobs, order=self.state.history.order)
        try:
            await self.state.execution.append_alongside(
                outgoing,
                lambda append: self._host.in_transaction(lambda: transaction.append(append)),
            )
        except (CommitRefused, TransactionOver) as error:
            return failure_of(error)
        return None

    def _adopted(self, call: Call, found: Found) -> tuple[CheckpointCompleted, Blobs]:
        """The outcome that the body's database remembers of an earlier attempt."""
        known = Outcome(0, 0, found.completed(call.path))
        if not known.is_of(call.definition.name, call.digest):
            self.state.divergence = self.state.divergence or misfit_of(known, call)
            self._recording.note_changed_arguments(known, call)
        return call.adopted(found, self._host.codec)

    def end(self, call: Call) -> None:
        """Rolls back what is not committed; lets the next one append."""
        transaction, call.transaction = call.transaction, None
        if transaction is not None:
            self.running.pop(call.path, None)
            transaction.abandon("its checkpoint has ended")

    def abandon_all(self, reason: str) -> None:
        """Rolls back what is not committed, of all attempts."""
        for transaction in list(self.running.values()):
            transaction.abandon(reason)
