"""A transaction of the journal's own file: the caller's writes and one append, in one commit."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable

from journal.backends.sqlite.committer import Committer
from journal.backends.sqlite.connections import connect, patiently
from journal.backends.sqlite.failures import translated
from journal.backends.sqlite.guarded import SqliteTransaction
from journal.backends.sqlite.transaction import PreparedAppend
from journal.errors import WrongExpectedVersion
from journal.records import Append, Appended

OWN_TABLES = ("heads", "events", "blobs", "settlements", "event_keys", "indexed")


class SharedTransaction(SqliteTransaction):
    """Others of this process wait for it in the committer, those of other processes for the file.

    On a connection of its own, which settings and temporary tables of the caller's die with.
    """

    def __init__(
        self,
        path: str,
        committer: Committer,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        entering: Callable[[], None],
        leaving: Callable[[bool], None],
    ) -> None:
        super().__init__(path, OWN_TABLES)
        self._committer = committer
        self._loop = loop
        self._seconds = seconds
        self._entering = entering
        self._leaving = leaving
        self._committed = False
        self._limit: asyncio.TimerHandle | None = None

    def append(self, append: Append, /) -> Appended:
        """As the port says."""
        prepared = PreparedAppend(append)
        appended: list[Appended] = []
        with self._held():
            connection = self._begin_to_end()
            try:
                appended.append(self._committer.commit_with(connection, prepared))
            except WrongExpectedVersion:
                self._ending = False
                raise
            except sqlite3.Error as error:
                self._end("its append has failed", connection)
                raise translated(error, self._path) from error
            except BaseException:
                self._end("its append was refused", connection)
                raise
            self._committed = True
            self._end_committed()
        return appended[0]

    def open(self) -> sqlite3.Connection:
        self._entering()
        try:
            self._committer.borrow()
            try:
                connection = self._begin()
            except BaseException:
                self._committer.give_back()
                raise
        except BaseException:
            self._leaving(False)
            raise
        self._call_on_loop(self._start_limit)
        return connection

    def closed(self) -> None:
        self._call_on_loop(self._stop_limit)
        self._committer.give_back()
        self._leaving(self._committed)

    def _begin(self) -> sqlite3.Connection:
        connection = connect(self._path, "mode=rw")
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        except BaseException:
            connection.close()
            raise
        return connection

    def _start_limit(self) -> None:
        self._limit = self._loop.call_later(self._seconds, self._too_long)

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _too_long(self) -> None:
        self.abandon(
            f"nobody else could write to {self._path} for {self._seconds:g} s, so it was rolled "
            "back. Do what takes time before the first statement, or in another checkpoint"
        )

    def _call_on_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)
