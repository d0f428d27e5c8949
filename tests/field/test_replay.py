"""Bugs of other engines around determinism and fan-out."""

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kitaru import checkpoint, flow
from kitaru.domain.execution.events import CheckpointCompleted
from tests.determinism.programs import AnyNode, run_program
from tests.determinism.test_async_programs import rehearsed

CALLS = 500
started: list[int] = []


@checkpoint
async def unique(number: int) -> str:
    started.append(number)
    await asyncio.sleep(random.random() / 1_000)
    return f"payload {number}"


@checkpoint
def unique_sync(number: int) -> str:
    started.append(number)
    return f"payload {number}"


@flow
async def fan_out() -> list[str]:
    return list(await asyncio.gather(*(unique(number) for number in range(CALLS))))


@flow
async def fan_out_submitted() -> list[str]:
    futures = [unique.submit(number) for number in range(CALLS)]
    return [await future for future in futures]


@flow
def fan_out_sync() -> list[str]:
    return [future.result() for future in unique_sync.map(list(range(CALLS)))]


FANS = pytest.mark.parametrize(
    "body", [fan_out, fan_out_submitted, fan_out_sync], ids=lambda each: each.name
)


@FANS
async def test_five_hundred_calls_get_their_own_results_under_steals(bench: Any, body: Any) -> None:
    """Another worker takes over in the middle, again and again: nobody's result is another's."""
    started.clear()
    expected = [f"payload {number}" for number in range(CALLS)]
    async with bench.second_worker(body):
        handle = await body.aio.run()
        for _ in range(5):
            await asyncio.sleep(0.01)
            bench.let_leases_run_out()
        assert await bench.result_after_faults(handle.exec_id, body) == expected
    events = await bench.events(handle.exec_id)
    completed = [event for event in events if isinstance(event, CheckpointCompleted)]
    assert len(completed) == CALLS
    for event in completed:
        assert event.arguments is not None
        place = 1 + int(bytes(event.result.json).decode().strip('"').split()[1])
        assert event.arguments is not None
        assert f'"number":{place - 1}' in bytes(event.arguments.json).decode().replace(" ", "")


@FANS
async def test_five_hundred_calls_run_once_each_without_trouble(bench: Any, body: Any) -> None:
    started.clear()
    handle = await body.aio.run()
    assert await bench.result(handle.exec_id, body) == [f"payload {n}" for n in range(CALLS)]
    assert sorted(started) == list(range(CALLS))


@flow
async def nested(depth: int, width: int) -> list[Any]:
    async def branch(level: int, name: str) -> list[Any]:
        value = await note(name)
        if level == 0:
            return [value]
        if level % 2:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch(level - 1, f"{name}.{n}")) for n in range(width)]
            return [value, *[task.result() for task in tasks], await note(name)]
        parts = await asyncio.gather(*(branch(level - 1, f"{name}.{n}") for n in range(width)))
        return [value, *parts, await note(name)]

    return await branch(depth, "0")


@checkpoint
async def note(name: str) -> str:
    for _ in range(random.randrange(4)):
        await asyncio.sleep(0)
    return name


@pytest.mark.parametrize("width", [2, 3])
async def test_groups_inside_groups_take_the_same_paths_from_every_point(
    bench: Any, width: int
) -> None:
    handle = await nested.run(4, width)
    result = await bench.result(handle.exec_id, nested)
    history = await bench.recorded(handle.exec_id)
    paths = {
        e.path for e in await bench.events(handle.exec_id) if isinstance(e, CheckpointCompleted)
    }
    chance = random.Random(36)
    for cut in sorted(chance.sample(range(1, len(history)), min(25, len(history) - 1))):
        await bench.crashed_after(nested, history[:cut], f"cut {cut}")
        assert await bench.result(f"cut {cut}", nested) == result
        events = await bench.events(f"cut {cut}")
        again = {e.path for e in events if isinstance(e, CheckpointCompleted)}
        assert again == paths


class Kept(msgspec.Struct):
    """A program that found a bug once, or that has much in it; it is tried for ever."""

    program: AnyNode
    seed: int
    cancel_at: int


CORPUS = msgspec.json.decode(
    Path(__file__).with_name("programs.json").read_bytes(), type=list[Kept]
)


@pytest.mark.parametrize("place", range(len(CORPUS)))
def test_programs_that_were_kept_take_the_same_decisions(place: int) -> None:
    kept = CORPUS[place]
    rehearsed(run_program, kept.program, kept.seed, 3, cancel_at=kept.cancel_at)
