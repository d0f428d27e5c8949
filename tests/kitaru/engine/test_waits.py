"""Crash after every event of flows that wait, sleep and draw: nothing changes."""

import asyncio
from typing import Any

import pytest

import kitaru
from journal import Append, NewEvent, RecordedEvent
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    InputGiven,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions, waits
from kitaru.sdk.flow import AsyncFlow, Flow

ANSWERS = {"first": 1, "task[1]/left": 2, "task[2]/right": 3, "again": 4, "again#2": 5, "left": 2}


@checkpoint(cache=False)
def add(value: int, other: float) -> float:
    return value + other


@flow
def patient() -> list[Any]:
    first = kitaru.wait(schema=int, name="first")
    kitaru.sleep(0.01)
    total = add(first, kitaru.random())
    late = kitaru.wait(schema=str, name="late", deadline=0.05, default="nobody")
    again = [kitaru.wait(schema=int, name="again") for _ in range(2)]
    return [total, late, again, kitaru.now().isoformat()]


@flow
async def patient_async() -> list[Any]:
    first = await kitaru.wait(schema=int, name="first")
    both = await asyncio.gather(kitaru.wait(schema=int, name="left"), _branch(), kitaru.sleep(0.02))
    late = await kitaru.wait(schema=str, name="late", deadline=0.05, default="nobody")
    again = [await kitaru.wait(schema=int, name="again") for _ in range(2)]
    return [first, both, late, again, kitaru.now().isoformat()]


async def _branch() -> float:
    right: int = await kitaru.wait(schema=int, name="right")
    return await add.aio(right, kitaru.random())


async def answered(runtime: Runtime, exec_id: str, body: Any) -> Any:
    """Answers whatever it asks, and gives its result."""
    while True:
        await asyncio.sleep(0.002)
        recorded = await runtime.journal.read_stream(stream_of(exec_id))
        state = fold(ABSENT, [decode_event(fact) for fact in recorded])
        if state.is_finished or state.status is ExecutionStatus.DIVERGED:
            break
        for wait in state.waits:
            if wait.path != "late":
                try:
                    await waits.give_input(runtime, exec_id, wait.path, ANSWERS[wait.path])
                except kitaru.KitaruStateError:
                    # It was asked and answered between the look and the answer.
                    continue
    event = await executions.ending_of(runtime, exec_id, 30)
    return await executions.outcome_of(runtime, exec_id, event, body.definition.types)


async def replanted(
    runtime: Runtime, body: Any, history: list[RecordedEvent], exec_id: str
) -> None:
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


@pytest.mark.parametrize("idle", [600.0, 0.0], ids=["held", "parked"])
@pytest.mark.parametrize("body", [patient, patient_async], ids=["sync", "async"])
async def test_a_crash_at_every_event_changes_nothing(
    body: Flow[..., Any] | AsyncFlow[..., Any], idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.waits.PATIENCE_SECONDS", idle)
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        handle = await body.aio.run()
        result = await answered(runtime, handle.exec_id, body)
        history = await runtime.journal.read_stream(stream_of(handle.exec_id))
        for count in range(1, len(history)):
            exec_id = f"crashed-after-{count}"
            await replanted(runtime, body, history[:count], exec_id)
            again = await answered(runtime, exec_id, body)
            drawn_again = not any(
                isinstance(decode_event(fact), CheckpointCompleted) for fact in history[:count]
            )
            # The time of the end is another one, and what was drawn belongs to the execution.
            assert again[-2:-1] == result[-2:-1]
            assert drawn_again or again[:-1] == result[:-1]
            assert_asked_once(await runtime.journal.read_stream(stream_of(exec_id)))


def assert_asked_once(history: list[RecordedEvent]) -> None:
    events = [decode_event(fact) for fact in history]
    for kind in (WaitRequested, InputGiven, WaitExpired, CheckpointCompleted):
        paths = [event.path for event in events if isinstance(event, kind)]
        assert len(set(paths)) == len(paths), (kind, paths)
    ended = [event.path for event in events if isinstance(event, InputGiven | WaitExpired)]
    asked = [event.path for event in events if isinstance(event, WaitRequested)]
    assert sorted(ended) == sorted(asked)


async def test_thousands_that_wait_hold_no_threads_and_no_bodies() -> None:
    import threading

    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        before = threading.active_count()
        handles = [await parked.aio.run(number) for number in range(1_000)]
        while runtime.worker.runners:  # noqa: ASYNC110 - nothing tells when the last has gone
            await asyncio.sleep(0.01)
        assert threading.active_count() - before < 50
        for number, handle in enumerate(handles):
            await waits.give_input(runtime, handle.exec_id, "wait", number)
        results = [await handle.wait(timeout=60) for handle in handles]
        assert results == [[number, number] for number in range(1_000)]


@flow
def parked(number: int) -> list[int]:
    return [number, kitaru.wait(schema=int, timeout=0)]


async def test_a_body_that_waits_for_nothing_fails_and_says_so() -> None:
    async with kitaru.runtime(journal="memory://"):
        handle = await stuck.run()
        with pytest.raises(kitaru.KitaruExecutionError, match="can never come") as caught:
            await handle.wait(timeout=30)
        assert caught.value.failure_origin == "runtime"


@flow
async def stuck() -> None:
    await add.aio(1, 2)
    await asyncio.Event().wait()


@flow
def threaded(number: int) -> int:
    answer: int = kitaru.wait(schema=int)
    return number + answer


@flow
async def held(number: int) -> int:
    answer: int = await kitaru.wait(schema=int)
    return number + answer


@pytest.mark.parametrize("body", [threaded, held], ids=["sync", "async"])
async def test_those_that_wait_make_room_for_others(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.worker.SYNC_FLOWS_AT_ONCE", 4)
    monkeypatch.setattr("kitaru.engine.worker.IDLE_ASYNC_FLOWS", 4)
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        handles = [await body.aio.run(number) for number in range(40)]
        while len(runtime.worker.runners) > 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for handle in handles:
            await waits.give_input(runtime, handle.exec_id, "wait", 100)
        assert [await handle.wait(timeout=60) for handle in handles] == list(range(100, 140))
