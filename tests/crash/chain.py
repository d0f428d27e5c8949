"""A script that is killed again and again: it says what was acknowledged and what was done."""

import asyncio
import os
import sys
import time

from kitaru import checkpoint, flow

EFFECTS = os.environ.get("EFFECTS", "")
STEPS = int(os.environ.get("STEPS", "150"))


def effect(name: str) -> None:
    """Writes down that a body runs, in one write that no other process can split."""
    line = f"{name} {time.time_ns() // 1000}\n".encode()
    descriptor = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)


def acknowledge(path: str, value: int) -> None:
    """The line after a checkpoint was reached."""
    print("ack", path, value, flush=True)


@checkpoint
def step(name: str, number: int) -> int:
    """Some work that takes a few milliseconds."""
    effect(name)
    time.sleep(0.004)
    return number * 2


@checkpoint
async def step_async(name: str, number: int) -> int:
    """The same, async."""
    effect(name)
    await asyncio.sleep(0.004)
    return number * 2


@flow
def chain(steps: int) -> int:
    """Direct calls, with a fan-out at every tenth."""
    total = 0
    for number in range(steps):
        total += step.with_options(id=f"step-{number}")(f"step-{number}", number)
        acknowledge(f"step-{number}", number * 2)
        if number % 10 == 0:
            names = [f"fan-{number}-{part}" for part in range(3)]
            futures = [step.submit(name, part, id=name) for part, name in enumerate(names)]
            total += sum(future.result() for future in futures)
    return total


@flow
async def chain_async(steps: int) -> int:
    """The same, async."""
    total = 0
    for number in range(steps):
        total += await step_async.with_options(id=f"step-{number}")(f"step-{number}", number)
        acknowledge(f"step-{number}", number * 2)
        if number % 10 == 0:
            names = [f"fan-{number}-{part}" for part in range(3)]
            parts = [
                step_async.with_options(id=name)(name, part) for part, name in enumerate(names)
            ]
            total += sum(await asyncio.gather(*parts))
    return total


if __name__ == "__main__":
    chosen = chain_async.sync if sys.argv[1] == "async" else chain
    handle = chosen.with_options(idempotency_key="one").run(STEPS)
    print("started", handle.exec_id, flush=True)
    print("result", handle.wait(), flush=True)
