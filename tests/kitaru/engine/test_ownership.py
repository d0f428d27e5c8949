"""Owners that are robbed, closed or cut off at every moment: one outcome, and all goes on."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import kitaru
from journal import Append, Appended, Claim, ClaimQuery, Journal, JournalUnavailable, open_journal
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.engine.executions import CATEGORY, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.engine.worker import SYNC_FLOWS_AT_ONCE
from tests.kitaru.conftest import DEADLINE_SECONDS, Bench, Faults

runs: Counter[str] = Counter()


@checkpoint(cache=False)
def part(name: str) -> str:
    runs[name] += 1
    return name


@checkpoint(cache=False)
async def part_async(name: str) -> str:
    runs[name] += 1
    await asyncio.sleep(0)
    return name


@flow
def fans_out(name: str, width: int) -> list[str]:
    first = part(f"{name}/first")
    futures = part.map([f"{name}/{number}" for number in range(width)])
    return [first, *(future.result() for future in futures), part(f"{name}/last")]


@flow
async def fans_out_async(name: str, width: int) -> list[str]:
    first = await part_async(f"{name}/first")
    calls = [part_async(f"{name}/{number}") for number in range(width)]
    return [first, *await asyncio.gather(*calls), await part_async(f"{name}/last")]


def expected(name: str, width: int) -> list[str]:
    return [f"{name}/first", *(f"{name}/{number}" for number in range(width)), f"{name}/last"]


FLOWS = pytest.mark.parametrize("body", [fans_out, fans_out_async], ids=["sync", "async"])


class Robbed:
    """A journal in which something happens before the owner's n-th append."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.appends = 0
        self.at = 0
        self.happens: Callable[[Append], None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def _count(self, append: Append) -> None:
        if append.lease is None:
            return
        self.appends += 1
        if self.appends == self.at:
            self.happens(append)

    async def append(self, append: Append) -> Appended:
        self._count(append)
        return await self.journal.append(append)

    def append_soon(self, append: Append, done: Any) -> None:
        self._count(append)
        self.journal.append_soon(append, done)

    def append_blocking(self, append: Append) -> Appended:
        self._count(append)
        return self.journal.append_blocking(append)

    async def close(self) -> None:
        """Its runtimes leave it open."""


@pytest.fixture
async def robbed(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Robbed]:
    journal = await open_journal("memory://", clock=faults.clock)
    robbed = Robbed(journal)

    async def opened(_url: str) -> Any:
        return robbed

    monkeypatch.setattr("kitaru.bootstrap.open_journal", opened)
    monkeypatch.setenv("KITARU_CACHE", "off")
    yield robbed
    await journal.close()


async def outcomes(journal: Journal, exec_id: str) -> dict[str, int]:
    events = [decode_event(fact) for fact in await journal.read_stream(stream_of(exec_id))]
    return Bench.outcomes_by_path(events)


# The law: whoever takes the lease away, and before whichever append, each call has one outcome,
# every result reaches the call that it belongs to, and the execution goes on.


@FLOWS
async def test_a_lease_that_is_stolen_before_any_append(
    robbed: Robbed, faults: Faults, body: Any
) -> None:
    stolen = 0
    for at in range(1, 200):
        name = f"{body.name}-{at}"
        robbed.appends, robbed.at = 0, at

        def steal(append: Append) -> None:
            nonlocal stolen
            stolen += 1
            faults.offset_us += 60_000_000
            query = ClaimQuery(
                category=CATEGORY, names=(), claim=Claim("thief", 0.0), stream=append.stream
            )
            # The reference journal answers without a wait.
            coroutine = robbed.journal.claim(query)
            with pytest.raises(StopIteration):
                coroutine.send(None)

        robbed.happens = steal
        async with kitaru.runtime(journal="memory://"):
            handle = await body.aio.run(name, 5)
            worker = current_runtime().worker
            end = time.monotonic() + DEADLINE_SECONDS
            while not handle.status.is_finished:
                assert time.monotonic() < end, f"stolen before append {at}: it does not go on"
                worker.look_now()
                await asyncio.sleep(0.001)
            assert await handle.wait() == expected(name, 5)
        assert set((await outcomes(robbed.journal, handle.exec_id)).values()) == {1}
        if robbed.appends < at:
            break
    assert stolen >= 4


@FLOWS
async def test_a_wide_fan_in_gives_each_call_its_own_result(
    robbed: Robbed, faults: Faults, body: Any
) -> None:
    width = 500
    robbed.at = 3

    def steal(_append: Append) -> None:
        faults.offset_us += 60_000_000

    robbed.happens = steal
    async with kitaru.runtime(journal="memory://"):
        handle = await body.aio.run("wide", width)
        assert await handle.wait() == expected("wide", width)
    assert len(await outcomes(robbed.journal, handle.exec_id)) == width + 2


@FLOWS
async def test_a_runtime_that_is_closed_before_any_append(robbed: Robbed, body: Any) -> None:
    for at in range(1, 200):
        name = f"{body.name}-closed-{at}"
        robbed.appends, robbed.at = 0, at
        closing = asyncio.Event()
        loop = asyncio.get_running_loop()
        robbed.happens = lambda _append, closing=closing, loop=loop: loop.call_soon_threadsafe(  # type: ignore[misc]
            closing.set
        )
        async with kitaru.runtime(journal="memory://"):
            handle = await body.aio.run(name, 3)
            ending = asyncio.ensure_future(handle.wait())
            closed = asyncio.ensure_future(closing.wait())
            await asyncio.wait([ending, closed], return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            closed.cancel()
            await asyncio.gather(ending, closed, return_exceptions=True)
        robbed.at = 0
        async with kitaru.runtime(journal="memory://"):
            runtime = current_runtime()
            runtime.worker.registry.serve(body.reference, body.definition)
            runtime.worker.look_now()
            again = await kitaru.AsyncKitaruClient().executions.handle(handle.exec_id)
            assert await again.wait(timeout=DEADLINE_SECONDS) == expected(name, 3)
        assert set((await outcomes(robbed.journal, handle.exec_id)).values()) == {1}
        if robbed.appends < at:
            break
    assert at > 3


# A renewal that raises is a renewal that did not happen: nothing is begun when the lease is over.


@FLOWS
async def test_nothing_is_begun_while_the_lease_cannot_be_renewed(
    robbed: Robbed, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.clear()
    async with kitaru.runtime(journal="memory://"):
        worker = current_runtime().worker

        def fails(*_: Any) -> Any:
            raise JournalUnavailable("the disk is away")

        monkeypatch.setattr(robbed, "renew_blocking", fails, raising=False)
        # As when a lease time has gone by since the last renewal.
        monkeypatch.setattr(worker._heartbeat, "is_alive", lambda _stream: False)
        handle = await body.aio.run("cut off", 3)
        for _ in range(20):
            worker.look_now()
            worker._heartbeat._renew()
            await asyncio.sleep(0.005)
        assert not runs
        monkeypatch.undo()
        assert await handle.wait() == expected("cut off", 3)


async def test_a_start_and_a_look_for_work_do_not_run_the_same(robbed: Robbed) -> None:
    """What this process has just started is its own: a look at that moment does not adopt it."""
    runs.clear()
    async with kitaru.runtime(journal="memory://"):
        worker = current_runtime().worker
        names = [f"start-{number}" for number in range(500)]
        handles = []
        for name in names:
            worker.look_now()
            handles.append(await fans_out_async.run(name, 0))
        for handle in handles:
            await handle.wait()
    assert {runs[f"{name}/first"] for name in names} == {1}


@checkpoint(cache=False)
def fails(number: int) -> None:
    raise ValueError(number)


@flow
def failing(number: int) -> None:
    fails(number)


async def test_executions_that_fail_give_their_places_back(bench: Bench) -> None:
    worker = bench.runtime.worker
    handles = [await failing.aio.run(number) for number in range(3 * SYNC_FLOWS_AT_ONCE)]
    for handle in handles:
        with pytest.raises(kitaru.KitaruExecutionError):
            await handle.wait()
    await bench.until(lambda: not worker.runners and worker._sync_running == 0)
    assert not worker._queued
    assert not worker._heartbeat._held
