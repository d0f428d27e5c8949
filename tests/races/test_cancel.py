"""The law: what `cancel()` said and how the execution ended agree, whoever was first.

A request that was accepted ends the execution as cancelled, unless its body was given the request
and made the best of it; one that was refused had no effect. And there is one end.
"""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import (
    CancelRequested,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
)
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from tests.races.clients import clients

ENDS = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled)
AT_ONCE = 50
LONG_ENOUGH = 0.002
"""Seconds in a body that runs in a thread of its own, for a request to come in time at all."""


@checkpoint
async def step(number: int) -> int:
    await asyncio.sleep(0)
    return number


@checkpoint
def sync_step(number: int) -> int:
    time.sleep(LONG_ENOUGH)
    return number


@checkpoint
async def slow_step(number: int) -> int:
    await asyncio.sleep(LONG_ENOUGH)
    return number


@flow
async def nothing_at_all(ended: str) -> str:
    return ended


@flow
async def short(ended: str) -> str:
    await step(1)
    return ended


@flow
async def raises(ended: str) -> str:
    await asyncio.gather(step(1), step(2))
    raise ValueError(ended)


@flow
def short_sync(ended: str) -> str:
    sync_step(1)
    return ended


@flow
def submits(ended: str) -> str:
    futures = slow_step.sync.map([1, 2])
    assert [future.result() for future in futures] == [1, 2]
    return ended


@flow
async def stubborn(ended: str) -> str:
    try:
        await step(1)
        await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        return f"{ended} in spite of it"
    return ended


FLOWS: list[Any] = [nothing_at_all, short, raises, short_sync, submits, stubborn]


async def events_of(exec_id: str) -> list[ExecutionEvent]:
    recorded = await current_runtime().journal.read_stream(stream_of(exec_id))
    return [decode_event(fact) for fact in recorded]


async def check(exec_id: str, accepted: bool) -> str:
    """How the execution ended, once that agrees with the answer."""
    await executions.ending_of(current_runtime(), exec_id, 60)
    events = await events_of(exec_id)
    (end,) = [event for event in events if isinstance(event, ENDS)]
    assert events[-1] is end
    assert not isinstance(end, ExecutionFailed) or "ValueError" in str(end.error)
    assert sum(isinstance(event, CancelRequested) for event in events) == accepted
    status = await executions.status_of(current_runtime(), exec_id)
    if isinstance(end, ExecutionCompleted) and end.in_spite_of_cancel:
        assert accepted
        assert "in spite" in str(bytes(end.result.json))
        assert status is ExecutionStatus.COMPLETED
        return "in spite"
    assert isinstance(end, ExecutionCancelled) is accepted
    assert (status is ExecutionStatus.CANCELLED) is accepted
    return "cancelled" if accepted else "ended"


async def cancelled_after(exec_id: str, yields: int) -> bool:
    for _ in range(yields):
        await asyncio.sleep(0)
    try:
        await executions.cancel(current_runtime(), exec_id)
    except kitaru.KitaruStateError:
        return False
    return True


async def race(body: Any, chance: random.Random) -> str:
    handle = await body.aio.run("done")
    accepted = await cancelled_after(handle.exec_id, chance.choice([0, 1, 2, 5, 10, 50, 5_000]))
    return await check(handle.exec_id, accepted)


@pytest.mark.parametrize("body", FLOWS, ids=lambda body: body.name)
async def test_thousands_of_races_in_one_process(body: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("KITARU_CACHE", "off")
    chance = random.Random(body.name)
    seen: Counter[str] = Counter()
    async with kitaru.runtime(journal="memory://"):
        for _ in range(1_000 // AT_ONCE):
            seen.update(await asyncio.gather(*(race(body, chance) for _ in range(AT_ONCE))))
    # The one that does nothing may be over before anybody can ask.
    assert seen["cancelled"] or seen["in spite"] or body is nothing_at_all, seen
    assert seen["ended"], seen


@pytest.mark.parametrize("body", FLOWS, ids=lambda body: body.name)
async def test_races_on_a_file(body: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("KITARU_CACHE", "off")
    chance = random.Random(body.name)
    seen: Counter[str] = Counter()
    async with kitaru.runtime(journal=str(tmp_path / "journal.db")):
        for _ in range(200 // AT_ONCE):
            seen.update(await asyncio.gather(*(race(body, chance) for _ in range(AT_ONCE))))
    assert sum(seen.values()) == 200


async def test_hundreds_of_races_with_another_process(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("KITARU_CACHE", "off")
    path = tmp_path / "journal.db"
    chance = random.Random(7)
    seen: Counter[str] = Counter()
    async with kitaru.runtime(journal=str(path)), clients(path, 1) as (client,):
        for _ in range(10):
            handles = [await body.aio.run("done") for body in FLOWS for _ in range(6)]
            lines = [f"cancel {each.exec_id} {chance.uniform(0, 0.1):.4f}" for each in handles]
            for exec_id, accepted, why in await client.do(lines):
                assert accepted or "already" in why, why
                seen[await check(exec_id, accepted)] += 1
    assert sum(seen.values()) == 360
