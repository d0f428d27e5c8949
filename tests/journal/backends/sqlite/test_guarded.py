"""A transaction in other hands: its statements can neither end nor evade it."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal import CommitRefused, SqliteTransaction, StatementRefused, TransactionOver
from journal.backends.sqlite import connections, guarded


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
