"""The law: of many answers to one wait one counts, and whoever was told that theirs does, is right.

Four processes answer the waits of the same executions at once, each with its own values.
"""

import asyncio
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import CheckpointCompleted, InputGiven
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from tests.races.clients import clients

WAITS = 4
CLIENTS = 4
ROUNDS = 6


@checkpoint
def used(name: str, value: int) -> int:
    return value


@flow
async def asks_many(timeout: float) -> list[int]:
    async def branch(number: int) -> int:
        value = await kitaru.wait(schema=int, name=f"wait{number}", timeout=timeout)
        return await used.aio(f"wait{number}", value)

    return list(await asyncio.gather(*(branch(number) for number in range(WAITS))))


@flow
def asks_in_turn(timeout: float) -> list[int]:
    return [
        used(f"wait{n}", kitaru.wait(schema=int, name=f"wait{n}", timeout=timeout))
        for n in range(WAITS)
    ]


@pytest.mark.parametrize("timeout", [600.0, 0.0], ids=["held", "parked"])
@pytest.mark.parametrize("body", [asks_many, asks_in_turn], ids=["async", "sync"])
async def test_of_many_answers_the_one_counts_that_was_accepted(
    body: Any, timeout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_CACHE", "off")
    path = tmp_path / "journal.db"
    chance = random.Random(4)
    async with kitaru.runtime(journal=str(path)), clients(path, CLIENTS) as crowd:
        for _ in range(ROUNDS):
            handle = await body.aio.run(timeout)
            accepted: dict[str, set[int]] = defaultdict(set)
            # Those that come before the body has asked may be refused: then they come again.
            for _ in range(100):
                await answer_all(crowd, handle.exec_id, chance, accepted)
                status = await executions.status_of(current_runtime(), handle.exec_id)
                if status.is_finished:
                    break
            await executions.ending_of(current_runtime(), handle.exec_id, 60)
            await check(handle.exec_id, accepted)


async def answer_all(
    crowd: list[Any], exec_id: str, chance: random.Random, accepted: dict[str, set[int]]
) -> None:
    orders: list[list[tuple[str, int]]] = []
    for client in range(CLIENTS):
        names = [f"wait{number}" for number in range(WAITS)]
        chance.shuffle(names)
        # Some give the same answer as others, which is fine.
        orders.append([(name, chance.choice([client, 99])) for name in names])
    said = await asyncio.gather(
        *(
            client.do([f"answer {exec_id} {name} {value} {chance.uniform(0, 0.02):.4f}"])
            for client, order in zip(crowd, orders, strict=True)
            for name, value in order[:1]
        )
    )
    for ((_, yes, _why),), order in zip(said, orders, strict=True):
        if yes:
            accepted[order[0][0]].add(order[0][1])


async def check(exec_id: str, accepted: dict[str, set[int]]) -> None:
    recorded = await current_runtime().journal.read_stream(stream_of(exec_id))
    events = [decode_event(fact) for fact in recorded]
    given = [event for event in events if isinstance(event, InputGiven)]
    assert len(given) == WAITS
    answers = {event.path.split("/")[-1]: int(bytes(event.value.json)) for event in given}
    assert len(answers) == WAITS
    for name, values in accepted.items():
        assert values == {answers[name]}, f"{name}: {values} were accepted"
    results = [int(bytes(e.result.json)) for e in events if isinstance(e, CheckpointCompleted)]
    assert sorted(results) == sorted(answers.values())
