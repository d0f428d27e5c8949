"""The journal in one SQLite file."""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import aiosqlite

from journal.backends.sqlite import queries
from journal.backends.sqlite.committer import Committer, closed
from journal.backends.sqlite.connections import check_schema, connect_reader, prepare_file
from journal.backends.sqlite.failures import translated
from journal.backends.sqlite.finder import Finder
from journal.backends.sqlite.forking import abandon_in_children
from journal.backends.sqlite.queries import Query
from journal.backends.sqlite.reader import SqliteReader
from journal.backends.sqlite.shared import SharedTransaction
from journal.backends.sqlite.transaction import PreparedAdoption, PreparedAppend
from journal.backends.sqlite.work import Action, Work
from journal.clock import Clock, system_clock
from journal.errors import JournalClosed, JournalError, JournalReadOnly
from journal.journal import AppendDone, FindDone, Watcher
from journal.records import (
    Adoption,
    Append,
    Appended,
    ClaimQuery,
    Head,
    HeadQuery,
    KeyQuery,
    Lease,
    RecordedEvent,
)
from journal.rules import check_claim_query, check_key_query, check_seconds
from journal.watchers import Watchers

T = TypeVar("T")

_LOOK_SECONDS = 0.02
_GATHERED_AT_MOST = 128
"""How much waits for the end of the pass of the loop before the writer thread is given it."""
_BLOBS_OFF_THE_LOOP_BYTES = 256 * 1024


class SqliteJournal:
    """A journal in one file; one process or many, each with its own object."""

    def __init__(self, path: str, clock: Clock | None = None) -> None:
        self._path = os.path.abspath(path)
        self._clock = clock or system_clock
        self._loop = asyncio.get_running_loop()
        self._watchers = Watchers(self._loop)
        self._committer = Committer(self._path, self._clock, self._watchers.publish)
        self._finder = Finder(self._path)
        self._asked: list[tuple[KeyQuery, FindDone]] = []
        self._gathered: list[Work[Any]] = []
        self._reader: aiosqlite.Connection | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._refusal: JournalClosed | None = None
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, path: str, *, clock: Clock | None = None) -> "SqliteJournal":
        """Opens the file, made where it is missing, and brings it to this version's schema."""
        journal = cls(path, clock)
        await _off_the_loop(journal._open_file)
        abandon_in_children(journal)
        return journal

    @property
    def location(self) -> str:
        return self._path

    def now(self) -> int:
        return self._clock()

    async def append(self, append: Append, /) -> Appended:
        """As the port says. A caller that is cancelled while it waits may have been written."""
        self._refuse_when_closed()
        if sum(map(len, append.blobs)) > _BLOBS_OFF_THE_LOOP_BYTES:
            prepared = await _off_the_loop(partial(PreparedAppend, append))
            self._refuse_when_closed()
        else:
            prepared = PreparedAppend(append)
        return await self._submit(prepared)

    def append_soon(self, append: Append, done: AppendDone, /) -> None:
        self._refuse_when_closed()
        if append.blobs and sum(map(len, append.blobs)) > _BLOBS_OFF_THE_LOOP_BYTES:
            task = self._loop.create_task(self.append(append))
            task.add_done_callback(partial(_tell_of_task, done))
            return
        prepared = PreparedAppend(append)
        # Called itself, not through a future: there is one of these for every event of a fan-out.
        prepared.told = done
        self._gather(prepared)

    def append_blocking(self, append: Append, /) -> Appended:
        self._refuse_when_closed()
        return self._committer.commit_blocking(PreparedAppend(append))

    async def adopt(self, adoption: Adoption, /) -> tuple[RecordedEvent, ...]:
        self._refuse_when_closed()
        prepared = await _off_the_loop(partial(PreparedAdoption, adoption))
        self._refuse_when_closed()
        return await self._submit(prepared)

    def shares_store_with(self, location: str, /) -> bool:
        try:
            return os.path.samefile(location, self._path)
        except OSError:
            return os.path.realpath(location) == os.path.realpath(self._path)

    def transaction(
        self,
        *,
        seconds: float,
        entering: Callable[[], None],
        leaving: Callable[[bool], None],
    ) -> SharedTransaction:
        self._refuse_when_closed()
        return SharedTransaction(
            self._path, self._committer, self._loop, seconds, entering, leaving
        )

    async def read_stream(
        self, stream: str, /, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        return await self._read(queries.stream_events(stream, after, limit))

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        return await self._read(queries.all_events(after, limit))

    async def heads(self, query: HeadQuery, /) -> list[Head]:
        if query.cursor is not None:
            await self._read(queries.known(query.cursor))
        return await self._read(queries.heads(query))

    def head_blocking(self, stream: str, /) -> Head | None:
        self._refuse_when_closed()
        with SqliteReader(self._path) as reader:
            return reader.head(stream)

    async def head(self, stream: str, /) -> Head | None:
        return await self._read(queries.head(stream))

    def find_blocking(self, query: KeyQuery, /) -> dict[int, RecordedEvent]:
        self._refuse_when_closed()
        check_key_query(query)
        return self._finder.find(query)

    def find_soon(self, query: KeyQuery, done: FindDone, /) -> None:
        self._refuse_when_closed()
        check_key_query(query)
        self._asked.append((query, done))
        if len(self._asked) == 1:
            self._loop.call_soon(self._find_asked)

    def _find_asked(self) -> None:
        """Answers what was asked in one pass of the loop, from one snapshot of the file.

        On the loop itself: a hop to a thread costs ten times as much as the reads.
        """
        asked, self._asked = self._asked, []
        try:
            self._refuse_when_closed()
            answers = self._finder.find_all([query for query, _ in asked])
        except JournalError as error:
            for _, done in asked:
                self._call(partial(done, None, error))
        else:
            for (_, done), found in zip(asked, answers, strict=True):
                self._call(partial(done, found, None))

    def _call(self, done: Callable[[], object]) -> None:
        try:
            done()
        except Exception as error:  # one caller's mistake must not leave the others waiting
            context = {"message": "a callback of find_soon failed", "exception": error}
            self._loop.call_exception_handler(context)

    async def claim(self, query: ClaimQuery, /) -> list[tuple[Head, Lease]]:
        self._refuse_when_closed()
        check_claim_query(query)
        # What is on its way into the journal counts too: only a transaction comes after it.
        if not self._gathered and not self._committer.is_busy and not await self._has_due(query):
            return []
        return await self._submit(Action(lambda transaction: transaction.claim(query)))

    async def _has_due(self, query: ClaimQuery) -> bool:
        for each in queries.is_any_claimable(query, self._clock()):
            if await self._read(each):
                return True
        return False

    def renew_blocking(self, leases: Sequence[Lease], seconds: float, /) -> list[Lease]:
        # On the write connection, not on one of its own: a commit of another connection would make
        # the committer forget the streams' ends at every heartbeat.
        self._refuse_when_closed()
        check_seconds(seconds)
        return self._committer.commit_blocking(
            Action(lambda transaction: transaction.renew(leases, seconds))
        )

    async def release(self, lease: Lease, /) -> None:
        self._refuse_when_closed()
        await self._submit(Action(lambda transaction: transaction.release(lease)))

    async def get_blob(self, digest: str, /) -> bytes:
        return await self._read(queries.blob(digest))

    def watch(self, stream: str | None, watcher: Watcher, /) -> Callable[[], None]:
        self._refuse_when_closed()
        stop = self._watchers.add(stream, watcher)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        return stop

    async def close(self) -> None:
        """Waits for running commits; leaves neither thread nor connection behind."""
        if self._closing is None and self._refusal is not None:
            return None  # a forked child: nothing here is its own
        if self._closing is not None:
            return await asyncio.shield(self._closing)
        self._closing = self._loop.create_future()
        try:
            await self._close()
        finally:
            self._closing.set_result(None)

    def abandon(self) -> list[object]:
        """In a forked child: unusable from now on, and nothing of it is to be finalized."""
        self._refusal = JournalClosed(
            f"the journal at {self._path} was opened before a fork and belongs to the parent "
            "process: open it anew in the child"
        )
        self._committer.abandon()
        return [self, self._reader, *self._finder.held(), *self._committer.held()]

    # Writing.

    def _submit(self, work: Work[T]) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        work.told = partial(_settle, future)
        self._gather(work)
        return future

    def _gather(self, work: Work[Any]) -> None:
        """Gathers what is written in one pass of the loop, for one transaction.

        Of much, the first part is given to the writer thread at once, so that it writes while the
        loop still makes the rest.
        """
        self._gathered.append(work)
        if len(self._gathered) == 1:
            self._loop.call_soon(self._commit_gathered)
        elif len(self._gathered) >= _GATHERED_AT_MOST:
            self._commit_gathered()

    def _commit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        if len(gathered) == 1 and self._committer.commit_here(gathered[0], on_loop=True):
            self._hand_over(gathered)
            return
        done = partial(self._call_on_loop, partial(self._hand_over, gathered))
        try:
            self._committer.queue(gathered, done)
        except JournalClosed as error:
            for work in gathered:
                work.error = error
            self._hand_over(gathered)

    def _hand_over(self, works: Sequence[Work[Any]]) -> None:
        for work in works:
            try:
                work.tell()
            except Exception as error:  # one caller's mistake must not leave the others waiting
                context = {"message": "a callback of append_soon failed", "exception": error}
                self._loop.call_exception_handler(context)

    def _call_on_loop(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(callback)

    # Reading.

    async def _read(self, query: Query[T]) -> T:
        self._refuse_when_closed()
        try:
            reader = self._reader or await self._open_reader()
            found = await reader.execute_fetchall(query.statement, query.parameters)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        except UnicodeEncodeError:
            found = []  # what cannot be stored is not there
        except ValueError:
            self._refuse_when_closed()
            raise
        return query.meaning(cast("list[queries.Row]", found))

    async def _open_reader(self) -> aiosqlite.Connection:
        if self._opening is None:
            self._opening = self._loop.create_task(self._opened_reader())
            self._opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Whoever asked first may give up: others wait for it, too, and `_close` has to end it.
        return await asyncio.shield(self._opening)

    async def _opened_reader(self) -> aiosqlite.Connection:
        try:
            reader = aiosqlite.Connection(partial(connect_reader, self._path), 64)
            # Not a daemon by default since 0.22, and without a public way to make it one: a
            # process that forgets to close the journal would never end.
            reader._thread.daemon = True
            self._reader = await reader
            return self._reader
        finally:
            self._opening = None

    # Opening, watching, closing.

    def _open_file(self) -> None:
        prepare_file(self._path)
        try:
            self._committer.open()
        except JournalReadOnly:
            # To be read it need not be written.
            connection = connect_reader(self._path)
            try:
                check_schema(connection, self._path)
            finally:
                connection.close()

    def _look(self) -> None:
        """Looks for other processes' commits, while anybody watches."""
        self._looking = None
        if self._watchers and self._refusal is None:
            self._committer.look_for_foreign_commits()
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    async def _close(self) -> None:
        self._commit_gathered()
        self._refusal = closed(self._path)
        self._watchers.publish(())
        if self._looking is not None:
            self._looking.cancel()
        # First: the connection that is closed last removes the log.
        self._finder.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._reader is not None:
            reader_thread = self._reader._thread
            await self._reader.close()
            reader_thread.join()
        ended = self._loop.create_future()
        thread = self._committer.close(partial(self._call_on_loop, partial(ended.set_result, None)))
        if thread is not None:
            await ended
            thread.join()

    def _refuse_when_closed(self) -> None:
        if self._refusal is not None:
            # A new one each time: an exception collects the tracebacks of those who raise it.
            raise type(self._refusal)(*self._refusal.args)


async def _off_the_loop(action: Callable[[], T]) -> T:
    """Runs in a thread that ends with it: the loop's pool would stay behind.

    Where no thread can be started (see `Committer`), it runs here.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", value))
        else:
            future.set_exception(error)

    def run() -> None:
        value, failure = None, None
        try:
            value = action()
        except BaseException as error:  # handed to whoever waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, value, failure)

    try:
        threading.Thread(target=run, name="journal-opener", daemon=True).start()
    except RuntimeError:
        # There is none to be had: slower for the loop, and no reason to lose what it is for.
        run()
    return await future


def _settle(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _tell_of_task(done: AppendDone, task: "asyncio.Task[Appended]") -> None:
    if task.cancelled():  # the loop is being shut down
        done(None, JournalClosed("the event loop ended before the append had an outcome"))
    elif (error := task.exception()) is not None:
        done(None, error)
    else:
        done(task.result(), None)
