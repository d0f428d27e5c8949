"""A caller's writes and one append are one commit of the journal's own file."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from journal import (
    Append,
    Appended,
    Claim,
    CommitRefused,
    HeadChange,
    Journal,
    JournalClosed,
    JournalFull,
    JournalUnavailable,
    Lease,
    NewEvent,
    NoTransactions,
    RecordedEvent,
    StaleLease,
    StoreTransaction,
    TransactionOver,
    WrongExpectedVersion,
    open_journal,
)
from journal.backends.sqlite import checkpoints, shared
from journal.backends.sqlite.connections import connect
from journal.backends.sqlite.journal import SqliteJournal
from journal.backends.sqlite.shared import OWN_TABLES, SharedTransaction
from journal.backends.sqlite.transaction import PreparedAppend

HEAD = HeadChange("running", "flow", None)
EVENT = (NewEvent("happened", b"{}"),)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = await open_journal(f"sqlite:///{tmp_path}/journal.db")
    with closing(sqlite3.connect(opened.location)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    yield opened
    await opened.close()


class Hooks:
    def __init__(self, journal: Journal, seconds: float = 30) -> None:
        self.calls: list[object] = []
        self.transaction: StoreTransaction = journal.transaction(
            seconds=seconds,
            entering=lambda: self.calls.append("in"),
            leaving=self.calls.append,
        )


async def begun(journal: Journal) -> Lease:
    """A stream at version 1, and its lease."""
    first = Append("a-1", EVENT, 0, head=HEAD, claim=Claim("me", 30))
    lease = (await journal.append(first)).lease
    assert lease is not None
    return lease


def notes(journal: Journal) -> list[str]:
    with closing(sqlite3.connect(journal.location)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes")]


async def write(transaction: StoreTransaction, text: str) -> None:
    await asyncio.to_thread(transaction.execute, "INSERT INTO notes VALUES (?)", (text,))


async def test_both_are_there_or_neither(journal: Journal) -> None:
    lease = await begun(journal)
    hooks = Hooks(journal)
    await write(hooks.transaction, "with the event")
    assert notes(journal) == []
    append = Append("a-1", EVENT, 1, lease=lease)
    appended = await asyncio.to_thread(hooks.transaction.append, append)
    assert appended.version == 2
    assert [event.hash for event in await journal.read_stream("a-1", after=1)] == [
        event.hash for event in appended.events
    ]
    assert notes(journal) == ["with the event"]
    assert hooks.calls == ["in", True]
    assert (await journal.append(Append("a-1", EVENT, 2, lease=lease))).version == 3


async def test_watchers_and_the_next_checkpoint_know_of_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(journal)
    told: list[RecordedEvent] = []
    journal.watch("a-1", told.extend)
    hooks = Hooks(journal)
    await write(hooks.transaction, "a")
    committer = cast("SqliteJournal", journal)._committer
    before = committer._checkpoints._written
    big = (NewEvent("happened", bytes(50_000)),)
    # So that giving the lock back finds one due, and leaves it to the writer thread.
    monkeypatch.setattr(checkpoints, "DUE_BYTES", before + 50_000)
    appended = await asyncio.to_thread(hooks.transaction.append, Append("a-1", big, 1))
    await asyncio.sleep(0)
    while committer.is_busy:  # noqa: ASYNC110 - nobody is told of a checkpoint
        await asyncio.sleep(0.001)
    assert not committer._checkpoints.anything_written
    assert told == list(appended.events)


async def test_after_a_wrong_version_it_may_append_anew(journal: Journal) -> None:
    lease = await begun(journal)
    await journal.append(Append("a-1", EVENT, 1))
    hooks = Hooks(journal)
    await write(hooks.transaction, "a")
    with pytest.raises(WrongExpectedVersion):
        await asyncio.to_thread(hooks.transaction.append, Append("a-1", EVENT, 1, lease=lease))
    await asyncio.to_thread(hooks.transaction.append, Append("a-1", EVENT, 2, lease=lease))
    assert notes(journal) == ["a"]


async def test_one_whose_time_ends_in_its_commit_is_committed_and_says_so(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await begun(journal)
    hooks = Hooks(journal)
    await write(hooks.transaction, "a")
    committer = cast("SqliteJournal", journal)._committer
    commit = committer.commit_with

    def slowly(connection: sqlite3.Connection, prepared: PreparedAppend) -> Appended:
        # From another thread, as the loop does it.
        ending = threading.Thread(target=hooks.transaction.abandon, args=("its time is over",))
        ending.start()
        ending.join()
        return commit(connection, prepared)

    monkeypatch.setattr(committer, "commit_with", slowly)
    append = Append("a-1", EVENT, 1, lease=lease)
    assert (await asyncio.to_thread(hooks.transaction.append, append)).version == 2
    assert hooks.calls == ["in", True]
    assert notes(journal) == ["a"]
    with pytest.raises(TransactionOver, match="it is committed"):
        hooks.transaction.check()


async def test_after_a_wrong_version_it_may_be_abandoned_in_a_statement(journal: Journal) -> None:
    lease = await begun(journal)
    await journal.append(Append("a-1", EVENT, 1))
    hooks = Hooks(journal)
    await write(hooks.transaction, "a")
    with pytest.raises(WrongExpectedVersion):
        await asyncio.to_thread(hooks.transaction.append, Append("a-1", EVENT, 1, lease=lease))
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    long = f"{endless} SELECT max(i) FROM (SELECT i FROM n LIMIT 20000000)"
    running = asyncio.create_task(asyncio.to_thread(hooks.transaction.execute, long))
    transaction = cast("SharedTransaction", hooks.transaction)
    while not transaction._guarding:  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    while not running.done():
        transaction.abandon("it takes too long")
        await asyncio.sleep(0.01)
    with pytest.raises(TransactionOver, match="it takes too long"):
        await running
    assert notes(journal) == []


async def test_a_stale_lease_undoes_the_writes(journal: Journal) -> None:
    lease = await begun(journal)
    await journal.append(Append("a-1", (), 1, lease=lease, claim=Claim("me", 30)))
    hooks = Hooks(journal)
    await write(hooks.transaction, "a zombie's")
    with pytest.raises(StaleLease):
        await asyncio.to_thread(hooks.transaction.append, Append("a-1", EVENT, 1, lease=lease))
    assert hooks.calls == ["in", False]
    assert notes(journal) == []
    with pytest.raises(TransactionOver):
        await write(hooks.transaction, "again")


async def test_others_append_after_it_and_not_in_it(journal: Journal) -> None:
    await begun(journal)
    hooks = Hooks(journal)
    await write(hooks.transaction, "a")
    other = asyncio.create_task(journal.append(Append("b-1", EVENT, 0, head=HEAD)))
    await asyncio.sleep(0.05)
    assert not other.done()
    hooks.transaction.abandon("nobody needs it")
    assert (await other).version == 1
    assert notes(journal) == []


async def test_one_that_takes_too_long_is_rolled_back_for_the_others(journal: Journal) -> None:
    hooks = Hooks(journal, seconds=0.05)
    await write(hooks.transaction, "a")
    # Nobody ends it: only its time.
    assert (await journal.append(Append("b-1", EVENT, 0, head=HEAD))).version == 1
    with pytest.raises(TransactionOver, match="nobody else could write"):
        await write(hooks.transaction, "b")
    assert hooks.calls == ["in", False]
    assert notes(journal) == []


@pytest.mark.parametrize("end", ["append", "abandon"])
async def test_one_that_has_ended_has_no_time_limit_any_more(journal: Journal, end: str) -> None:
    hooks = Hooks(journal)
    await write(hooks.transaction, "a")
    await asyncio.sleep(0)
    limit = cast("SharedTransaction", hooks.transaction)._limit
    assert limit is not None
    assert not limit.cancelled()
    if end == "append":
        append = Append("a-1", EVENT, 0, head=HEAD)
        await asyncio.to_thread(hooks.transaction.append, append)
    else:
        hooks.transaction.abandon("nobody needs it")
    await asyncio.sleep(0)
    assert limit.cancelled()


async def test_one_that_cannot_begin_gives_everything_back(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []

    def connecting(path: str, mode: str) -> sqlite3.Connection:
        opened.append(connect(path, mode, timeout=0))
        return opened[-1]

    monkeypatch.setattr(shared, "connect", connecting)
    monkeypatch.setattr(shared, "patiently", lambda action: action())
    hooks = Hooks(journal)
    with closing(sqlite3.connect(journal.location, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await write(hooks.transaction, "a")
    assert hooks.calls == ["in", False]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].total_changes  # noqa: B018 - asking is what fails
    assert (await journal.append(Append("b-1", EVENT, 0, head=HEAD))).version == 1


async def test_on_a_closed_journal_none_begins(journal: Journal) -> None:
    hooks = Hooks(journal)
    await journal.close()
    for _ in range(2):  # the second time it would wait for ever if the lock was kept
        with pytest.raises(JournalClosed):
            await write(hooks.transaction, "a")
    assert hooks.calls == ["in", False] * 2
    with pytest.raises(JournalClosed):
        Hooks(journal)


async def test_a_failed_commit_is_read_back(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await begun(journal)
    from journal.backends.sqlite import shared

    class Failing(sqlite3.Connection):
        happens = True

        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if sql == "COMMIT":
                if self.happens:
                    super().execute(sql)
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    def connect(path: str, _mode: str) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Failing, isolation_level=None, check_same_thread=False)

    monkeypatch.setattr(shared, "connect", connect)
    hooks = Hooks(journal)
    await write(hooks.transaction, "there")
    appended = await asyncio.to_thread(
        hooks.transaction.append, Append("a-1", EVENT, 1, lease=lease)
    )
    assert appended.version == 2
    monkeypatch.setattr(Failing, "happens", False)
    hooks = Hooks(journal)
    await write(hooks.transaction, "not there")
    with pytest.raises(JournalUnavailable):
        await asyncio.to_thread(hooks.transaction.append, Append("a-1", EVENT, 2, lease=lease))
    assert notes(journal) == ["there"]
    assert (await journal.append(Append("a-1", EVENT, 2, lease=lease))).version == 3


def settled(journal: Journal) -> int:
    """How often a failed commit was read back."""
    with closing(sqlite3.connect(journal.location)) as connection:
        return int(connection.execute("SELECT settled FROM settlements").fetchone()[0])


async def test_constraints_of_the_callers_own_undo_both(journal: Journal) -> None:
    """They are not the store's failure: nothing has to be read back."""
    lease = await begun(journal)
    hooks = Hooks(journal)
    run = hooks.transaction.execute
    await asyncio.to_thread(run, "CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    children = "CREATE TABLE children (id REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
    await asyncio.to_thread(run, children)
    await asyncio.to_thread(run, "INSERT INTO children VALUES (1)")
    append = Append("a-1", EVENT, 1, lease=lease)
    with pytest.raises(CommitRefused, match="FOREIGN KEY") as refused:
        await asyncio.to_thread(hooks.transaction.append, append)
    assert isinstance(refused.value.__cause__, sqlite3.IntegrityError)
    assert hooks.calls == ["in", False]
    assert len(await journal.read_stream("a-1")) == 1
    assert settled(journal) == 0
    assert (await journal.append(append)).version == 2


async def test_a_full_disk_at_the_commit_undoes_both(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last part of it did not fit: no recovery can take it for committed."""
    lease = await begun(journal)

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if sql == "COMMIT":
                failure = sqlite3.OperationalError("database or disk is full")
                failure.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise failure
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    def connect(path: str, _mode: str) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Full, isolation_level=None, check_same_thread=False)

    monkeypatch.setattr(shared, "connect", connect)
    hooks = Hooks(journal)
    await write(hooks.transaction, "undone")
    append = Append("a-1", EVENT, 1, lease=lease)
    with pytest.raises(JournalFull, match="make room"):
        await asyncio.to_thread(hooks.transaction.append, append)
    assert hooks.calls == ["in", False]
    assert notes(journal) == []
    assert settled(journal) == 0
    assert (await journal.append(append)).version == 2


async def test_what_was_read_back_counts_as_settled(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await begun(journal)
    made: list[sqlite3.Connection] = []

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if sql == "COMMIT":
                failure = sqlite3.OperationalError("disk I/O error")
                failure.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise failure
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    def connect(path: str, _mode: str) -> sqlite3.Connection:
        made.append(
            sqlite3.connect(path, factory=Failing, isolation_level=None, check_same_thread=False)
        )
        return made[-1]

    monkeypatch.setattr(shared, "connect", connect)
    hooks = Hooks(journal)
    await write(hooks.transaction, "undone")
    append = Append("a-1", EVENT, 1, lease=lease)
    with pytest.raises(JournalUnavailable):
        await asyncio.to_thread(hooks.transaction.append, append)
    assert settled(journal) == 1
    # It must not hold its lock while another connection settles what came of it.
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].total_changes  # noqa: B018 - asking is what fails
    assert notes(journal) == []
    assert (await journal.append(append)).version == 2


@pytest.mark.parametrize(
    ("code", "error"),
    [(sqlite3.SQLITE_FULL, JournalFull), (sqlite3.SQLITE_IOERR, JournalUnavailable)],
)
async def test_an_append_that_fails_before_the_commit_undoes_the_writes(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    lease = await begun(journal)

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if "INSERT INTO events" in sql:
                failure = sqlite3.OperationalError("made to fail")
                failure.sqlite_errorcode = code
                raise failure
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    def connect(path: str, _mode: str) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Failing, isolation_level=None, check_same_thread=False)

    monkeypatch.setattr(shared, "connect", connect)
    hooks = Hooks(journal)
    await write(hooks.transaction, "undone")
    append = Append("a-1", EVENT, 1, lease=lease)
    with pytest.raises(error, match=r"journal\.db"):
        await asyncio.to_thread(hooks.transaction.append, append)
    assert hooks.calls == ["in", False]
    assert not hooks.transaction.has_begun
    with pytest.raises(TransactionOver, match="its append has failed"):
        hooks.transaction.check()
    assert notes(journal) == []
    assert (await journal.append(append)).version == 2


async def test_a_journal_knows_its_own_file_by_every_name(journal: Journal, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(journal.location)
    assert journal.shares_store_with(str(link)) is True
    assert journal.shares_store_with(str(tmp_path / "other.db")) is False
    await asyncio.to_thread(Path(journal.location).unlink)
    assert journal.shares_store_with(str(link)) is True


async def test_all_of_the_journals_tables_are_its_own(tmp_path: Path) -> None:
    journal = await open_journal(f"sqlite:///{tmp_path}/new.db")
    await journal.close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        assert {row[0] for row in connection.execute(query)} == set(OWN_TABLES)


async def test_a_journal_in_memory_refuses() -> None:
    journal = await open_journal("memory://")
    with pytest.raises(NoTransactions):
        Hooks(journal)
    assert not journal.shares_store_with("memory://")
