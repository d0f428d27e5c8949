"""The laws of a journal, one suite for every backend."""

import asyncio
import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from journal import (
    Adoption,
    Append,
    Appended,
    BlobNotFound,
    Claim,
    ClaimQuery,
    HeadChange,
    HeadQuery,
    InvalidAppend,
    InvalidQuery,
    Journal,
    JournalClosed,
    KeyQuery,
    Lease,
    NewEvent,
    RecordedEvent,
    StaleLease,
    WrongExpectedVersion,
    open_journal,
    verify_stream,
)
from journal.records import GENESIS

RUNNING = HeadChange(state="running", name="order", due_at=0)
DONE = HeadChange(state="done", name="order", due_at=None, summary=b"42")


def events(*payloads: bytes) -> tuple[NewEvent, ...]:
    return tuple(NewEvent("Happened", payload) for payload in payloads)


def start(stream: str = "ex-1", *payloads: bytes, **options: Any) -> Append:
    options.setdefault("head", RUNNING)
    return Append(stream, events(*(payloads or (b"started",))), 0, **options)


def more(after: Appended, *payloads: bytes, **options: Any) -> Append:
    stream = after.events[-1].stream
    return Append(stream, events(*payloads), after.version, **options)


def claim(owner: str = "me", seconds: float = 30, **options: Any) -> ClaimQuery:
    options.setdefault("names", ["order"])
    return ClaimQuery(category="ex", claim=Claim(owner, seconds), **options)


# A version is an event's place in its stream: from 1, without gaps; 0: there is no such stream.


async def test_versions_count_from_one_without_gaps(journal: Journal) -> None:
    first = await journal.append(start("ex-1", b"a", b"b"))
    second = await journal.append(more(first, b"c"))
    assert (first.version, second.version) == (2, 3)
    assert [e.version for e in await journal.read_stream("ex-1")] == [1, 2, 3]


async def test_a_second_writer_is_refused_and_nothing_of_it_stays(journal: Journal) -> None:
    first = await journal.append(start())
    await journal.append(more(first, b"mine"))
    with pytest.raises(WrongExpectedVersion) as refused:
        await journal.append(more(first, b"yours", head=DONE, blobs=(b"blob",)))
    assert (refused.value.expected, refused.value.actual) == (1, 2)
    assert [e.payload for e in await journal.read_stream("ex-1")] == [b"started", b"mine"]
    head = await journal.head("ex-1")
    assert head is not None
    assert head.state == "running"
    with pytest.raises(BlobNotFound):
        await journal.get_blob(hashlib.sha256(b"blob").hexdigest())


async def test_a_stream_is_started_once(journal: Journal) -> None:
    await journal.append(start())
    with pytest.raises(WrongExpectedVersion):
        await journal.append(start())


async def test_a_stream_that_does_not_exist_has_version_zero(journal: Journal) -> None:
    with pytest.raises(WrongExpectedVersion) as refused:
        await journal.append(Append("ex-1", events(b"x"), 5))
    assert refused.value.actual == 0
    assert await journal.read_stream("ex-1") == []
    assert await journal.head("ex-1") is None


# What comes out is what went in, byte for byte, and the append returns what reading returns.


async def test_an_append_returns_what_reading_returns(journal: Journal) -> None:
    appended = await journal.append(start("ex-1", b"", b"\x00\xff", bytes(100_000)))
    assert await journal.read_stream("ex-1") == list(appended.events)
    assert await journal.read_all() == list(appended.events)


@pytest.mark.parametrize(
    "identity", ["\x00", "a%_b", "-", "日本", "'; DROP TABLE events; --", "a b"]
)
async def test_any_text_is_a_name(journal: Journal, identity: str) -> None:
    stream = f"ex-{identity}"
    head = HeadChange(state=identity, name=identity, due_at=None, parent=identity)
    appended = await journal.append(start(stream, b"x", head=head))
    assert await journal.read_stream(stream) == list(appended.events)
    found = await journal.heads(
        HeadQuery(category="ex", states=[identity], names=[identity], stream_prefix=stream)
    )
    assert [(h.stream, h.state, h.name, h.parent) for h in found] == [(stream, *[identity] * 3)]


async def test_an_events_instant_is_the_journals(
    journal: Journal, now: Callable[[], int], advance: Callable[[float], None]
) -> None:
    first = await journal.append(start())
    advance(2.5)
    second = await journal.append(more(first, b"x"))
    assert second.events[0].recorded_at - first.events[0].recorded_at == 2_500_000
    assert second.events[0].recorded_at == now() == journal.now()


# Every stream is a hash chain.


async def test_every_event_names_the_one_before(journal: Journal) -> None:
    first = await journal.append(start("ex-1", b"a", b"b"))
    await journal.append(more(first, b"c"))
    read = await journal.read_stream("ex-1")
    assert read[0].previous_hash == GENESIS
    assert all(after.previous_hash == before.hash for before, after in pairwise(read))
    assert verify_stream(read, head=await journal.head("ex-1")) == []


# Positions rise over the whole journal.


async def test_all_events_are_read_in_the_order_of_their_appends(journal: Journal) -> None:
    one = await journal.append(start("ex-1", b"a"))
    two = await journal.append(start("ex-2", b"b"))
    await journal.append(more(one, b"c"))
    await journal.append(more(two, b"d"))
    read = await journal.read_all()
    assert [e.payload for e in read] == [b"a", b"b", b"c", b"d"]
    assert all(before.position < after.position for before, after in pairwise(read))
    assert await journal.read_all(after=read[1].position) == read[2:]
    assert await journal.read_all(after=read[0].position, limit=2) == read[1:3]
    assert await journal.read_all(limit=0) == []


async def test_a_stream_is_read_from_any_version_on(journal: Journal) -> None:
    await journal.append(start("ex-1", b"a", b"b", b"c"))
    read = await journal.read_stream("ex-1")
    assert await journal.read_stream("ex-1", after=1) == read[1:]
    assert await journal.read_stream("ex-1", after=1, limit=1) == read[1:2]
    assert await journal.read_stream("ex-1", after=3) == []
    assert await journal.read_stream("ex-1", after=-5, limit=-1) == []
    assert await journal.read_stream("ex-1", after=2**70, limit=2**70) == []
    assert await journal.read_all(after=2**70, limit=2**70) == []


# The head is written with the event that implies it, and only when it changes.


async def test_the_head_changes_with_the_append_that_says_so(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    first = await journal.append(start("ex-1"))
    advance(1)
    second = await journal.append(more(first, b"x"))
    before = await journal.head("ex-1")
    advance(1)
    third = await journal.append(more(second, b"y", head=DONE))
    after = await journal.head("ex-1")
    assert before is not None
    assert after is not None
    assert (before.state, before.version, before.hash) == ("running", 2, second.events[0].hash)
    assert (before.created_at, before.updated_at) == (first.events[0].recorded_at,) * 2
    assert (before.anchor_version, before.anchor_hash) == (1, first.events[0].hash)
    assert (after.state, after.version, after.summary) == ("done", 3, b"42")
    assert after.updated_at == third.events[0].recorded_at
    assert after.created_at == first.events[0].recorded_at
    assert (after.anchor_version, after.anchor_hash) == (3, third.events[0].hash)


async def test_an_append_without_events_may_change_the_head(journal: Journal) -> None:
    first = await journal.append(start())
    changed = await journal.append(more(first, head=DONE))
    assert (changed.events, changed.version) == ((), 1)
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.state, head.version, head.anchor_version) == ("done", 1, 1)


async def listed(journal: Journal, **query: Any) -> list[str]:
    return [head.stream for head in await journal.heads(HeadQuery(category="ex", **query))]


async def test_heads_are_listed_newest_first_and_page_by_page(journal: Journal) -> None:
    for number in range(5):
        await journal.append(start(f"ex-{number}"))
    await journal.append(start("other-1"))
    assert await listed(journal) == ["ex-4", "ex-3", "ex-2", "ex-1", "ex-0"]
    assert await listed(journal, limit=2) == ["ex-4", "ex-3"]
    assert await listed(journal, limit=2, cursor="ex-3") == ["ex-2", "ex-1"]
    assert await listed(journal, cursor="ex-0") == []
    assert await listed(journal, limit=0) == []
    with pytest.raises(InvalidQuery):
        await listed(journal, cursor="ex-unknown")


async def test_heads_are_found_by_state_name_and_prefix(journal: Journal) -> None:
    await journal.append(start("ex-ab1", head=HeadChange("running", "order", None)))
    await journal.append(start("ex-ab2", head=HeadChange("done", "order", None)))
    await journal.append(start("ex-a%1", head=HeadChange("failed", "ship", None)))
    await journal.append(start("ex-a_1", head=HeadChange("done", "ship", None)))
    assert await listed(journal, states=["done", "failed"]) == ["ex-a_1", "ex-a%1", "ex-ab2"]
    assert await listed(journal, names=["ship"]) == ["ex-a_1", "ex-a%1"]
    assert await listed(journal, names=["ship"], states=["done"]) == ["ex-a_1"]
    assert await listed(journal, stream_prefix="ex-ab") == ["ex-ab2", "ex-ab1"]
    assert await listed(journal, stream_prefix="ex-a%") == ["ex-a%1"]
    assert await listed(journal, stream_prefix="ex-a_") == ["ex-a_1"]
    assert await listed(journal, stream_prefix="ex-\U0010ffff") == []


async def test_heads_are_found_by_their_parent(journal: Journal) -> None:
    child = HeadChange("running", "order", None, parent="ex-1")
    await journal.append(start("ex-1"))
    await journal.append(start("ex-2", head=child))
    await journal.append(start("other-3", head=child))
    await journal.append(start("ex-4", head=HeadChange("done", "ship", None, parent="ex-1")))
    await journal.append(start("ex-5", head=HeadChange("done", "ship", None, parent="ex-10")))
    assert await listed(journal, parent="ex-1") == ["ex-4", "ex-2"]
    assert await listed(journal, parent="ex-1", states=["done"]) == ["ex-4"]
    assert await listed(journal, parent="ex-1", limit=1) == ["ex-4"]
    assert await listed(journal, parent="ex-1", cursor="ex-4") == ["ex-2"]
    assert await listed(journal, parent="ex-2") == []
    assert await listed(journal, parent="") == []
    head = await journal.head("ex-5")
    assert head is not None
    assert head.parent == "ex-10"


# Only the holder of the newest epoch appends under a lease; names decide nothing.


async def test_a_start_may_take_the_lease_at_once(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    assert started.lease == Lease("ex-1", "me", 1, journal.now() + 30_000_000)
    assert started.events[0].epoch == 1
    later = await journal.append(more(started, b"x", lease=started.lease))
    assert later.events[0].epoch == 1
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.owner, head.epoch, head.lease_until) == ("me", 1, started.lease.until)


async def test_a_client_appends_without_a_lease(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    given = await journal.append(more(started, b"input"))
    assert given.events[0].epoch == 0
    await journal.append(more(given, b"x", lease=started.lease))


async def test_a_lease_that_was_taken_over_is_refused(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    assert await journal.claim(claim("you")) == []
    advance(30)
    [(head, lease)] = await journal.claim(claim("you"))
    assert (head.owner, head.epoch) == ("me", 1)
    assert (lease.owner, lease.epoch) == ("you", 2)
    with pytest.raises(StaleLease) as refused:
        await journal.append(more(started, b"late", lease=started.lease))
    assert (refused.value.epoch, refused.value.current_epoch) == (1, 2)
    assert started.lease is not None
    assert journal.renew_blocking([started.lease], 60) == []
    await journal.append(more(started, b"mine", lease=lease))


async def test_a_lease_that_is_over_but_not_taken_still_holds(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    advance(60)
    await journal.append(more(started, b"late", lease=started.lease))
    assert started.lease is not None
    [renewed] = journal.renew_blocking([started.lease], 10)
    assert renewed == replace(started.lease, until=journal.now() + 10_000_000)
    assert await journal.claim(claim("you")) == []


async def test_the_same_name_again_is_another_owner(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    old = started.lease
    assert old is not None
    assert await journal.claim(claim("me")) == []
    advance(30)
    [(_, new)] = await journal.claim(claim("me"))
    assert new.epoch == old.epoch + 1
    assert journal.renew_blocking([old, new], 60) == [
        replace(new, until=journal.now() + 60_000_000)
    ]
    with pytest.raises(StaleLease):
        await journal.append(more(started, b"x", lease=old))
    await journal.release(old)
    head = await journal.head("ex-1")
    assert head is not None
    assert head.owner == "me"


async def test_a_lease_of_an_epoch_that_never_was_is_refused(journal: Journal) -> None:
    started = await journal.append(start())
    for epoch in (-1, 0, 1, 99):
        with pytest.raises(StaleLease):
            await journal.append(more(started, b"x", lease=Lease("ex-1", "me", epoch, 2**62)))


async def test_an_append_claims_only_what_no_other_owner_holds(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    with pytest.raises(StaleLease):
        await journal.append(more(started, b"x", claim=Claim("you", 30)))
    again = await journal.append(more(started, b"x", claim=Claim("me", 30)))
    assert again.lease is not None
    assert (again.lease.epoch, again.events[0].epoch) == (2, 2)
    advance(30)
    taken = await journal.append(more(again, b"y", claim=Claim("you", 30)))
    assert taken.lease is not None
    assert taken.lease.epoch == 3


async def test_an_owner_may_hand_over_what_it_holds(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    handed = await journal.append(more(started, b"x", lease=started.lease, claim=Claim("you", 60)))
    assert handed.lease == Lease("ex-1", "you", 2, journal.now() + 60_000_000)
    assert handed.events[0].epoch == 2
    with pytest.raises(StaleLease) as refused:
        await journal.append(more(handed, b"y", claim=Claim("me", 30)))
    assert (refused.value.epoch, refused.value.current_epoch) == (0, 2)


async def test_one_append_may_change_the_head_and_the_lease(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    other = HeadChange("waiting", "ship", 7, parent="ex-0", summary=b"s", route="r")
    claimed = await journal.append(
        more(started, b"x", head=other, lease=started.lease, claim=Claim("you", 60))
    )
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.state, head.name, head.due_at, head.parent) == ("waiting", "ship", 7, "ex-0")
    assert (head.summary, head.route, head.anchor_version) == (b"s", "r", 2)
    assert (head.owner, head.epoch, head.lease_until) == ("you", 2, journal.now() + 60_000_000)
    assert head.anchor_hash == claimed.events[0].hash
    await journal.append(more(claimed, b"y", head=DONE, lease=claimed.lease, release=True))
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.state, head.due_at, head.parent, head.route) == ("done", None, None, "")
    assert (head.owner, head.epoch, head.lease_until) == (None, 2, 0)


async def test_a_lease_on_a_stream_that_is_not_there_is_stale(journal: Journal) -> None:
    lease = Lease("ex-9", "me", 3, 2**62)
    with pytest.raises(StaleLease) as refused:
        await journal.append(Append("ex-9", events(b"x"), 1, lease=lease))
    assert (refused.value.epoch, refused.value.current_epoch) == (3, 0)
    assert await journal.head("ex-9") is None


async def test_nobody_holds_a_stream_that_nobody_has_claimed(journal: Journal) -> None:
    await journal.append(start())
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.owner, head.epoch, head.lease_until) == (None, 0, 0)
    [(_, lease)] = await journal.claim(claim())
    assert lease.epoch == 1
    stranger = Lease("ex-9", "me", 1, 0)
    assert journal.renew_blocking([stranger, lease], 5)[0].stream == "ex-1"
    await journal.release(stranger)


async def test_a_release_is_told_and_leaves_no_owner(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    assert started.lease is not None
    hints: asyncio.Queue[int] = asyncio.Queue()
    await asyncio.sleep(0.01)
    journal.watch(None, lambda events: hints.put_nowait(len(events)))
    await journal.release(started.lease)
    assert await asyncio.wait_for(hints.get(), 10) == 0
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.owner, head.epoch, head.lease_until) == (None, 1, 0)


async def test_a_release_lets_others_claim_at_once(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    waiting = await journal.append(more(started, b"waits", lease=started.lease, release=True))
    with pytest.raises(StaleLease):
        await journal.append(more(waiting, b"x", lease=started.lease))
    [(head, lease)] = await journal.claim(claim("you"))
    assert (head.owner, head.epoch, lease.epoch) == (None, 1, 2)
    await journal.release(lease)
    assert len(await journal.claim(claim("them"))) == 1


async def test_a_stale_lease_is_told_before_a_wrong_version(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    advance(31)
    [(_, lease)] = await journal.claim(claim("you"))
    await journal.append(more(started, b"x", lease=lease))
    with pytest.raises(StaleLease):
        await journal.append(more(started, b"y", lease=started.lease))


# A claim takes what is due, unowned and of the right name; the one that is due longest first.


async def test_only_what_is_due_is_claimed(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    soon = HeadChange("sleeping", "order", journal.now() + 5_000_000)
    await journal.append(start("ex-never", head=DONE))
    await journal.append(start("ex-soon", head=soon))
    assert await journal.claim(claim()) == []
    advance(5)
    assert [head.stream for head, _ in await journal.claim(claim())] == ["ex-soon"]


@pytest.mark.parametrize("limit", [-1, 0])
async def test_a_claim_of_none_takes_none(journal: Journal, limit: int) -> None:
    await journal.append(start())
    assert await journal.claim(claim(limit=limit)) == []
    assert len(await journal.claim(claim(limit=1))) == 1


async def test_claims_are_by_category_and_name(journal: Journal) -> None:
    await journal.append(start("ex-1", head=HeadChange("running", "order", 0)))
    await journal.append(start("ex-2", head=HeadChange("running", "ship", 0)))
    await journal.append(start("other-1", head=HeadChange("running", "order", 0)))
    assert await journal.claim(claim(names=[])) == []
    assert await journal.claim(claim(names=["pay"])) == []
    taken = await journal.claim(claim(names=["ship", "order", "ship"]))
    assert [head.stream for head, _ in taken] == ["ex-1", "ex-2"]


async def test_what_is_to_be_left_alone_is_not_claimed(journal: Journal) -> None:
    for number in range(4):
        await journal.append(start(f"ex-{number}"))
    claimed = await journal.claim(claim(besides=["ex-0", "ex-2", "ex-99"], limit=2))
    assert [head.stream for head, _ in claimed] == ["ex-1", "ex-3"]
    assert await journal.claim(claim(besides=["ex-0", "ex-2"])) == []
    assert await journal.claim(claim(besides=["ex-0"], stream="ex-0", names=())) == []
    assert len(await journal.claim(claim())) == 2


async def test_the_longest_due_are_claimed_first(journal: Journal) -> None:
    for number, due_at in enumerate([30, 10, 20, 10]):
        name = "order" if number % 2 else "ship"
        await journal.append(start(f"ex-{number}", head=HeadChange("running", name, due_at)))
    query = claim(names=["order", "ship"], limit=3)
    assert [head.stream for head, _ in await journal.claim(query)] == ["ex-1", "ex-3", "ex-2"]
    assert [head.stream for head, _ in await journal.claim(query)] == ["ex-0"]


async def test_a_claim_takes_only_what_is_on_its_routes(journal: Journal) -> None:
    for number, route in enumerate(["", "here", "here%", "there"], 1):
        await journal.append(start(f"ex-{number}", head=HeadChange("r", "order", 0, route=route)))

    async def taken(**options: Any) -> list[tuple[str, str]]:
        found = await journal.claim(claim(seconds=0, **options))
        return sorted((head.stream, head.route) for head, _ in found)

    assert await taken() == [("ex-1", "")]
    assert await taken(routes=["here"]) == [("ex-2", "here")]
    assert await taken(routes=["there", "", "there"]) == [("ex-1", ""), ("ex-4", "there")]
    assert await taken(routes=[]) == []
    assert await taken(routes=["here"], names=["ship"]) == []
    assert await taken(stream="ex-4", names=[]) == [("ex-4", "there")]


async def test_a_claim_may_ask_for_no_name(journal: Journal) -> None:
    await journal.append(start("ex-1", head=HeadChange("r", "order", 0, route="here")))
    await journal.append(start("ex-2", head=HeadChange("r", "ship", 0, route="here")))
    await journal.append(start("other-3", head=HeadChange("r", "ship", 0, route="here")))
    await journal.append(start("ex-4", head=HeadChange("r", "ship", None, route="here")))
    taken = await journal.claim(claim(names=None, routes=["here"]))
    assert [head.stream for head, _ in taken] == ["ex-1", "ex-2"]


async def test_an_append_may_change_the_route(journal: Journal) -> None:
    first = await journal.append(start(head=HeadChange("r", "order", 0, route="here")))
    await journal.append(more(first, b"x", head=HeadChange("r", "order", 0, route="there")))
    assert await journal.claim(claim(routes=["here"])) == []
    assert len(await journal.claim(claim(routes=["there"]))) == 1


async def test_heads_are_found_by_their_route_and_by_being_free(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    soon = journal.now() + 5_000_000
    for number, (route, due_at) in enumerate(
        [("", 0), ("on:a", 0), ("on:b", soon), ("on:c", None)]
    ):
        head = HeadChange("r", "order", due_at, route=route)
        await journal.append(start(f"ex-{number}", head=head))
    assert await listed(journal, route_prefix="on:") == ["ex-3", "ex-2", "ex-1"]
    assert await listed(journal, route_prefix="on:b") == ["ex-2"]
    assert await listed(journal, route_prefix="on:", claimable_at=journal.now()) == ["ex-1"]
    await journal.claim(claim(routes=["on:a"], seconds=2))
    assert await listed(journal, route_prefix="on:", claimable_at=journal.now()) == []
    advance(5)
    assert await listed(journal, route_prefix="on:", claimable_at=journal.now()) == ["ex-2", "ex-1"]


async def test_what_is_due_at_the_end_of_time_is_found_then(journal: Journal) -> None:
    last = 2**63 - 1
    await journal.append(start("ex-1", head=HeadChange("r", "order", last)))
    await journal.append(start("ex-2", head=HeadChange("r", "order", 1 - last)))
    assert await listed(journal, claimable_at=last - 1) == ["ex-2"]
    assert await listed(journal, claimable_at=last) == ["ex-2", "ex-1"]
    assert await listed(journal, claimable_at=2**70) == ["ex-2", "ex-1"]


async def test_one_stream_is_claimed_whether_it_is_due_or_not(
    journal: Journal, advance: Callable[[float], None]
) -> None:
    await journal.append(start("ex-1", head=DONE))
    await journal.append(start("ex-2"))
    assert await journal.claim(claim(stream="ex-1", names=["ship"])) == []
    [(head, lease)] = await journal.claim(claim(stream="ex-1", names=[]))
    assert (head.stream, lease.epoch) == ("ex-1", 1)
    assert await journal.claim(claim("you", stream="ex-1")) == []
    advance(30)
    assert len(await journal.claim(claim("you", stream="ex-1"))) == 1


async def test_of_many_claimers_one_gets_each_stream(journal: Journal) -> None:
    for number in range(20):
        await journal.append(start(f"ex-{number:02}"))
    taken = await asyncio.gather(
        *(journal.claim(claim(f"owner {number}", limit=3)) for number in range(10))
    )
    streams = [lease.stream for each in taken for _, lease in each]
    assert sorted(streams) == [f"ex-{number:02}" for number in range(20)]


async def test_a_heartbeat_beats_while_the_event_loop_is_blocked(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    assert started.lease is not None
    with ThreadPoolExecutor(1) as pool:
        [renewed] = pool.submit(journal.renew_blocking, [started.lease], 99).result(20)
    assert renewed.until == journal.now() + 99_000_000
    assert journal.renew_blocking([], 1) == []


# A blob is stored with the append that brings it, under the digest of its content.


@pytest.mark.parametrize("content", [b"", b"small", b"a" * 100_000, bytes(range(256)) * 3000])
async def test_a_blob_comes_back_by_its_digest(journal: Journal, content: bytes) -> None:
    first = await journal.append(start(blobs=(content, b"another")))
    await journal.append(more(first, b"x", blobs=(content,)))
    assert await journal.get_blob(hashlib.sha256(content).hexdigest()) == content


@pytest.mark.parametrize("digest", ["00" * 32, "", "xyz", "../../etc/passwd", "日本"])
async def test_an_unknown_digest_is_told_as_such(journal: Journal, digest: str) -> None:
    with pytest.raises(BlobNotFound):
        await journal.get_blob(digest)


# What no stream could accept is the caller's mistake, and harms nobody else.


@pytest.mark.parametrize(
    "append",
    [
        start("nohyphen"),
        start("-id"),
        start("category-"),
        start("ex-\udc80"),
        Append("ex-1", events(b"x"), 0),
        Append("ex-1", (), 0, RUNNING),
        start("ex-1", lease=Lease("ex-2", "me", 1, 0)),
        Append("ex-1", events(b"x"), 1, release=True),
        Append("ex-1", (), 1, lease=Lease("ex-1", "m", 1, 0), claim=Claim("m", 1), release=True),
        Append("ex-1", (NewEvent("Happened", b"", 2**63),), 0, RUNNING),
        Append("ex-1", (NewEvent("\ud800", b""),), 0, RUNNING),
        Append("ex-1", (NewEvent("Happened", "text"),), 0, RUNNING),  # type: ignore[arg-type]
        Append("ex-1", (NewEvent("Happened", bytearray()),), 0, RUNNING),  # type: ignore[arg-type]
        start(head=HeadChange("running", "order", 2**64)),
    ],
)
async def test_what_no_stream_could_accept_is_refused(journal: Journal, append: Append) -> None:
    with pytest.raises(InvalidAppend):
        await journal.append(append)
    assert await journal.read_all() == []
    assert await journal.read_stream(append.stream) == []
    assert await journal.head(append.stream) is None


async def test_what_no_stream_could_accept_is_refused_before_its_callback_is_told(
    journal: Journal,
) -> None:
    told: list[object] = []
    with pytest.raises(InvalidAppend):
        journal.append_soon(start("nohyphen"), lambda *outcome: told.append(outcome))
    with pytest.raises(InvalidAppend):
        journal.append_blocking(start("nohyphen"))
    await journal.append(start())
    assert told == []


@pytest.mark.parametrize("seconds", [-1, 1e13, float("nan"), float("inf")])
async def test_what_is_no_time_for_a_lease_is_refused(journal: Journal, seconds: float) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    assert started.lease is not None
    with pytest.raises(InvalidQuery, match="no time for a lease"):
        journal.renew_blocking([started.lease], seconds)
    with pytest.raises(InvalidQuery, match="no time for a lease"):
        await journal.claim(claim(seconds=seconds))
    with pytest.raises(InvalidAppend, match="no time for a lease"):
        await journal.append(more(started, b"x", claim=Claim("me", seconds)))
    head = await journal.head("ex-1")
    assert head is not None
    assert (head.epoch, head.lease_until) == (1, started.lease.until)


# Many appends at once: each is all or nothing, and the refusal of one does not touch the others.


async def test_a_refusal_touches_no_other_append_of_its_group(journal: Journal) -> None:
    results = await asyncio.gather(
        *(journal.append(start(f"ex-{number // 2}")) for number in range(200)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Appended) for result in results) == 100
    assert sum(isinstance(result, WrongExpectedVersion) for result in results) == 100
    assert len(await journal.read_all()) == 100


async def test_two_hundred_writers_on_two_threads_lose_nothing(journal: Journal) -> None:
    def write(numbers: Sequence[int]) -> None:
        for number in numbers:
            appended = journal.append_blocking(start(f"ex-{number}"))
            journal.append_blocking(more(appended, b"second"))

    async def write_async(number: int) -> None:
        appended = await journal.append(start(f"ex-{number}"))
        await journal.append(more(appended, b"second"))

    threads = [
        threading.Thread(target=write, args=(range(first, first + 100),)) for first in (0, 100)
    ]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(write_async(number) for number in range(200, 400)))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    read = await journal.read_all(limit=10_000)
    assert [event.position for event in read] == list(range(1, 801))
    for number in range(400):
        stream = await journal.read_stream(f"ex-{number}")
        assert [event.payload for event in stream] == [b"started", b"second"]
        assert verify_stream(stream) == []


async def test_racers_for_one_stream_are_told_apart(journal: Journal) -> None:
    started = await journal.append(start())
    results = await asyncio.gather(
        *(journal.append(more(started, b"%d" % number)) for number in range(50)),
        return_exceptions=True,
    )
    winners = [result for result in results if isinstance(result, Appended)]
    assert len(winners) == 1
    assert len(await journal.read_stream("ex-1")) == 2


async def test_a_cancelled_append_leaves_the_others_alone(journal: Journal) -> None:
    tasks = [asyncio.create_task(journal.append(start(f"ex-{n}"))) for n in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Appended) for result in results) >= 9


# A group is nothing but its appends one after the other, whatever they do to one stream.


async def test_a_group_leaves_what_its_appends_one_by_one_leave(journal: Journal) -> None:
    def steps(stream: str) -> list[Append]:
        first = Append(stream, events(b"started"), 0, RUNNING, claim=Claim("me", 30))
        lease = Lease(stream, "me", 1, 0)
        return [
            first,
            Append(stream, events(b"done"), 1, DONE, lease=lease),
            Append(stream, (), 2, None, lease=lease, release=True),
            Append(stream, events(b"again"), 2, RUNNING, claim=Claim("you", 60)),
            Append(stream, events(b"end"), 3, DONE, lease=Lease(stream, "you", 2, 0), release=True),
            Append(stream, events(b"late"), 4, RUNNING),
        ]

    for append in steps("ex-1"):
        await journal.append(append)
    await asyncio.gather(*map(journal.append, steps("ex-2")), *map(journal.append, steps("ex-3")))
    for stream in ("ex-2", "ex-3"):
        one_by_one, grouped = await journal.head("ex-1"), await journal.head(stream)
        assert one_by_one is not None
        assert grouped is not None
        own = {"stream": stream, "hash": grouped.hash, "anchor_hash": grouped.hash}
        assert replace(one_by_one, **own) == grouped
        assert verify_stream(await journal.read_stream(stream), head=grouped) == []


async def test_claims_see_what_their_group_did_before_them(journal: Journal) -> None:
    started = await journal.append(start("ex-1", claim=Claim("me", 30)))
    assert started.lease is not None
    _, _, first, second = await asyncio.gather(
        journal.append(start("ex-2")),
        journal.release(started.lease),
        journal.claim(claim("you")),
        journal.claim(claim("they")),
    )
    assert {head.stream for head, _ in first} == {"ex-1", "ex-2"}
    assert second == []


# A callback is told once, later, on the loop and in no task; a refused append is an outcome too.


async def test_a_callback_is_told_once_what_came_of_its_append(journal: Journal) -> None:
    told: list[tuple[Appended | None, BaseException | None]] = []
    ended = asyncio.Event()

    def done(appended: Appended | None, error: BaseException | None) -> None:
        assert asyncio.current_task() is None
        told.append((appended, error))
        if len(told) == 3:
            ended.set()

    big = bytes(300 * 1024)
    journal.append_soon(start(), done)
    journal.append_soon(start(), done)
    journal.append_soon(start("ex-2", blobs=(big,)), done)
    assert told == []
    await ended.wait()
    appended = {outcome.events[0].stream for outcome, _ in told if outcome is not None}
    refused = [error for _, error in told if error is not None]
    assert appended == {"ex-1", "ex-2"}
    assert [type(error) for error in refused] == [WrongExpectedVersion]
    assert await journal.get_blob(hashlib.sha256(big).hexdigest()) == big
    assert len(told) == 3


async def test_what_comes_in_one_pass_is_written_in_its_order(journal: Journal) -> None:
    """With blobs or without."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    for version in range(6):
        blobs = (b"blob %d" % version,) if version % 2 == 0 else ()
        head = RUNNING if version == 0 else None
        append = Append("ex-1", events(b"%d" % version), version, head, blobs=blobs)
        journal.append_soon(append, lambda *outcome: told.put_nowait(outcome))
    for version in range(6):
        appended, error = await asyncio.wait_for(told.get(), 20)
        assert error is None
        assert appended.version == version + 1


async def test_a_callback_that_fails_leaves_the_others_alone(journal: Journal) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: complaints.append(facts))

    def fail(appended: Appended | None, error: BaseException | None) -> None:
        raise RuntimeError("a mistake")

    ended = asyncio.Event()
    journal.append_soon(start("ex-1"), fail)
    journal.append_soon(start("ex-2"), lambda *_: ended.set())
    await ended.wait()
    assert [str(facts["exception"]) for facts in complaints] == ["a mistake"]
    assert await journal.head("ex-1") is not None


# Watchers are told on the journal's loop.


async def test_watchers_are_told_what_was_committed(journal: Journal) -> None:
    told: list[RecordedEvent] = []
    told_of_one: list[RecordedEvent] = []
    stop = journal.watch(None, told.extend)
    stop_one = journal.watch("ex-1", told_of_one.extend)
    first = await journal.append(start("ex-1"))
    second = await journal.append(start("ex-2"))
    await asyncio.to_thread(journal.append_blocking, more(first, b"from a thread"))
    await asyncio.sleep(0.05)
    assert told == await journal.read_all()
    assert told_of_one == await journal.read_stream("ex-1")
    stop()
    stop()
    stop_one()
    await journal.append(more(second, b"unheard"))
    await asyncio.sleep(0.05)
    assert len(told) == 3


async def test_a_head_that_changes_alone_is_told(journal: Journal) -> None:
    first = await journal.append(start())
    hints: asyncio.Queue[int] = asyncio.Queue()
    await asyncio.sleep(0.01)
    journal.watch("ex-1", lambda events: hints.put_nowait(len(events)))
    await journal.append(more(first, head=DONE))
    assert await asyncio.wait_for(hints.get(), 10) == 0


# A closed journal says so.


async def test_a_closed_journal_says_so(journal: Journal) -> None:
    started = await journal.append(start(claim=Claim("me", 30)))
    lease = started.lease
    assert lease is not None
    await journal.close()
    await journal.close()
    for call in (
        lambda: journal.append(more(started, b"x")),
        lambda: journal.read_stream("ex-1"),
        lambda: journal.read_all(),
        lambda: journal.heads(HeadQuery(category="ex")),
        lambda: journal.head("ex-1"),
        lambda: journal.claim(claim()),
        lambda: journal.release(lease),
        lambda: journal.get_blob("00" * 32),
    ):
        with pytest.raises(JournalClosed):
            await call()
    with pytest.raises(JournalClosed):
        journal.append_blocking(more(started, b"x"))
    with pytest.raises(JournalClosed):
        journal.append_soon(more(started, b"x"), lambda *_: None)
    with pytest.raises(JournalClosed):
        journal.renew_blocking([lease], 1)
    with pytest.raises(JournalClosed):
        journal.watch(None, lambda _: None)
    with pytest.raises(JournalClosed):
        journal.head_blocking("ex-1")
    with pytest.raises(JournalClosed):
        await journal.adopt(Adoption(started.events, RUNNING))


async def test_a_head_can_be_read_from_any_thread(journal: Journal) -> None:
    await journal.append(start())
    for stream in ("ex-1", "ex-2"):
        read = await asyncio.to_thread(journal.head_blocking, stream)
        assert read == await journal.head(stream)
        assert (read is None) == (stream == "ex-2")


async def test_what_was_under_way_is_done_before_closing(journal: Journal) -> None:
    tasks = [asyncio.create_task(journal.append(start(f"ex-{n}"))) for n in range(300)]
    await asyncio.sleep(0)
    await journal.close()
    results = await asyncio.gather(*tasks)
    assert {result.version for result in results} == {1}


# A key finds an event; it is no part of it. What is found was appended before the stream that looks
# was begun; the last of it.


def keyed(stream: str, key: int | None, payload: bytes = b"x", **options: Any) -> Append:
    return Append(stream, (NewEvent("Happened", payload, key=key),), 0, RUNNING, **options)


def found(journal: Journal, before: str, *keys: int) -> dict[int, bytes]:
    events_by_key = journal.find_blocking(KeyQuery(keys, before))
    return {key: event.payload for key, event in events_by_key.items()}


async def test_a_key_finds_the_last_event_before_a_stream_was_begun(journal: Journal) -> None:
    first = await journal.append(keyed("ex-1", 7, b"first"))
    await journal.append(keyed("ex-2", 7, b"second"))
    await journal.append(start("ex-3"))
    await journal.append(replace(more(first), events=(NewEvent("Happened", b"late", key=7),)))
    await journal.append(keyed("ex-4", 7, b"fourth"))
    assert found(journal, "ex-1", 7) == {}
    assert found(journal, "ex-2", 7) == {7: b"first"}
    assert found(journal, "ex-3", 7) == {7: b"second"}
    assert found(journal, "ex-4", 7) == {7: b"late"}
    assert found(journal, "ex-9", 7) == {}


async def test_every_key_is_found_however_many_and_whenever_somebody_looks(
    journal: Journal,
) -> None:
    expected: dict[int, bytes] = {}
    for number in range(12):
        begun = await journal.append(start(f"ex-{number}"))
        assert found(journal, f"ex-{number}", *expected) == expected
        events = tuple(
            NewEvent("Happened", b"%d/%d" % (number, each), key=each * 31 % 900)
            for each in range(number, number + 300)
        )
        await journal.append(replace(more(begun), events=events))
        assert found(journal, f"ex-{number}", *expected) == expected
        expected |= {event.key: event.payload for event in events if event.key is not None}


async def test_streams_begun_together_see_what_was_there_before_each(journal: Journal) -> None:
    appends = [keyed(f"ex-{number}", 3, b"%d" % number) for number in range(50)]
    await asyncio.gather(*map(journal.append, appends))
    order = {event.stream: event.position for event in await journal.read_all()}
    streams = sorted(order, key=lambda stream: order[stream])
    for before, stream in pairwise(streams):
        assert found(journal, stream, 3) == {3: before.removeprefix("ex-").encode()}


async def test_a_key_is_found_exactly_and_the_whole_event_with_it(journal: Journal) -> None:
    made = await journal.append(keyed("ex-1", 2**63 - 1, b"\x00bytes"))
    await journal.append(keyed("ex-2", 0, b"zero"))
    await journal.append(keyed("ex-3", None, b"none"))
    await journal.append(start("ex-4"))
    query = KeyQuery((2**63 - 1, 0, 1), "ex-4")
    answers: asyncio.Queue[Any] = asyncio.Queue()
    journal.find_soon(query, lambda *answer: answers.put_nowait(answer))
    events_by_key, error = await asyncio.wait_for(answers.get(), 30)
    assert error is None
    assert events_by_key[2**63 - 1] == made.events[0]
    assert events_by_key == journal.find_blocking(query)
    assert {key: event.payload for key, event in events_by_key.items()} == {
        2**63 - 1: b"\x00bytes",
        0: b"zero",
    }


async def test_look_ups_of_one_pass_of_the_loop_are_each_answered(journal: Journal) -> None:
    for number in range(20):
        await journal.append(keyed(f"ex-{number}", number % 3, b"%d" % number))
    answers: list[tuple[int, Any]] = []
    done = asyncio.Event()

    def take(number: int, found: Any, error: Any) -> None:
        assert error is None
        answers.append((number, {key: event.payload for key, event in found.items()}))
        if number == 7:
            raise ValueError("one caller's mistake")
        if len(answers) == 20:
            done.set()

    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    for number in range(20):
        query = KeyQuery((0, 1, 2), f"ex-{number}")
        try:
            journal.find_soon(query, functools.partial(take, number))
        except ValueError:
            failures.append({})
    await asyncio.wait_for(done.wait(), 30)
    assert len(failures) == 1
    for number, found in answers:
        earlier = {each % 3: b"%d" % each for each in range(number)}
        assert found == earlier


async def test_what_was_refused_is_not_found(journal: Journal) -> None:
    first = await journal.append(start("ex-1"))
    await journal.append(start("ex-2"))
    with pytest.raises(WrongExpectedVersion):
        await journal.append(
            replace(more(first), events=(NewEvent("Happened", b"no", key=5),), expected_version=9)
        )
    assert found(journal, "ex-2", 5) == {}


async def test_no_hash_covers_a_key(tmp_path: Path, now: Callable[[], int]) -> None:
    hashes = []
    for number, key in enumerate((None, 5)):
        journal = await open_journal(f"sqlite:///{tmp_path}/{number}.db", clock=now)
        hashes.append((await journal.append(keyed("ex-1", key))).events[0].hash)
        await journal.close()
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("key", [-1, 2**63, 1.5, "7", True])
async def test_what_is_no_key_is_refused(journal: Journal, key: Any) -> None:
    with pytest.raises(InvalidAppend):
        await journal.append(keyed("ex-1", key))
    with pytest.raises(InvalidQuery):
        journal.find_blocking(KeyQuery((key,), "ex-1"))


async def test_many_threads_may_look_up_while_others_append(journal: Journal) -> None:
    await journal.append(keyed("ex-0", 0, b"0"))
    await journal.append(start("zz-end"))

    def look(_: int) -> bool:
        return found(journal, "zz-end", 0) == {0: b"0"}

    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(look, number) for number in range(200)]
        for number in range(1, 50):
            await journal.append(keyed(f"ex-{number}", 0, b"later"))
        assert all(look.result() for look in looks)


async def test_a_closed_journal_finds_nothing(journal: Journal) -> None:
    await journal.append(keyed("ex-1", 1))
    await journal.append(start("ex-2"))
    assert found(journal, "ex-2", 1) == {1: b"x"}
    await journal.close()
    with pytest.raises(JournalClosed):
        found(journal, "ex-2", 1)
