"""Looks for executions that wait for a runner process: how often, and which ones for how long."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from journal import Head, Journal, JournalError, RecordedEvent
from kitaru.stacks.free import free_executions
from kitaru.telemetry import LogEvent, report

LOOK_SECONDS = 1.0
LEAST_SECONDS = 0.1
"""How long there is between two looks at least: a journal that many write to wakes it all the
time."""
LONGEST_PAUSE_SECONDS = 60.0


class Lookout:
    """Calls `look` every second, and as soon as something may have become due.

    It belongs to the journal's loop. A look that fails is reported, and is followed by the next.
    """

    def __init__(self, journal: Journal, look: Callable[[], Awaitable[None]]) -> None:
        self._journal = journal
        self._look = look
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stop_watching: Callable[[], None] = _nothing

    def start(self) -> None:
        """Begins to look, now and for as long as it is not closed."""
        if self._task is None:
            self._stop_watching = self._journal.watch(None, self._on_commit)
            self._task = asyncio.get_running_loop().create_task(self._look_for_ever())

    async def close(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._stop_watching()
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def look_now(self) -> None:
        """Looks at once: something may have become due."""
        self._wake.set()

    async def _look_for_ever(self) -> None:
        while True:
            self._wake.clear()
            looked_at = time.monotonic()
            try:
                await self._look()
            except JournalError as error:
                report(LogEvent.POLL_FAILED, error=str(error))
            except Exception as error:
                # Whatever it is (a full disk, a fault of ours): without a next look nobody would
                # start runners for as long as this process lives.
                report(LogEvent.POLL_FAILED, error=repr(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            await asyncio.sleep(looked_at + LEAST_SECONDS - time.monotonic())

    def _on_commit(self, events: Sequence[RecordedEvent]) -> None:
        if not events or any(event.epoch == 0 for event in events):
            self.look_now()


class FreeExecutions:
    """The executions that are due and that nobody has, on routes that begin alike."""

    def __init__(self, journal: Journal, route_prefix: str) -> None:
        self._journal = journal
        self._route_prefix = route_prefix
        self._since: dict[str, float] = {}
        """The monotonic instant at which each was first seen so, by stream."""

    async def see(self) -> list[Head]:
        """Those of now. Raises JournalError."""
        free = await free_executions(self._journal, self._route_prefix)
        now, known = time.monotonic(), self._since
        self._since = {head.stream: known.get(head.stream, now) for head in free}
        return free

    def waits_since(self, stream: str) -> float:
        """The monotonic instant since which one of those that were seen last waits."""
        return self._since[stream]


class _Failures(Struct):
    in_a_row: int = 0
    not_before: float = 0.0
    """The monotonic instant before which there is no further try."""


class Backoff:
    """How long what fails again and again is left alone, by a key."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failures] = {}

    def is_time(self, key: str) -> bool:
        """Whether it may be tried now."""
        failures = self._failures.get(key)
        return failures is None or time.monotonic() >= failures.not_before

    def failed(self, key: str) -> None:
        """It has failed. The first failure costs nothing, each further one twice as much."""
        failures = self._failures.setdefault(key, _Failures())
        failures.in_a_row += 1
        pause = min(2.0 ** min(failures.in_a_row - 2, 10), LONGEST_PAUSE_SECONDS)
        # One may fail for any reason; those that follow it make a rule.
        failures.not_before = time.monotonic() + (pause if failures.in_a_row > 1 else 0.0)

    def succeeded(self, key: str) -> None:
        """It has been of use: the next failure is the first one."""
        self._failures.pop(key, None)


def _nothing() -> None:
    """There is nothing to stop yet."""
