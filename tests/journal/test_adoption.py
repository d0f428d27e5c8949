"""A stream of one journal, written into another as it is: by every backend, into every backend."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from journal import (
    Adoption,
    Append,
    Claim,
    ClaimQuery,
    HeadChange,
    HeadQuery,
    InvalidAppend,
    Journal,
    KeyQuery,
    NewEvent,
    RecordedEvent,
    StaleLease,
    WrongExpectedVersion,
    open_journal,
    open_reader,
    verify_stream,
)
from journal.backends.sqlite.journal import SqliteJournal
from journal.backends.sqlite.transaction import PreparedAdoption

HEAD = HeadChange(state="done", name="order", due_at=None, summary=b"42")
BLOB = b"x" * 5_000
WHO = Claim("me", 30)


@pytest.fixture(params=["memory", "sqlite"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    url = "memory://" if request.param == "memory" else str(tmp_path / "target.db")
    opened = await open_journal(url)
    yield opened
    await opened.close()


async def recorded(*, stream: str = "ex-1") -> list[RecordedEvent]:
    """A stream of another journal, of two owners and a client."""
    source = await open_journal("memory://", clock=iter(range(1_000, 9_000, 7)).__next__)
    first = await source.append(
        Append(stream, (NewEvent("A", b"{}", key=7),), 0, head=HEAD, claim=WHO)
    )
    assert first.lease is not None
    await source.append(Append(stream, (NewEvent("B", b"\x00\xff", 3),), 1, lease=first.lease))
    await source.append(Append(stream, (NewEvent("C", b"client"),), 2))
    await source.release(first.lease)
    query = ClaimQuery(category="ex", names=[], claim=Claim("other", 1), stream=stream)
    ((_, lease),) = await source.claim(query)
    await source.append(Append(stream, (NewEvent("D", b"last"),), 3, lease=lease))
    events = await source.read_stream(stream)
    await source.close()
    return events


def bare(events: list[RecordedEvent]) -> list[RecordedEvent]:
    return [replace(event, position=0) for event in events]


async def test_everything_but_the_positions_stays_as_it_was(journal: Journal) -> None:
    await journal.append(Append("ex-0", (NewEvent("A", b"1"),), 0, head=HEAD))
    events = await recorded()
    assert {event.epoch for event in events} == {0, 1, 2}
    written = await journal.adopt(Adoption(tuple(events), HEAD, (BLOB,)))
    assert [event.position for event in written] == [2, 3, 4, 5]
    assert await journal.read_stream("ex-1") == list(written)
    assert bare(list(written)) == bare(events)
    assert (await journal.read_all())[1:] == list(written)
    assert await journal.get_blob(sha256(BLOB).hexdigest()) == BLOB
    head = await journal.head("ex-1")
    assert head is not None
    assert verify_stream(events, head=head) == []
    assert (head.version, head.hash, head.anchor_version) == (4, events[-1].hash, 4)
    assert (head.state, head.name, head.summary) == ("done", "order", b"42")
    assert (head.created_at, head.updated_at) == (events[0].recorded_at, events[-1].recorded_at)
    assert (head.owner, head.epoch, head.lease_until) == (None, 2, 0)
    listed = await journal.heads(HeadQuery(category="ex"))
    assert [each.stream for each in listed] == ["ex-1", "ex-0"]


async def test_its_head_is_the_one_that_is_given(journal: Journal) -> None:
    given = HeadChange("waiting", "ship", 7, parent="ex-0", summary=b"s", route="here")
    await journal.adopt(Adoption(tuple(await recorded()), given))
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.state, head.name, head.due_at) == ("waiting", "ship", 7)
    assert (head.parent, head.summary, head.route) == ("ex-0", b"s", "here")


async def test_a_stream_of_one_event_is_a_whole_one(journal: Journal) -> None:
    source = await open_journal("memory://")
    await source.append(Append("ex-1", (NewEvent("A", b"1"),), 0, head=HEAD))
    (event,) = await journal.adopt(Adoption(tuple(await source.read_stream("ex-1")), HEAD))
    assert await journal.read_stream("ex-1") == [event]
    await source.close()


async def test_the_stream_goes_on_from_there(journal: Journal) -> None:
    events = await recorded()
    await journal.adopt(Adoption(tuple(events), HEAD))
    query = ClaimQuery(category="ex", names=[], claim=WHO, stream="ex-1")
    ((_, lease),) = await journal.claim(query)
    assert lease.epoch == 3, "an epoch that has been there before is given to nobody"
    old = replace(lease, epoch=2)
    with pytest.raises(StaleLease):
        await journal.append(Append("ex-1", (NewEvent("E", b"1"),), 4, lease=old))
    appended = await journal.append(Append("ex-1", (NewEvent("E", b"1"),), 4, lease=lease))
    assert appended.version == 5
    assert verify_stream(await journal.read_stream("ex-1")) == []


async def test_nobody_finds_or_claims_it_by_itself(journal: Journal) -> None:
    await journal.adopt(Adoption(tuple(await recorded()), HEAD))
    assert await journal.claim(ClaimQuery(category="ex", names=["order"], claim=WHO)) == []
    await journal.append(Append("ex-2", (NewEvent("A", b"1"),), 0, head=HEAD))
    assert journal.find_blocking(KeyQuery([7], "ex-2")) == {}


async def test_a_stream_that_is_there_is_left_alone(journal: Journal) -> None:
    events = await recorded()
    await journal.append(Append("ex-1", (NewEvent("A", b"mine"),), 0, head=HEAD))
    before = await journal.read_stream("ex-1")
    with pytest.raises(WrongExpectedVersion) as refused:
        await journal.adopt(Adoption(tuple(events), HEAD, (BLOB,)))
    assert (refused.value.expected, refused.value.actual) == (0, 1)
    assert await journal.read_stream("ex-1") == before
    await journal.append(Append("ex-3", (NewEvent("A", b"1"),), 0, head=HEAD))
    assert len(await journal.read_all()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda events: [],
        lambda events: events[1:],
        lambda events: [events[0], *events[2:]],
        lambda events: [events[1], events[0], *events[2:]],
        lambda events: [replace(events[0], payload=b"{ }"), *events[1:]],
        lambda events: [replace(events[0], recorded_at=1), *events[1:]],
        lambda events: [replace(events[0], hash=bytes(32)), *events[1:]],
        lambda events: [*events[:-1], replace(events[-1], epoch=9)],
        lambda events: [*events[:-1], replace(events[-1], stream="ex-2")],
        lambda events: [replace(event, stream="nohyphen") for event in events],
        lambda events: [replace(events[0], payload=bytearray(b"{}")), *events[1:]],
        lambda events: [
            replace(events[0], payload_digest=sha256(b"{}").digest(), payload=b"forged"),
            *events[1:],
        ],
    ],
)
async def test_what_is_no_sound_chain_is_refused(journal: Journal, damage: object) -> None:
    events = damage(await recorded())  # type: ignore[operator]
    with pytest.raises(InvalidAppend):
        await journal.adopt(Adoption(tuple(events), HEAD))
    assert await journal.read_all() == []


async def test_an_erased_event_stays_erased(journal: Journal) -> None:
    events = await recorded()
    digest = sha256(events[1].payload).digest()
    events[1] = replace(events[1], payload=b"", payload_digest=digest)
    await journal.adopt(Adoption(tuple(events), HEAD))
    assert bare(await journal.read_stream("ex-1")) == bare(events)


async def test_one_that_was_begun_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Whether its end is remembered, or was written by somebody else."""
    events = await recorded()
    adoption = Adoption(tuple(events), HEAD)
    journal = await open_journal(str(tmp_path / "mine.db"))
    await journal.append(Append("ex-1", (NewEvent("A", b""),), 0, head=HEAD))
    with pytest.raises(WrongExpectedVersion) as mine:
        await journal.adopt(adoption)
    other = await open_journal(str(tmp_path / "mine.db"))
    with pytest.raises(WrongExpectedVersion) as theirs:
        await other.adopt(adoption)
    assert mine.value.actual == theirs.value.actual == 1
    await other.close()
    await journal.close()


async def test_in_a_group_it_comes_after_what_was_appended_before(tmp_path: Path) -> None:
    events = await recorded()
    journal = await SqliteJournal.open(str(tmp_path / "journal.db"))
    before = journal.append(Append("ex-0", (NewEvent("A", b"1"),), 0, head=HEAD))
    after = journal.append(Append("ex-2", (NewEvent("A", b"2"),), 0, head=HEAD))

    async def adopted() -> tuple[RecordedEvent, ...]:
        return await journal._submit(PreparedAdoption(Adoption(tuple(events), HEAD)))

    first, written, last = await asyncio.gather(before, adopted(), after)
    assert first.events[0].position == 1
    assert [event.position for event in written] == [2, 3, 4, 5]
    assert last.events[0].position == 6
    assert [event.position for event in await journal.read_all()] == list(range(1, 7))
    await journal.close()


async def test_a_watcher_is_told(journal: Journal) -> None:
    told: list[RecordedEvent] = []
    is_told = asyncio.Event()

    def watcher(events: Sequence[RecordedEvent]) -> None:
        told.extend(events)
        is_told.set()

    stop = journal.watch("ex-1", watcher)
    written = await journal.adopt(Adoption(tuple(await recorded()), HEAD))
    await journal.append(Append("ex-9", (NewEvent("A", b"1"),), 0, head=HEAD))
    async with asyncio.timeout(30):
        await is_told.wait()
    stop()
    assert told == list(written)


async def test_nothing_is_kept_of_an_erased_payload(tmp_path: Path) -> None:
    events = await recorded()
    digest = sha256(events[1].payload).digest()
    events[1] = replace(events[1], payload=b"", payload_digest=digest)
    journal = await open_journal(str(tmp_path / "journal.db"))
    await journal.adopt(Adoption(tuple(events), HEAD))
    await journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        rows = connection.execute("SELECT payload IS NULL, payload_digest FROM events").fetchall()
    assert rows == [(0, None), (1, digest), (0, None), (0, None)]


async def test_a_file_with_adopted_streams_verifies(tmp_path: Path) -> None:
    file = str(tmp_path / "journal.db")
    journal = await open_journal(file)
    await journal.append(Append("ex-0", (NewEvent("A", b"1"),), 0, head=HEAD))
    await journal.adopt(Adoption(tuple(await recorded()), HEAD, (BLOB,)))
    await journal.append(Append("ex-2", (NewEvent("A", b"1"),), 0, head=HEAD))
    await journal.close()
    with open_reader(file) as reader:
        assert reader.verify() == []
        assert len(reader.read_stream("ex-1")) == 4
