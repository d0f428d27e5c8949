"""Followers get every event once and in order: what was there, then what comes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice
from typing import Any

import pytest

from journal import (
    Append,
    HeadChange,
    Journal,
    JournalClosed,
    NewEvent,
    RecordedEvent,
    follow,
    follow_all,
    open_journal,
    subscription,
)
from journal.journal import Watcher

HEAD = HeadChange("running", "order", None)


async def append(journal: Journal, stream: str, version: int, count: int = 1) -> None:
    events = tuple(NewEvent("Happened", b"%d" % (version + n)) for n in range(1, count + 1))
    await journal.append(Append(stream, events, version, HEAD if version == 0 else None))


async def take(events: AsyncGenerator[RecordedEvent, None], count: int) -> list[int]:
    return [(await asyncio.wait_for(anext(events), 20)).version for _ in range(count)]


async def test_a_follower_catches_up_and_goes_on(journal: Journal) -> None:
    await append(journal, "ex-1", 0, 3)
    followed = follow(journal, "ex-1", after=1)
    assert await take(followed, 2) == [2, 3]
    waiting = asyncio.create_task(take(followed, 3))
    await asyncio.sleep(0.01)
    await append(journal, "ex-1", 3)
    await append(journal, "ex-2", 0)
    await append(journal, "ex-1", 4, 2)
    assert await waiting == [4, 5, 6]
    await followed.aclose()


async def test_a_stream_may_be_followed_before_it_exists(journal: Journal) -> None:
    followed = follow(journal, "ex-1")
    waiting = asyncio.create_task(take(followed, 1))
    await asyncio.sleep(0.01)
    await append(journal, "ex-1", 0)
    assert await waiting == [1]
    await followed.aclose()


async def test_more_than_a_page_is_caught_up_with(journal: Journal) -> None:
    await append(journal, "ex-1", 0, 2500)
    followed = follow(journal, "ex-1")
    assert await take(followed, 2500) == list(range(1, 2501))
    await followed.aclose()


async def test_all_streams_are_followed_in_the_order_of_the_journal(journal: Journal) -> None:
    await append(journal, "ex-1", 0, 2)
    followed = follow_all(journal, after=1)
    waiting = asyncio.create_task(take(followed, 4))
    await asyncio.sleep(0.01)
    await append(journal, "ex-2", 0)
    await append(journal, "ex-1", 2)
    await asyncio.to_thread(
        journal.append_blocking, Append("ex-2", (NewEvent("Happened", b""),), 1)
    )
    assert await waiting == [2, 1, 3, 2]
    await followed.aclose()


async def test_following_in_the_same_process_reads_nothing_again(journal: Journal) -> None:
    counting = _Counting(journal)
    followed = follow(counting, "ex-1", poll_seconds=60)  # type: ignore[arg-type]
    waiting = asyncio.create_task(take(followed, 100))
    await asyncio.sleep(0.05)
    for version in range(100):
        await append(journal, "ex-1", version)
    assert await waiting == list(range(1, 101))
    assert counting.reads == 1
    await followed.aclose()


async def test_a_lost_hint_delays_and_never_loses(journal: Journal) -> None:
    deaf = _Counting(journal, deaf=True)
    followed = follow(deaf, "ex-1", poll_seconds=0.01)  # type: ignore[arg-type]
    waiting = asyncio.create_task(take(followed, 3))
    await asyncio.sleep(0.05)
    await append(journal, "ex-1", 0, 3)
    assert await waiting == [1, 2, 3]
    await followed.aclose()


@pytest.mark.parametrize("order", [[3, 1, 2], [1, 1, 2, 2, 3], [2, 3], []])
async def test_hints_in_any_order_lead_to_the_truth(journal: Journal, order: list[int]) -> None:
    confused = _Counting(journal, deaf=True)
    followed = follow(confused, "ex-1", poll_seconds=60)  # type: ignore[arg-type]
    waiting = asyncio.create_task(take(followed, 3))
    await asyncio.sleep(0.05)
    await append(journal, "ex-1", 0, 3)
    read = await journal.read_stream("ex-1")
    for version in order:
        confused.tell([read[version - 1]])
    confused.tell([])
    assert await waiting == [1, 2, 3]
    await followed.aclose()


async def test_a_hint_with_a_gap_before_it_is_read_up_to(journal: Journal) -> None:
    """At once, without waiting for the next poll."""
    confused = _Counting(journal, deaf=True)
    followed = follow(confused, "ex-1", poll_seconds=600)  # type: ignore[arg-type]
    waiting = asyncio.create_task(take(followed, 3))
    await asyncio.sleep(0.05)
    await append(journal, "ex-1", 0, 3)
    confused.tell((await journal.read_stream("ex-1"))[2:])
    assert await waiting == [1, 2, 3]
    await followed.aclose()


async def test_what_is_told_twice_costs_no_reading(journal: Journal) -> None:
    confused = _Counting(journal, deaf=True)
    await append(journal, "ex-1", 0)
    followed = follow(confused, "ex-1", poll_seconds=600)  # type: ignore[arg-type]
    assert await take(followed, 1) == [1]
    waiting = asyncio.create_task(take(followed, 1))
    await append(journal, "ex-1", 1)
    first, second = await journal.read_stream("ex-1")
    confused.tell([first, first])
    await asyncio.sleep(0.05)
    confused.tell([second])
    assert await waiting == [2]
    assert confused.reads == 1
    await followed.aclose()


async def test_a_hint_that_comes_while_reading_is_not_lost(journal: Journal) -> None:
    """What is read may be older than the hint."""

    class Late(_Counting):
        async def read_stream(self, stream: str, /, **options: Any) -> list[RecordedEvent]:
            found = await super().read_stream(stream, **options)
            if self.reads == 1:
                await append(journal, "ex-1", 0)
                self.tell([])
            return found

    late = Late(journal, deaf=True)
    followed = follow(late, "ex-1", poll_seconds=600)  # type: ignore[arg-type]
    assert await take(followed, 1) == [1]
    await followed.aclose()


async def test_a_slow_follower_gets_everything(journal: Journal) -> None:
    followed = follow(journal, "ex-1")
    await append(journal, "ex-1", 0)
    assert await take(followed, 1) == [1]
    for version in range(1, 30_000, 1000):
        await append(journal, "ex-1", version, 1000)
    assert await take(followed, 29_000) == list(islice(range(2, 40_000), 29_000))
    await followed.aclose()


async def test_a_follower_learns_that_the_journal_was_closed(journal: Journal) -> None:
    followed = follow(journal, "ex-1", poll_seconds=60)
    waiting = asyncio.create_task(take(followed, 1))
    await asyncio.sleep(0.05)
    await journal.close()
    with pytest.raises(JournalClosed):
        await waiting


@pytest.mark.parametrize("ending", ["left", "cancelled"])
async def test_who_no_longer_follows_is_no_longer_told(journal: Journal, ending: str) -> None:
    await append(journal, "ex-1", 0)
    counting = _Counting(journal, deaf=True)
    followed = follow(counting, "ex-1")  # type: ignore[arg-type]
    assert await take(followed, 1) == [1]
    assert len(counting._watchers) == 1
    if ending == "left":
        await followed.aclose()
    else:
        waiting = asyncio.create_task(take(followed, 1))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert counting._watchers == []


async def test_what_is_there_is_read_page_by_page(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "_PAGE", 2)
    await append(journal, "ex-1", 0, 5)
    counting = _Counting(journal, deaf=True)
    followed = follow(counting, "ex-1", poll_seconds=600)  # type: ignore[arg-type]
    assert await take(followed, 5) == [1, 2, 3, 4, 5]
    assert counting.reads == 3
    await followed.aclose()
    everything = follow_all(counting, poll_seconds=600)  # type: ignore[arg-type]
    assert await take(everything, 5) == [1, 2, 3, 4, 5]
    assert counting.reads == 6
    assert counting.limits == {2}
    await everything.aclose()


async def test_more_than_can_wait_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "_MOST_WAITING", 3)
    journal = await open_journal("memory://")
    await append(journal, "ex-1", 0, 8)
    events = await journal.read_stream("ex-1")
    inbox = subscription._Inbox()
    inbox.must_read = False
    inbox.receive(events[:2])
    inbox.receive(events[2:3])
    assert (len(inbox.events), inbox.must_read) == (3, False)
    inbox.receive(events[3:4])
    assert (len(inbox.events), inbox.must_read) == (3, True)
    await journal.close()


class _Counting:
    """A journal that counts its reads, and whose watchers hear only what a test tells them."""

    def __init__(self, journal: Journal, *, deaf: bool = False) -> None:
        self._journal = journal
        self._deaf = deaf
        self._watchers: list[Watcher] = []
        self.reads = 0
        self.limits: set[object] = set()

    async def read_stream(self, stream: str, /, **options: Any) -> list[RecordedEvent]:
        self.reads += 1
        self.limits.add(options.get("limit"))
        return await self._journal.read_stream(stream, **options)

    async def read_all(self, **options: Any) -> list[RecordedEvent]:
        self.reads += 1
        self.limits.add(options.get("limit"))
        return await self._journal.read_all(**options)

    def watch(self, stream: str | None, watcher: Watcher, /) -> Callable[[], None]:
        self._watchers.append(watcher)
        if self._deaf:
            return self._watchers.clear
        return self._journal.watch(stream, watcher)

    def tell(self, events: Sequence[RecordedEvent]) -> None:
        for watcher in self._watchers:
            watcher(events)
