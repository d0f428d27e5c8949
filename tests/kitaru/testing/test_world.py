"""When everything rests: the engine's own answer, and what the driver makes of it."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.bootstrap import standing_in
from kitaru.testing.bodies import Bodies
from kitaru.testing.clock import START, StillClock, microseconds_of
from kitaru.testing.world import Running, World

DAY_US = 86_400_000_000


@checkpoint
def work(number: int) -> int:
    return number


@checkpoint
def work_until(number: int) -> int:
    return number


@flow
def sleeps_beside_work() -> int:
    future = work.submit(1)
    kitaru.sleep(timedelta(days=1))
    return future.result()


@flow
async def sleeps_beside_work_async() -> int:
    task = work.aio.submit(1)
    await kitaru.sleep(timedelta(days=1))
    return await task


@flow
async def several_times() -> list[str]:
    seen: list[str] = []

    async def after(days: int) -> None:
        await asyncio.sleep(days * 86_400)
        seen.append(f"{days}: {kitaru.now().date()}")

    await asyncio.gather(after(3), after(1), after(2))
    return seen


async def settled(world: World, running: Running) -> None:
    await world.settle(running, lambda: False)


async def opened(flow: Any, bodies: Bodies) -> tuple[World, Running, str]:
    clock = StillClock()
    world = await World.open(clock, bodies)
    running = world.begin_process([(flow.reference, flow.definition)], notes_starts=False)
    with standing_in() as stand_in:
        stand_in(running.runtime)
        handle = flow.aio.run()
        await handle
    return world, running, handle.exec_id


@pytest.mark.parametrize("flow", [sleeps_beside_work, sleeps_beside_work_async])
async def test_a_runner_rests_when_nothing_but_bodies_and_times_are_left(flow: Any) -> None:
    gate = threading.Event()
    bodies = Bodies()
    bodies.stand_ins["work"] = lambda number: gate.wait(30) and number
    world, running, exec_id = await opened(flow, bodies)
    try:
        due_at = microseconds_of(START) + DAY_US
        async with asyncio.timeout(30):
            while (  # noqa: ASYNC110 - nothing tells it
                rest := running.worker.runners[exec_id].rest()
            ) is None or rest.due_at is None:
                await asyncio.sleep(0.001)
        assert (rest.due_at, rest.running) == (due_at, 1)
        gate.set()
        await settled(world, running)
        rest = running.worker.runners[exec_id].rest()
        assert rest is not None
        assert (rest.due_at, rest.running) == (due_at, 0)
        assert await world.next_due(running) == due_at
    finally:
        gate.set()
        await world.end_process(running)


async def test_timers_fire_in_their_own_order_when_a_clock_jumps_over_them() -> None:
    world, running, exec_id = await opened(several_times, Bodies())
    try:
        await settled(world, running)
        await world.move_to(world.clock() + 5 * DAY_US, running)
        await settled(world, running)
        head = world.head(exec_id)
        assert head is not None
        assert head.state == "completed"
        assert "['1: 2026-01-06', '2: 2026-01-06', '3: 2026-01-06']" in await world.text(exec_id)
    finally:
        await world.end_process(running)


async def test_a_clock_that_is_set_back_fires_nothing_early() -> None:
    world, running, exec_id = await opened(several_times, Bodies())
    try:
        await settled(world, running)
        await world.move_to(world.clock() - DAY_US, running)
        await settled(world, running)
        await world.move_to(world.clock() + DAY_US, running)
        await settled(world, running)
        assert "timer fired" not in await world.text(exec_id)
    finally:
        await world.end_process(running)


async def test_a_process_that_lives_keeps_its_leases_whatever_the_time() -> None:
    world, running, exec_id = await opened(sleeps_beside_work, Bodies())
    try:
        await settled(world, running)
        before = world.head(exec_id)
        for _ in range(5):
            await world.move_to(world.clock() + DAY_US // 10, running)
            await settled(world, running)
        after = world.head(exec_id)
        assert before is not None
        assert after is not None
        assert (after.epoch, after.owner) == (before.epoch, before.owner)
    finally:
        await world.end_process(running)
