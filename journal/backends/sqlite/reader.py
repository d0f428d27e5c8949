"""Reads a SQLite journal through the standard library alone, without an event loop."""

import os
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from journal.backends.sqlite import queries
from journal.backends.sqlite.connections import check_schema, connect_reader, opening_error
from journal.backends.sqlite.failures import translated
from journal.backends.sqlite.queries import Query
from journal.errors import JournalError
from journal.records import Head, HeadQuery, RecordedEvent

if TYPE_CHECKING:  # hashing is for `verify` alone: the command line must start quickly
    from journal.hashing import Finding

T = TypeVar("T")

_STREAMS = "SELECT id, stream FROM heads ORDER BY id"
_RAW_EVENTS = """
SELECT version, position, type, schema, recorded_at, epoch, payload, previous_hash, hash,
    payload_digest FROM events WHERE stream = ? ORDER BY version
"""
_INTEGRITY = "PRAGMA integrity_check(20)"
"""What SQLite finds in pages and indexes, twenty findings at most; a row with `ok` when nothing."""
_ORPHANS = """
SELECT stream, min(version), count(*) FROM events
WHERE stream NOT IN (SELECT id FROM heads) GROUP BY stream
"""
_GAPS = """
SELECT position, before FROM
    (SELECT position, lag(position, 1, 0) OVER (ORDER BY position) AS before FROM events)
WHERE position != before + 1
"""


class SqliteReader:
    """A journal that is only read: by one thread, beside any number of writers.

    A context manager; raises the journal's errors, and JournalUnavailable where there is no file.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        try:
            self._connection = connect_reader(self._path)
        except sqlite3.Error as error:
            raise opening_error(error, self._path) from error
        try:
            check_schema(self._connection, self._path)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> "SqliteReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def location(self) -> str:
        return self._path

    def head(self, stream: str) -> Head | None:
        """The head of a stream; None when there is no such stream."""
        return self._read(queries.head(stream))

    def heads(self, query: HeadQuery) -> list[Head]:
        """The heads that match, newest first."""
        if query.cursor is not None:
            self._read(queries.known(query.cursor))
        return self._read(queries.heads(query))

    def read_stream(
        self, stream: str, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """The events of a stream after a version, in order."""
        return self._read(queries.stream_events(stream, after, limit))

    def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """The events of all streams after a position, in order."""
        return self._read(queries.all_events(after, limit))

    def get_blob(self, digest: str) -> bytes:
        """The blob with this hexadecimal SHA-256. Raises BlobNotFound."""
        return self._read(queries.blob(digest))

    def verify(self, stream: str | None = None) -> list["Finding"]:
        """What is wrong with a stream, or with the whole journal; empty when all is well.

        `journal.hashing` says what can be found and what cannot.
        """
        # One snapshot, so that a commit meanwhile is not taken for damage.
        self._execute("BEGIN")
        try:
            return list(self._findings(stream))
        finally:
            self._execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def _findings(self, only: str | None) -> Iterator["Finding"]:
        for stream_id, stream in self._streams():
            if only is None or stream == only:
                yield from self._stream_findings(stream_id, stream)
        if only is None:
            yield from self._journal_findings()

    def _streams(self) -> list[tuple[int, str]]:
        return [(row[0], row[1]) for row in self._fetch(_STREAMS)]

    def _stream_findings(self, stream_id: int, stream: str) -> Iterator["Finding"]:
        from journal.hashing import Finding, verify_stream

        version = 0

        def events() -> Iterator[RecordedEvent]:
            nonlocal version
            for row in self._execute(_RAW_EVENTS, (stream_id,)):
                version = row[0]
                yield queries.raw_event(stream, row)

        try:
            yield from verify_stream(events(), head=self._read(queries.raw_head(stream_id)))
        except (JournalError, sqlite3.Error, TypeError) as error:
            yield Finding(stream, version + 1, "unreadable", str(error))

    def _journal_findings(self) -> Iterator["Finding"]:
        from journal.hashing import Finding

        try:
            for stream_id, version, count in self._execute(_ORPHANS):
                what = f"the head of these {count} events is gone"
                yield Finding(f"(number {stream_id})", version, "missing", what)
            for position, before in self._execute(_GAPS):
                what = f"the events at the positions {before + 1} to {position - 1} are gone"
                yield Finding("(unknown)", 0, "missing", what)
            for (problem,) in self._execute(_INTEGRITY):
                if problem != "ok":
                    yield Finding("(database)", 0, "unreadable", problem)
        except (JournalError, sqlite3.Error) as error:
            yield Finding("(unknown)", 0, "unreadable", str(error))

    def _read(self, query: Query[T]) -> T:
        try:
            rows = self._fetch(query.statement, query.parameters)
        except UnicodeEncodeError:
            rows = []  # what cannot be stored is not there
        return query.meaning(rows)

    def _fetch(self, statement: str, parameters: Any = ()) -> list[queries.Row]:
        try:
            return self._execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    def _execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, parameters)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
