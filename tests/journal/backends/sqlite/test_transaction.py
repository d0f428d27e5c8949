"""What one write transaction does, and what it leaves for whoever watches, counts or looks up."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from journal import (
    Adoption,
    Append,
    Claim,
    ClaimQuery,
    CorruptJournal,
    HeadChange,
    Lease,
    NewEvent,
    StaleLease,
    WrongExpectedVersion,
    open_journal,
)
from journal.backends.sqlite import transaction as remembering
from journal.backends.sqlite.connections import connect_writer, prepare_file
from journal.backends.sqlite.transaction import (
    Ends,
    PreparedAdoption,
    PreparedAppend,
    Transaction,
)

RUNNING = HeadChange("running", "order", 0)
NOW = 1_800_000_000_000_000


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = str(tmp_path / "journal.db")
    prepare_file(path)
    with contextlib.closing(connect_writer(path)) as connection:
        yield connection


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def transaction(connection: sqlite3.Connection, ends: Ends) -> Transaction:
    return Transaction(connection, ends, NOW)


def prepared(stream: str = "ex-1", version: int = 0, key: int | None = None, **more: Any) -> Any:
    more.setdefault("head", RUNNING if version == 0 else None)
    return PreparedAppend(Append(stream, (NewEvent("Happened", b"x", key=key),), version, **more))


def held(transaction: Transaction, stream: str = "ex-1") -> Lease:
    """The lease of a new stream."""
    lease = transaction.append(prepared(stream, claim=Claim("me", 30))).lease
    assert lease is not None
    return lease


# What is remembered of a stream changes nothing: where it is not, it is read.


@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_lease_is_given_back_by_whoever_holds_it(
    connection: sqlite3.Connection, ends: Ends, transaction: Transaction, is_remembered: bool
) -> None:
    lease = held(transaction)
    transaction.flush()
    if not is_remembered:
        ends.forget()
    transaction.release(lease)
    transaction.flush()
    row = connection.execute("SELECT owner, epoch, lease_until FROM heads").fetchone()
    assert row == (None, 1, 0)


def test_a_group_is_written_as_if_each_of_it_were_alone(
    connection: sqlite3.Connection, ends: Ends, transaction: Transaction
) -> None:
    """Whatever of it goes into one statement, and in whatever order the statements are run."""

    def states() -> list[tuple[str, str, str | None]]:
        transaction.flush()
        return connection.execute("SELECT stream, state, owner FROM heads ORDER BY id").fetchall()

    def head(state: str) -> HeadChange:
        return HeadChange(state, "order", 0)

    lease = held(transaction)
    transaction.append(prepared("ex-2"))
    transaction.append(prepared("ex-1", 1, head=head("one"), lease=lease))
    transaction.append(prepared("ex-1", 2, head=head("two"), lease=lease, release=True))
    transaction.append(prepared("ex-2", 1, head=head("one"), claim=Claim("you", 30)))
    transaction.append(prepared("ex-1", 3, head=head("three")))
    transaction.append(prepared("ex-2", 2, head=head("two")))
    assert states() == [("ex-1", "three", None), ("ex-2", "two", "you")]
    transaction.append(prepared("ex-1", 4, head=head("four"), claim=Claim("me", 30)))
    transaction.append(prepared("ex-1", 5, head=head("five")))
    transaction.release(Lease("ex-1", "me", 2, 0))
    transaction.append(prepared("ex-2", 3, head=head("three"), claim=Claim("you", 30)))
    transaction.append(prepared("ex-1", 6, head=head("six")))
    assert states() == [("ex-1", "six", None), ("ex-2", "three", "you")]
    transaction.append(prepared("ex-1", 7, head=head("seven")))
    transaction.append(prepared("ex-1", 8, head=head("eight"), claim=Claim("they", 30)))
    transaction.append(prepared("ex-1", 9, head=head("nine")))
    assert states() == [("ex-1", "nine", "they"), ("ex-2", "three", "you")]
    versions = connection.execute("SELECT stream, max(version) FROM events GROUP BY stream")
    assert versions.fetchall() == [(1, 10), (2, 4)]


def test_nothing_is_appended_where_a_head_has_lost_its_events(
    connection: sqlite3.Connection, ends: Ends, transaction: Transaction
) -> None:
    transaction.append(prepared("ex-1"))
    transaction.flush()
    connection.execute("DROP TRIGGER events_are_never_deleted")
    connection.execute("DELETE FROM events")
    ends.forget()
    for version in (0, 1):
        with pytest.raises(CorruptJournal, match="a head and no events") as damage:
            transaction.append(prepared("ex-1", version))
        assert (damage.value.stream, damage.value.version) == ("ex-1", 1)


def test_what_is_gathered_counts_for_what_comes_after_it_in_its_group(
    transaction: Transaction,
) -> None:
    lease = held(transaction)
    assert [renewed.stream for renewed in transaction.renew([lease], 60)] == ["ex-1"]
    transaction.append(prepared("ex-1", 1, lease=lease))
    transaction.release(lease)
    with pytest.raises(StaleLease):
        transaction.append(prepared("ex-1", 2, lease=lease))
    transaction.append(prepared("ex-1", 2))
    transaction.flush()


def test_what_had_to_be_read_is_remembered_with_what_was_done_since(
    ends: Ends, transaction: Transaction
) -> None:
    lease = held(transaction)
    transaction.flush()
    ends.forget()
    assert transaction.append(prepared("ex-1", 1)).version == 2
    assert transaction.append(prepared("ex-1", 2, lease=lease)).version == 3
    transaction.flush()
    ends.forget()
    transaction.release(lease)
    with pytest.raises(StaleLease):
        transaction.append(prepared("ex-1", 3, lease=lease))
    transaction.flush()


async def test_a_stream_that_was_begun_in_the_group_is_not_adopted(
    transaction: Transaction,
) -> None:
    source = await open_journal("memory://")
    await source.append(Append("ex-1", (NewEvent("Happened", b"x"),), 0, RUNNING))
    adoption = PreparedAdoption(Adoption(tuple(await source.read_stream("ex-1")), RUNNING))
    await source.close()
    transaction.append(prepared("ex-1"))
    with pytest.raises(WrongExpectedVersion):
        transaction.adopt(adoption)
    transaction.flush()


def test_streams_are_numbered_anew_after_another_has_written(
    connection: sqlite3.Connection, ends: Ends, transaction: Transaction
) -> None:
    transaction.append(prepared("ex-1"))
    transaction.flush()
    connection.execute("UPDATE heads SET id = 7")
    ends.forget()
    transaction.append(prepared("ex-2"))
    transaction.flush()
    rows = connection.execute("SELECT id, stream FROM heads ORDER BY id").fetchall()
    assert rows == [(7, "ex-1"), (8, "ex-2")]


# Watchers are woken for what there is to read, and not for a heartbeat.


def test_only_what_readers_would_see_wakes_them(connection: sqlite3.Connection, ends: Ends) -> None:
    def anew() -> Transaction:
        return Transaction(connection, ends, NOW)

    first = anew()
    lease = held(first)
    first.flush()
    assert (first.hint, len(first.events)) == (False, 1)
    renewing = anew()
    assert len(renewing.renew([lease], 60)) == 1
    renewing.flush()
    assert (renewing.hint, renewing.events) == (False, [])
    stale = anew()
    stale.release(Lease("ex-1", "me", 0, 0))
    stale.release(Lease("ex-9", "me", 1, 0))
    assert stale.hint is False
    changing = anew()
    changing.append(PreparedAppend(Append("ex-1", (), 1, RUNNING)))
    assert (changing.hint, changing.events) == (True, [])
    changing.flush()
    releasing = anew()
    releasing.release(lease)
    releasing.flush()
    assert releasing.hint is True
    claiming = anew()
    query = ClaimQuery(category="ex", names=["order"], claim=Claim("you", 30))
    assert len(claiming.claim(query)) == 1
    claiming.flush()
    assert claiming.hint is False


# What was written counts for the next checkpoint of the log.


def test_an_append_counts_with_its_payloads_and_blobs(transaction: Transaction) -> None:
    for number in range(1, 4):
        events = tuple(NewEvent("Happened", bytes(1_000)) for _ in range(3))
        blobs = (b"x" * 300, bytes(50_000))  # the second is packed
        transaction.append(PreparedAppend(Append(f"ex-{number}", events, 0, RUNNING, blobs=blobs)))
        assert 3_300 * number < transaction.size < 4_000 * number


async def test_an_adoption_counts_with_its_payloads_and_blobs(transaction: Transaction) -> None:
    source = await open_journal("memory://")
    events = tuple(NewEvent("Happened", bytes(1_000)) for _ in range(5))
    await source.append(Append("ex-1", events, 0, RUNNING))
    adoption = Adoption(
        tuple(await source.read_stream("ex-1")), RUNNING, (b"x" * 300, bytes(50_000))
    )
    await source.close()
    assert transaction.size == 0
    transaction.adopt(PreparedAdoption(adoption))
    # The second blob is packed.
    assert 5_300 < transaction.size < 6_000


@pytest.mark.parametrize("is_grouped", [False, True])
async def test_an_adopted_stream_has_a_number_of_its_own(
    connection: sqlite3.Connection, transaction: Transaction, is_grouped: bool
) -> None:
    source = await open_journal("memory://")
    await source.append(Append("ex-2", (NewEvent("Happened", b"x"),), 0, RUNNING))
    adoption = Adoption(tuple(await source.read_stream("ex-2")), RUNNING)
    await source.close()
    transaction.append(prepared("ex-1", key=1))
    if not is_grouped:
        transaction.flush()
    (event,) = transaction.adopt(PreparedAdoption(adoption))
    transaction.append(prepared("ex-3"))
    transaction.flush()
    assert event.position == 2
    rows = connection.execute(
        "SELECT h.stream, h.id, e.position, h.lease_until FROM heads h "
        "JOIN events e ON e.stream = h.id ORDER BY position"
    ).fetchall()
    assert rows == [("ex-1", 1, 1, 0), ("ex-2", 2, 2, 0), ("ex-3", 3, 3, 0)]


# Keys are indexed before a stream begins that may look for them, and are not walked again.


def indexed(connection: sqlite3.Connection) -> tuple[list[int], int]:
    """The keys that can be found, and up to which position they are complete."""
    keys = [key for (key,) in connection.execute("SELECT key FROM event_keys ORDER BY position")]
    (position,) = connection.execute("SELECT position FROM indexed").fetchone()
    return keys, position


def test_what_is_gathered_is_indexed_for_a_stream_of_the_same_group(
    connection: sqlite3.Connection, transaction: Transaction
) -> None:
    transaction.append(prepared("ex-1", key=5))
    transaction.append(prepared("ex-2", key=6))
    transaction.append(prepared("ex-3"))
    assert indexed(connection) == ([5, 6], 2)
    transaction.flush()


def test_an_index_that_says_less_than_it_holds_is_gone_on_with(
    connection: sqlite3.Connection, ends: Ends, transaction: Transaction
) -> None:
    transaction.append(prepared("ex-1", key=5))
    transaction.append(prepared("ex-2"))
    transaction.flush()
    connection.execute("UPDATE indexed SET position = 0")
    ends.forget()
    transaction.append(prepared("ex-1", 1, key=6))
    transaction.append(prepared("ex-3"))
    assert indexed(connection) == ([5, 6], 3)
    transaction.flush()


def test_what_was_indexed_in_a_transaction_that_is_undone_is_indexed_again(
    connection: sqlite3.Connection, ends: Ends
) -> None:
    """At the same positions, which others have by then."""
    connection.execute("BEGIN IMMEDIATE")
    undone = Transaction(connection, ends, NOW)
    undone.append(prepared("ex-1", key=5))
    undone.append(prepared("ex-2"))
    assert indexed(connection) == ([5], 1)
    connection.execute("ROLLBACK")
    ends.forget()
    again = Transaction(connection, ends, NOW)
    again.append(prepared("ex-1", key=6))
    again.append(prepared("ex-2"))
    again.flush()
    assert indexed(connection) == ([6], 1)


def test_what_another_has_appended_is_indexed_too(
    connection: sqlite3.Connection, ends: Ends, transaction: Transaction
) -> None:
    """By whoever begins a stream that may look for it, who has no keys of its own to index."""
    for stream in ("ex-1", "ex-2"):
        transaction.append(prepared(stream))
    transaction.flush()
    assert ends.keyed == 0
    other = Transaction(connection, Ends(), NOW)
    other.append(prepared("ex-1", 1, key=5))
    other.flush()
    ends.forget()
    transaction.append(prepared("ex-3"))
    assert indexed(connection) == ([5], 3)
    transaction.flush()


def test_indexing_walks_only_what_is_new(connection: sqlite3.Connection) -> None:
    plan = connection.execute(f"EXPLAIN QUERY PLAN {remembering._INDEX}", (5,)).fetchall()
    steps = [row[3] for row in plan]
    assert "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)" in steps, steps
    assert not [step for step in steps if "SCAN" in step], steps


def test_what_was_walked_in_vain_is_not_walked_for_ever(
    connection: sqlite3.Connection,
    ends: Ends,
    transaction: Transaction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is not noted each time, which would cost every beginning a page of its own."""
    monkeypatch.setattr(remembering, "_MOST_UNINDEXED", 3)
    noted = []
    for number in range(12):
        ends.forget()  # as after every commit of another process
        transaction.append(prepared(f"ex-{number}"))
        transaction.flush()
        noted.append(indexed(connection)[1])
    assert noted == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8]


def test_keys_are_indexed_when_they_are_many_whether_anybody_looks_or_not(
    connection: sqlite3.Connection, transaction: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "_MOST_UNINDEXED", 3)
    transaction.append(prepared("ex-1"))
    found = []
    for version in range(1, 8):
        transaction.append(prepared("ex-1", version, key=version))
        transaction.flush()
        found.append(len(indexed(connection)[0]))
    assert found == [0, 0, 3, 3, 3, 6, 6]


# An event carries the epoch of the lease under which it was written; without a lease none.


def test_an_event_carries_its_writers_epoch(transaction: Transaction) -> None:
    def epoch_of(prepared: PreparedAppend) -> int:
        (event,) = transaction.append(prepared).events
        return event.epoch

    assert epoch_of(prepared("ex-1")) == 0
    lease = transaction.append(prepared("ex-2", claim=Claim("me", 30))).lease
    assert lease is not None
    assert lease.epoch == 1
    assert epoch_of(prepared("ex-2", 1)) == 0
    assert epoch_of(prepared("ex-2", 2, lease=lease)) == 1
    assert epoch_of(prepared("ex-2", 3, claim=Claim("me", 30))) == 2


# Whatever is written leaves a question that tells, after a commit that failed, whether it is there.


Do = Callable[[Transaction, Lease], object]
QUERY = ClaimQuery(category="ex", names=["order"], claim=Claim("you", 30))


@pytest.mark.parametrize(
    "do",
    [
        lambda transaction, _: transaction.append(prepared("ex-2")),
        lambda transaction, lease: transaction.append(prepared("ex-1", 1, lease=lease)),
        lambda transaction, lease: transaction.append(
            PreparedAppend(Append("ex-1", (), 1, None, lease=lease, release=True))
        ),
        lambda transaction, _: transaction.append(
            PreparedAppend(Append("ex-1", (), 1, HeadChange("done", "order", None)))
        ),
        lambda transaction, lease: transaction.renew([lease], 99),
        lambda transaction, lease: transaction.release(lease),
        lambda transaction, _: transaction.claim(QUERY),
    ],
)
def test_what_is_written_can_be_told_from_what_is_lost(
    connection: sqlite3.Connection, ends: Ends, do: Do
) -> None:
    before = Transaction(connection, ends, NOW)
    lease = held(before)
    before.append(prepared("ex-9"))
    before.flush()
    connection.execute("BEGIN IMMEDIATE")
    transaction = Transaction(connection, ends, NOW + 1)
    assert transaction.evidence is None
    do(transaction, lease)
    transaction.flush()
    assert transaction.evidence is not None
    assert connection.execute(*transaction.evidence).fetchone() is not None
    connection.execute("ROLLBACK")
    assert connection.execute(*transaction.evidence).fetchone() is None
