"""The heartbeat keeps leases alive from its own thread; none is relied on that may be over."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from journal import JournalError, JournalUnavailable, Lease
from kitaru.engine.heartbeat import Heartbeat

LEASE = Lease("execution-x", "me", 1, 0)


class Renewing:
    """The part of a journal that renews, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.threads: set[int] = set()
        self.failure: JournalError | None = None
        self.held = True

    def renew_blocking(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        self.asked.append(len(leases))
        self.threads.add(threading.get_ident())
        if self.failure is not None:
            raise self.failure
        return list(leases) if self.held else []


class Heart:
    """A heartbeat, and what it has told."""

    def __init__(self, seconds: float) -> None:
        self.renewing = Renewing()
        journal: Any = self.renewing
        self.lost: list[Lease] = []
        self.failed: list[JournalError] = []
        self.beats = Heartbeat(
            journal, seconds, self.lost.append, lambda error, _: self.failed.append(error)
        )

    def until(self, holds: Any) -> None:
        """Waits until something is true."""
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, "this never became true"
            time.sleep(0.002)


async def test_a_busy_loop_does_not_lose_its_leases() -> None:
    heart = Heart(seconds=0.06)
    heart.beats.add(LEASE, time.monotonic())
    heart.beats.start()
    # The loop stands still here; a thread of its own goes on.
    heart.until(lambda: len(heart.renewing.asked) > 3)
    heart.beats.stop()
    assert threading.get_ident() not in heart.renewing.threads
    assert heart.lost == []
    await asyncio.sleep(0)


def test_a_lease_whose_renewal_fails_is_not_relied_on_when_its_time_is_over() -> None:
    heart = Heart(seconds=3_600)
    heart.renewing.failure = JournalUnavailable("not now")
    heart.beats.add(LEASE, time.monotonic())
    assert heart.beats.is_alive(LEASE.stream)
    heart.beats.remove(LEASE.stream)
    heart.beats.add(LEASE, time.monotonic() - 3_600)
    heart.beats._renew()
    assert len(heart.failed) == 1
    assert not heart.beats.is_alive(LEASE.stream)
    heart.renewing.failure = None
    heart.beats._renew()
    assert heart.beats.is_alive(LEASE.stream)


def test_a_lease_that_is_somebody_elses_is_told() -> None:
    heart = Heart(seconds=3_600)
    heart.renewing.held = False
    heart.beats.add(LEASE, time.monotonic())
    heart.beats._renew()
    assert heart.lost == [LEASE]


def test_nothing_is_renewed_that_was_let_go() -> None:
    heart = Heart(seconds=3_600)
    heart.beats.add(LEASE, time.monotonic())
    heart.beats.remove(LEASE.stream)
    heart.beats._renew()
    assert heart.renewing.asked == []
    assert not heart.beats.is_alive(LEASE.stream)


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_renewal_that_was_under_way_does_not_prolong_another_epoch(
    epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = Heart(seconds=3_600)
    newer = Lease(LEASE.stream, "me", epoch, 0)

    def renew_blocking(leases: Sequence[Lease], _seconds: float) -> list[Lease]:
        heart.beats.add(newer, time.monotonic() - 3_600)
        return list(leases)

    monkeypatch.setattr(heart.renewing, "renew_blocking", renew_blocking)
    heart.beats.add(LEASE, time.monotonic())
    heart.beats._renew()
    assert not heart.beats.is_alive(LEASE.stream)


def test_what_was_renewed_lasts_so_long_also_when_it_is_added_again() -> None:
    heart = Heart(seconds=3_600)
    asked_at = time.monotonic()
    heart.beats.add(LEASE, asked_at)
    heart.beats.add(LEASE, asked_at - 3_600)
    assert heart.beats.is_alive(LEASE.stream)
    later = Lease(LEASE.stream, LEASE.owner, LEASE.epoch + 1, 0)
    heart.beats.add(later, asked_at - 3_600)
    assert not heart.beats.is_alive(LEASE.stream)
