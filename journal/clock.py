"""How the journal tells and counts time: microseconds since the Unix epoch."""

import time
from collections.abc import Callable

Clock = Callable[[], int]


def system_clock() -> int:
    return time.time_ns() // 1000


def microseconds(seconds: float) -> int:
    """A duration as the journal counts it."""
    return round(seconds * 1_000_000)
