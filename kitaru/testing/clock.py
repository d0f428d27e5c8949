"""A clock that stands still until somebody moves it."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class StillClock:
    """The clock of a journal: microseconds since the Unix epoch, by the will of a test."""

    def __init__(self, start: datetime = START) -> None:
        self._now = microseconds_of(start)
        self._elsewhen = threading.local()

    def __call__(self) -> int:
        now: int = getattr(self._elsewhen, "now", self._now)
        return now

    def move_to(self, instant: int) -> None:
        """From now on it is this instant; the clock may be moved back, too."""
        self._now = instant

    @contextlib.contextmanager
    def at(self, instant: int) -> Iterator[None]:
        """For this thread alone, and for the length of the block, it is another instant."""
        self._elsewhen.now = instant
        try:
            yield
        finally:
            del self._elsewhen.now


def microseconds_of(instant: datetime) -> int:
    """Microseconds since the Unix epoch."""
    return (instant - _EPOCH) // _MICROSECOND


def instant_of(microseconds: int) -> datetime:
    """The instant, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND
