"""Any number of processes may open the same new file at once, and be killed while they do."""

import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from journal import (
    Append,
    Claim,
    ClaimQuery,
    HeadChange,
    JournalUnavailable,
    NewerSchema,
    NewEvent,
    NotAJournal,
    open_journal,
    open_reader,
)
from journal.backends.sqlite.connections import MIGRATIONS, connect_writer
from journal.hashing import event_hash
from journal.migrations import APPLICATION_ID, migrate, newest_schema, statements
from journal.records import GENESIS

ME = Claim("me", 30)
SCHEMA = Path(MIGRATIONS).parent / "schema.sql"
SCRIPTS = sorted(Path(MIGRATIONS).glob("*.sql"))

FIRST_APPEND = """
import asyncio, sys, time
from journal import Append, HeadChange, NewEvent, open_journal

async def main(path, number, at):
    time.sleep(max(0, at - time.time()))
    journal = await open_journal(path)
    head = HeadChange("running", "order", None)
    await journal.append(Append(f"ex-{number}", (NewEvent("Began", b""),), 0, head))
    await journal.close()

asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""

KILLED = """
import os, signal, sqlite3, sys
from journal.backends.sqlite import connections

path, statement = sys.argv[1], int(sys.argv[2])
connections.prepare_file(path)
connect, seen = connections.connect, 0

def counted(*arguments, **options):
    connection = connect(*arguments, **options)
    def count(sql):
        global seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)
    connection.set_trace_callback(count)
    return connection

connections.connect = counted
connections.connect_writer(path).close()
"""


def objects(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    )
    return [(kind, name, " ".join(sql.split())) for kind, name, sql in rows]


@pytest.mark.parametrize("count", [2, 20])
def test_processes_may_open_the_same_new_file_at_once(tmp_path: Path, count: int) -> None:
    path = tmp_path / "new folder" / "journal.db"
    at = str(time.time() + 0.5 + count * 0.05)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_APPEND, str(path), str(number), at],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with open_reader(str(path)) as reader:
        assert len(reader.read_all()) == count
        assert reader.verify() == []


def test_a_migration_that_is_killed_leaves_a_file_that_can_be_opened(tmp_path: Path) -> None:
    for statement in range(1, 60):
        path = tmp_path / f"{statement}.db"
        process = subprocess.run([sys.executable, "-c", KILLED, path, str(statement)], check=False)
        connect_writer(str(path)).close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert len(objects(connection)) >= 4
        connection.close()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    else:
        pytest.fail("the migration never came to its end")
    assert statement > 10


def test_the_schema_that_is_shown_is_the_one_that_migrations_make() -> None:
    shown, made = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    shown.executescript(SCHEMA.read_text(encoding="utf-8"))
    made.isolation_level = None
    made.execute("BEGIN IMMEDIATE")
    migrate(made, MIGRATIONS, "memory")
    made.execute("COMMIT")
    assert objects(shown) == objects(made)
    assert made.execute("PRAGMA user_version").fetchone() == (len(SCRIPTS),)
    shown.close()
    made.close()


async def test_an_older_journal_goes_on_with_its_streams_and_no_route(tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for script in SCRIPTS[:3]:
        (older / script.name).write_text(script.read_text())
    path = tmp_path / "journal.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    migrate(connection, str(older), str(path))
    connection.execute("""INSERT INTO heads (id, stream, category, state, name, due_at, created_at,
        updated_at, anchor_version, anchor_hash, summary)
        VALUES (1, 'ex-1', 'ex', 'running', 'order', 0, 7, 7, 1, x'', x'')""")
    hashed = event_hash("ex-1", 1, "Began", 1, 7, 0, hashlib.sha256(b"x").digest(), GENESIS)
    connection.execute(
        """INSERT INTO events (position, stream, version, type, schema, recorded_at, epoch,
        previous_hash, hash, payload) VALUES (1, 1, 1, 'Began', 1, 7, 0, ?, ?, x'78')""",
        (GENESIS, hashed),
    )
    connection.execute("COMMIT")
    connection.close()
    journal = await open_journal(str(path))
    [(head, _)] = await journal.claim(ClaimQuery(category="ex", names=["order"], claim=ME))
    await journal.close()
    assert (head.stream, head.route, head.version) == ("ex-1", "", 1)


def test_only_numbered_scripts_count(tmp_path: Path) -> None:
    """An editor's or a packager's file beside them is none."""
    (tmp_path / "0002_more.sql").write_text("CREATE TABLE second (a);")
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a);")
    for other in ("0003_notes.txt", "draft.sql", "__init__.py", "0001_first.sql.orig"):
        (tmp_path / other).write_text("this is no SQL")
    assert newest_schema(str(tmp_path)) == 2
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    migrate(connection, str(tmp_path), "memory")
    connection.execute("COMMIT")
    assert [name for _, name, _ in objects(connection)] == ["first", "second"]
    connection.close()


def test_a_journal_is_known_by_its_files_header(tmp_path: Path) -> None:
    """The four bytes at 68 that SQLite keeps for it; other versions know it by the same."""
    path = tmp_path / "journal.db"
    path.touch()
    connect_writer(str(path)).close()
    assert path.read_bytes()[68:72] == b"jrnl"


def test_scripts_read_the_same_in_every_locale() -> None:
    for script in SCRIPTS:
        assert script.read_bytes().isascii()


def test_a_script_is_split_into_its_statements() -> None:
    script = (
        "CREATE TABLE a (b); -- c;\nCREATE TRIGGER d BEFORE DELETE ON a\nBEGIN\nSELECT 1;\nEND;"
    )
    parts = list(statements(script.splitlines(keepends=True)))
    assert ["TABLE" in parts[0], "TRIGGER" in parts[1], len(parts)] == [True, True, 2]


async def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    connect_writer(str(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(NewerSchema) as refused:
        await open_journal(str(path))
    assert (refused.value.found, refused.value.supported) == (99, len(SCRIPTS))
    assert str(path) in str(refused.value)
    with pytest.raises(NewerSchema):
        open_reader(str(path))


def make_text(path: Path) -> None:
    path.write_text("Dear diary, " * 500)


def make_foreign_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()


def make_foreign_application(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 42")
    connection.close()


@pytest.mark.parametrize("make", [make_text, make_foreign_table, make_foreign_application])
async def test_another_programs_file_is_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "journal.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(NotAJournal, match=r"journal\.db"):
        await open_journal(str(path))
    with pytest.raises(NotAJournal):
        open_reader(str(path))
    assert path.read_bytes() == before


async def test_the_file_and_its_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "journal.db"
    before = os.umask(0)
    try:
        journal = await open_journal(str(path))
        await journal.append(
            Append("ex-1", (NewEvent("Began", b""),), 0, HeadChange("running", "order", None))
        )
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        await journal.close()
    finally:
        os.umask(before)
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


async def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalUnavailable, match="file"):
        await open_journal(str(tmp_path / "file" / "journal.db"))
    with pytest.raises(JournalUnavailable):
        await open_journal(str(tmp_path))
