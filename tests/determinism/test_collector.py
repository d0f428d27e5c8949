"""The garbage collector decides nothing: not in running bodies, and not in dropped ones."""

import asyncio
import gc
import random
import sys
import warnings
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import CheckpointCompleted, CheckpointStarted, TimerStarted
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from tests.determinism import programs
from tests.determinism.programs import run_program
from tests.determinism.rehearsal import Stage, rehearse, run_on_memory

BODIES = 1_000


@pytest.fixture
def eager_collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("eager_collector")
def test_programs_take_the_same_decisions_while_the_collector_runs_all_the_time() -> None:
    from hypothesis import Phase, given, settings

    @settings(max_examples=25, phases=(Phase.generate,), database=None)
    @given(program=programs.programs)
    def rehearsed(program: programs.AnyNode) -> None:
        programs.library["the program"] = program
        programs.pace.update(seed=1, yields=5)

        async def scene() -> None:
            await rehearse(Stage(run_program, programs.traces, programs.bodies), "the program")

        run_on_memory(scene)

    rehearsed()


@checkpoint
async def step(number: int) -> int:
    return number


@checkpoint
async def endless() -> None:
    await asyncio.get_running_loop().create_future()


cleanups: list[int] = []


async def items(number: int) -> AsyncGenerator[int, None]:
    try:
        yield await step(number)
        yield await step(number)
    finally:
        await step(-number)


async def branch(number: int) -> None:
    try:
        await endless()
    finally:
        cleanups.append(number)
        await step(-number)
        cleanups.append(-number)


@flow
async def parked(number: int) -> None:
    """Stands in as many awkward places as there are, when it is dropped."""
    generator = items(number)
    await anext(generator)
    cycle: list[Any] = [generator]
    cycle.append(cycle)
    yet_to_await = [step(number), branch(number)]
    try:
        async with asyncio.timeout(1_000_000), asyncio.TaskGroup() as group:
            group.create_task(branch(number))
            await asyncio.gather(branch(number), asyncio.shield(branch(number)))
    except BaseException:
        await asyncio.sleep(1)
        raise
    finally:
        await step(-number)
        cleanups.append(-number)
        await yet_to_await[0]


async def outcomes_of(runtime: Runtime, exec_ids: list[str]) -> list[list[Any]]:
    """What is recorded, but for notes that something has begun."""
    streams = [await runtime.journal.read_stream(stream_of(exec_id)) for exec_id in exec_ids]
    return [
        [
            (fact.version, fact.payload)
            for fact in stream
            if not isinstance(decode_event(fact), CheckpointStarted | TimerStarted)
        ]
        for stream in streams
    ]


async def test_dropped_bodies_leave_nothing_to_run(capfd: pytest.CaptureFixture[str]) -> None:
    """A thousand bodies dropped, others running: nothing of them is recorded anywhere."""
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            async with kitaru.runtime(journal="memory://"):
                await drop_a_thousand(current_runtime())
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraisable == []
    assert "ignored" not in capfd.readouterr().err


async def drop_a_thousand(runtime: Runtime) -> None:
    cleanups.clear()
    handles = [await parked.aio.run(number) for number in range(1, BODIES + 1)]
    exec_ids = [handle.exec_id for handle in handles]
    for exec_id in exec_ids:
        runner: Any = runtime.worker.runners[exec_id]
        while len(runner.attempts.running) < 3:  # noqa: ASYNC110 - nothing tells when the bodies stand
            await asyncio.sleep(0)
    before = await outcomes_of(runtime, exec_ids)
    for exec_id in random.Random(1).sample(exec_ids, BODIES):
        runtime.worker.runners[exec_id].stop()
    assert len(cleanups) == 3 * BODIES
    assert min(cleanups) > 0
    bystander = await bystanding.aio.run()
    gc.collect()
    assert await bystander.wait() == list(range(50))
    gc.collect()
    recorded = await runtime.journal.read_stream(stream_of(bystander.exec_id))
    completed = [decode_event(fact) for fact in recorded]
    assert sum(isinstance(event, CheckpointCompleted) for event in completed) == 50
    assert await outcomes_of(runtime, exec_ids) == before


@flow
async def bystanding() -> list[int]:
    found = []
    for number in range(50):
        gc.collect(0)
        found.append(await step(number))
    return found
