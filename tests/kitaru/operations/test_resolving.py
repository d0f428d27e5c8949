"""Whoever resolves a call, and however many do: one answer counts, and it is given exactly."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import kitaru
from journal import Append, NewEvent
from kitaru import AsyncKitaruClient, checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import CheckpointResolved, CheckpointStarted
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.upcasts import decode_event


@checkpoint(effect="once")
async def send(text: str) -> str:
    return text


@flow
async def sending(text: str) -> int:
    return len(await send(text))


@pytest.fixture
async def runtime(journal_url: str) -> AsyncIterator[Runtime]:
    async with kitaru.runtime(journal=journal_url):
        yield current_runtime()


async def lost(runtime: Runtime) -> str:
    """An execution that was killed between the start of `send` and its outcome."""
    handle = await sending.run("hello")
    await handle.wait()
    history = await runtime.journal.read_stream(stream_of(handle.exec_id))
    events = [decode_event(fact) for fact in history]
    cut = next(n for n, event in enumerate(events) if isinstance(event, CheckpointStarted)) + 1
    await runtime.journal.append(
        Append(
            stream=stream_of("lost"),
            events=tuple(NewEvent(f.type, f.payload, f.schema) for f in history[:cut]),
            expected_version=0,
            head=head_of(fold(ABSENT, events[:cut])),
        )
    )
    runtime.worker.look_now()
    executions = AsyncKitaruClient().executions
    for _ in range(6_000):
        if any(call.needs_review for call in (await executions.get("lost")).checkpoints):
            return "lost"
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to a review")


async def result_of(exec_id: str) -> Any:
    handle = await AsyncKitaruClient().executions.handle(exec_id)
    return await handle.wait(timeout=60)


async def test_a_result_that_is_too_large_for_its_event_is_given_whole(runtime: Runtime) -> None:
    exec_id = await lost(runtime)
    await AsyncKitaruClient().executions.resolve(exec_id, "send", result="x" * 100_000)
    assert await result_of(exec_id) == 100_000


async def test_of_many_answers_at_once_one_counts(runtime: Runtime) -> None:
    exec_id = await lost(runtime)
    executions = AsyncKitaruClient().executions
    answers = [executions.resolve(exec_id, "send", result="x" * n) for n in range(1, 10)]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) == 8
    assert all(isinstance(error, kitaru.KitaruStateError) for error in refused)
    given = [n for n, outcome in enumerate(outcomes, 1) if not isinstance(outcome, BaseException)]
    assert [await result_of(exec_id)] == given
    recorded = await runtime.journal.read_stream(stream_of(exec_id))
    events = [decode_event(fact) for fact in recorded]
    assert len([event for event in events if isinstance(event, CheckpointResolved)]) == 1


async def test_a_call_that_runs_needs_no_review(runtime: Runtime) -> None:
    handle = await sending.run("hello")
    with pytest.raises(kitaru.KitaruStateError):
        await AsyncKitaruClient().executions.resolve(handle.exec_id, "send", run_again=True)
    assert await handle.wait(timeout=60) == 5
