"""Catch up, then follow: over any backend. Watching is the hint, reading is the truth."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from operator import attrgetter

from journal.journal import Journal, Watcher
from journal.records import RecordedEvent

_PAGE = 1000
_MOST_WAITING = 10_000
_POLL_SECONDS = 3.0


def follow(
    journal: Journal, stream: str, *, after: int = 0, poll_seconds: float = _POLL_SECONDS
) -> AsyncGenerator[RecordedEvent, None]:
    """The events of a stream after a version, in order, each once; then each new one, without end.

    A closed journal ends it with JournalClosed.
    """

    async def read(version: int) -> list[RecordedEvent]:
        return await journal.read_stream(stream, after=version, limit=_PAGE)

    def watch(watcher: Watcher) -> Callable[[], None]:
        return journal.watch(stream, watcher)

    return _followed(watch, read, attrgetter("version"), after, poll_seconds)


def follow_all(
    journal: Journal, *, after: int = 0, poll_seconds: float = _POLL_SECONDS
) -> AsyncGenerator[RecordedEvent, None]:
    """The events of all streams after a position, in order, each once; then each new one."""

    async def read(position: int) -> list[RecordedEvent]:
        return await journal.read_all(after=position, limit=_PAGE)

    def watch(watcher: Watcher) -> Callable[[], None]:
        return journal.watch(None, watcher)

    return _followed(watch, read, attrgetter("position"), after, poll_seconds)


class _Inbox:
    """What a watcher was told and the follower has not taken yet."""

    def __init__(self) -> None:
        self.events: deque[RecordedEvent] = deque()
        self.must_read = True
        self.changed = asyncio.Event()

    def receive(self, events: Sequence[RecordedEvent]) -> None:
        if not events or len(self.events) + len(events) > _MOST_WAITING:
            self.must_read = True
        else:
            self.events.extend(events)
        self.changed.set()


async def _followed(
    watch: Callable[[Watcher], Callable[[], None]],
    read: Callable[[int], Awaitable[list[RecordedEvent]]],
    place: Callable[[RecordedEvent], int],
    after: int,
    poll_seconds: float,
) -> AsyncGenerator[RecordedEvent, None]:
    inbox = _Inbox()
    stop = watch(inbox.receive)
    try:
        while True:
            while inbox.events:
                event = inbox.events.popleft()
                if place(event) == after + 1:
                    after += 1
                    yield event
                elif place(event) > after:
                    inbox.must_read = True
            if inbox.must_read:
                inbox.must_read = False
                page = await read(after)
                for event in page:
                    after = place(event)
                    yield event
                inbox.must_read = inbox.must_read or len(page) == _PAGE
            else:
                await _news(inbox, poll_seconds)
    finally:
        stop()


async def _news(inbox: _Inbox, poll_seconds: float) -> None:
    """Waits for a hint; after a while without one, reading is due anyway: a hint may be lost."""
    if not inbox.events:
        inbox.changed.clear()
        try:
            async with asyncio.timeout(poll_seconds):
                await inbox.changed.wait()
        except TimeoutError:
            inbox.must_read = True
