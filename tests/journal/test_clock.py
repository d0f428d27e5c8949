"""Time in microseconds."""

import time

from journal.clock import microseconds, system_clock


def test_the_system_clock_counts_microseconds_since_the_epoch() -> None:
    before, now, after = time.time(), system_clock(), time.time()
    assert int(before * 1e6) - 1 <= now <= int(after * 1e6) + 1


def test_a_duration_is_rounded_to_microseconds() -> None:
    assert [microseconds(seconds) for seconds in (0, 1.5, 0.1, 1e-7)] == [0, 1_500_000, 100_000, 0]
