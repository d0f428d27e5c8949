"""Opens SQLite connections, each with the settings that durability needs."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from journal.backends.sqlite.failures import is_busy, primary_code, translated
from journal.errors import JournalReadOnly, JournalUnavailable
from journal.migrations import migrate, newest_schema, schema_of

MIGRATIONS = os.path.join(os.path.dirname(__file__), "migrations")

BUSY_SECONDS = 10.0
"""How long to wait for another process's write."""

_SETTINGS = (
    # FULL, always: an acknowledged commit survives a loss of power.
    "PRAGMA synchronous = FULL",
    # A checkpoint beside a write can lose commits in SQLite before 3.51.3: see checkpoints.py.
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA trusted_schema = OFF",
)

T = TypeVar("T")


def patiently(action: Callable[[], T], seconds: float = BUSY_SECONDS) -> T:
    """Tries until the database is not busy. SQLite's own waiting sleeps in steps that are too long
    for many writers, and does not wait at all where a lock is being upgraded."""
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        # The clock's last digits spread the writers as well as chance would.
        time.sleep(pause * (0.5 + time.perf_counter_ns() % 1000 / 1000))
        pause = min(pause * 1.5, 0.005)


def prepare_file(path: str) -> None:
    """Makes the file and its folder where they are missing, for their owner alone."""
    if os.path.lexists(path):
        return
    try:
        folder = os.path.dirname(os.path.abspath(path))
        _make_folder(folder)
        # Never opened otherwise: closing any descriptor of a database drops SQLite's locks on it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _sync_folder(folder)
    except FileExistsError:
        return  # another process was faster, and may be at work in it
    except OSError as error:
        raise JournalUnavailable(
            f"no journal can be made at {path} ({error.strerror}): name another place"
        ) from error


def _make_folder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _make_folder(parent)
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.mkdir(folder, 0o700)
    _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: str, mode: str, *, timeout: float = 0) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time, and that never checkpoints by itself."""
    connection = sqlite3.connect(
        f"file:{_quoted(path)}?{mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=timeout,
    )
    try:
        for setting in _SETTINGS:
            # Even a setting reads the file, which another process may be creating.
            patiently(partial(connection.execute, setting))
    except BaseException:
        connection.close()
        raise
    return connection


def connect_writer(path: str) -> sqlite3.Connection:
    """A connection to an up-to-date journal; brings an older or empty one up to date first.

    Raises JournalReadOnly where SQLite cannot even make its own files beside it.
    """
    try:
        return _connect_writer(path)
    except sqlite3.OperationalError as error:
        if primary_code(error) == sqlite3.SQLITE_CANTOPEN and _is_read_only(path):
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY
            raise translated(error, path) from error
        raise


def _connect_writer(path: str) -> sqlite3.Connection:
    connection = connect(path, "mode=rw")
    try:
        supported = newest_schema(MIGRATIONS)
        schema = patiently(lambda: schema_of(connection, path, supported))
        if patiently(lambda: _journal_mode(connection)) != "wal":
            patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
        if schema < supported:
            patiently(lambda: _migrate(connection, path))
        patiently(lambda: connection.execute("PRAGMA cache_size = -8192"))
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: str, *, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A read-only connection, also where nothing may be written, not even SQLite's own files."""
    try:
        return _readable(connect(path, "mode=ro", timeout=timeout))
    except sqlite3.OperationalError as error:
        if not _may_be_immutable(path, error):
            raise
    return _readable(connect(path, "mode=ro&immutable=1"))


def check_schema(connection: sqlite3.Connection, path: str) -> None:
    """Raises what is wrong with a journal that is only to be read."""
    supported = newest_schema(MIGRATIONS)
    schema = schema_of(connection, path, supported)
    if schema == 0:
        raise JournalUnavailable(f"the journal at {path} is empty: nothing was ever written to it")
    if schema < supported:
        raise JournalReadOnly(
            f"the journal at {path} has schema {schema} and must be brought to {supported}: open "
            "it once for writing"
        )


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrate(connection, MIGRATIONS, path)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _journal_mode(connection: sqlite3.Connection) -> str:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def _readable(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _may_be_immutable(path: str, error: sqlite3.Error) -> bool:
    """Whether nobody can be writing: no log beside the file, and no right to make one."""
    if primary_code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return False
    log = f"{os.path.realpath(path)}-wal"
    is_empty = not os.path.exists(log) or os.path.getsize(log) == 0
    return is_empty and os.access(path, os.R_OK)


def _is_read_only(path: str) -> bool:
    folder = os.path.dirname(os.path.abspath(path))
    writable = os.access(path, os.W_OK) and os.access(folder, os.W_OK)
    return os.access(path, os.R_OK) and not writable


def _quoted(path: str) -> str:
    # A path that begins with two slashes would be read as a host.
    absolute = os.path.abspath(path)
    return "/" + "".join(_ESCAPES.get(c, c) for c in absolute).lstrip("/")


_ESCAPES = {"%": "%25", "?": "%3f", "#": "%23"}


def opening_error(error: sqlite3.Error, path: str) -> Exception:
    """What a failed opening means."""
    if not os.path.exists(path):
        return JournalUnavailable(f"there is no journal at {path}")
    return translated(error, path)
