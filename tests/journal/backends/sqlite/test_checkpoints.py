"""The log is moved into the database, only under the write lock, and never grows without end."""

import re
import sqlite3
from pathlib import Path
from typing import cast

import pytest

from journal import Append, HeadChange, NewEvent, open_journal, open_reader
from journal.backends.sqlite import checkpoints, connections
from journal.backends.sqlite.checkpoints import Checkpoints
from journal.backends.sqlite.connections import connect_reader, connect_writer
from journal.backends.sqlite.journal import SqliteJournal

PAYLOAD = b"x" * 20_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


def append(version: int) -> Append:
    head = HeadChange("running", "order", None) if version == 0 else None
    return Append("ex-1", (NewEvent("Happened", PAYLOAD),), version, head)


def size(path: str) -> int:
    return Path(path).stat().st_size


async def test_the_log_stays_small_however_much_is_written(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DUE_BYTES", 500_000)
    journal = await open_journal(path)
    sizes = []
    for version in range(300):
        await journal.append(append(version))
        sizes.append(size(f"{path}-wal"))
    await journal.close()
    assert max(sizes) < 2_000_000 < 300 * len(PAYLOAD)
    assert size(path) > 300 * len(PAYLOAD)
    with open_reader(path) as reader:
        assert reader.verify() == []


async def test_a_log_that_others_left_is_taken_over(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = await open_journal(path)
    for version in range(50):
        await holder.append(append(version))
    monkeypatch.setattr(checkpoints, "DUE_BYTES", 500_000)
    journal = cast("SqliteJournal", await open_journal(path))
    assert journal._committer._checkpoints.are_due
    await journal.append(append(50))
    await journal.close()
    assert not journal._committer._checkpoints.anything_written
    await holder.close()


def test_no_connection_checkpoints_by_itself(path: str) -> None:
    Path(path).touch()
    for connection in (connect_writer(path), connect_reader(path)):
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        connection.close()


def test_every_transaction_that_may_write_takes_the_lock_at_once() -> None:
    """One that takes it later fails at once where somebody else has written, however patient."""
    folder = Path(connections.__file__).parent
    only_read = {"reader.py", "finder.py"}
    deferred = [
        f"{file.name}: {line.strip()}"
        for file in folder.glob("*.py")
        if file.name not in only_read
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bBEGIN\b(?! IMMEDIATE)", line) and "execute" in line
    ]
    assert deferred == []


def test_a_checkpoint_is_taken_under_the_write_lock(path: str) -> None:
    Path(path).touch()
    writer, third = connect_writer(path), sqlite3.connect(path, isolation_level=None, timeout=0)
    taken = Checkpoints(path)
    seen: list[str] = []

    def trace(statement: str) -> None:
        if statement == "COMMIT":
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                third.execute("BEGIN IMMEDIATE")
        seen.append(statement)

    writer.set_trace_callback(trace)
    assert taken.take(writer)
    assert seen == ["BEGIN IMMEDIATE", "COMMIT"]
    third.execute("BEGIN IMMEDIATE")
    third.execute("ROLLBACK")
    taken.close()
    third.close()
    writer.close()


def test_a_reader_in_the_way_delays_a_checkpoint_and_breaks_nothing(path: str) -> None:
    Path(path).touch()
    writer, reader = connect_writer(path), connect_reader(path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchall()
    writer.execute("UPDATE settlements SET settled = 7")
    taken = Checkpoints(path)
    assert not taken.take(writer)
    reader.execute("COMMIT")
    assert taken.take(writer)
    taken.close()
    reader.close()
    writer.close()


@pytest.fixture
def counting(path: str, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """A new journal's, where 1,000 bytes are due, a commit counts for 100, and each third looks."""
    Path(path).touch()
    monkeypatch.setattr(checkpoints, "DUE_BYTES", 1_000)
    monkeypatch.setattr(checkpoints, "_BYTES_PER_COMMIT", 100)
    monkeypatch.setattr(checkpoints, "_COMMITS_PER_LOOK", 3)
    return Checkpoints(path)


def test_a_checkpoint_is_due_when_so_much_was_written(counting: Checkpoints) -> None:
    assert not counting.anything_written
    counting.note_commit(0)
    assert counting.anything_written
    assert not counting.are_due
    counting.note_commit(799)
    assert not counting.are_due
    other = Checkpoints(counting._path)
    other.note_commit(900)
    assert other.are_due


def test_one_byte_is_something(counting: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_BYTES_PER_COMMIT", 0)
    counting.note_commit(1)
    assert counting.anything_written


def test_what_others_wrote_is_looked_for_now_and_then(counting: Checkpoints) -> None:
    Path(counting._log).write_bytes(bytes(5_000))
    for _ in range(2):
        counting.note_commit(0)
        assert not counting.are_due
    counting.note_commit(0)
    assert counting.are_due
    Path(counting._log).unlink()


def test_after_a_checkpoint_only_what_is_new_counts(counting: Checkpoints) -> None:
    writer = connect_writer(counting._path)
    writer.execute("CREATE TABLE notes (text)")
    writer.executemany("INSERT INTO notes VALUES (?)", [("x" * 4_000,)] * 20)
    assert Path(counting._log).stat().st_size > 50_000
    counting.note_commit(5_000)
    assert counting.are_due
    assert counting.take(writer)
    assert not counting.anything_written
    # The log keeps its size: it is not counted again at every look.
    for _ in range(6):
        counting.note_commit(0)
        assert not counting.are_due
    counting.close()
    writer.close()


def test_one_that_fails_is_due_after_some_more_writing(counting: Checkpoints) -> None:
    writer = connect_writer(counting._path)
    counting.note_commit(50_000)
    writer.execute("BEGIN")  # so that beginning again fails
    with pytest.raises(sqlite3.OperationalError):
        counting.take(writer)
    writer.execute("ROLLBACK")
    assert counting.anything_written
    assert not counting.are_due
    counting.note_commit(100)
    assert not counting.are_due
    counting.note_commit(0)
    assert counting.are_due
    connection = counting._connection
    assert connection is not None
    assert counting.take(writer)
    assert counting._connection is connection
    counting.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    counting.close()
    assert counting.take(writer)
    counting.close()
    writer.close()


def test_a_log_that_is_there_counts_and_one_that_is_not_does_not(path: str) -> None:
    assert not Checkpoints(path).anything_written
    Path(f"{path}-wal").write_bytes(b"x")
    assert Checkpoints(path).anything_written


@pytest.mark.parametrize(
    ("told", "is_whole"),
    [((0, 7, 7), True), ((0, 7, 6), False), ((1, 7, 7), False), ((1, -1, -1), False)],
)
def test_one_that_was_in_anothers_way_is_not_taken_for_whole(
    counting: Checkpoints, told: tuple[int, int, int], is_whole: bool
) -> None:
    writer = connect_writer(counting._path)

    class Told:
        def execute(self, _: str) -> "Told":
            return self

        def fetchone(self) -> tuple[int, int, int]:
            return told

        def close(self) -> None:
            """Nothing is open."""

    counting._connection = cast("sqlite3.Connection", Told())
    assert counting.take(writer) is is_whole
    counting.close()
    writer.close()
