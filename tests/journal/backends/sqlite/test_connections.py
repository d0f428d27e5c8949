"""How files are made and opened: durable, patient, and leaving nothing open that failed."""

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal import JournalReadOnly, JournalUnavailable, NotAJournal
from journal.backends.sqlite import connections
from journal.backends.sqlite.connections import (
    BUSY_SECONDS,
    check_schema,
    connect,
    connect_reader,
    connect_writer,
    patiently,
    prepare_file,
)

BUSY = sqlite3.SQLITE_BUSY


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file that no journal was ever written to."""
    prepare_file(str(tmp_path / "journal.db"))
    return str(tmp_path / "journal.db")


def failure(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("made to fail")
    error.sqlite_errorcode = code
    return error


Opened = list[sqlite3.Connection]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Every connection that the test opens."""
    made: Opened = []

    class Noted(sqlite3.Connection):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            made.append(self)

    def noting(name: str, **options: object) -> sqlite3.Connection:
        return real(name, factory=Noted, **options)  # type: ignore[call-overload,no-any-return]

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", noting)
    yield made
    for connection in made:
        connection.close()


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018 - asking is what fails
    except sqlite3.ProgrammingError:
        return True
    return False


# Whoever waits for another process tries again and again, in short pauses, until its time is over.


class Time:
    """A clock that only sleeping moves, and a little each look at it."""

    def __init__(self, digits: int = 0, step: float = 0.0) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self._digits = digits
        self._step = step

    def monotonic(self) -> float:
        self.now += self._step
        return self.now

    def perf_counter_ns(self) -> int:
        return 77_000 + self._digits

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Busy:
    """Something that is busy so many times."""

    def __init__(self, times: int, code: int = BUSY) -> None:
        self.tries = 0
        self._times = times
        self._code = code

    def __call__(self) -> str:
        self.tries += 1
        if self.tries <= self._times:
            raise failure(self._code)
        return "done"


@pytest.mark.parametrize("digits", [0, 500, 999])
def test_pauses_begin_short_grow_slowly_and_stay_short(
    digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time(digits, step=1e-6)
    monkeypatch.setattr(connections, "time", time)
    action = Busy(30)
    assert patiently(action, 60.0) == "done"
    assert (action.tries, len(time.pauses)) == (31, 30)
    first, *_, last = time.pauses
    assert 0.000_05 < first < 0.000_5
    assert 0.002 < last < 0.01
    for before, after in zip(time.pauses, time.pauses[1:], strict=False):
        assert before <= after < 2 * before


def test_writers_that_wait_together_wake_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    woken = []
    for digits in (0, 250, 500, 750):
        time = Time(digits)
        monkeypatch.setattr(connections, "time", time)
        patiently(Busy(1), 60.0)
        woken.append(time.now)
    assert len(set(woken)) == 4


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(step=1e-6)
    monkeypatch.setattr(connections, "time", time)
    action = Busy(10**9)
    with pytest.raises(sqlite3.OperationalError, match="made to fail"):
        patiently(action, 0.5)
    assert 1000.5 <= time.now < 1000.52
    assert action.tries > 10


def test_without_any_patience_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the event loop, which never waits for another process."""
    time = Time()
    monkeypatch.setattr(connections, "time", time)
    action = Busy(5)
    with pytest.raises(sqlite3.OperationalError):
        patiently(action, 0.0)
    assert (action.tries, time.pauses) == (1, [])


def test_only_for_the_busy_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(connections, "time", time)
    action = Busy(5, sqlite3.SQLITE_IOERR)
    with pytest.raises(sqlite3.OperationalError):
        patiently(action)
    assert (action.tries, time.pauses) == (1, [])


# A file that is new is for its owner alone, and its name survives a loss of power.


def test_the_folder_of_whatever_is_new_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    descriptors: list[int] = []

    def fsync(descriptor: int) -> None:
        descriptors.append(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.umask(0)
    try:
        prepare_file(str(tmp_path / "a" / "b" / "journal.db"))
    finally:
        os.umask(before)
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert synced == [folder.stat().st_ino for folder in folders]
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    modes = [stat.S_IMODE(place.stat().st_mode) for place in folders[1:]]
    assert modes == [0o700, 0o700]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "journal.db").stat().st_mode) == 0o600


def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    """Were it a link to nowhere, somebody has put it there."""
    (tmp_path / "file").write_text("something")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        prepare_file(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "something"
    assert not (tmp_path / "nowhere").exists()


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the making, of the folder and of the file."""
    place = tmp_path / "new" / "journal.db"

    def mkdir(path: str, mode: int) -> None:
        real(path, mode)
        place.write_text("theirs")
        raise FileExistsError

    real = os.mkdir
    monkeypatch.setattr(os, "mkdir", mkdir)
    prepare_file(str(place))
    assert place.read_text() == "theirs"


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalUnavailable, match=r"journal\.db.*name another place"):
        prepare_file(str(tmp_path / "file" / "journal.db"))


# Each connection has the settings that durability needs; one that fails is not left open.


def setting(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_every_connection_has_its_settings(path: str) -> None:
    with closing(connect_writer(path)) as writer, closing(connect_reader(path)) as reader:
        for connection in (writer, reader):
            assert setting(connection, "synchronous") == 2
            assert setting(connection, "wal_autocheckpoint") == 0
            assert setting(connection, "trusted_schema") == 0
            assert connection.isolation_level is None
        assert setting(writer, "journal_mode") == "wal"
        assert setting(writer, "cache_size") == -8192
        # SQLite's own waiting is for those who read; who writes waits in shorter steps.
        assert setting(writer, "busy_timeout") == 0
        assert setting(reader, "busy_timeout") == BUSY_SECONDS * 1000
        with closing(connect_reader(path, timeout=0.25)) as hasty:
            assert setting(hasty, "busy_timeout") == 250


def test_any_thread_may_use_a_connection(path: str) -> None:
    seen: list[object] = []
    with closing(connect(path, "mode=rw")) as connection:
        thread = threading.Thread(target=lambda: seen.append(setting(connection, "synchronous")))
        thread.start()
        thread.join()
    assert seen == [2]


def test_one_whose_settings_fail_is_closed(
    path: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_SETTINGS", ("NO STATEMENT",))
    with pytest.raises(sqlite3.OperationalError):
        connect(path, "mode=rw")
    assert [is_closed(connection) for connection in opened] == [True]


def test_one_for_another_programs_file_is_closed(path: str, opened: Opened) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE notes (text)")
    opened.clear()
    with pytest.raises(NotAJournal):
        connect_writer(path)
    assert [is_closed(connection) for connection in opened] == [True]


def test_one_that_cannot_read_is_closed(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "journal.db"
    place.write_text("Dear diary, " * 500)
    for settings in (connections._SETTINGS, ()):  # which may be the first to read it, or not
        monkeypatch.setattr(connections, "_SETTINGS", settings)
        with pytest.raises(sqlite3.DatabaseError):
            connect_reader(str(place))
    assert [is_closed(connection) for connection in opened] == [True, True]


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/a/b.db", "/a/b.db"),
        ("//a/b.db", "/a/b.db"),
        ("/Xa/b.db", "/Xa/b.db"),
        ("/a?b#c%d.db", "/a%3fb%23c%25d.db"),
    ],
)
def test_a_path_is_written_as_a_uri(path: str, quoted: str) -> None:
    assert connections._quoted(path) == quoted


# A journal is brought up to date once, in one transaction, and opened without any from then on.


def test_opening_what_is_up_to_date_waits_for_nobody(path: str) -> None:
    connect_writer(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        before = holder.execute("PRAGMA data_version").fetchone()
        with closing(connect_writer(path)) as writer:
            check_schema(writer, path)
        holder.execute("ROLLBACK")
        assert holder.execute("PRAGMA data_version").fetchone() == before


def migrating(
    monkeypatch: pytest.MonkeyPatch, do: Callable[[sqlite3.Connection], None]
) -> sqlite3.Connection:
    def migrate(connection: sqlite3.Connection, folder: str, location: str) -> None:
        do(connection)

    monkeypatch.setattr(connections, "migrate", migrate)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE notes (text)")
    return connection


def test_of_many_who_open_a_new_file_one_brings_it_up_to_date(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def second(connection: sqlite3.Connection) -> None:
        with (
            closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        refused.append("the second")

    migrating(monkeypatch, second).close()
    connect_writer(path).close()
    assert refused == ["the second"]


def test_one_that_fails_on_the_way_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes VALUES ('half')")
        raise LookupError

    with closing(migrating(monkeypatch, fail)) as connection:
        with pytest.raises(LookupError):
            connections._migrate(connection, "memory")
        assert not connection.in_transaction
        assert connection.execute("SELECT * FROM notes").fetchall() == []


def test_one_that_sqlite_has_undone_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise LookupError

    with closing(migrating(monkeypatch, fail)) as connection, pytest.raises(LookupError):
        connections._migrate(connection, "memory")


# Where nothing may be written a journal can still be read, if nobody else can be writing.


def rights(monkeypatch: pytest.MonkeyPatch, held: dict[str, int]) -> None:
    """What this process may do with which places, whoever runs the test."""
    monkeypatch.setattr(os, "access", lambda place, wanted: bool(held[str(place)] & wanted))


NO, R, RW = 0, os.R_OK, os.R_OK | os.W_OK


@pytest.mark.parametrize(
    ("code", "log", "right", "may_be"),
    [
        (sqlite3.SQLITE_CANTOPEN, None, R, True),
        (sqlite3.SQLITE_READONLY_DIRECTORY, None, R, True),
        (sqlite3.SQLITE_CANTOPEN, b"", R, True),
        (sqlite3.SQLITE_CANTOPEN, b"x", R, False),
        (sqlite3.SQLITE_CANTOPEN, b"frames", R, False),
        (sqlite3.SQLITE_CANTOPEN, None, NO, False),
        (sqlite3.SQLITE_CANTOPEN, b"frames", NO, False),
        (sqlite3.SQLITE_IOERR, None, R, False),
        (BUSY, None, R, False),
    ],
)
def test_only_what_nobody_can_be_writing_is_read_without_a_lock(
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    log: bytes | None,
    right: int,
    may_be: bool,
) -> None:
    """What is in a log that cannot be opened would be left out, and nobody would be told."""
    if log is not None:
        Path(f"{path}-wal").write_bytes(log)
    rights(monkeypatch, {path: right})
    assert connections._may_be_immutable(path, failure(code)) is may_be


@pytest.mark.parametrize(
    ("file", "folder", "is_read_only"),
    [
        (RW, RW, False),
        (R, RW, True),
        (RW, R, True),
        (R, R, True),
        (NO, RW, False),
        (NO, R, False),
    ],
)
def test_a_file_or_a_folder_without_the_right_to_write_is_read_only(
    path: str, monkeypatch: pytest.MonkeyPatch, file: int, folder: int, is_read_only: bool
) -> None:
    rights(monkeypatch, {path: file, os.path.dirname(path): folder})
    assert connections._is_read_only(path) is is_read_only
    for code in (sqlite3.SQLITE_CANTOPEN, BUSY):

        def fail(_: str, code: int = code) -> sqlite3.Connection:
            raise failure(code)

        monkeypatch.setattr(connections, "_connect_writer", fail)
        told = is_read_only and code == sqlite3.SQLITE_CANTOPEN
        with pytest.raises(JournalReadOnly if told else sqlite3.OperationalError):
            connect_writer(path)
