"""The law: whoever does what to the same executions at once, nothing deadlocks or is half done.

Sixty-four clients start, answer, cancel, retry, hurry and look, at the same time, at executions
that complete, fail and wait; in the end every execution has one end, and its status says so.
"""

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import ExecutionStatus, Retry, checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import (
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionReopened,
)
from kitaru.engine.executions import head_of, state_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions

CLIENTS = 64
EACH = 12
ENDS = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled)


@checkpoint(retries=Retry(max_attempts=2, first_delay=0.01))
async def moody(number: int) -> int:
    if number % 3 == 0:
        raise ValueError(f"{number} is divisible by three")
    return number


@flow
async def busy(number: int) -> int:
    first = await moody(number)
    answer = await kitaru.wait(schema=int, name="number", timeout=0, deadline=0.5, default=0)
    return int(first + answer + await moody(number + 1))


@flow
def busy_sync(number: int) -> int:
    first = moody.sync(number)
    answer = kitaru.wait(schema=int, name="number", timeout=0, deadline=0.5, default=0)
    return int(first + answer + moody.sync(number + 1))


async def client(seed: int, ids: list[str]) -> None:
    chance = random.Random(seed)
    now = kitaru.AsyncKitaruClient().executions
    for _ in range(EACH):
        exec_id = chance.choice(ids)
        with contextlib.suppress(kitaru.KitaruStateError):
            match chance.randrange(7):
                case 0:
                    body: Any = chance.choice([busy, busy_sync])
                    ids.append((await body.aio.run(chance.randrange(100))).exec_id)
                case 1 | 2:
                    await now.input(exec_id, wait="number", value=chance.randrange(3))
                case 3:
                    await now.cancel(exec_id)
                case 4:
                    await now.retry(exec_id)
                case 5:
                    await now.retry_now(exec_id)
                case _:
                    await now.get(exec_id)
        await asyncio.sleep(chance.random() / 100)


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_everybody_at_once_leaves_everything_whole(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_CACHE", "off")
    url = "memory://" if backend == "memory" else str(tmp_path / "journal.db")
    async with kitaru.runtime(journal=url):
        ids = [(await busy.aio.run(number)).exec_id for number in range(10)]
        await asyncio.gather(*(client(seed, ids) for seed in range(CLIENTS)))
        assert len(ids) > CLIENTS
        for exec_id in ids:
            await executions.ending_of(current_runtime(), exec_id, 60)
            await check(exec_id)


async def check(exec_id: str) -> None:
    journal = current_runtime().journal
    recorded = await journal.read_stream(stream_of(exec_id))
    events = [decode_event(fact) for fact in recorded]
    ends = sum(isinstance(event, ENDS) for event in events)
    assert ends == 1 + sum(isinstance(event, ExecutionReopened) for event in events)
    state = state_of(recorded)
    head = await journal.head(stream_of(exec_id))
    assert head is not None
    assert (head.state, head.summary) == (state.status, head_of(state).summary)
    assert head.owner is None
    by_end = {
        ExecutionCompleted: ExecutionStatus.COMPLETED,
        ExecutionFailed: ExecutionStatus.FAILED,
        ExecutionCancelled: ExecutionStatus.CANCELLED,
    }
    assert state.status is by_end[type(events[-1])]
