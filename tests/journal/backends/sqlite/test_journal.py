"""The journal in a file: how its connections come and go."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from journal import (
    Adoption,
    Append,
    Claim,
    ClaimQuery,
    HeadChange,
    HeadQuery,
    InvalidQuery,
    JournalClosed,
    KeyQuery,
    Lease,
    NewEvent,
    open_journal,
)
from journal.backends.sqlite import forking
from journal.backends.sqlite import journal as module
from journal.backends.sqlite.connections import connect_reader
from journal.backends.sqlite.journal import SqliteJournal

FIRST = Append("ex-1", (NewEvent("Happened", b"x"),), 0, HeadChange("running", "order", 0))
QUESTION = KeyQuery((1,), "ex-1")


def test_a_first_read_that_is_given_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def slowly(path: str, **options: Any) -> sqlite3.Connection:
        began.set()
        time.sleep(0.05)
        return connect(path, **options)

    async def main() -> None:
        journal = await open_journal(f"sqlite:///{tmp_path}/journal.db")
        reading = asyncio.create_task(journal.heads(HeadQuery(category="order")))
        await asyncio.to_thread(began.wait)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await journal.close()

    connect = connect_reader
    monkeypatch.setattr(module, "connect_reader", slowly)
    before = set(threading.enumerate())
    asyncio.run(main())
    # An exception in a thread, of a loop that is closed, fails the test as a warning.
    assert set(threading.enumerate()) == before


# What a forked child has of it is its parent's: whatever is asked of it, it says so.


@pytest.fixture
async def abandoned(journal_file: Path) -> AsyncIterator[SqliteJournal]:
    """A journal as a forked child has it."""
    journal = await SqliteJournal.open(str(journal_file))
    await journal.append(FIRST)
    await journal.read_all()
    journal.find_blocking(QUESTION)
    finder, committer = journal._finder, journal._committer
    assert journal.abandon() == [
        *(journal, journal._reader, finder, finder._connection),
        *(committer, committer._connection, committer._checkpoints),
    ]
    yield journal
    await journal.close()  # nothing of it is this child's
    assert journal._reader is not None
    assert journal._committer._connection is not None
    assert finder._connection is not None
    journal._refusal, committer._closed = None, False
    await journal.close()


async def outcome_of(call: Callable[[], object]) -> None:
    answer = call()
    if isinstance(answer, Awaitable):
        await answer


async def test_every_call_in_a_forked_child_names_the_fork(abandoned: SqliteJournal) -> None:
    """And not a closing that never was: it must be opened anew, and in the child."""

    def nobody(*_: object) -> None:
        pytest.fail("nobody is to be told")

    lease = Lease("ex-1", "me", 1, 0)
    journal, big = abandoned, replace(FIRST, blobs=(bytes(300 * 1024),))
    adoption = Adoption((), FIRST.head or HeadChange("s", "n", None))
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: journal.append(FIRST),
        "append with much": lambda: journal.append(big),
        "append_soon": lambda: journal.append_soon(FIRST, nobody),
        "append_soon with much": lambda: journal.append_soon(big, nobody),
        "append_blocking": lambda: journal.append_blocking(FIRST),
        "adopt": lambda: journal.adopt(adoption),
        "transaction": lambda: journal.transaction(seconds=1, entering=nobody, leaving=nobody),
        "read_stream": lambda: journal.read_stream("ex-1"),
        "read_all": journal.read_all,
        "heads": lambda: journal.heads(HeadQuery(category="ex")),
        "head_blocking": lambda: journal.head_blocking("ex-1"),
        "head": lambda: journal.head("ex-1"),
        "find_blocking": lambda: journal.find_blocking(QUESTION),
        "find_soon": lambda: journal.find_soon(QUESTION, nobody),
        "claim": lambda: journal.claim(
            ClaimQuery(category="ex", names=["order"], claim=Claim("me", 1))
        ),
        "renew_blocking": lambda: journal.renew_blocking([lease], 1),
        "release": lambda: journal.release(lease),
        "get_blob": lambda: journal.get_blob("00" * 32),
        "watch": lambda: journal.watch(None, nobody),
    }
    said: dict[str, str] = {}
    for name, call in calls.items():
        with pytest.raises(JournalClosed) as refused:
            await outcome_of(call)
        said[name] = str(refused.value)
    for name, words in said.items():
        assert "opened before a fork" in words, name
        assert "open it anew in the child" in words, name


async def test_every_open_journal_is_known_to_those_who_fork(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    assert journal in forking._fork.open
    await journal.close()


# However an end comes, whoever waits is told.


async def test_a_writer_that_has_ended_under_it_is_told(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    thread = journal._committer.close(lambda: None)
    assert thread is not None
    thread.join(20)
    results = await asyncio.gather(
        journal.append(FIRST), journal.append(FIRST), return_exceptions=True
    )
    assert [type(result) for result in results] == [JournalClosed] * 2
    with pytest.raises(JournalClosed):
        journal.append_blocking(FIRST)
    await journal.close()


async def test_what_is_read_while_it_is_closed_says_so(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    reader = await journal._open_reader()

    async def closed_meanwhile(*_: object) -> None:
        journal._refusal = JournalClosed("it was closed")
        raise ValueError("no active connection")

    async def broken(*_: object) -> None:
        raise ValueError("something else")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "execute_fetchall", broken)
        with pytest.raises(ValueError, match="something else"):
            await journal.read_all()
        patch.setattr(reader, "execute_fetchall", closed_meanwhile)
        with pytest.raises(JournalClosed, match="it was closed"):
            await journal.read_all()
    journal._refusal = None
    await journal.close()


async def test_a_question_that_no_journal_could_answer_is_refused_itself(
    journal_file: Path,
) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    told: list[object] = []
    with pytest.raises(InvalidQuery):
        journal.find_soon(KeyQuery((-1,), "ex-1"), lambda *answer: told.append(answer))
    await asyncio.sleep(0)
    assert told == []
    await journal.close()
    with pytest.raises(JournalClosed):
        journal.find_soon(QUESTION, lambda *answer: told.append(answer))
    await asyncio.sleep(0)
    assert told == []
