"""Moves the write-ahead log into the database, safely, when it has grown.

SQLite before 3.51.3 can lose acknowledged commits when one connection checkpoints the log while
another starts it anew. Nobody starts it anew without the write lock: so the only checkpoint is
taken by a second connection while the first one holds that lock, and no connection checkpoints by
itself.
"""

import os
import sqlite3

from journal.backends.sqlite.connections import connect, patiently

DUE_BYTES = 4 * 1024 * 1024
_BYTES_PER_COMMIT = 3 * 4096
_COMMITS_PER_LOOK = 32


class Checkpoints:
    """Knows when a checkpoint is due and takes it."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Beside the file itself, where the path leads through a link.
        self._log = f"{os.path.realpath(path)}-wal"
        self._connection: sqlite3.Connection | None = None
        # What earlier processes left counts too, or the log would grow from crash to crash.
        self._written = self._log_bytes()
        self._log_bytes_then = 0
        self._commits = 0

    @property
    def anything_written(self) -> bool:
        return self._written > 0

    @property
    def are_due(self) -> bool:
        return self._written >= DUE_BYTES

    def note_commit(self, payload_bytes: int) -> None:
        """Counts what this process wrote, by an estimate, and now and then what others did.

        The log's size alone does not say when: the file keeps its size when it is started anew.
        """
        self._written += payload_bytes + _BYTES_PER_COMMIT
        self._commits += 1
        if self._commits % _COMMITS_PER_LOOK == 0:
            self._written = max(self._written, self._log_bytes() - self._log_bytes_then)

    def take(self, writer: sqlite3.Connection) -> bool:
        """With the writer's lock held; False when readers kept a part from being done."""
        # Should it fail, the next one is due after some more writing, not after every commit.
        self._written = min(self._written, DUE_BYTES * 3 // 4)
        if self._connection is None:
            self._connection = connect(self._path, "mode=rw")
        patiently(lambda: writer.execute("BEGIN IMMEDIATE"), 1.0)
        try:
            row = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            writer.execute("COMMIT")
        self._written = 0
        self._log_bytes_then = self._log_bytes()
        busy, in_log, moved = row
        return bool(busy == 0 and in_log == moved)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _log_bytes(self) -> int:
        try:
            return os.stat(self._log).st_size
        except OSError:
            return 0
