"""Looking up by key reads the index and nothing else, also beside another process's writes."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from journal import (
    Append,
    HeadChange,
    JournalClosed,
    JournalUnavailable,
    KeyQuery,
    NewEvent,
    open_journal,
    open_reader,
)
from journal.backends.sqlite import finder as finding
from journal.backends.sqlite.connections import MIGRATIONS, connect, connect_writer, prepare_file
from journal.backends.sqlite.finder import Finder
from journal.backends.sqlite.queries import BY_KEY, begun_at, event_at
from journal.migrations import APPLICATION_ID, statements

RUNNING = HeadChange("running", "order", None)


def first(stream: str, key: int | None) -> Append:
    return Append(stream, (NewEvent("Happened", stream.encode(), key=key),), 0, RUNNING)


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (BY_KEY, (1, 2)),
        (event_at(1).statement, event_at(1).parameters),
        (begun_at("ex-1").statement, begun_at("ex-1").parameters),
    ],
)
async def test_a_look_up_walks_no_table(
    journal_file: Path, statement: str, parameters: tuple[object, ...]
) -> None:
    journal = await open_journal(str(journal_file))
    await journal.append(first("ex-1", 1))
    await journal.close()
    connection = sqlite3.connect(journal_file)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    connection.close()
    steps = [row[3] for row in plan]
    assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step], steps


def test_what_a_killed_process_has_not_indexed_is_indexed_by_the_next(journal_file: Path) -> None:
    program = """
        import asyncio, os, signal, sys
        from journal import Append, HeadChange, NewEvent, open_journal

        async def main():
            journal = await open_journal(sys.argv[1])
            head = HeadChange("running", "order", None)
            await journal.append(Append("ex-1", (NewEvent("Began", b""),), 0, head))
            event = NewEvent("Happened", b"durable", key=9)
            await journal.append(Append("ex-1", (event,), 1))
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(journal_file)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    async def look() -> bytes:
        journal = await open_journal(str(journal_file))
        await journal.append(first("ex-2", None))
        found = journal.find_blocking(KeyQuery((9,), "ex-2"))
        await journal.close()
        return found[9].payload

    assert asyncio.run(look()) == b"durable"


async def test_an_index_that_is_lost_is_made_anew(journal_file: Path) -> None:
    journal = await open_journal(str(journal_file))
    await journal.append(first("ex-1", 1))
    await journal.append(first("ex-2", None))
    damage = sqlite3.connect(journal_file)
    damage.execute("DELETE FROM event_keys")
    damage.execute("UPDATE indexed SET position = 0")
    damage.commit()
    damage.close()
    assert journal.find_blocking(KeyQuery((1,), "ex-2")) == {}
    await journal.append(first("ex-3", None))
    assert journal.find_blocking(KeyQuery((1,), "ex-2"))[1].stream == "ex-1"
    await journal.close()


async def test_what_another_process_has_written_is_found(journal_file: Path) -> None:
    mine, theirs = await open_journal(str(journal_file)), await open_journal(str(journal_file))
    query = KeyQuery((1,), "ex-2")
    assert mine.find_blocking(query) == {}
    await theirs.append(first("ex-1", 1))
    await theirs.append(first("ex-2", None))
    assert mine.find_blocking(query)[1].stream == "ex-1"
    await mine.close()
    await theirs.close()


async def test_only_so_many_beginnings_are_remembered(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_MOST_REMEMBERED", 2)
    journal = await open_journal(str(journal_file))
    for number in range(5):
        await journal.append(first(f"ex-{number}", number))
    finder = Finder(str(journal_file))
    for _ in range(2):
        for number in range(1, 5):
            query = KeyQuery((number - 1, number), f"ex-{number}")
            assert list(finder.find(query)) == [number - 1]
            assert len(finder._begun) <= 2
    finder.close()
    await journal.close()


async def test_a_look_up_asks_no_more_than_it_must(journal_file: Path) -> None:
    journal = await open_journal(str(journal_file))
    await journal.append(first("ex-1", 1))
    await journal.append(first("ex-2", None))
    finder = Finder(str(journal_file))
    assert finder.find(KeyQuery((7,), "ex-2")) == {}
    assert finder.find(KeyQuery((7,), "ex-9")) == {}
    connection = finder._connection
    assert connection is not None
    seen: list[str] = []
    connection.set_trace_callback(lambda statement: seen.append(statement.split()[0]))
    query = KeyQuery((1,), "ex-2")
    assert list(finder.find(query)) == [1]
    # Where the stream begins is known: one question for the key, one for the event.
    assert seen == ["SELECT", "SELECT"]
    seen.clear()
    assert finder.find_all([query, query]) == [finder.find(query)] * 2
    assert seen == ["BEGIN", *["SELECT"] * 4, "ROLLBACK", *["SELECT"] * 2]
    assert not connection.in_transaction
    assert finder._connection is connection
    finder.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    finder.close()
    with pytest.raises(JournalClosed):
        finder.find(query)
    await journal.close()


async def test_a_journal_that_is_closed_tells_whoever_has_asked(journal_file: Path) -> None:
    journal = await open_journal(str(journal_file))
    await journal.append(first("ex-1", 1))
    told: list[object] = []
    journal.find_soon(KeyQuery((1,), "ex-2"), lambda found, error: told.append(type(error)))
    await journal.close()
    assert told == [JournalClosed]


def test_a_finder_that_is_closed_opens_nothing(journal_file: Path) -> None:
    finder = Finder(str(journal_file))
    finder.close()
    with pytest.raises(JournalClosed, match="open it anew"):
        finder.find(KeyQuery((1,), "ex-1"))


def test_a_journal_from_before_there_were_keys_is_brought_up_to_date(journal_file: Path) -> None:
    prepare_file(str(journal_file))
    old = connect(str(journal_file), "mode=rw")
    with Path(MIGRATIONS, "0001_events_heads_blobs.sql").open(encoding="utf-8") as script:
        for statement in statements(script):
            old.execute(statement)
    old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    old.execute("PRAGMA user_version = 1")
    old.execute(
        "INSERT INTO heads (id, stream, category, state, name, created_at, updated_at, "
        "anchor_version, anchor_hash, summary) VALUES (1, 'ex-1', 'ex', 'running', 'order', 0, 0, "
        "1, x'00', x'')"
    )
    old.execute("INSERT INTO events VALUES (1, 1, 1, 'Happened', 1, 0, 0, x'00', x'00', NULL, x'')")
    old.close()
    connect_writer(str(journal_file)).close()
    finder = Finder(str(journal_file))
    assert finder.find(KeyQuery((1,), "ex-1")) == {}
    finder.close()
    with open_reader(str(journal_file)) as reader:
        assert [event.version for event in reader.read_all()] == [1]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    finder = Finder(str(tmp_path / "gone.db"))
    with pytest.raises(JournalUnavailable, match=r"gone\.db"):
        finder.find(KeyQuery((1,), "ex-1"))
    finder.close()
