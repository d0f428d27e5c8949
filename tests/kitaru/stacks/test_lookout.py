"""How often a lookout looks, and how long it leaves alone what fails."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from journal import Append, Claim, HeadChange, Journal, JournalUnavailable, NewEvent, open_journal
from kitaru.stacks import lookout
from kitaru.stacks.lookout import Backoff, FreeExecutions, Lookout

DUE = HeadChange(state="running", name="agent", due_at=0, parent=None, summary=b"{}", route="to:x")


class Clock:
    """Time that goes by when the test says so, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lookout, "time", clock)
    return clock


@pytest.fixture
async def journal() -> AsyncIterator[Journal]:
    made = await open_journal("memory://")
    yield made
    await made.close()


def event(number: int) -> NewEvent:
    return NewEvent("execution_started", str(number).encode(), 1, None)


async def start(journal: Journal, stream: str) -> None:
    await journal.append(Append(stream=stream, events=(event(1),), expected_version=0, head=DUE))


def test_the_first_failure_costs_nothing_and_each_further_one_twice_as_much(clock: Clock) -> None:
    backoff = Backoff()
    pauses = []
    for _ in range(9):
        backoff.failed("a")
        began = clock.now
        while not backoff.is_time("a"):
            clock.now += 0.5
        pauses.append(clock.now - began)
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.is_time("b")


def test_after_a_success_the_next_failure_is_the_first(clock: Clock) -> None:
    backoff = Backoff()
    backoff.failed("a")
    backoff.failed("a")
    assert not backoff.is_time("a")
    backoff.succeeded("a")
    backoff.failed("a")
    assert backoff.is_time("a")


async def test_what_is_free_is_known_since_it_was_seen_first(
    journal: Journal, clock: Clock
) -> None:
    free = FreeExecutions(journal, "to:")
    await start(journal, "execution-1")
    assert [head.stream for head in await free.see()] == ["execution-1"]
    clock.now += 5
    await start(journal, "execution-2")
    assert {head.stream for head in await free.see()} == {"execution-1", "execution-2"}
    assert (free.waits_since("execution-1"), free.waits_since("execution-2")) == (100, 105)


async def test_what_somebody_had_in_between_waits_anew(journal: Journal, clock: Clock) -> None:
    free = FreeExecutions(journal, "to:")
    await start(journal, "execution-1")
    await free.see()
    claimed = await journal.append(
        Append(
            stream="execution-1",
            events=(event(2),),
            expected_version=1,
            claim=Claim("somebody", 60),
        )
    )
    assert claimed.lease is not None
    clock.now += 5
    assert await free.see() == []
    await journal.release(claimed.lease)
    await free.see()
    assert free.waits_since("execution-1") == 105


async def test_it_looks_when_a_client_has_written_and_not_when_an_owner_has(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(lookout, "LEAST_SECONDS", 0.0)
    looks = asyncio.Semaphore(0)

    async def look() -> None:
        looks.release()

    watched = Lookout(journal, look)
    watched.start()
    await looks.acquire()
    await journal.append(
        Append(
            stream="execution-1",
            events=(event(1),),
            expected_version=0,
            head=DUE,
            claim=Claim("somebody", 60),
        )
    )
    for _ in range(20):
        await asyncio.sleep(0)
    assert looks.locked()
    await start(journal, "execution-2")
    await looks.acquire()
    await watched.close()


@pytest.mark.parametrize(
    "problem",
    [JournalUnavailable("the disk is away"), OSError(28, "No space left on device"), KeyError("x")],
)
async def test_a_look_that_fails_does_not_end_it(
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: Exception,
) -> None:
    monkeypatch.setattr(lookout, "LEAST_SECONDS", 0.0)
    looks = 0
    looked = asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        watched.look_now()
        if looks == 1:
            raise problem
        looked.set()

    watched = Lookout(journal, look)
    watched.start()
    await looked.wait()
    await watched.close()
    assert looks >= 2
    assert str(problem.args[-1]) in capsys.readouterr().err
