"""Commits that fail, commits of others, and commits of many at once."""

import asyncio
import contextlib
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from journal import (
    Adoption,
    Append,
    Appended,
    Claim,
    ClaimQuery,
    CommitOutcomeUnknown,
    HeadChange,
    HeadQuery,
    Journal,
    JournalClosed,
    JournalFull,
    JournalReadOnly,
    JournalUnavailable,
    KeyQuery,
    NewEvent,
    RecordedEvent,
    WrongExpectedVersion,
    open_journal,
    open_reader,
)
from journal.backends.sqlite import checkpoints, connections
from journal.backends.sqlite import committer as committing
from journal.backends.sqlite import transaction as remembering
from journal.backends.sqlite.checkpoints import Checkpoints
from journal.backends.sqlite.committer import Committer, _Batch
from journal.backends.sqlite.connections import connect_reader, connect_writer, prepare_file
from journal.backends.sqlite.journal import SqliteJournal
from journal.backends.sqlite.transaction import PreparedAppend, Transaction
from journal.backends.sqlite.work import Action, Work
from journal.clock import system_clock

RUNNING = HeadChange("running", "order", 0)

OTHER_PROCESS = """
import asyncio, sys
from journal import Append, Claim, ClaimQuery, HeadChange, NewEvent, open_journal

async def main(path):
    journal = await open_journal(path)
    for line in sys.stdin:
        match line.split():
            case ["append", stream, version]:
                head = HeadChange("running", "order", 0) if version == "0" else None
                events = (NewEvent("Other", b""),)
                append = Append(stream, events, int(version), head)
                print((await journal.append(append)).version, flush=True)
            case ["claim"]:
                query = ClaimQuery(category="ex", names=["order"], claim=Claim("other", 0.0))
                print(len(await journal.claim(query)), flush=True)
    await journal.close()

asyncio.run(main(sys.argv[1]))
"""


def append(stream: str = "ex-1", version: int = 0, payload: bytes = b"x", **more: Any) -> Append:
    head = RUNNING if version == 0 else None
    return Append(stream, (NewEvent("Happened", payload),), version, head, **more)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


class Other:
    """Another process with the same journal."""

    def __init__(self, path: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, command: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture
def other(path: str) -> Iterator[Other]:
    other = Other(path)
    yield other
    other.process.communicate(timeout=20)
    assert other.process.returncode == 0


# Another process may append between any two calls: what is remembered is never trusted too long.


async def test_another_process_may_append_at_every_step(path: str, other: Other) -> None:
    journal = await open_journal(path)
    version = (await journal.append(append())).version
    for _ in range(15):
        assert await asyncio.to_thread(other.do, f"append ex-1 {version}") == version + 1
        with pytest.raises(WrongExpectedVersion) as refused:
            await journal.append(append("ex-1", version))
        assert refused.value.actual == version + 1
        version = (await journal.append(append("ex-1", version + 1))).version
        await asyncio.to_thread(other.do, f"append ex-other-{version} 0")
        version = journal.append_blocking(append("ex-1", version)).version
    events = await journal.read_all()
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    with open_reader(path) as reader:
        assert reader.verify() == []
    await journal.close()


async def test_another_processs_claim_ends_the_lease_here(path: str, other: Other) -> None:
    journal = await open_journal(path)
    started = await journal.append(append(claim=Claim("me", 0.0)))
    assert await asyncio.to_thread(other.do, "claim") == 1
    assert started.lease is not None
    assert journal.renew_blocking([started.lease], 60) == []
    await journal.close()


async def test_other_processes_commits_wake_watchers(path: str, other: Other) -> None:
    journal = await open_journal(path)
    hints: asyncio.Queue[int] = asyncio.Queue()
    stop = journal.watch("ex-1", lambda events: hints.put_nowait(len(events)))
    await asyncio.to_thread(other.do, "append ex-1 0")
    assert await asyncio.wait_for(hints.get(), 20) == 0
    stop()
    await journal.close()


async def test_without_watchers_nothing_is_looked_at(path: str) -> None:
    journal = cast("SqliteJournal", await open_journal(path))
    assert journal._looking is None
    stop = journal.watch(None, lambda _: None)
    assert journal._looking is not None
    stop()
    await asyncio.sleep(0.1)
    assert journal._looking is None
    await journal.close()


async def test_two_journals_may_begin_streams_and_keys_in_turn(path: str) -> None:
    mine, theirs = await SqliteJournal.open(path), await SqliteJournal.open(path)
    for number in range(6):
        journal = (mine, theirs)[number % 2]
        keyed = (NewEvent("Happened", b"x", key=number),)
        appended = await journal.append(Append(f"ex-{number}", keyed, 0, RUNNING))
        assert appended.events[0].position == number + 1
        # Whoever has written the key, it was found before this stream was begun.
        query = KeyQuery(tuple(range(6)), f"ex-{number}")
        assert list(journal.find_blocking(query)) == list(range(number))
    for journal in (mine, theirs):
        heads = await journal.heads(HeadQuery(category="ex"))
        assert [head.stream for head in heads] == [f"ex-{number}" for number in range(5, -1, -1)]
        await journal.close()
    with open_reader(path) as reader:
        assert reader.verify() == []


async def test_keys_are_indexed_once(path: str) -> None:
    journal = await SqliteJournal.open(path)
    connection = journal._committer._connection
    assert connection is not None
    seen: list[str] = []
    connection.set_trace_callback(seen.append)

    def indexing() -> list[str]:
        found = re.findall(r"position > (\d+)", " ".join(seen))
        seen.clear()
        return found

    def key(number: int, stream: str, version: int) -> Append:
        keyed = (NewEvent("Happened", b"x", key=number),)
        return Append(stream, keyed, version, RUNNING if version == 0 else None)

    await journal.append(key(1, "ex-1", 0))
    assert indexing() == []
    await journal.append(append("ex-2"))
    assert indexing() == ["0"]
    await journal.append(append("ex-3"))
    await journal.append(append("ex-4"))
    assert indexing() == []
    await journal.append(key(2, "ex-1", 1))
    await journal.append(append("ex-5"))
    assert indexing() == ["1"]
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT position FROM indexed").fetchone() == (5,)
    await journal.close()


async def test_heartbeats_do_not_make_the_journal_forget(path: str) -> None:
    journal = cast("SqliteJournal", await open_journal(path))
    started = await journal.append(append(claim=Claim("me", 30)))
    assert started.lease is not None
    hints: list[int] = []
    journal.watch(None, lambda events: hints.append(len(events)))
    for version in range(1, 10):
        assert len(journal.renew_blocking([started.lease], 30)) == 1
        await journal.append(append("ex-1", version, lease=started.lease))
        assert "ex-1" in journal._committer._ends.by_stream
    await journal.close()
    assert 0 not in hints[:9]


# A commit that fails is unknown until it was read back.


class Faulty:
    """A connection whose next commit fails: before it is done, or after."""

    def __init__(self, connection: sqlite3.Connection, faults: list[str]) -> None:
        self._connection = connection
        self._faults = faults

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement != "COMMIT" or not self._faults:
            return self._connection.execute(statement, *parameters)
        fault = self._faults.pop(0)
        if fault == "after":
            self._connection.execute("COMMIT")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


Break = Callable[..., None]


@pytest.fixture
async def faulty(path: str) -> tuple[Journal, Break]:
    """A journal, and how to make its next commits fail, and its openings."""
    journal = cast("SqliteJournal", await open_journal(path))
    faults: list[str] = []
    openings: list[bool] = []

    def connect(path: str) -> sqlite3.Connection:
        if openings:
            openings.pop()
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        return cast("sqlite3.Connection", Faulty(connect_writer(path), faults))

    def break_(*commits: str, openings_that_fail: int = 0) -> None:
        faults.extend(commits)
        openings.extend([True] * openings_that_fail)

    committer = journal._committer
    committer._drop()
    committer._connect = connect
    await journal.append(append("ex-0"))
    return journal, break_


async def test_a_commit_that_failed_but_is_there_succeeds(faulty: tuple[Journal, Break]) -> None:
    journal, break_ = faulty
    told: list[RecordedEvent] = []
    journal.watch(None, told.extend)
    break_("after")
    appended = await journal.append(append())
    assert await journal.read_stream("ex-1") == list(appended.events)
    break_("after")
    appended = journal.append_blocking(append("ex-1", 1))
    assert appended.version == 2
    await asyncio.sleep(0.05)
    assert told == await journal.read_stream("ex-1")
    await journal.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_failed_commit_is_made_final_by_one_of_its_own(
    faulty: tuple[Journal, Break], fault: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there after all goes into the database file too: the log's fsync has failed."""
    journal, break_ = faulty
    taken: list[str] = []
    take = Checkpoints.take

    def taking(self: Checkpoints, writer: sqlite3.Connection) -> bool:
        taken.append(fault)
        return take(self, writer)

    monkeypatch.setattr(Checkpoints, "take", taking)
    break_(fault)
    await asyncio.gather(journal.append(append()), return_exceptions=True)
    assert taken == (["after"] if fault == "after" else [])
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT settled FROM settlements").fetchone() == (1,)
    await journal.close()


async def test_what_is_looked_for_after_a_failed_commit_is_that_very_commit(path: str) -> None:
    """Else one that is lost would be told as done."""
    journal = await SqliteJournal.open(path)
    first = await journal.append(append(claim=Claim("me", 30)))
    await journal.append(append("ex-2", claim=Claim("me", 30)))
    await journal.append(append("ex-3"))
    await journal.append(append("ex-3", 1))
    assert first.lease is not None
    until, made = first.lease.until, first.events[0].hash
    event, lease = remembering._IS_EVENT_THERE, remembering._IS_LEASE_THERE
    head, at = remembering._IS_HEAD_THERE, first.events[0].recorded_at
    row = ("running", "order", 0, None, b"", "", at, 1)
    rows: list[tuple[str, tuple[object, ...], bool]] = [
        (event, (1, 1, made), True),
        (event, (3, 1, made), False),
        (event, (1, 2, made), False),
        (event, (1, 1, bytes(32)), False),
        (event, (3, 2, made), False),
        (lease, (1, "me", 1, until), True),
        (lease, (3, "me", 1, until), False),
        (lease, (1, "you", 1, until), False),
        (lease, (1, None, 1, until), False),
        (lease, (1, "me", 2, until), False),
        (lease, (1, "me", 1, until + 1), False),
        (lease, (9, "me", 1, until + 1), False),
        (lease, (3, None, 0, 0), True),
        (lease, (3, "me", 0, 0), False),
        (lease, (3, None, 0, 1), False),
        (head, row, True),
        *(
            (head, (*row[:place], other, *row[place + 1 :]), False)
            for place, other in enumerate(("done", "ship", None, "ex-0", b"x", "r", at + 1, 9))
        ),
    ]
    with contextlib.closing(sqlite3.connect(path)) as other:
        for statement, parameters, there in rows:
            found = other.execute(statement, parameters).fetchone() is not None
            assert found == there, (statement, parameters)
    await journal.close()


async def test_of_a_stream_that_is_there_a_lost_commit_is_lost(
    faulty: tuple[Journal, Break],
) -> None:
    journal, break_ = faulty
    break_("before")
    with pytest.raises(JournalUnavailable):
        await journal.append(append("ex-0", 1))
    assert (await journal.append(append("ex-0", 1))).version == 2
    await journal.close()


async def test_what_was_written_counts_for_the_next_checkpoint(path: str) -> None:
    journal = await SqliteJournal.open(path)
    noise = random.Random(1).randbytes(600)
    prepared = PreparedAppend(append(payload=b"x" * 100, blobs=(noise, b"x" * 10_000)))
    assert 700 < prepared.size < 1_000
    before = journal._committer._checkpoints._written
    await journal.append(append(payload=b"x" * 50_000))
    assert 50_000 < journal._committer._checkpoints._written - before < 100_000
    await journal.close()


@pytest.mark.parametrize(
    ("content", "codec"),
    [
        (bytes(511), "plain"),
        (bytes(512), "zlib"),
        (random.Random(1).randbytes(2_000), "plain"),
        (random.Random(1).randbytes(2_000) + bytes(100), "plain"),
        (b"", "plain"),
    ],
)
def test_a_blob_is_packed_where_it_is_worth_it(content: bytes, codec: str) -> None:
    assert remembering._stored_blob(content)[1:3] == (codec, len(content))


async def test_a_commit_that_failed_and_is_not_there_may_be_repeated(
    faulty: tuple[Journal, Break],
) -> None:
    journal, break_ = faulty
    break_("before")
    with pytest.raises(JournalUnavailable, match=r"journal\.db"):
        await journal.append(append())
    assert await journal.read_stream("ex-1") == []
    await journal.append(append())
    assert len(await journal.read_stream("ex-1")) == 1
    await journal.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_group_shares_the_outcome_of_its_commit(
    faulty: tuple[Journal, Break], fault: str
) -> None:
    journal, break_ = faulty
    break_(fault)
    results = await asyncio.gather(
        *(journal.append(append(f"ex-{n}")) for n in range(1, 20)),
        journal.append(append("ex-0")),
        return_exceptions=True,
    )
    refused = results.pop()
    written = len(await journal.read_all()) - 1
    assert isinstance(refused, WrongExpectedVersion | JournalUnavailable)
    if fault == "after":
        assert written == 19
        assert all(isinstance(result, Appended) for result in results)
    else:
        assert written == 0
        assert all(type(result) is JournalUnavailable for result in results)
    await journal.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_outcome_that_cannot_be_read_back_is_told_as_unknown(
    faulty: tuple[Journal, Break], fault: str
) -> None:
    journal, break_ = faulty
    break_(fault, openings_that_fail=1)
    with pytest.raises(CommitOutcomeUnknown, match=r"journal\.db"):
        await journal.append(append())
    written = len(await journal.read_stream("ex-1"))
    assert written == (fault == "after")
    appended = await journal.append(append("ex-1", written))
    assert appended.version == written + 1
    await journal.close()


async def test_a_settlement_that_fails_too_leaves_the_outcome_unknown(
    faulty: tuple[Journal, Break],
) -> None:
    journal, break_ = faulty
    break_("before", "before")
    with pytest.raises(CommitOutcomeUnknown):
        await journal.append(append())
    await journal.append(append())
    await journal.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_claim_and_a_renewal_are_settled_too(
    faulty: tuple[Journal, Break], fault: str
) -> None:
    journal, break_ = faulty
    query = ClaimQuery(category="ex", names=["order"], claim=Claim("me", 30))
    break_(fault)
    if fault == "before":
        with pytest.raises(JournalUnavailable):
            await journal.claim(query)
    [(_, lease)] = await journal.claim(query)
    break_(fault)
    if fault == "before":
        with pytest.raises(JournalUnavailable):
            journal.renew_blocking([lease], 60)
    else:
        assert len(journal.renew_blocking([lease], 60)) == 1
    head = await journal.head("ex-0")
    assert head is not None
    assert (head.owner, head.epoch) == ("me", 1)
    await journal.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_head_that_changes_alone_is_settled_too(
    faulty: tuple[Journal, Break], fault: str
) -> None:
    journal, break_ = faulty
    break_(fault)
    change = Append("ex-0", (), 1, replace(RUNNING, state="done"))
    if fault == "before":
        with pytest.raises(JournalUnavailable):
            await journal.append(change)
    else:
        assert (await journal.append(change)).version == 1
    head = await journal.head("ex-0")
    assert head is not None
    assert head.state == ("done" if fault == "after" else "running")
    await journal.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_adoption_is_settled_too(faulty: tuple[Journal, Break], fault: str) -> None:
    journal, break_ = faulty
    source = await open_journal("memory://")
    await source.append(append())
    adoption = Adoption(tuple(await source.read_stream("ex-1")), RUNNING)
    break_(fault)
    if fault == "before":
        with pytest.raises(JournalUnavailable):
            await journal.adopt(adoption)
    else:
        assert len(await journal.adopt(adoption)) == 1
    assert len(await journal.read_stream("ex-1")) == (fault == "after")
    await journal.close()


async def test_who_has_nothing_to_claim_needs_no_lock(path: str) -> None:
    journal = await open_journal(path)
    await journal.append(append("ex-1"))
    query = ClaimQuery(category="ex", names=["order"], claim=Claim("me", 30))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await journal.claim(replace(query, names=["another"])) == []
        assert await journal.claim(replace(query, besides=["ex-1"])) == []
        waiting = asyncio.ensure_future(journal.claim(query))
        other.execute("COMMIT")
    assert len(await waiting) == 1
    await journal.close()


# What fails before the commit was not done: it is told, and the next one opens anew.


class Failing:
    """A connection whose statements fail, in turn, with the given codes; 0: it works."""

    def __init__(self, connection: sqlite3.Connection, faults: dict[str, list[int]]) -> None:
        self._connection = connection
        self._faults = faults

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        self._fail(statement)
        return self._connection.execute(statement, *parameters)

    def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
        self._fail(statement)
        return self._connection.executemany(statement, rows)

    def _fail(self, statement: str) -> None:
        code = next(self._codes(statement), 0)
        if code:
            error = sqlite3.OperationalError(f"made to fail with {code}")
            error.sqlite_errorcode = code
            raise error

    def _codes(self, statement: str) -> Iterator[int]:
        for beginning, codes in self._faults.items():
            if codes and statement.strip().startswith(beginning):
                yield codes.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


Opened = list[sqlite3.Connection]


@pytest.fixture
async def failing(path: str) -> tuple[SqliteJournal, dict[str, list[int]], Opened]:
    """A journal with one event, the faults of its statements, and its write connections."""
    journal = await SqliteJournal.open(path)
    faults: dict[str, list[int]] = {}
    opened: Opened = []

    def connect(path: str) -> sqlite3.Connection:
        opened.append(connect_writer(path))
        return cast("sqlite3.Connection", Failing(opened[-1], faults))

    journal._committer._drop()
    journal._committer._connect = connect
    await journal.append(append())
    return journal, faults, opened


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.in_transaction  # noqa: B018 - asking is what fails
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "INSERT INTO events"])
@pytest.mark.parametrize(
    ("code", "error", "anew"),
    [
        (sqlite3.SQLITE_IOERR, JournalUnavailable, True),
        (sqlite3.SQLITE_FULL, JournalFull, False),
        (sqlite3.SQLITE_READONLY, JournalReadOnly, False),
    ],
)
async def test_a_store_that_fails_before_the_commit_is_told_and_tried_anew(
    failing: tuple[SqliteJournal, dict[str, list[int]], Opened],
    statement: str,
    code: int,
    error: type[Exception],
    anew: bool,
) -> None:
    journal, faults, opened = failing
    faults[statement] = [code]
    with pytest.raises(error, match=r"journal\.db"):
        await journal.append(append("ex-1", 1))
    assert await journal.read_stream("ex-1", after=1) == []
    assert (await journal.append(append("ex-1", 1))).version == 2
    assert len(opened) == 1 + anew
    assert [is_closed(connection) for connection in opened] == [True] * anew + [False]
    faults[statement] = [code]
    results = await asyncio.gather(
        journal.append(append("ex-1", 2)), journal.append(append("ex-2")), return_exceptions=True
    )
    assert [type(result) for result in results] == [error, error]
    await journal.close()
    assert all(map(is_closed, opened))


async def test_what_the_store_could_write_but_will_not_is_told_as_the_journals_error(
    failing: tuple[SqliteJournal, dict[str, list[int]], Opened],
) -> None:
    journal, faults, opened = failing
    faults["INSERT INTO events"] = [sqlite3.SQLITE_TOOBIG]
    with pytest.raises(JournalUnavailable, match=r"journal\.db"):
        await journal.append(append("ex-1", 1))
    assert (await journal.append(append("ex-1", 1))).version == 2
    assert len(opened) == 1
    await journal.close()


async def test_a_connection_that_cannot_even_roll_back_is_given_up(
    failing: tuple[SqliteJournal, dict[str, list[int]], Opened],
) -> None:
    journal, faults, opened = failing
    faults["INSERT INTO events"] = [sqlite3.SQLITE_FULL]
    faults["ROLLBACK"] = [sqlite3.SQLITE_IOERR]
    with pytest.raises(JournalFull):
        await journal.append(append("ex-1", 1))
    assert is_closed(opened[0])
    assert (await journal.append(append("ex-1", 1))).version == 2
    await journal.close()


async def test_what_was_interrupted_between_two_statements_is_undone(path: str) -> None:
    journal = await SqliteJournal.open(path)
    await journal.append(append())
    connection = journal._committer._connection
    assert connection is not None
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE heads SET name = 'another'")
    assert (await journal.append(append("ex-1", 1))).version == 2
    head = await journal.head("ex-1")
    assert head is not None
    assert head.name == "order"
    await journal.close()


async def test_a_group_that_is_interrupted_is_told_and_the_next_one_goes_on(path: str) -> None:
    class Interrupted(BaseException):
        pass

    journal = await SqliteJournal.open(path)

    def interrupt(transaction: Transaction) -> None:
        raise Interrupted

    async def interrupted() -> object:
        return await journal._submit(Action(interrupt))

    results = await asyncio.gather(journal.append(append()), interrupted(), return_exceptions=True)
    assert [type(result) for result in results] == [Interrupted, Interrupted]
    assert await journal.read_all() == []
    assert (await journal.append(append())).version == 1
    await journal.close()


async def test_of_a_group_whose_works_are_tried_alone_each_is_told_what_came_of_it(
    failing: tuple[SqliteJournal, dict[str, list[int]], Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "BUSY_SECONDS", 0.0)
    journal, faults, _ = failing
    faults["INSERT INTO events"] = [sqlite3.SQLITE_TOOBIG]
    busy = sqlite3.SQLITE_BUSY
    faults["BEGIN IMMEDIATE"] = [0, 0, busy, busy]
    results = await asyncio.gather(
        *(journal.append(append(f"ex-{number}")) for number in (2, 3, 4)), return_exceptions=True
    )
    assert [type(result) for result in results] == [Appended, JournalUnavailable, Appended]
    assert [event.stream for event in await journal.read_all()] == ["ex-1", "ex-2", "ex-4"]
    await journal.close()


# A full disk refuses, loses nothing, and is forgotten when there is room again.


async def fill(journal: Journal, version: int) -> int:
    """Appends until there is no room; returns the last version that there was room for."""
    for _ in range(1000):
        try:
            version = (await journal.append(append("ex-1", version, b"x" * 3000))).version
        except JournalFull:
            return version
    return pytest.fail("there was room without end")


async def test_a_full_file_is_told_and_forgotten(path: str) -> None:
    journal = cast("SqliteJournal", await open_journal(path))
    await journal.append(append())
    connection = journal._committer._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    version = await fill(journal, 1)
    with pytest.raises(JournalFull):
        journal.append_blocking(append("ex-1", version, b"x" * 30_000))
    assert len(await journal.read_stream("ex-1")) == version
    connection.execute("PRAGMA max_page_count = 1000000")
    assert (await journal.append(append("ex-1", version, b"x" * 3000))).version == version + 1
    await journal.close()
    with open_reader(path) as reader:
        assert reader.verify() == []
        assert len(reader.read_all()) == version + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder))
    yield folder
    unmount(str(folder))


def mount(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")


async def test_a_full_disk_is_told_and_forgotten(small_disk: Path) -> None:
    folder = small_disk
    ballast = folder / "ballast"
    journal = await open_journal(str(folder / "journal.db"))
    version = (await journal.append(append())).version
    ballast.write_bytes(bytes(100_000))
    version = await fill(journal, version)
    with pytest.raises(JournalFull):
        await journal.append(append("ex-1", version, b"x" * 200_000))
    assert len(await journal.read_stream("ex-1")) == version
    ballast.unlink()
    assert (await journal.append(append("ex-1", version, b"x" * 3000))).version == version + 1
    await journal.close()
    with open_reader(str(folder / "journal.db")) as reader:
        assert reader.verify() == []
        assert len(reader.read_all()) == version + 1


# Waiting for another process has an end, and does not stop the event loop.


async def test_a_lock_that_is_never_given_back_is_told(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "BUSY_SECONDS", 0.2)
    journal = await open_journal(path)
    await journal.append(append())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalUnavailable, match="locked"):
        await journal.append(append("ex-1", 1))
    with pytest.raises(JournalUnavailable, match="locked"):
        journal.append_blocking(append("ex-1", 1))
    results = await asyncio.gather(
        *(journal.append(append(f"ex-{n}")) for n in range(2, 5)), return_exceptions=True
    )
    assert {type(result) for result in results} == {JournalUnavailable}
    holder.execute("ROLLBACK")
    holder.close()
    assert (await journal.append(append("ex-1", 1))).version == 2
    await journal.close()


async def test_the_event_loop_goes_on_while_another_process_writes(path: str) -> None:
    journal = await open_journal(path)
    await journal.append(append())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(journal.append(append("ex-1", 1)))
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not waiting.done()
    holder.execute("ROLLBACK")
    holder.close()
    assert (await waiting).version == 2
    await journal.close()


async def test_two_hundred_threads_and_the_loop_write_at_once(path: str) -> None:
    journal = await open_journal(path)
    refused: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for version in range(3):
                journal.append_blocking(append(f"ex-{number}", version))
        except BaseException as error:  # told below
            refused.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(journal.append(append(f"ex-loop-{number}")) for number in range(200)))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert refused == []
    assert len(await journal.read_all(limit=2000)) == 800
    await journal.close()


async def test_one_that_cannot_be_written_does_not_harm_its_group(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await SqliteJournal.open(path)

    def fail(transaction: Transaction) -> None:
        transaction.append(PreparedAppend(append("ex-9")))
        raise OverflowError("too big for SQLite")

    groups: list[int] = []
    queue = journal._committer.queue

    def queued(works: Sequence[Work[Any]], done: Callable[[], None]) -> None:
        groups.append(len(works))
        queue(works, done)

    monkeypatch.setattr(journal._committer, "queue", queued)

    async def failing() -> object:
        return await journal._submit(Action(fail))

    results = await asyncio.gather(
        *(journal.append(append(f"ex-{n}")) for n in range(5)), failing(), return_exceptions=True
    )
    assert groups[0] == 6
    assert isinstance(results.pop(), OverflowError)
    assert all(isinstance(result, Appended) for result in results)
    assert [event.stream for event in await journal.read_all()] == [f"ex-{n}" for n in range(5)]
    with pytest.raises(OverflowError):
        await journal._submit(Action(fail))
    assert await journal.head("ex-9") is None
    await journal.close()


async def test_many_streams_are_not_all_remembered(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "_MOST_ENDS", 3)
    journal = await SqliteJournal.open(path)
    for version in range(4):
        for number in range(5):
            appended = await journal.append(append(f"ex-{number}", version))
            assert appended.version == version + 1
            # Those of the transaction itself, and no more than that before it.
            assert len(journal._committer._ends.by_stream) <= 4
    await journal.close()


async def test_what_its_owner_has_let_go_is_forgotten(path: str) -> None:
    journal = await SqliteJournal.open(path)
    started = await journal.append(append("ex-1", claim=Claim("me", 30)))
    await journal.append(append("ex-2"))
    await journal.append(append("ex-1", 1, lease=started.lease, release=True))
    await journal.append(append("ex-2", 1))
    assert set(journal._committer._ends.by_stream) == {"ex-2"}
    assert journal._committer._ends.released == []
    assert (await journal.append(append("ex-1", 2))).version == 3
    await journal.close()


async def test_keys_are_indexed_now_and_then_although_nobody_looks(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "_MOST_UNINDEXED", 3)
    journal = await SqliteJournal.open(path)
    await journal.append(append())
    for version in range(1, 8):
        keyed = (NewEvent("Happened", b"x", key=version),)
        await journal.append(Append("ex-1", keyed, version))
    with contextlib.closing(sqlite3.connect(path)) as other:
        (indexed,) = other.execute("SELECT count(*) FROM event_keys").fetchone()
    assert 3 <= indexed <= 7
    await journal.close()


async def test_a_big_append_of_which_nobody_hears_is_told_as_closed(path: str) -> None:
    journal = await SqliteJournal.open(path)
    told: list[tuple[Appended | None, BaseException | None]] = []
    tasks = asyncio.all_tasks()
    big = append(blobs=(bytes(300 * 1024),))
    journal.append_soon(big, lambda *outcome: told.append(outcome))
    (task,) = asyncio.all_tasks() - tasks
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert [type(error) for _, error in told] == [JournalClosed]
    refused = append("ex-2", 7, blobs=(bytes(300 * 1024),))
    ended = asyncio.Event()

    def done(appended: Appended | None, error: BaseException | None) -> None:
        told.append((appended, error))
        ended.set()

    journal.append_soon(refused, done)
    await ended.wait()
    assert isinstance(told[-1][1], WrongExpectedVersion)
    await journal.close()


# A journal that may not be written can be read.


@pytest.fixture(params=["file", "folder"])
async def read_only(request: pytest.FixtureRequest, path: str) -> AsyncIterator[str]:
    journal = await open_journal(path)
    await journal.append(append())
    await journal.close()
    mounted = path if request.param == "file" else str(Path(path).parent)
    mount("--bind", mounted, mounted)
    mount("-o", "remount,bind,ro", mounted)
    yield path
    unmount(mounted)


def unmount(place: str) -> None:
    subprocess.run(["umount", "--lazy", place], check=True)


async def test_a_journal_that_may_not_be_written_can_be_read(read_only: str) -> None:
    journal = await open_journal(read_only)
    assert len(await journal.read_stream("ex-1")) == 1
    with pytest.raises(JournalReadOnly, match=r"journal\.db"):
        await journal.append(append("ex-1", 1))
    with pytest.raises(JournalReadOnly):
        journal.append_blocking(append("ex-1", 1))
    with open_reader(read_only) as reader:
        assert reader.verify() == []
    await journal.close()


# Closing leaves nothing behind.


async def test_closing_leaves_no_thread_and_no_log(path: str) -> None:
    before = set(threading.enumerate())
    journal = await open_journal(path)
    await asyncio.gather(*(journal.append(append(f"ex-{n}")) for n in range(50)))
    await journal.read_all()
    assert set(threading.enumerate()) - before
    await journal.close()
    # Those of other tests may have ended meanwhile.
    assert set(threading.enumerate()) <= before
    assert [file.name for file in Path(path).parent.iterdir()] == ["journal.db"]


# Who commits: whoever brings a lone piece of work; the writer thread, what comes meanwhile; and the
# event loop only what is quick, without waiting for anybody.


class Publishing(list[int]):
    """How many events were published each time."""

    def __call__(self, events: Sequence[RecordedEvent]) -> None:
        self.append(len(events))


@pytest.fixture
def published() -> Publishing:
    return Publishing()


@pytest.fixture
def committer(
    path: str, published: Publishing, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Committer]:
    """One that has not opened its file yet, and finds every commit quick."""
    prepare_file(path)
    monkeypatch.setattr(committing, "_QUICK_SECONDS", 600.0)
    made = Committer(path, system_clock, published)
    yield made
    if (thread := made.close(lambda: None)) is not None:
        thread.join(20)


def writing(stream: str = "ex-1") -> PreparedAppend:
    return PreparedAppend(append(stream))


def nothing() -> Action[str]:
    return Action(lambda _: "done")


def until(condition: Callable[[], bool]) -> None:
    """Waits for another thread."""
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.001)
    pytest.fail("it never came")


def test_a_lone_piece_of_work_is_committed_by_whoever_brings_it(committer: Committer) -> None:
    work = Action(lambda _: threading.get_ident())
    assert committer.commit_here(work)
    assert work.result() == threading.get_ident()
    assert committer.commit_here(work, on_loop=True)
    assert committer.commit_blocking(work) == threading.get_ident()


def test_the_loop_opens_no_file(committer: Committer) -> None:
    work = writing()
    assert not committer.commit_here(work, on_loop=True)
    assert committer._connection is None
    assert committer.commit_blocking(work).version == 1
    assert committer.commit_here(nothing(), on_loop=True)


def test_the_loop_leaves_commits_to_the_writer_while_they_are_slow(
    committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what lone commits have lately taken; a group says nothing of them."""
    seconds, now = 0.0, 0.0

    class Time:
        @staticmethod
        def perf_counter() -> float:
            nonlocal now
            now += seconds / 2
            return now

    monkeypatch.setattr(committing, "time", Time)
    monkeypatch.setattr(committing, "_QUICK_SECONDS", 0.001)
    committer.open()
    assert committer.commit_here(nothing(), on_loop=True)
    seconds = 5.0
    committer._finish([_Batch((nothing(), nothing()), lambda: None)], ending=False)
    assert committer.commit_here(nothing(), on_loop=True) is True
    seconds = 0.005
    for _ in range(30):
        committer.commit_blocking(nothing())
    assert not committer.commit_here(nothing(), on_loop=True)
    assert committer.commit_here(nothing())
    seconds = 0.000_1
    for _ in range(60):
        committer.commit_blocking(nothing())
    assert committer.commit_here(nothing(), on_loop=True)
    seconds = 0.004  # one among many
    committer.commit_blocking(nothing())
    assert committer.commit_here(nothing(), on_loop=True)


def test_what_comes_later_overtakes_nothing(committer: Committer) -> None:
    committer.open()
    first, second = writing(), writing()
    ended = threading.Event()
    assert not committer.is_busy
    with committer._gate:  # the writer thread cannot take it yet
        committer.queue((first,), ended.set)
        assert committer.is_busy
        assert not committer.commit_here(second)
        assert not committer.commit_here(second, on_loop=True)
    assert ended.wait(20)
    assert not committer.is_busy
    assert committer.commit_here(second, on_loop=True)
    assert first.result().version == 1
    with pytest.raises(WrongExpectedVersion):
        second.result()


@pytest.mark.parametrize("on_loop", [False, True])
def test_while_somebody_commits_nobody_waits_for_the_lock(
    committer: Committer, on_loop: bool
) -> None:
    committer.open()
    committer.borrow()
    work = nothing()
    assert not committer.commit_here(work, on_loop=on_loop)
    committer.look_for_foreign_commits()
    committer.give_back()
    assert committer.commit_here(work, on_loop=on_loop)


def test_a_thread_that_finds_another_at_it_returns_after_its_own_commit(
    committer: Committer,
) -> None:
    committer.open()
    committer.borrow()
    versions: list[int] = []
    thread = threading.Thread(
        target=lambda: versions.append(committer.commit_blocking(writing()).version)
    )
    thread.start()
    until(lambda: committer.is_busy or not thread.is_alive())
    assert versions == []
    committer.give_back()
    thread.join(20)
    assert versions == [1]


@pytest.mark.parametrize("on_loop", [False, True])
def test_a_thread_waits_for_another_process_and_the_loop_does_not(
    committer: Committer, path: str, on_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer.open()
    waited: list[float] = []

    def patiently(action: Callable[[], object], seconds: float) -> object:
        waited.append(seconds)
        return connections.patiently(action, 0.0)

    monkeypatch.setattr(committing, "patiently", patiently)
    work = writing()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        if on_loop:
            assert not committer.commit_here(work, on_loop=True)
            assert work.error is None
        else:
            with pytest.raises(JournalUnavailable, match="locked"):
                committer.commit_blocking(work)
    assert waited == [0.0 if on_loop else connections.BUSY_SECONDS]
    assert committer.commit_blocking(work).version == 1


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([1, 1], [[1, 1]]),
        ([2, 1, 1], [[2, 1], [1]]),
        ([3, 1], [[3], [1]]),
        ([9, 9], [[9], [9]]),
        ([0, 0, 0, 0], [[0, 0, 0, 0]]),
    ],
)
def test_a_group_ends_when_it_is_big_enough(
    committer: Committer,
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    groups: list[list[int]],
) -> None:
    monkeypatch.setattr(committing, "_MOST_IN_A_GROUP", 3)
    for size in sizes:
        committer._queue.append(_Batch([nothing()] * size, lambda: None))
    found = []
    while committer._queue:
        found.append([len(batch.works) for batch in committer._next_batches()])
    assert found == groups


def test_whoever_finds_a_checkpoint_due_leaves_it_to_the_writer(
    committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer.open()
    monkeypatch.setattr(checkpoints, "DUE_BYTES", 100_000)
    big = PreparedAppend(append(payload=bytes(200_000)))
    assert committer.commit_here(big)
    until(lambda: not committer._checkpoints.anything_written)
    until(lambda: not committer.is_busy)
    committer.commit_blocking(PreparedAppend(append("ex-2", payload=bytes(50_000))))
    assert committer._checkpoints.anything_written


def test_a_checkpoint_is_taken_when_it_is_due_and_at_the_end_of_who_has_written(
    committer: Committer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    take = Checkpoints.take

    def taking(self: Checkpoints, writer: sqlite3.Connection) -> bool:
        taken.append(path)
        return take(self, writer)

    monkeypatch.setattr(Checkpoints, "take", taking)
    committer.open()
    before = committer._checkpoints._written
    ended = threading.Event()
    committer.queue((writing(),), ended.set)
    assert ended.wait(20)
    until(lambda: not committer.is_busy)
    assert taken == []
    assert committer._checkpoints._written > before
    for number in range(2):
        thread = committer.close(lambda: None)
        assert thread is not None
        thread.join(20)
        assert len(taken) == 1, "the second has written nothing"
        if number == 0:
            committer = Committer(path, system_clock, lambda _: None)
            committer.open()
            assert not committer._checkpoints.anything_written


# What another connection has committed is noticed once, and only while there is a connection.


def test_a_foreign_commit_is_published_once(
    committer: Committer, path: str, published: Publishing
) -> None:
    committer.look_for_foreign_commits()
    assert published == []
    committer.commit_blocking(writing())
    assert published == [1]
    committer.look_for_foreign_commits()
    assert published == [1]
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE notes (text)")
    for _ in range(3):
        committer.look_for_foreign_commits()
    assert published == [1, 0]
    assert committer.commit_here(nothing(), on_loop=True)
    assert published == [1, 0]


def test_a_look_that_fails_is_left_to_whoever_reads_next(committer: Committer) -> None:
    committer.open()
    assert committer._connection is not None
    committer._connection.close()
    committer.look_for_foreign_commits()
    assert not committer._lock.locked()


# The end: after what is queued, with nothing left open, and for good.


def test_closing_ends_the_thread_and_its_connections(committer: Committer, path: str) -> None:
    committer.commit_blocking(writing())
    connection = committer._connection
    assert connection is not None
    told: list[str] = []
    with contextlib.closing(connect_reader(path)):  # so that SQLite itself takes no checkpoint
        thread = committer.close(lambda: told.append("closed"))
        assert thread is not None
        # A process that forgets to close ends nevertheless.
        assert (thread.daemon, thread.name) == (True, "journal-writer")
        thread.join(20)
        assert not thread.is_alive()
        assert told == ["closed"]
        assert is_closed(connection)
        assert committer._connection is None
        assert committer._checkpoints._connection is None
        assert not committer._checkpoints.anything_written
    assert committer.close(lambda: told.append("again")) is None
    assert not committer.commit_here(writing("ex-2"))
    for use in (committer.borrow, lambda: committer.queue((nothing(),), lambda: None)):
        for _ in range(2):
            with pytest.raises(JournalClosed, match=r"journal\.db was closed"):
                use()
    committer.look_for_foreign_commits()


def test_what_is_queued_is_committed_before_the_end(
    committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many groups it takes."""
    monkeypatch.setattr(committing, "_MOST_IN_A_GROUP", 1)
    committer.open()
    works = [writing(f"ex-{number}") for number in range(3)]
    told: list[object] = []
    with committer._gate:
        for work in works:
            committer.queue((work,), lambda: told.append("done"))
        thread = committer.close(lambda: told.append("closed"))
    assert thread is not None
    thread.join(20)
    assert told == ["done", "done", "done", "closed"]
    assert [work.result().version for work in works] == [1, 1, 1]


def test_a_forked_child_touches_nothing_of_its_parents(path: str, published: Publishing) -> None:
    prepare_file(path)
    parents = Committer(path, system_clock, published)
    parents.commit_blocking(writing())
    connection = parents._connection
    assert connection is not None
    assert parents.held() == [parents, connection, parents._checkpoints]
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    parents.abandon()
    assert not parents.commit_here(writing("ex-2"))
    parents.look_for_foreign_commits()
    with pytest.raises(JournalClosed):
        parents.queue((writing("ex-2"),), lambda: None)
    with pytest.raises(JournalClosed):
        parents.borrow()
    assert parents.close(lambda: None) is None
    assert seen == []
    assert not is_closed(connection)
    connection.close()


# What is left after a commit that failed, and a read-back that failed, too.


async def test_after_an_unknown_outcome_everything_is_opened_anew(
    faulty: tuple[Journal, Break],
) -> None:
    journal, break_ = faulty
    break_("before", "before")
    with pytest.raises(CommitOutcomeUnknown):
        await journal.append(append())
    assert cast("SqliteJournal", journal)._committer._connection is None
    assert (await journal.append(append())).version == 1
    await journal.close()


async def test_a_failed_commit_of_nothing_is_not_told_as_done(
    faulty: tuple[Journal, Break],
) -> None:
    journal, break_ = faulty
    break_("before")
    with pytest.raises(JournalUnavailable):
        journal.renew_blocking([], 30)
    assert journal.renew_blocking([], 30) == []
    await journal.close()


async def test_what_came_of_a_failed_commit_is_looked_for_under_the_lock(
    faulty: tuple[Journal, Break], path: str
) -> None:
    """Another's commit between the look and its being made final would make it unknown."""
    journal, break_ = faulty
    committer = cast("SqliteJournal", journal)._committer
    connect = committer._connect
    looks: list[str] = []

    def watched(path: str) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(looking)
        return connection

    def looking(statement: str) -> None:
        if statement.startswith("SELECT 1 FROM events"):
            with (
                contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
                pytest.raises(sqlite3.OperationalError, match="locked"),
            ):
                other.execute("BEGIN IMMEDIATE")
            looks.append(statement)

    committer._connect = watched
    break_("after")
    assert (await journal.append(append())).version == 1
    assert len(looks) == 1
    await journal.close()
