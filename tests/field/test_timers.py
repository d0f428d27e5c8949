"""Bugs of other engines around time: skewed clocks, steps backwards, stores that are away."""

import asyncio
import random
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    ExecutionParked,
    TimerFired,
    TimerStarted,
    WaitRequested,
)
from kitaru.operations import waits

HOUR = 3_600_000_000
ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    ran.clear()
    monkeypatch.setattr("kitaru.engine.sync_resting.IDLE_SECONDS", 0.02)
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 0.02)
    monkeypatch.setattr("kitaru.engine.sync_resting.RECHECK_SECONDS", 0.05)
    monkeypatch.setattr("kitaru.engine.async_waits.RECHECK_SECONDS", 0.05)


@checkpoint
def step(name: str) -> str:
    ran.append(name)
    return name


@flow
def sleepy(seconds: float) -> list[str]:
    first = step("before")
    kitaru.sleep(seconds)
    return [first, step("after")]


@flow
async def sleepy_async(seconds: float) -> list[str]:
    first = await step.aio("before")
    await asyncio.sleep(seconds)
    return [first, await step.aio("after")]


@flow
async def limited(seconds: float) -> list[str]:
    first = await step.aio("before")
    try:
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return [first, await step.aio("after")]
    raise AssertionError


FLOWS = pytest.mark.parametrize("body", [sleepy, sleepy_async, limited], ids=lambda each: each.name)


@FLOWS
async def test_a_clock_that_jumps_drops_no_timer_and_fires_none_early(
    bench: Any, faults: Any, body: Any
) -> None:
    """The journal's clock steps by up to an hour, back as well: due is due by it, and once."""
    chance = random.Random(29)
    for _ in range(5):
        ran.clear()
        faults.offset_us = 0
        handle = await body.aio.run(1_000.0)
        await bench.until(lambda: ran)
        for _ in range(10):
            faults.offset_us = chance.randrange(-HOUR, 900_000_000)
            bench.runtime.worker.look_now()
            await asyncio.sleep(0.005)
        assert ran == ["before"]
        started = next(
            e.due_at
            for e in [*await bench.events(handle.exec_id), TimerStarted(path="", due_at=0)]
            if isinstance(e, TimerStarted)
        )
        faults.offset_us = HOUR
        bench.runtime.worker.look_now()
        assert await bench.result(handle.exec_id, body) == ["before", "after"]
        recorded = await bench.recorded(handle.exec_id)
        events = await bench.events(handle.exec_id)
        fired = [(f.recorded_at, e) for f, e in zip(recorded, events, strict=True)]
        ((at, event),) = [pair for pair in fired if isinstance(pair[1], TimerFired)]
        assert isinstance(event, TimerFired)
        assert at >= event.due_at
        assert started in (0, event.due_at)


@FLOWS
async def test_a_time_that_is_looked_at_again_does_not_pass_by_it(
    bench: Any, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that holds on looks at the journal's clock several times before it is due."""
    monkeypatch.setattr("kitaru.engine.sync_resting.IDLE_SECONDS", 5.0)
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 5.0)
    handle = await body.aio.run(0.3)
    assert await bench.result(handle.exec_id, body) == ["before", "after"]
    recorded = await bench.recorded(handle.exec_id)
    events = await bench.events(handle.exec_id)
    (fired,) = [n for n, event in enumerate(events) if isinstance(event, TimerFired)]
    assert recorded[fired].recorded_at >= events[fired].due_at


@flow
async def two_sleepers(times: int) -> None:
    async def naps() -> None:
        for _ in range(times):
            await asyncio.sleep(100.0)

    await asyncio.gather(asyncio.sleep(100_000.0), naps())


@pytest.mark.counts_passes
async def test_a_time_that_is_written_down_is_not_written_down_by_every_owner(
    bench: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sleep that many processes live to see does not make the journal longer with each."""
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 0.3)
    exec_id = (await two_sleepers.run(3)).exec_id
    for pass_ in (1, 2, 3, 4):
        async with asyncio.timeout(bench.DEADLINE_SECONDS):
            while _parked(await bench.events(exec_id)) < pass_:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)
        faults.offset_us += 101_000_000
        bench.runtime.worker.look_now()
    started = [e.path for e in await bench.events(exec_id) if isinstance(e, TimerStarted)]
    assert sorted(started) == sorted(set(started))
    assert len(started) == 4


def _parked(events: Any) -> int:
    return sum(isinstance(event, ExecutionParked) for event in events)


@FLOWS
@pytest.mark.parametrize("skew", [-HOUR, HOUR], ids=["behind", "ahead"])
async def test_a_machine_whose_clock_is_wrong_goes_by_the_journals(
    bench: Any, faults: Any, body: Any, skew: int
) -> None:
    faults.offset_us = skew
    handle = await body.aio.run(0.1)
    assert await bench.result(handle.exec_id, body) == ["before", "after"]
    events = await bench.events(handle.exec_id)
    recorded = await bench.recorded(handle.exec_id)
    (fired,) = [event for event in events if isinstance(event, TimerFired)]
    # Not to the microsecond: the body's time is that of the outcome that it has seen last.
    assert abs(fired.due_at - recorded[0].recorded_at - 100_000) < 60_000_000


@FLOWS
async def test_two_workers_with_a_clock_that_jumps_do_nothing_twice(
    bench: Any, faults: Any, body: Any
) -> None:
    chance = random.Random(30)
    async with bench.second_worker(body):
        ids = [(await body.aio.run(100.0)).exec_id for _ in range(10)]
        for _ in range(20):
            faults.offset_us = chance.randrange(-HOUR, HOUR)
            bench.runtime.worker.look_now()
            await asyncio.sleep(0.005)
        faults.offset_us = 2 * HOUR
        for exec_id in ids:
            assert await bench.result_after_faults(exec_id, body) == ["before", "after"]
            counts = bench.outcomes_by_path(await bench.events(exec_id))
            assert set(counts.values()) == {1}


@flow
def asks() -> Any:
    return kitaru.wait(schema=int, name="number", deadline=1_000.0, default=-1)


async def test_a_deadline_goes_by_the_journals_clock(bench: Any, faults: Any) -> None:
    handle = await asks.aio.run()
    other = await asks.aio.run()
    for asking in (handle, other):
        # Its deadline goes by the clock as it stood then.
        await bench.is_recorded(asking.exec_id, WaitRequested)
    for offset in (-HOUR, 900_000_000, -HOUR, 0):
        faults.offset_us = offset
        bench.runtime.worker.look_now()
        await asyncio.sleep(0.01)
    await waits.give_input(bench.runtime, handle.exec_id, "number", 7)
    assert await bench.result(handle.exec_id, asks) == 7
    faults.offset_us = HOUR
    bench.runtime.worker.look_now()
    assert await bench.result(other.exec_id, asks) == -1


class Outage:
    """The store is away: nothing can be written or claimed."""

    def __init__(self, bench: Any, faults: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench = bench
        self.faults = faults
        self.patch = monkeypatch
        self.claim = bench.runtime.journal._journal.claim

    def begin(self) -> None:
        self.faults.is_now = lambda: True
        self.bench.runtime.journal.claim = self._refuse

    async def _refuse(self, _query: Any) -> Any:
        raise self.faults.error

    def end(self) -> None:
        del self.faults.is_now
        self.bench.runtime.journal.claim = self.claim


@FLOWS
@pytest.mark.parametrize("due", ["meanwhile", "afterwards"])
async def test_a_store_that_is_away_during_a_sleep_delays_it_and_no_more(
    bench: Any, faults: Any, body: Any, due: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await body.aio.run(10.0)
    await bench.is_recorded(handle.exec_id, CheckpointCompleted)
    outage = Outage(bench, faults, monkeypatch)
    outage.begin()
    if due == "meanwhile":
        faults.offset_us += 12_000_000
    await asyncio.sleep(0.2)
    assert ran == ["before"]
    outage.end()
    if due == "afterwards":
        faults.offset_us += 12_000_000
    bench.runtime.worker.look_now()
    assert await bench.result_after_faults(handle.exec_id, body) == ["before", "after"]
    assert ran == ["before", "after"]


@flow
async def asks_async() -> Any:
    answer = await kitaru.wait(schema=int, name="number")
    await step.aio("after")
    return answer


@flow
def asks_sync() -> Any:
    answer = kitaru.wait(schema=int, name="number")
    step("after")
    return answer


@pytest.mark.parametrize("body", [asks_async, asks_sync], ids=["async", "sync"])
async def test_an_owner_that_slept_over_its_lease_goes_on(
    bench: Any, faults: Any, body: Any
) -> None:
    """As on a laptop that was closed: nobody else was there, and the lease is long over."""
    handle = await body.aio.run()
    await bench.until(lambda: handle.exec_id in bench.runtime.worker.runners)
    for _ in range(3):
        bench.let_leases_run_out()
        await asyncio.sleep(0.02)
    await waits.give_input(bench.runtime, handle.exec_id, "number", 7)
    assert await bench.result(handle.exec_id, body) == 7
    assert ran == ["after"]
    # It was never dropped: nobody else has had it.
    types = [fact.type for fact in await bench.recorded(handle.exec_id)]
    assert "execution_recovered" not in types
