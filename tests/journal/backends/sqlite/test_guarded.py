"""A transaction in other hands: its statements can neither end nor evade it."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal import CommitRefused, SqliteTransaction, StatementRefused, TransactionOver
from journal.backends.sqlite import connections, guarded
from journal.backends.sqlite.connections import connect


@pytest.fixture
def path(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "own.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("CREATE TABLE guarded (text TEXT)")
    return str(tmp_path / "own.db")


@pytest.fixture
def transaction(path: str) -> Iterator[SqliteTransaction]:
    made = SqliteTransaction(path, ["Guarded"])
    yield made
    made.abandon("the test has ended")


def notes(path: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes")]


def test_it_is_there_after_the_commit_and_not_before(
    path: str, transaction: SqliteTransaction
) -> None:
    assert not transaction.has_begun
    rows = transaction.executemany("INSERT INTO notes VALUES (?)", [("a",), ("b",)])
    assert (rows.rowcount, len(rows), rows.first()) == (2, 0, None)
    found = transaction.execute("SELECT text FROM notes WHERE text > :from", {"from": "a"})
    assert (list(found), found.columns) == ([("b",)], ("text",))
    assert notes(path) == []
    transaction.commit()
    assert notes(path) == ["a", "b"]
    with pytest.raises(TransactionOver):
        transaction.execute("SELECT 1")
    with pytest.raises(TransactionOver):
        transaction.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA synchronous = OFF",
        "PRAGMA writable_schema = 1",
        "PRAGMA user_version = 7",
        "INSERT INTO guarded VALUES ('x')",
        "UPDATE GUARDED SET text = 'x'",
        "DELETE FROM main.guarded",
        "INSERT INTO guarded SELECT text FROM notes",
        "UPDATE guarded SET text = (SELECT max(text) FROM notes)",
        "DELETE FROM guarded WHERE text IN (SELECT text FROM notes)",
        "DROP TABLE guarded",
        "ALTER TABLE guarded RENAME TO mine",
        "CREATE INDEX mine ON guarded (text)",
        "CREATE TRIGGER mine AFTER INSERT ON guarded BEGIN SELECT 1; END",
    ],
)
def test_what_is_not_its_own_is_refused_and_it_goes_on(
    path: str, transaction: SqliteTransaction, statement: str
) -> None:
    transaction.execute("INSERT INTO notes VALUES ('before')")
    for _ in range(2):  # also when it is prepared already
        with pytest.raises(StatementRefused):
            transaction.execute(statement)
    transaction.execute("INSERT INTO notes VALUES ('after')")
    transaction.commit()
    assert notes(path) == ["before", "after"]


def test_a_trigger_does_not_reach_what_a_statement_may_not(
    path: str, transaction: SqliteTransaction
) -> None:
    transaction.execute(
        "CREATE TRIGGER sly AFTER INSERT ON notes BEGIN INSERT INTO guarded VALUES ('x'); END"
    )
    with pytest.raises(StatementRefused):
        transaction.execute("INSERT INTO notes VALUES ('a')")


def test_savepoints_are_its_own(path: str, transaction: SqliteTransaction) -> None:
    transaction.execute("SAVEPOINT here")
    transaction.execute("INSERT INTO notes VALUES ('undone')")
    transaction.execute("ROLLBACK TO here")
    transaction.execute("RELEASE here")
    transaction.execute("INSERT INTO notes VALUES ('done')")
    transaction.commit()
    assert notes(path) == ["done"]


def test_an_error_of_what_is_written_last_leaves_it_open(
    path: str, transaction: SqliteTransaction
) -> None:
    transaction.execute("INSERT INTO notes VALUES ('a')")

    def fails(_: sqlite3.Connection) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        transaction.commit(fails)
    assert transaction.has_begun
    transaction.commit()
    assert notes(path) == ["a"]


def test_a_constraint_at_the_commit_undoes_it(path: str, transaction: SqliteTransaction) -> None:
    transaction.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    transaction.execute(
        "CREATE TABLE children (id REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
    )
    transaction.execute("INSERT INTO children VALUES (1)")
    with pytest.raises(CommitRefused):
        transaction.commit()
    with pytest.raises(TransactionOver):
        transaction.execute("SELECT 1")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO notes VALUES ('not locked')")


def test_one_that_a_statement_rolls_back_is_over(path: str, transaction: SqliteTransaction) -> None:
    transaction.execute("CREATE UNIQUE INDEX one ON notes (text)")
    transaction.execute("INSERT INTO notes VALUES ('a')")
    with pytest.raises(sqlite3.IntegrityError):
        transaction.execute("INSERT OR ROLLBACK INTO notes VALUES ('a')")
    assert not transaction.has_begun
    with pytest.raises(TransactionOver, match="SQLite has rolled it back"):
        transaction.execute("INSERT INTO notes VALUES ('b')")
    assert notes(path) == []


def test_one_that_cannot_begin_leaves_nothing_open(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []

    def connecting(path: str, mode: str) -> sqlite3.Connection:
        opened.append(connect(path, mode, timeout=0))
        return opened[-1]

    monkeypatch.setattr(guarded, "connect", connecting)
    monkeypatch.setattr(guarded, "patiently", lambda action: action())
    transaction = SqliteTransaction(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            transaction.execute("SELECT 1")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
    assert not transaction.has_begun
    transaction.execute("INSERT INTO notes VALUES ('a')")
    transaction.commit()
    assert notes(path) == ["a"]


def test_it_waits_for_readers_before_it_commits(path: str, transaction: SqliteTransaction) -> None:
    with closing(sqlite3.connect(path, check_same_thread=False)) as reader:
        transaction.execute("INSERT INTO notes VALUES ('a')")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM notes").fetchall()
        committing = threading.Thread(target=transaction.commit)
        committing.start()
        time.sleep(0.05)
        reader.rollback()
        committing.join()
    assert notes(path) == ["a"]


def test_abandoning_it_stops_a_statement_that_runs(
    path: str, transaction: SqliteTransaction
) -> None:
    errors: list[BaseException] = []
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    transaction.execute("INSERT INTO notes VALUES ('a')")

    def run() -> None:
        try:
            transaction.execute(endless)
        except BaseException as error:
            errors.append(error)

    running = threading.Thread(target=run)
    running.start()
    while running.is_alive():
        transaction.abandon("it takes too long")
        running.join(0.01)
    assert [type(error) for error in errors] == [TransactionOver]
    assert "it takes too long" in str(errors[0])
    assert notes(path) == []


def test_one_that_was_abandoned_before_it_began_never_begins(
    path: str, transaction: SqliteTransaction
) -> None:
    transaction.abandon("nobody waits for it")
    with pytest.raises(TransactionOver):
        transaction.execute("INSERT INTO notes VALUES ('a')")
    assert not transaction.has_begun


def test_a_look_sees_what_is_committed_and_takes_no_lock(
    path: str, transaction: SqliteTransaction
) -> None:
    transaction.execute("INSERT INTO notes VALUES ('a')")
    assert len(transaction.look("SELECT * FROM notes")) == 0
    transaction.commit()
    assert transaction.look("SELECT * FROM notes").first() == ("a",)
    assert len(SqliteTransaction(f"{path}-missing").look("SELECT 1")) == 0


# Abandoning it undoes what it has written, and never what it is about to have committed.


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


def test_one_may_be_committed_without_a_statement_of_its_own(
    path: str, transaction: SqliteTransaction
) -> None:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes VALUES ('last')")

    transaction.commit(write)
    assert notes(path) == ["last"]


def test_the_first_reason_for_its_end_is_the_one_that_is_told(
    path: str, transaction: SqliteTransaction
) -> None:
    """Also where SQLite, being interrupted in a write, has rolled it back by itself."""

    def abandon() -> None:
        while transaction.has_begun:
            transaction.abandon("it takes too long")
            transaction.abandon("and longer")

    transaction.execute("INSERT INTO notes VALUES ('a')")
    abandoning = threading.Timer(0.02, abandon)
    abandoning.start()
    with pytest.raises(TransactionOver, match="it takes too long"):
        transaction.execute(f"INSERT INTO notes {ENDLESS} SELECT i FROM n")
    abandoning.join()
    for _ in range(2):
        with pytest.raises(TransactionOver, match="it takes too long"):
            transaction.check()
    assert notes(path) == []


def test_what_is_abandoned_in_a_statement_ends_with_it(
    path: str, transaction: SqliteTransaction
) -> None:
    """Nobody has to call it again: else it would keep its lock."""

    def rows() -> Iterator[tuple[str]]:
        yield ("a",)
        abandoning = threading.Thread(target=transaction.abandon, args=("meanwhile",))
        abandoning.start()
        abandoning.join()
        yield ("b",)

    with contextlib.suppress(TransactionOver):
        transaction.executemany("INSERT INTO notes VALUES (?)", rows())
    assert not transaction.has_begun
    with closing(sqlite3.connect(path, timeout=0)) as other, other:
        other.execute("INSERT INTO notes VALUES ('of another')")
    assert notes(path) == ["of another"]


def test_one_that_was_abandoned_while_it_waited_to_begin_does_nothing(path: str) -> None:
    class Slow(SqliteTransaction):
        def open(self) -> sqlite3.Connection:
            connection = super().open()
            self.abandon("it has waited too long")
            return connection

    transaction = Slow(path)
    with pytest.raises(TransactionOver, match="waited too long"):
        transaction.execute("INSERT INTO notes VALUES ('a')")
    assert not transaction.has_begun
    assert notes(path) == []


def test_a_commit_is_not_interrupted(path: str, transaction: SqliteTransaction) -> None:
    transaction.execute("INSERT INTO notes VALUES ('a')")

    def write(connection: sqlite3.Connection) -> None:
        rows = f"{ENDLESS} SELECT 'b' FROM n LIMIT 300000"
        abandoning = threading.Thread(target=abandon)
        abandoning.start()
        connection.execute(f"INSERT INTO notes SELECT max('b') FROM ({rows})")
        ended.set()
        abandoning.join()

    def abandon() -> None:
        while not ended.is_set():
            transaction.abandon("too late")

    ended = threading.Event()
    transaction.commit(write)
    assert notes(path) == ["a", "b"]
    with pytest.raises(TransactionOver, match="it is committed"):
        transaction.check()


def test_after_a_commit_that_failed_early_it_can_be_abandoned_as_before(
    path: str, transaction: SqliteTransaction
) -> None:
    def fails(_: sqlite3.Connection) -> None:
        raise LookupError

    transaction.execute("INSERT INTO notes VALUES ('a')")
    with pytest.raises(LookupError):
        transaction.commit(fails)
    abandoning = threading.Timer(0.02, transaction.abandon, ("it takes too long",))
    abandoning.start()
    with pytest.raises(TransactionOver):
        transaction.execute(f"{ENDLESS} SELECT max(i) FROM (SELECT i FROM n LIMIT 20000000)")
    abandoning.join()
    assert not transaction.has_begun
    assert notes(path) == []


@pytest.mark.parametrize("end", ["commit", "abandon", "look"])
def test_however_it_ends_its_connection_is_closed(
    path: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    opened: list[sqlite3.Connection] = []

    def connecting(path: str, mode: str) -> sqlite3.Connection:
        opened.append(connect(path, mode))
        return opened[-1]

    monkeypatch.setattr(guarded, "connect", connecting)
    transaction = SqliteTransaction(path)
    if end == "look":
        assert len(transaction.look("SELECT * FROM notes")) == 0
    else:
        transaction.execute("INSERT INTO notes VALUES ('a')")
        transaction.commit() if end == "commit" else transaction.abandon("nobody needs it")
    assert len(opened) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
    assert notes(path) == ["a"] * (end == "commit")


# Reading is its own to do, also what it may not change.


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM guarded",
        "SELECT count(*) FROM notes, guarded",
        "INSERT INTO notes SELECT text FROM guarded",
        "CREATE VIEW mine AS SELECT * FROM guarded",
        "CREATE TABLE mine AS SELECT * FROM guarded",
        "PRAGMA compile_options",
        "PRAGMA database_list",
        "PRAGMA foreign_key_check",
        "PRAGMA foreign_key_list(notes)",
        "PRAGMA function_list",
        "PRAGMA index_info(one)",
        "PRAGMA index_list(notes)",
        "PRAGMA index_xinfo(one)",
        "PRAGMA table_info(guarded)",
        "PRAGMA TABLE_LIST",
        "PRAGMA table_xinfo(notes)",
    ],
)
def test_reading_is_its_own(transaction: SqliteTransaction, statement: str) -> None:
    transaction.execute("CREATE INDEX one ON notes (text)")
    transaction.execute(statement)
    transaction.commit()


# What is told when the database itself is in the way.


def test_an_error_of_the_database_names_it_and_keeps_its_kind(path: str, tmp_path: Path) -> None:
    places = {
        f"{tmp_path}/no/such.db": ("its folder must exist", sqlite3.SQLITE_CANTOPEN),
        str(tmp_path): ("its folder must exist", sqlite3.SQLITE_CANTOPEN),
        __file__: ("see to the file", sqlite3.SQLITE_NOTADB),
    }
    for place, (what, code) in places.items():
        with pytest.raises(sqlite3.DatabaseError, match=what) as caught:
            SqliteTransaction(place).execute("SELECT * FROM notes")
        assert place in str(caught.value)
        assert caught.value.sqlite_errorcode & 0xFF == code
        assert isinstance(caught.value.__cause__, type(caught.value))


def test_who_waits_for_a_lock_in_vain_is_told_where_to_look(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patiently = connections.patiently
    monkeypatch.setattr(guarded, "patiently", lambda action: patiently(action, 0.05))
    monkeypatch.setattr(guarded, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            sqlite3.OperationalError, match=r"own\.db: database is locked .*0\.05 s"
        ):
            SqliteTransaction(path).execute("INSERT INTO notes VALUES ('a')")
        other.execute("ROLLBACK")
        other.execute("BEGIN")
        other.execute("SELECT * FROM notes").fetchone()
        reading = SqliteTransaction(path)
        reading.execute("INSERT INTO notes VALUES ('a')")
        with pytest.raises(CommitRefused, match="outside of WAL mode, by reading") as caught:
            reading.commit()
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def test_an_error_of_a_statement_stays_as_it_is(transaction: SqliteTransaction) -> None:
    with pytest.raises(sqlite3.OperationalError, match=r"^no such table: absent$") as caught:
        transaction.execute("SELECT * FROM absent")
    assert caught.value.__cause__ is None
