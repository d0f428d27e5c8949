"""The program that is killed: two flows, sync and async, that tell what they know and what they do.

It starts ``COUNT`` executions by name, or finds them started, and ends when all are completed. What
it prints is an acknowledgement: it was told so by Kitaru before. What it writes into the effects file
is a body's run.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from typing import Any

import kitaru
from kitaru import checkpoint, flow
from kitaru.engine.context import CheckpointScope, scope

PARTS = 4
STEPS = 5


class NotYet(Exception):
    """What the flaky checkpoint raises at first."""


def tell(**fact: Any) -> None:
    """One line for the parent, whole or not at all."""
    os.write(1, json.dumps(fact).encode() + b"\n")


def seen(path: str, value: Any) -> Any:
    """Says that the body has been given this value for this call."""
    tell(exec_id=kitaru.current_execution_id(), path=path, value=value)
    return value


def act() -> int:
    """Leaves a trace of the running body, and gives a number that no other run of it would give."""
    here = scope.get()
    assert isinstance(here, CheckpointScope)
    trace = {
        "exec_id": here.runner.exec_id,
        "path": here.path,
        "attempt": here.attempt,
        "pid": os.getpid(),
    }
    file = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(trace).encode() + b"\n")
    os.close(file)
    return random.getrandbits(48)


def pause() -> float:
    return random.random() * float(os.environ.get("PAUSE_SECONDS", "0.02"))


def fail_at_first() -> None:
    here = scope.get()
    assert isinstance(here, CheckpointScope)
    if here.attempt < 3:
        raise NotYet(here.attempt)


@checkpoint
def part(number: int, index: int) -> list[int]:
    """Some of the work."""
    drawn = act()
    time.sleep(pause())
    return [number, index, drawn]


@checkpoint
def combined(parts: list[list[int]]) -> int:
    """What the parts are together."""
    act()
    kitaru.save("parts", parts)
    kitaru.log(parts=len(parts))
    return sum(drawn for _, _, drawn in parts)


@checkpoint(retries=kitaru.Retry(max_attempts=5, first_delay=0.01))
def flaky(number: int) -> int:
    """Succeeds at its third attempt."""
    drawn = act()
    fail_at_first()
    return drawn


@checkpoint
def step(before: int) -> int:
    """One of a chain."""
    drawn = act()
    time.sleep(pause())
    return before + drawn % 1000


@checkpoint
async def part_async(number: int, index: int) -> list[int]:
    """Some of the work."""
    drawn = act()
    await asyncio.sleep(pause())
    return [number, index, drawn]


@checkpoint(retries=kitaru.Retry(max_attempts=5, first_delay=0.01))
async def flaky_async(number: int) -> int:
    """Succeeds at its third attempt."""
    drawn = act()
    fail_at_first()
    return drawn


@checkpoint
async def step_async(before: int) -> int:
    """One of a chain."""
    drawn = act()
    await asyncio.sleep(pause())
    return before + drawn % 1000


@flow
def order(number: int) -> dict[str, int]:
    """Fans out, combines, tries again, goes on step by step."""
    kitaru.log(number=number)
    futures = [part.submit(number, index) for index in range(PARTS)]
    parts = [seen(future.invocation_id, future.result()) for future in futures]
    total = seen("combined", combined(parts))
    late = combined.submit(futures)
    drawn = seen("flaky", flaky(number))
    value = total
    for index in range(STEPS):
        value = seen("step" if index == 0 else f"step#{index + 1}", step(value))
    assert seen("combined#2", late.result()) == total
    return {"total": total, "flaky": drawn, "value": value}


@flow
async def order_async(number: int) -> dict[str, int]:
    """The same, with asyncio's own means."""
    kitaru.log(number=number)
    parts = await asyncio.gather(*(part_async(number, index) for index in range(PARTS)))
    for index, given in enumerate(parts):
        seen("part_async" if index == 0 else f"part_async#{index + 1}", given)
    total = seen("combined", await combined.aio(parts))
    late = asyncio.create_task(combined.aio(parts))
    await asyncio.sleep(0.01)
    drawn = seen("flaky_async", await flaky_async(number))
    one, other = (asyncio.create_task(part_async(number, index)) for index in range(2))
    done, _ = await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)
    value = total + len(done)
    for index in range(STEPS):
        value = seen("step_async" if index == 0 else f"step_async#{index + 1}", await step_async(value))
    await asyncio.gather(one, other)
    assert await late == total
    return {"total": total, "flaky": drawn, "value": value}


FLOWS: dict[str, Any] = {"sync": order, "async": order_async.sync}


def die_at_commit(number: int, when: str) -> None:
    """Ends the process by SIGKILL before or after its n-th append to a journal."""
    from journal.backends.sqlite.transaction import Transaction

    left = number
    append = Transaction.append

    def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        appended = append(self, *arguments, **options)
        return appended

    Transaction.append = dying  # type: ignore[method-assign]


def main(colour: str, count: int) -> None:
    """Starts what is not started, and waits for all of it."""
    handles = []
    for number in range(count):
        handle = FLOWS[colour].run(number, idempotency_key=f"order-{number}")
        tell(started=handle.exec_id)
        handles.append(handle)
    for handle in handles:
        tell(result=handle.wait(), exec_id=handle.exec_id)
    tell(done=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
