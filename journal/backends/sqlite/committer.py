"""Who commits, and when: one write connection, one lock, groups that form while a commit runs."""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from journal.backends.sqlite.checkpoints import Checkpoints
from journal.backends.sqlite.connections import BUSY_SECONDS, connect_writer, patiently
from journal.backends.sqlite.failures import (
    is_busy,
    is_of_the_store,
    primary_code,
    translated,
)
from journal.backends.sqlite.transaction import Ends, PreparedAppend, Transaction
from journal.backends.sqlite.work import Work
from journal.clock import Clock
from journal.errors import (
    CommitOutcomeUnknown,
    CommitRefused,
    JournalClosed,
    JournalError,
)
from journal.records import Appended, RecordedEvent

T = TypeVar("T")

Connect = Callable[[str], sqlite3.Connection]

_QUICK_SECONDS = 0.001
_MOST_IN_A_GROUP = 4096
_SETTLE = "UPDATE settlements SET settled = settled + 1"


class _Batch:
    """Work that was handed to the writer thread together, and whom to tell."""

    __slots__ = ("done", "works")

    def __init__(self, works: Sequence[Work[Any]], done: Callable[[], None]) -> None:
        self.works = works
        self.done = done


class Committer:
    """Commits work for every thread. Which thread does it is decided in `commit_here` alone.

    A lone piece of work is committed by whoever brings it: a hop to another thread costs as much as
    half an fsync. What comes while a commit runs waits for the writer thread, which takes all of it
    into the next transaction.
    """

    def __init__(
        self,
        path: str,
        clock: Clock,
        publish: Callable[[Sequence[RecordedEvent]], None],
        *,
        connect: Connect = connect_writer,
    ) -> None:
        self._path = path
        self._clock = clock
        self._publish = publish
        self._connect = connect
        self._ends = Ends()
        self._lock = threading.Lock()
        self._gate = threading.Condition()
        self._queue: deque[_Batch] = deque()
        self._outstanding = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._commit_seconds = 0.0
        self._data_version = 0
        self._connection: sqlite3.Connection | None = None
        self._checkpoints = Checkpoints(path)

    @property
    def is_busy(self) -> bool:
        """Whether the writer thread has something that is not committed yet."""
        return self._outstanding > 0

    def open(self) -> None:
        """Opens the file and brings it up to date; otherwise the first commit does."""
        with self._lock:
            self._open()

    def commit_here(self, work: Work[Any], *, on_loop: bool = False) -> bool:
        """Commits on this thread when nobody else is at it; False: nothing was done, queue it.

        The event loop does so only where commits are quick, and never waits for another process.
        """
        if self._outstanding or (on_loop and self._commit_seconds > _QUICK_SECONDS):
            return False
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._closed or (on_loop and self._connection is None):
                return False
            self._commit((work,), 0.0 if on_loop else BUSY_SECONDS)
        except _StillBusy as error:
            if on_loop:
                return False
            work.error = error.meaning
        finally:
            self._lock.release()
        if self._checkpoints.are_due:
            self._checkpoint_later()
        return True

    def commit_blocking(self, work: Work[T]) -> T:
        """From any thread; returns what came of the work once it is durable."""
        if not self.commit_here(work):
            finished = threading.Lock()
            finished.acquire()
            self.queue((work,), finished.release)
            finished.acquire()
        return work.result()

    def queue(self, works: Sequence[Work[Any]], done: Callable[[], None]) -> None:
        """Leaves work to the writer thread, which calls `done` when all of it has an outcome."""
        with self._gate:
            if self._closed:
                raise closed(self._path)
            self._hand_to_writer(_Batch(works, done))
        self._write_without_writer()

    def borrow(self) -> None:
        """Takes the lock: what is committed here waits until somebody calls `give_back`."""
        self._lock.acquire()
        if self._closed:
            self._lock.release()
            raise closed(self._path)

    def give_back(self) -> None:
        """Gives the borrowed lock back, from any thread."""
        self._lock.release()
        if self._checkpoints.are_due:
            self._checkpoint_later()

    def commit_with(self, connection: sqlite3.Connection, prepared: PreparedAppend) -> Appended:
        """Appends in another connection's transaction and commits it, with the lock borrowed.

        After a refusal the transaction is as it was. Raises CommitRefused for constraints of the
        tables that are not the journal's; when its commit fails, the connection must be closed.
        """
        transaction = Transaction(connection, Ends(), self._clock())
        appended = transaction.append(prepared)
        transaction.flush()
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if primary_code(error) == sqlite3.SQLITE_CONSTRAINT:
                raise CommitRefused(str(error)) from error
            if primary_code(error) == sqlite3.SQLITE_FULL:
                raise translated(error, self._path) from error
            connection.close()
            self._settle_failed(transaction, error)
        self._publish(transaction.events)
        self._checkpoints.note_commit(prepared.size)
        return appended

    def look_for_foreign_commits(self) -> None:
        """Publishes a hint when another connection has committed since anybody looked."""
        # A commit that runs looks for itself.
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None and not self._closed:
                    self._notice(self._connection)
            except sqlite3.Error:
                pass  # whoever reads or writes next is told
            finally:
                self._lock.release()

    def close(self, done: Callable[[], None]) -> threading.Thread | None:
        """Ends after what is queued; the thread that is returned calls `done` and ends itself.

        None: it has ended. That is so when it was closed before, and where there is no writer.
        """
        with self._gate:
            if self._closed:
                return None
            self._closed = True
            self._hand_to_writer(_Batch((), done))
        self._write_without_writer()
        return self._thread

    def held(self) -> list[object]:
        """What a forked child must neither use nor close."""
        return [self, self._connection, self._checkpoints]

    def abandon(self) -> None:
        """In a forked child: the parent goes on, and its locks and threads are not ours."""
        self._closed = True

    # The writer thread.

    def _hand_to_writer(self, batch: _Batch) -> None:
        """Queues a batch; with the gate held."""
        self._queue.append(batch)
        self._outstanding += 1
        if self._thread is None:
            # A daemon: a process that forgets to close must end nevertheless.
            thread = threading.Thread(target=self._write, name="journal-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The process may have no more; Python 3.12 starts none while it shuts down.
                return
            self._thread = thread
        self._gate.notify()

    def _write_without_writer(self) -> None:
        """Where no thread can be started, whoever brings work does it."""
        while self._thread is None and self._queue:
            self._write_queued()

    def _write(self) -> None:
        ending = False
        while not ending:
            with self._gate:
                while not self._queue:
                    self._gate.wait()
            ending = self._write_queued()

    def _write_queued(self) -> bool:
        """Commits what is queued; True when nothing can come after it."""
        with self._gate:
            batches = self._next_batches()
            ending = self._closed and not self._queue
        if not batches:
            # Another that has no writer was faster; it ends what there is to end.
            return False
        self._finish(batches, ending)
        with self._gate:
            self._outstanding -= len(batches)
        while batches:
            # Not kept until the next group comes: it may hold much that is done with.
            batches.pop(0).done()
        return ending

    def _next_batches(self) -> list[_Batch]:
        batches: list[_Batch] = []
        size = 0
        while self._queue and size < _MOST_IN_A_GROUP:
            batches.append(self._queue.popleft())
            size += len(batches[-1].works)
        return batches

    def _finish(self, batches: list[_Batch], ending: bool) -> None:
        works = [work for batch in batches for work in batch.works]
        with self._lock:
            try:
                if works:
                    self._commit(works, BUSY_SECONDS)
            except _StillBusy as error:
                _fail(works, error.meaning)
            except BaseException as error:  # whoever waits must be woken
                _fail(works, error)
            if self._checkpoints.are_due or (ending and self._checkpoints.anything_written):
                self._checkpoint()
            if ending:
                self._close_connections()

    # With the lock held.

    def _commit(self, works: Sequence[Work[Any]], patience: float) -> None:
        started = time.perf_counter()
        connection = self._begin(works, patience)
        if connection is None:
            return
        try:
            self._notice(connection)
            transaction = Transaction(connection, self._ends, self._clock())
            for work in works:
                work.run(transaction)
            transaction.flush()
        except BaseException as error:
            self._undo(connection)
            if not isinstance(error, Exception):
                raise
            self._failed_before_commit(works, error, patience)
            return
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed_commit(works, transaction, error)
            return
        if transaction.events or transaction.hint:
            self._publish(transaction.events)
        self._checkpoints.note_commit(transaction.size)
        if len(works) == 1:
            self._commit_seconds += (time.perf_counter() - started - self._commit_seconds) * 0.2

    def _begin(self, works: Sequence[Work[Any]], patience: float) -> sqlite3.Connection | None:
        """The connection inside a new transaction; None when that failed and the works know it."""
        try:
            connection = self._connection or self._open()
            if connection.in_transaction:  # a Ctrl-C came between two statements
                self._undo(connection)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                patiently(lambda: connection.execute("BEGIN IMMEDIATE"), patience)
        except sqlite3.Error as error:
            if is_busy(error):
                raise _StillBusy(translated(error, self._path)) from error
            self._drop_after(error)
            _fail(works, translated(error, self._path))
            return None
        except JournalError as error:
            _fail(works, error)
            return None
        return connection

    def _failed_before_commit(
        self, works: Sequence[Work[Any]], error: Exception, patience: float
    ) -> None:
        """Nothing was written: the store cannot, or one of the works could not be."""
        if isinstance(error, sqlite3.Error) and is_of_the_store(error):
            self._drop_after(error)
            _fail(works, translated(error, self._path))
        elif len(works) == 1:
            wrong = translated(error, self._path) if isinstance(error, sqlite3.Error) else error
            _fail(works, wrong)
        else:
            for work in works:
                self._commit_alone(work, patience)

    def _commit_alone(self, work: Work[Any], patience: float) -> None:
        try:
            self._commit((work,), patience)
        except _StillBusy as error:
            work.error = error.meaning

    def _failed_commit(
        self, works: Sequence[Work[Any]], transaction: Transaction, error: sqlite3.Error
    ) -> None:
        """A failed commit is unknown, not undone: open anew, read back, and only then answer."""
        if primary_code(error) == sqlite3.SQLITE_FULL:
            # The commit's last frame did not fit: no recovery can take it for committed.
            assert self._connection is not None  # it has just failed
            self._undo(self._connection)
            _fail(works, translated(error, self._path))
            return
        try:
            self._settle_failed(transaction, error)
        except JournalError as outcome:
            _fail(works, outcome)
        else:
            self._publish(transaction.events)

    def _settle_failed(self, transaction: Transaction, error: sqlite3.Error) -> None:
        """Returns when the failed commit is there; raises that it is not, or is unknown."""
        self._drop()
        try:
            written = self._settle(transaction)
        except (sqlite3.Error, JournalError) as second:
            self._drop()
            raise _unknown(self._path, error, second) from second
        if not written:
            raise translated(error, self._path)

    def _settle(self, transaction: Transaction) -> bool:
        """Whether the transaction is there, made final.

        The commit of its own is what makes it so: an unfinished log may still hold the lost
        commit's frames, which a recovery would take for committed; the new commit is written over
        them. A commit that is there goes into the database file too: the log's fsync has failed.
        """
        connection = self._open()
        patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        written = False
        if transaction.evidence is not None:
            written = connection.execute(*transaction.evidence).fetchone() is not None
        connection.execute(_SETTLE)
        connection.execute("COMMIT")
        if written:
            self._checkpoints.take(connection)
        return written

    def _notice(self, connection: sqlite3.Connection) -> None:
        """Forgets the streams' ends when another connection has committed.

        SQLite's data version of a connection stays as it is over that connection's own commits.
        """
        (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self._ends.forget()
            self._publish(())
        self._ends.stay_small()

    def _undo(self, connection: sqlite3.Connection) -> None:
        self._ends.forget()
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop()

    def _open(self) -> sqlite3.Connection:
        self._ends.forget()
        try:
            connection = self._connect(self._path)
            (self._data_version,) = patiently(
                lambda: connection.execute("PRAGMA data_version").fetchone()
            )
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        self._connection = connection
        return connection

    def _drop_after(self, error: sqlite3.Error) -> None:
        if primary_code(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY):
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._ends.forget()
        try:
            if connection is not None:
                connection.close()
        except sqlite3.Error:
            pass  # it is given up because it failed

    def _checkpoint_later(self) -> None:
        with contextlib.suppress(JournalClosed):  # closing takes one
            self.queue((), _nobody)

    def _checkpoint(self) -> None:
        try:
            if self._connection is not None:
                self._checkpoints.take(self._connection)
        except sqlite3.Error:
            pass  # it is due still, and everything is in the log

    def _close_connections(self) -> None:
        self._checkpoints.close()
        self._drop()


class _StillBusy(Exception):
    """Another process writes; nothing was done."""

    def __init__(self, meaning: JournalError) -> None:
        super().__init__(str(meaning))
        self.meaning = meaning


def closed(path: str) -> JournalClosed:
    return JournalClosed(f"the journal at {path} was closed; open it anew")


def _fail(works: Sequence[Work[Any]], error: BaseException) -> None:
    for work in works:
        work.error = error


def _nobody() -> None:
    """Whom to tell of a checkpoint."""


def _unknown(path: str, first: Exception, second: Exception) -> CommitOutcomeUnknown:
    return CommitOutcomeUnknown(
        f"a commit to the journal at {path} failed ({first}), and reading back what came of it "
        f"failed too ({second}): see to the disk, then read the stream again before you repeat "
        "anything"
    )
