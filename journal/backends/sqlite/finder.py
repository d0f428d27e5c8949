"""Looks events up by their keys: on a connection of its own, on whichever thread asks."""

import sqlite3
import threading
from collections.abc import Sequence
from typing import TypeVar

from journal.backends.sqlite import queries
from journal.backends.sqlite.connections import connect_reader
from journal.backends.sqlite.failures import translated
from journal.backends.sqlite.queries import Query
from journal.errors import JournalClosed
from journal.records import KeyQuery, RecordedEvent

T = TypeVar("T")

_MOST_REMEMBERED = 10_000


class Finder:
    """One connection that is made when it is first needed; one thread at a time uses it.

    The keys of what was appended before a stream were indexed when the stream was begun.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._begun: dict[str, int] = {}
        """The positions of streams' first events, which never change."""
        self._closed = False

    def find(self, query: KeyQuery) -> dict[int, RecordedEvent]:
        """As the port says."""
        return self.find_all([query])[0]

    def find_all(self, asked: Sequence[KeyQuery]) -> list[dict[int, RecordedEvent]]:
        """The same for several, in one transaction: each new one reads its pages anew."""
        with self._lock:
            try:
                connection = self._connection or self._open()
                if len(asked) == 1:
                    return [self._found(connection, asked[0])]
                connection.execute("BEGIN")
                try:
                    return [self._found(connection, query) for query in asked]
                finally:
                    connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise translated(error, self._path) from error

    def _found(self, connection: sqlite3.Connection, query: KeyQuery) -> dict[int, RecordedEvent]:
        begun = self._begun.get(query.before) or self._begun_at(connection, query.before)
        found = {}
        for key in query.keys:
            # Most look-ups find nothing: what there is to an event is a second question.
            row = connection.execute(queries.BY_KEY, (key, begun)).fetchone()
            if row is not None:
                found[key] = _read(connection, queries.event_at(row[0]))
        return found

    def close(self) -> None:
        """Closes the connection, if one was made."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def held(self) -> list[object]:
        """What a forked child must neither use nor close."""
        return [self, self._connection]

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise JournalClosed(f"the journal at {self._path} was closed; open it anew")
        self._connection = connect_reader(self._path)
        return self._connection

    def _begun_at(self, connection: sqlite3.Connection, stream: str) -> int:
        position = _read(connection, queries.begun_at(stream))
        if position is None:
            return 0
        if len(self._begun) >= _MOST_REMEMBERED:
            self._begun.clear()
        self._begun[stream] = position
        return position


def _read(connection: sqlite3.Connection, query: Query[T]) -> T:
    return query.meaning(connection.execute(query.statement, query.parameters).fetchall())
