"""Kitaru: `python with_kitaru.py FOLDER`."""

import asyncio
import os
import sys
import time
from typing import Any

from work import EXECUTIONS, SEQUENTIAL_STEPS, STEPS, payload, tell

import kitaru
from kitaru import checkpoint, flow

marks: list[float] = []


@checkpoint(cache=False)
async def step(number: int) -> dict[str, Any]:
    """One durable step."""
    marks.append(time.perf_counter())
    return payload(number)


@flow
async def steps(count: int) -> int:
    """So many, one after another."""
    for number in range(count):
        await step(number)
    return count


async def main(folder: str) -> None:
    """Both scenarios."""
    async with kitaru.runtime(journal=os.path.join(folder, "journal.db")):
        await steps.run(20).wait()
        began = time.perf_counter()
        handles = [steps.run(STEPS) for _ in range(EXECUTIONS)]
        await asyncio.gather(*(handle.wait() for handle in handles))
        fanout = time.perf_counter() - began
        marks.clear()
        await steps.run(SEQUENTIAL_STEPS).wait()
    tell(fanout, marks)


asyncio.run(main(sys.argv[1]))
