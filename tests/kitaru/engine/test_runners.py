"""Crash after every event, and go on: the same result, and no completed body runs again."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import Append, NewEvent, RecordedEvent
from kitaru import checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import CheckpointCompleted, CheckpointFailed
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.context import flow_scope
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.sdk.flow import AsyncFlow, Flow

runs: list[str] = []


class OwnError(Exception):
    """An error of the user's own."""


@checkpoint(cache=False)
def add(name: str, value: int) -> int:
    runs.append(name)
    return value + 1


@checkpoint(cache=False)
async def add_async(name: str, value: int) -> int:
    runs.append(name)
    await asyncio.sleep(0)
    return value + 1


@checkpoint(retries=1, cache=False)
async def flaky(name: str) -> str:
    runs.append(name)
    if runs.count(name) == 1:
        raise OwnError("first")
    return "second"


@checkpoint
async def fails(name: str) -> None:
    runs.append(name)
    raise OwnError(name)


@flow
async def tangled(start: int) -> list[Any]:
    total = await add_async("a", start)
    parts = await asyncio.gather(*(add_async(f"g{n}", n) for n in range(3)))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_nested(f"n{n}")) for n in range(2)]
    try:
        await fails("f")
    except OwnError as error:
        caught = str(error)
    await asyncio.sleep(0.001)
    _done, pending = await asyncio.wait(
        [asyncio.ensure_future(add_async(f"w{n}", n)) for n in range(3)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    if pending:
        await asyncio.wait(pending)
    return [total, parts, [task.result() for task in tasks], caught, await flaky("k")]


async def _nested(name: str) -> int:
    return await add_async(name + "b", await add_async(name + "a", 0))


@flow
def threaded(start: int) -> int:
    first = add("first", start)
    futures = add.map([f"m{n}" for n in range(4)], [1, 2, 3, 4])
    after = add.submit("after", 10, after=futures)
    dependent = add.submit("dependent", futures[0])
    return first + sum(future.result() for future in futures) + after.result() + dependent.result()


async def recorded_by(
    runtime: Runtime, body: Flow[..., Any] | AsyncFlow[..., Any]
) -> tuple[Any, list[RecordedEvent]]:
    handle = await body.aio.run(5)
    result = await handle.wait()
    return result, await runtime.journal.read_stream(stream_of(handle.exec_id))


async def replanted(
    runtime: Runtime,
    body: Flow[..., Any] | AsyncFlow[..., Any],
    history: Sequence[RecordedEvent],
    exec_id: str,
) -> None:
    """A new execution with the first events of another: as if the process had died there."""
    runtime.worker.registry.serve(body.reference, body.definition)
    state = fold(ABSENT, [decode_event(fact) for fact in history])
    await runtime.journal.append(
        Append(
            stream=stream_of(exec_id),
            events=tuple(NewEvent(fact.type, fact.payload, fact.schema) for fact in history),
            expected_version=0,
            head=head_of(state),
        )
    )
    runtime.worker.look_now()


async def result_of(runtime: Runtime, exec_id: str, body: Any) -> Any:
    event = await executions.ending_of(runtime, exec_id, 30)
    return await executions.outcome_of(runtime, exec_id, event, body.definition.types)


version = {"now": "old"}
"""Which version of their code the two flows below have: what a deploy changes."""


@flow
async def changing(start: int) -> int:
    if version["now"] == "inserted":
        await add_async("inserted", 0)
    first = await add_async("first", start)
    if version["now"] == "fewer":
        return first
    return await add_async("second", first + (version["now"] == "changed"))


@flow
def changing_threaded(start: int) -> int:
    if version["now"] == "inserted":
        add("inserted", 0)
    first = add("first", start)
    if version["now"] == "fewer":
        return first
    return add("second", first + (version["now"] == "changed"))


@pytest.mark.parametrize("change", ["inserted", "changed", "fewer"])
@pytest.mark.parametrize("body", [changing, changing_threaded], ids=["async", "sync"])
async def test_the_old_code_goes_on_where_the_new_one_diverged(body: Any, change: str) -> None:
    version["now"] = "old"
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        result, history = await recorded_by(runtime, body)
        version["now"] = change
        await replanted(runtime, body, history[:-1], "diverging")
        with pytest.raises(kitaru.KitaruDivergenceError):
            await result_of(runtime, "diverging", body)
        runs.clear()
        version["now"] = "old"
        await executions.resume(runtime, "diverging")
        assert await result_of(runtime, "diverging", body) == result
        assert runs == []


@pytest.mark.parametrize("body", [tangled, threaded], ids=["async", "sync"])
async def test_a_crash_at_every_event_changes_nothing(body: Any) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        runs.clear()
        result, history = await recorded_by(runtime, body)
        for count in range(1, len(history)):
            prefix = history[:count]
            runs.clear()
            if any(isinstance(decode_event(fact), CheckpointFailed) for fact in prefix):
                runs.append("k")
            completed = {
                event.path: event
                for fact in prefix
                if isinstance(event := decode_event(fact), CheckpointCompleted)
            }
            exec_id = f"crashed-after-{count}"
            await replanted(runtime, body, prefix, exec_id)
            assert await result_of(runtime, exec_id, body) == result
            again = await runtime.journal.read_stream(stream_of(exec_id), after=count)
            outcomes = [decode_event(fact) for fact in again]
            repeated = [
                event.path
                for event in outcomes
                if isinstance(event, CheckpointCompleted) and event.path in completed
            ]
            assert repeated == []


# A replay takes the very steps of the live pass, also where it need not wait for what is recorded:
# whatever else of the body is ready, or cancelled, has its turn at the same place.

steps: list[str] = []


async def step(name: str, count: int) -> None:
    for n in range(count):
        steps.append(f"{name}{n}")
        await asyncio.sleep(0)


async def call(name: str) -> None:
    try:
        steps.append(f"{name} asks")
        await add_async(name, 1)
        steps.append(f"{name} has")
    except asyncio.CancelledError:
        steps.append(f"{name} is cancelled")
        raise


@flow
async def stepping(start: int) -> list[str]:
    steps.clear()
    loop = asyncio.get_running_loop()
    await call("alone")
    other = asyncio.ensure_future(step("beside", 3))
    await call("with another")
    loop.call_soon(steps.append, "soon")
    await call("with a callback")
    await asyncio.gather(call("first"), call("second"), step("third", 2))
    waiting = asyncio.ensure_future(call("to be cancelled"))
    await call("before the cancellation")
    waiting.cancel()
    await call("after the cancellation")
    myself = asyncio.current_task()
    assert myself is not None
    myself.cancel()
    try:
        await call("my own")
    except asyncio.CancelledError:
        myself.uncancel()
    async with asyncio.timeout(60):
        await call("limited")
    try:
        await fails("failing")
    except OwnError:
        steps.append("failed")
    await asyncio.gather(other, waiting, return_exceptions=True)
    await call("last")
    return list(steps)


async def test_a_replay_takes_the_steps_of_the_live_pass() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        result, history = await recorded_by(runtime, stepping)
        for count in range(1, len(history)):
            await replanted(runtime, stepping, history[:count], f"again-{count}")
            assert await result_of(runtime, f"again-{count}", stepping) == result


passes: list[int] = []


@flow(retries=1)
async def cancelling_itself_at_the_second_attempt(start: int) -> str:
    passes.append(start)
    myself = asyncio.current_task()
    assert myself is not None
    if len(passes) == 2:
        myself.cancel()
    try:
        await add_async("kept", start)
    except asyncio.CancelledError:
        myself.uncancel()
        return "cancelled"
    raise OwnError("again")


async def test_what_is_kept_does_not_hide_a_cancellation() -> None:
    passes.clear()
    async with kitaru.runtime(journal="memory://"):
        assert await cancelling_itself_at_the_second_attempt.run(1).wait() == "cancelled"


# What a finished execution was made of goes with it: nothing of it waits for the garbage collector,
# whose work grows with all that is alive, or for the next commit.


alive: "weakref.WeakSet[Any]" = weakref.WeakSet()


@flow
async def sleeping(start: int) -> int:
    alive.add(flow_scope("this").runner)
    await asyncio.sleep(0.001)
    return sum(await asyncio.gather(*(add_async(f"s{n}", start) for n in range(3))))


@pytest.mark.counts_passes
async def test_nothing_of_a_finished_execution_stays(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        async with kitaru.runtime(journal=str(tmp_path / "journal.db")):
            handles = [sleeping.run(n) for n in range(20)]
            await asyncio.gather(*(handle.wait() for handle in handles))
            for _ in range(1000):
                if not alive:
                    break
                # The clock that notes long calls lets go of a call some milliseconds later.
                await asyncio.sleep(0.01)
            assert len(alive) == 0
    finally:
        gc.enable()
