"""Transactional checkpoints: one attempt's writes and its outcome are there together or not at all.

In the journal's own database they are one commit. In another one a table remembers the outcome: it
is committed with the writes, and asked before the body runs again.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Literal, Protocol
from urllib.parse import unquote

from msgspec import Struct

from journal import (
    Append,
    Appended,
    CommitRefused,
    Journal,
    NoTransactions,
    SqliteTransaction,
    StoreTransaction,
    TransactionOver,
)
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.domain.values import StoredValue
from kitaru.engine.values import Blobs
from kitaru.errors import (
    KitaruFeatureNotAvailableError,
    KitaruTransactionError,
    KitaruUsageError,
)

TABLE = "kitaru_checkpoints"
LONGEST_SECONDS = 5.0
"""How long an attempt may keep others from writing to the journal: well below the time for which
they wait before they give up."""

_CREATE = """
CREATE TABLE IF NOT EXISTS kitaru_checkpoints (
    exec_id TEXT NOT NULL,
    path TEXT NOT NULL,
    name TEXT NOT NULL,
    arguments_digest TEXT NOT NULL,
    result BLOB NOT NULL,
    committed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (exec_id, path)
)
"""
_INSERT = """
INSERT INTO kitaru_checkpoints (exec_id, path, name, arguments_digest, result)
VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_FIND = """
SELECT name, arguments_digest, result FROM kitaru_checkpoints WHERE exec_id = ? AND path = ?
"""
_IS_THERE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"


class Database(Struct, frozen=True):
    """Where a checkpoint writes."""

    locate: Callable[[], "str | os.PathLike[str] | Literal[True]"] | None = None
    """Says it for every attempt; None: the journal's own database."""

    def path(self) -> str | None:
        """The file, or None for the journal's own. Raises KitaruUsageError."""
        if self.locate is None:
            return None
        try:
            location = self.locate()
        except Exception as error:
            raise KitaruUsageError(
                f"The function that a checkpoint's transaction= is raised {error!r}."
            ) from error
        return None if location is True else path_of(location)


def path_of(location: object) -> str:
    """The absolute path that a location names.

    Raises KitaruUsageError for what is none, and KitaruFeatureNotAvailableError for databases of
    other kinds.
    """
    if isinstance(location, os.PathLike):
        location = os.fspath(location)
    if not isinstance(location, str) or not location.strip() or "\0" in location:
        raise KitaruUsageError(
            "A checkpoint's transaction= must be True, the absolute path of a SQLite database, or "
            f"a function that returns one of these, and not {_shown(location)}."
        )
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "sqlite":
        raise KitaruFeatureNotAvailableError(
            f"Checkpoints can write to SQLite databases only, so far, and not to {scheme}."
        )
    path = unquote(rest[1:]) if separator else location
    if not os.path.isabs(path):
        raise KitaruUsageError(
            f"A checkpoint's transaction= needs an absolute path, not {path!r}: the process that "
            "goes on after a crash may have another working directory, and would write elsewhere."
        )
    return path


def _shown(location: object) -> str:
    return repr(location) if isinstance(location, str | None) else f"a {type(location).__name__}"


class Found(Struct, frozen=True):
    """The outcome that a database remembers of a call."""

    name: str
    arguments_digest: str
    result: bytes

    def completed(self, path: str) -> CheckpointCompleted:
        """The same as an event, to compare a call with."""
        return CheckpointCompleted(
            path=path,
            name=self.name,
            attempt=0,
            arguments_digest=self.arguments_digest,
            result=StoredValue(),
        )


class Gate(Protocol):
    """What an attempt holds while nobody but it can append to its execution."""

    def acquire(self) -> object:
        """Blocks until it has it; on any thread but the loop's."""
        ...

    def release(self) -> None:
        """Lets the next one in; from every thread."""
        ...


class AttemptTransaction(Protocol):
    """One attempt's transaction. All but `abandon` may block, and are not for the event loop."""

    @property
    def statements(self) -> StoreTransaction | SqliteTransaction:
        """What the body writes with."""
        ...

    def found(self) -> Found | None:
        """The outcome of an earlier attempt that the journal has not heard of."""
        ...

    def settle(self, event: CheckpointCompleted, blobs: Blobs) -> Found | None:
        """Commits what can be committed before the journal's record of it.

        Another outcome that was faster is given back, and stands instead of this one. Raises
        CommitRefused, TransactionOver, CommitOutcomeUnknown, and SQLite's own errors.
        """
        ...

    @property
    def joins_append(self) -> bool:
        """Whether the append of the outcome is to be made by `append`."""
        ...

    def append(self, append: Append) -> Appended:
        """Appends the outcome and commits the writes with it."""
        ...

    def abandon(self, reason: str) -> None:
        """Rolls back what is not committed, and lets others append; does nothing when over."""
        ...


class SharedAttempt:
    """The writes and the outcome are one commit of the journal."""

    def __init__(self, journal: Journal, gate: Gate, seconds: float) -> None:
        self._gate = gate
        self._holds_gate = False
        self._has_entered = False
        """Whether it has begun, and be it that it was rolled back since."""
        self._lock = threading.Lock()
        self._transaction = journal.transaction(
            seconds=seconds, entering=self._enter, leaving=self._leave
        )

    @property
    def statements(self) -> StoreTransaction:
        return self._transaction

    def found(self) -> Found | None:
        return None

    def settle(self, event: CheckpointCompleted, blobs: Blobs) -> Found | None:
        self._transaction.check()
        return None

    @property
    def joins_append(self) -> bool:
        return self._has_entered

    def append(self, append: Append) -> Appended:
        return self._transaction.append(append)

    def abandon(self, reason: str) -> None:
        self._transaction.abandon(reason)
        if not self._transaction.has_begun:
            self._let_in()

    def _enter(self) -> None:
        self._gate.acquire()
        self._holds_gate = self._has_entered = True

    def _leave(self, committed: bool) -> None:
        # What was committed is taken in by whoever appended it before the next append.
        if not committed:
            self._let_in()

    def _let_in(self) -> None:
        with self._lock:
            held, self._holds_gate = self._holds_gate, False
        if held:
            self._gate.release()


class SeparateAttempt:
    """The outcome is committed with the writes in their own database, and in the journal later."""

    def __init__(self, path: str, exec_id: str, call: str) -> None:
        self._path = path
        self._key = (exec_id, call)
        self._transaction = SqliteTransaction(path, (TABLE,))

    @property
    def statements(self) -> SqliteTransaction:
        return self._transaction

    def found(self) -> Found | None:
        if not self._transaction.look(_IS_THERE, (TABLE,)):
            return None
        row = self._transaction.look(_FIND, self._key).first()
        return None if row is None else Found(*row)

    def settle(self, event: CheckpointCompleted, blobs: Blobs) -> Found | None:
        if not self._transaction.has_begun:
            # Without a statement there is nothing to protect, unless it has lost one.
            self._transaction.check()
            return None
        data = bytes(event.result.json) if event.result.blob is None else blobs[0]
        row = (*self._key, event.name, event.arguments_digest, data)

        def remember(connection: sqlite3.Connection) -> None:
            connection.execute(_CREATE)
            if connection.execute(_INSERT, row).rowcount == 0:
                raise _AnotherWasFaster("the outcome of another attempt came and went meanwhile")

        try:
            self._transaction.commit(remember)
        except _AnotherWasFaster:
            self._transaction.abandon("another attempt has committed its outcome before")
            found = self.found()
            if found is None:
                raise
            return found
        return None

    @property
    def joins_append(self) -> bool:
        return False

    def append(self, append: Append) -> Appended:
        raise AssertionError("nothing is appended in another database")

    def abandon(self, reason: str) -> None:
        self._transaction.abandon(reason)


class _AnotherWasFaster(TransactionOver):
    """The outcome of the call is in the table already."""


def open_attempt(
    database: Database,
    journal: Journal,
    lease_seconds: float,
    gate: Gate,
    exec_id: str,
    call: str,
) -> AttemptTransaction:
    """A transaction for one attempt of a call, named by its identity.

    Raises KitaruUsageError for a bad location.
    """
    location = database.path()
    if location is not None and not journal.shares_store_with(location):
        return SeparateAttempt(location, exec_id, call)
    try:
        # The renewal of leases waits as well.
        return SharedAttempt(journal, gate, min(LONGEST_SECONDS, lease_seconds / 3))
    except NoTransactions as error:
        raise KitaruUsageError(
            f"transaction=True cannot be kept: {error} (transaction='/path/to/your.db')."
        ) from error


def failure_of(error: BaseException) -> BaseException:
    """What an attempt has failed with whose transaction could not be committed."""
    match error:
        case CommitRefused(__cause__=cause) if cause is not None:
            return cause
        case TransactionOver() | CommitRefused():
            return KitaruTransactionError(f"Nothing was written: {error}.")
        case _:
            return error
