"""A SQLite transaction in the hands of other people's code, which may not end it."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from journal.backends.sqlite.connections import BUSY_SECONDS, connect, patiently
from journal.backends.sqlite.failures import explained, primary_code
from journal.errors import CommitOutcomeUnknown, CommitRefused, StatementRefused, TransactionOver
from journal.records import Rows

Parameters = Sequence[Any] | Mapping[str, Any]

_NOT_COMMITTED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_FULL)
_READING_PRAGMAS = frozenset(
    {
        "compile_options",
        "database_list",
        "foreign_key_check",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
_NAMES_TABLE_FIRST = frozenset(
    {
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_VTABLE,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_VTABLE,
    }
)
_NAMES_TABLE_SECOND = frozenset(
    {
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TRIGGER,
    }
)


class SqliteTransaction:
    """One write transaction on a database, begun by its first statement.

    Any thread may use it, one statement at a time. Its statements cannot end it, attach another
    database, change settings or touch the protected tables: that raises StatementRefused. It ends
    once, by `commit` or `abandon`, and is TransactionOver from then on.
    """

    def __init__(self, path: str, protected: Collection[str] = ()) -> None:
        self._path = path
        self._protected = frozenset(name.casefold() for name in protected)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._over: str | None = None
        """Why it is over, or is to be as soon as its running statement has ended."""
        self._ending = False
        self._guarding = False
        self._refused = ""

    @property
    def has_begun(self) -> bool:
        """Whether it has run a statement."""
        return self._connection is not None

    def execute(self, statement: str, parameters: Parameters = (), /) -> Rows:
        """Runs one statement; all that it finds is read at once."""
        return self._run(lambda connection: connection.execute(statement, parameters))

    def executemany(self, statement: str, rows: Iterable[Parameters], /) -> Rows:
        """Runs one statement for each row of parameters."""
        return self._run(lambda connection: connection.executemany(statement, rows))

    def commit(self, last: Callable[[sqlite3.Connection], None] = lambda _: None) -> None:
        """Commits, after `last` has written what its owner adds.

        An error of `last` leaves it as it was before `commit`. Raises CommitRefused when the
        database's constraints, its readers or a full disk do not let it, and CommitOutcomeUnknown
        when nobody knows whether it is committed.
        """
        with self._held():
            connection = self._begin_to_end()
            try:
                last(connection)
            except BaseException:
                self._ending = False
                raise
            try:
                # Without a log, it waits for whoever is reading.
                patiently(lambda: connection.execute("COMMIT"))
            except sqlite3.Error as error:
                self._end("its commit has failed", connection)
                if primary_code(error) in _NOT_COMMITTED:
                    told = self._explained(error)
                    raise CommitRefused(str(told)) from told
                raise CommitOutcomeUnknown(
                    f"a commit to {self._path} failed ({error}), and nobody can tell whether it "
                    "is on disk: see to the disk"
                ) from error
            self._end_committed()

    def look(self, statement: str, parameters: Parameters = (), /) -> Rows:
        """One short read of what is committed, outside of it; nothing where there is no file."""
        if not os.path.exists(self._path):
            return Rows([])
        with self._explaining():
            connection = connect(self._path, "mode=rw")
            try:
                return patiently(lambda: _rows(connection.execute(statement, parameters)))
            finally:
                connection.close()

    def check(self) -> None:
        """Raises TransactionOver when it is over."""
        if self._over is not None:
            raise self._error()

    def abandon(self, reason: str) -> None:
        """Rolls it back, from any thread and without waiting for a statement that runs."""
        self._over = self._over or reason
        connection = self._connection
        if connection is not None and not self._ending:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed meanwhile
                connection.interrupt()
        self._obey()

    def open(self) -> sqlite3.Connection:
        """The connection inside a new transaction; with the lock held."""
        connection = connect(self._path, "mode=rwc")
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        except BaseException:
            connection.close()
            raise
        return connection

    def closed(self) -> None:
        """Called when it has ended; with the lock held."""

    def _run(self, statement: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> Rows:
        with self._held():
            connection = self._begun()
            self._refused = ""
            self._guarding = True
            try:
                cursor = statement(connection)
                return _rows(cursor)
            except sqlite3.Error as error:
                if self._over is not None:
                    raise self._error() from error
                if self._refused:
                    raise StatementRefused(self._refused) from error
                self._raise_explained(error)
            finally:
                self._guarding = False
                if not connection.in_transaction:
                    self._end("one of its statements failed, and SQLite has rolled it back")

    def _begun(self) -> sqlite3.Connection:
        self.check()
        if self._connection is None:
            with self._explaining():
                connection = self.open()
            connection.set_authorizer(self._authorize)
            self._connection = connection
            self.check()  # it may have been abandoned while it was waiting to begin
        return self._connection

    def _explained(self, error: sqlite3.Error) -> sqlite3.Error:
        return explained(error, self._path, BUSY_SECONDS)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._raise_explained(error)

    def _raise_explained(self, error: sqlite3.Error) -> NoReturn:
        told = self._explained(error)
        if told is error:
            raise error
        raise told from error

    def _begin_to_end(self) -> sqlite3.Connection:
        # In this order: `abandon` looks at them in the other, so that one sees the other.
        self._ending = True
        if self._over is None:
            return self._begun()
        self._ending = False
        raise self._error()

    def _error(self) -> TransactionOver:
        return TransactionOver(f"this transaction is over: {self._over}")

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            self._obey()

    def _obey(self) -> None:
        """Ends what was abandoned while a statement ran."""
        if self._over is not None and self._lock.acquire(blocking=False):
            try:
                self._end(self._over, self._connection)
            finally:
                self._lock.release()

    def _end(self, reason: str, to_roll_back: sqlite3.Connection | None = None) -> None:
        self._over = self._over or reason
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if to_roll_back is not None:
                with contextlib.suppress(sqlite3.Error):  # closing it rolls it back, too
                    connection.execute("ROLLBACK")
            connection.close()
        finally:
            self.closed()

    def _end_committed(self) -> None:
        # Whoever has abandoned it meanwhile came too late.
        self._over = "it is committed"
        self._end(self._over)

    def _authorize(
        self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None
    ) -> int:
        if not self._guarding:
            return sqlite3.SQLITE_OK
        self._refused = self._refused or self._refusal(action, first or "", second or "")
        return sqlite3.SQLITE_DENY if self._refused else sqlite3.SQLITE_OK

    def _refusal(self, action: int, first: str, second: str) -> str:
        if action == sqlite3.SQLITE_TRANSACTION:
            return f"{first} is not for its statements: it is committed or rolled back for them"
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return "it is of one database: no other can be attached"
        if action == sqlite3.SQLITE_PRAGMA and first.casefold() not in _READING_PRAGMAS:
            return f"PRAGMA {first} is not for its statements"
        table = first if action in _NAMES_TABLE_FIRST else ""
        table = second if action in _NAMES_TABLE_SECOND else table
        if table.casefold() in self._protected:
            return f"the table {table!r} is not its own to change"
        return ""


def _rows(cursor: sqlite3.Cursor) -> Rows:
    found = cursor.fetchall()
    columns = tuple(column[0] for column in cursor.description or ())
    return Rows(found, columns, cursor.rowcount, cursor.lastrowid)
