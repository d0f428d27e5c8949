"""Tells watchers on the journal's event loop what was committed, by whatever thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from journal.journal import Watcher
from journal.records import RecordedEvent


class Watchers:
    """Who wants to know, and what they have not been told yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watchers: dict[object, tuple[str | None, Watcher]] = {}
        self._untold: deque[Sequence[RecordedEvent]] = deque()
        self._telling = False

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def add(self, stream: str | None, watcher: Watcher) -> Callable[[], None]:
        key = object()
        self._watchers[key] = (stream, watcher)

        def stop() -> None:
            self._watchers.pop(key, None)

        return stop

    def publish(self, events: Sequence[RecordedEvent]) -> None:
        """From any thread, in the order of the commits; no events: somebody should read again."""
        if not self._watchers:
            return
        if self._loop.is_closed():
            self._forget()
            return
        self._untold.append(events)
        if not self._telling:
            self._telling = True
            try:
                if asyncio._get_running_loop() is self._loop:
                    # Waking a loop that is awake costs two system calls.
                    self._loop.call_soon(self._tell)
                else:
                    self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # it was closed since it was looked at
                self._forget()

    def _forget(self) -> None:
        """The loop has ended, and with it whoever watched: threads may append for long yet."""
        self._watchers.clear()
        self._untold.clear()

    def _tell(self) -> None:
        # First the flag: whoever publishes after this line schedules another call.
        self._telling = False
        events: list[RecordedEvent] = []
        read_again = False
        while self._untold:
            published = self._untold.popleft()
            events += published
            read_again = read_again or not published
        watchers = tuple(self._watchers.values())
        is_one_watched = any(stream is not None for stream, _ in watchers)
        by_stream = _by_stream(events) if is_one_watched else {}
        for stream, watcher in watchers:
            news = events if stream is None else by_stream.get(stream, ())
            if news:
                self._call(watcher, news)
            if read_again:
                self._call(watcher, ())

    def _call(self, watcher: Watcher, events: Sequence[RecordedEvent]) -> None:
        try:
            watcher(events)
        except Exception as error:  # one watcher's mistake must not silence the others
            context = {"message": "a journal's watcher failed", "exception": error}
            self._loop.call_exception_handler(context)


def _by_stream(events: Iterable[RecordedEvent]) -> dict[str, list[RecordedEvent]]:
    streams: dict[str, list[RecordedEvent]] = {}
    for event in events:
        streams.setdefault(event.stream, []).append(event)
    return streams
