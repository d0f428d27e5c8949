"""The journal in a file: how its connections come and go."""

import asyncio
import gc
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from journal import (
    Adoption,
    Append,
    Appended,
    Claim,
    ClaimQuery,
    HeadChange,
    HeadQuery,
    InvalidQuery,
    JournalClosed,
    JournalReadOnly,
    JournalUnavailable,
    KeyQuery,
    Lease,
    NewEvent,
    open_journal,
    open_reader,
)
from journal.backends.sqlite import forking
from journal.backends.sqlite import journal as module
from journal.backends.sqlite.committer import Committer
from journal.backends.sqlite.connections import connect_reader
from journal.backends.sqlite.journal import SqliteJournal
from journal.backends.sqlite.work import Action

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


async def test_a_transaction_from_before_a_fork_is_the_parents(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    left: list[bool] = []
    transaction = journal.transaction(seconds=1, entering=lambda: None, leaving=left.append)
    journal.abandon()
    with pytest.raises(JournalClosed):
        transaction.execute("SELECT 1")
    assert left == [False]
    journal._refusal, journal._committer._closed = None, False
    await journal.close()


# Closing leaves nothing open, whatever was used, and whoever closes waits until it is done.


async def test_closing_leaves_no_log_whatever_was_used(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    await journal.append(FIRST)
    await journal.read_all()
    assert journal.find_blocking(QUESTION) == {}
    assert journal.head_blocking("ex-1") is not None
    stop = journal.watch(None, lambda _: None)
    looking = journal._looking
    assert looking is not None
    await journal.close()
    assert looking.cancelled()
    assert [file.name for file in journal_file.parent.iterdir()] == [journal_file.name]
    stop()


async def test_whoever_watches_is_woken_by_the_closing(journal_file: Path) -> None:
    """And finds it closed, instead of waiting for what can no longer come."""
    journal = await SqliteJournal.open(str(journal_file))
    hints: list[int] = []
    journal.watch("ex-1", lambda events: hints.append(len(events)))
    await journal.close()
    await asyncio.sleep(0.01)
    assert hints == [0]


@pytest.mark.parametrize("which", ["reader", "writer"])
async def test_closing_waits_for_the_ends_of_its_threads(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """However long they take to end when they have done everything."""
    journal = await SqliteJournal.open(str(journal_file))
    await journal.read_all()
    assert journal._reader is not None
    slow: list[threading.Thread] = []

    def slowly(thread: threading.Thread | None) -> threading.Thread:
        assert thread is not None

        def end() -> None:
            thread.join()
            time.sleep(0.3)

        slow.append(threading.Thread(target=end))
        slow[-1].start()
        return slow[-1]

    close = journal._committer.close
    if which == "reader":
        monkeypatch.setattr(journal._reader, "_thread", slowly(journal._reader._thread))
    else:
        monkeypatch.setattr(journal._committer, "close", lambda done: slowly(close(done)))
    await journal.close()
    assert [thread.is_alive() for thread in slow] == [False]


async def test_each_of_those_who_close_waits_until_it_is_closed(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    await asyncio.gather(*(journal.append(replace(FIRST, stream=f"ex-{n}")) for n in range(9)))
    first = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    assert not first.done()
    await journal.close()
    assert journal._committer._connection is None
    assert [file.name for file in journal_file.parent.iterdir()] == [journal_file.name]
    await first
    await journal.close()


async def test_where_commits_are_slow_the_loop_leaves_them_to_the_writer(
    journal_file: Path,
) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    threads = []
    for seconds in (0.0, 60.0):
        journal._committer._commit_seconds = seconds
        threads.append(await journal._submit(Action(lambda _: threading.current_thread().name)))
    assert threads == [threading.current_thread().name, "journal-writer"]
    await journal.close()


async def test_of_much_the_first_part_is_given_away_while_the_rest_is_made(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GATHERED_AT_MOST", 3)
    journal = await SqliteJournal.open(str(journal_file))
    told: asyncio.Queue[int] = asyncio.Queue()

    def done(appended: Appended | None, error: BaseException | None) -> None:
        assert appended is not None, error
        told.put_nowait(appended.version)

    journal._committer.borrow()  # so that the writer thread keeps what it was given
    for version in range(8):
        append = replace(FIRST, expected_version=version, head=None if version else FIRST.head)
        journal.append_soon(append, done)
        assert journal._committer.is_busy == (version >= 2)
    journal._committer.give_back()
    assert [await told.get() for _ in range(8)] == list(range(1, 9))
    await journal.close()


# A claim asks for nothing in a transaction where nothing is due; but what is on its way counts.


@pytest.fixture
async def unseen(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqliteJournal]:
    """A journal whose reader sees nothing that is due, as one may that has read just before."""
    journal = await SqliteJournal.open(str(journal_file))

    async def nothing(_: ClaimQuery) -> bool:
        return False

    monkeypatch.setattr(journal, "_has_due", nothing)
    yield journal
    await journal.close()


CLAIM = ClaimQuery(category="ex", names=["order"], claim=Claim("me", 30))


async def test_what_is_gathered_can_be_claimed(unseen: SqliteJournal) -> None:
    told: list[object] = []
    unseen.append_soon(FIRST, lambda *outcome: told.append(outcome))
    assert len(await unseen.claim(CLAIM)) == 1
    assert len(told) == 1
    assert await unseen.claim(CLAIM) == []


async def test_what_is_queued_can_be_claimed(unseen: SqliteJournal) -> None:
    committer = unseen._committer
    committer.borrow()  # so that the writer thread has to wait with it
    appending = asyncio.create_task(unseen.append(FIRST))
    while not committer.is_busy:  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0)
    claiming = asyncio.create_task(unseen.claim(CLAIM))
    await asyncio.sleep(0)
    committer.give_back()
    assert len(await claiming) == 1
    await appending


# The reader is opened when it is first needed; where that fails it is tried again.


def out_of_descriptors() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    return error


async def test_a_reader_that_could_not_be_opened_is_tried_again(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    await journal.append(FIRST)
    failures = [True, True]

    def connect(path: str, **options: Any) -> sqlite3.Connection:
        if failures:
            failures.pop()
            raise out_of_descriptors()
        return connect_reader(path, **options)

    monkeypatch.setattr(module, "connect_reader", connect)
    for _ in range(2):
        with pytest.raises(JournalUnavailable, match="files may still be opened"):
            await journal.read_all()
    assert len(await journal.read_all()) == 1
    assert journal._reader is not None
    # Like the writer's thread: a process that forgets to close ends nevertheless.
    assert journal._reader._thread.daemon
    await journal.close()


async def test_one_that_fails_after_everybody_has_given_up_complains_to_nobody(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    may_fail, complaints = threading.Event(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: complaints.append(facts))

    def connect(path: str, **options: Any) -> sqlite3.Connection:
        may_fail.wait(20)
        raise out_of_descriptors()

    monkeypatch.setattr(module, "connect_reader", connect)
    reading = asyncio.create_task(journal.read_all())
    await asyncio.sleep(0)
    opening = journal._opening
    assert opening is not None
    reading.cancel()
    await asyncio.wait([reading])
    may_fail.set()
    await asyncio.wait([opening])
    del reading, opening
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
    may_fail.clear()
    reading = asyncio.create_task(journal.read_all())
    await asyncio.sleep(0)
    opening = journal._opening
    assert opening is not None
    opening.cancel()  # as at the end of the loop
    may_fail.set()
    await asyncio.wait([reading, opening])
    assert reading.cancelled()
    assert complaints == []
    await journal.close()


async def test_what_takes_long_is_done_in_a_thread_that_ends_with_it() -> None:
    def about() -> tuple[str, bool]:
        return threading.current_thread().name, threading.current_thread().daemon

    assert await module._off_the_loop(about) == ("journal-opener", True)
    with pytest.raises(ZeroDivisionError):
        await module._off_the_loop(lambda: 1 // 0)


@pytest.mark.parametrize("is_empty", [False, True])
async def test_one_that_may_not_be_written_is_looked_at_before_it_is_read(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool
) -> None:
    if not is_empty:
        await (await SqliteJournal.open(str(journal_file))).close()
    opened: list[sqlite3.Connection] = []

    def connect(path: str, **options: Any) -> sqlite3.Connection:
        opened.append(connect_reader(path, **options))
        return opened[-1]

    def refuse(_: Committer) -> None:
        raise JournalReadOnly("nothing may be written here")

    monkeypatch.setattr(module, "connect_reader", connect)
    monkeypatch.setattr(Committer, "open", refuse)
    if is_empty:
        with pytest.raises(JournalUnavailable, match="is empty"):
            await SqliteJournal.open(str(journal_file))
    else:
        journal = await SqliteJournal.open(str(journal_file))
        assert await journal.read_all() == []
        await journal.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


# A callback's mistake is the loop's to tell of, with where it was made.


async def test_a_callback_that_fails_is_told_with_what_it_was_for(journal_file: Path) -> None:
    journal = await SqliteJournal.open(str(journal_file))
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: complaints.append(facts))
    errors = {"append_soon": RuntimeError("one"), "find_soon": RuntimeError("two")}

    def failing(name: str, *_: object) -> None:
        raise errors[name]

    journal.append_soon(FIRST, partial(failing, "append_soon"))
    await journal.append(replace(FIRST, stream="ex-2"))
    journal.find_soon(QUESTION, partial(failing, "find_soon"))
    await asyncio.sleep(0.01)
    assert complaints == [
        {"message": f"a callback of {name} failed", "exception": error}
        for name, error in errors.items()
    ]
    await journal.close()


async def test_without_a_thread_everything_is_written_and_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while Python 3.12 shuts down, and as in a process at its limit."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    path = str(tmp_path / "journal.db")
    journal = await open_journal(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        appends = [
            Append(
                f"ex-{n}", (NewEvent("Happened", b"payload"),), 0, HeadChange("running", "f", None)
            )
            for n in range(5)
        ]
        appends.append(
            Append(
                "ex-large",
                (NewEvent("Happened", b"payload"),),
                0,
                HeadChange("running", "f", None),
                blobs=(b"large" * 100_000,),
            )
        )
        appended = await asyncio.gather(*map(journal.append, appends))
        assert [each.version for each in appended] == [1] * 6
        await asyncio.wait_for(journal.close(), 30)
    assert sorted(os.listdir(tmp_path)) == ["journal.db"]
    with open_reader(path) as reader:
        assert len(reader.read_all()) == 6
        assert not reader.verify()
