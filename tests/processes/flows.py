"""Flows that workers of these tests serve, and what starts them.

`python tests/processes/flows.py start FLOW COUNT` starts executions, says their ids and dies at
once, as if killed: `kitaru worker tests/processes/flows.py` then has them to take over.
"""

import asyncio
import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

from kitaru import checkpoint, flow

FOLDER = Path(os.environ.get("KITARU_TEST_FOLDER", "."))
"""Where bodies write down that they run, and look for the leave to go on."""
STARTS = sys.argv[1:2] == ["start"]
"""Whether this process only starts executions, and dies; as fast as it is, a body may begin."""
NEVER = 3_600.0


def effect(path: str) -> None:
    """One line for each body that begins: call, process, and the journal's time."""
    descriptor = os.open(FOLDER / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{path} {os.getpid()} {time.time_ns() // 1000}\n".encode())
    os.close(descriptor)


def _leave() -> Path:
    return FOLDER / f"go-on-{os.getpid()}"


@checkpoint(cache=False)
def part(path: str, number: int) -> int:
    effect(path)
    time.sleep(0.02)
    return number


@checkpoint(cache=False)
async def part_async(path: str, number: int) -> int:
    effect(path)
    await asyncio.sleep(0.02)
    return number


@checkpoint(cache=False)
def held(path: str) -> int:
    """Waits until this very process is told to go on."""
    effect(path)
    while not _leave().exists():
        time.sleep(0.01)
    return os.getpid()


@checkpoint(cache=False)
async def held_async(path: str) -> int:
    effect(path)
    while not _leave().exists():  # noqa: ASYNC110 - the leave is a file
        await asyncio.sleep(0.01)
    return os.getpid()


@checkpoint(cache=False)
def hogs(path: str, seconds: float, hold_interpreter: bool) -> int:
    """Keeps a core busy, or, the first time, the whole interpreter from running anything else."""
    if STARTS:
        time.sleep(NEVER)
    effect(path)
    if hold_interpreter and len((FOLDER / "effects").read_text().splitlines()) == 1:
        ctypes.PyDLL(None).usleep(round(seconds * 1_000_000))
    end = time.monotonic() + seconds
    while not hold_interpreter and time.monotonic() < end:
        pass
    return os.getpid()


@checkpoint(cache=False)
async def hogs_loop(path: str, seconds: float) -> int:
    """Keeps the event loop from doing anything else."""
    if STARTS:
        await asyncio.sleep(NEVER)
    effect(path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@flow
def relay(name: str) -> int:
    total = 0
    for number in range(4):
        path = f"{name}/{number}"
        total += part.with_options(id=path)(path, number)
    return total


@flow
async def relay_async(name: str) -> int:
    paths = [f"{name}/{number}" for number in range(4)]
    calls = [part_async.with_options(id=path)(path, n) for n, path in enumerate(paths)]
    return sum(await asyncio.gather(*calls))


@flow
def holds(name: str) -> list[int]:
    """Which process's attempt counted, and what came after it."""
    after = f"{name}/after"
    return [held.with_options(id=name)(name), part.with_options(id=after)(after, 1)]


@flow
async def holds_async(name: str) -> list[int]:
    first = await held_async.with_options(id=name)(name)
    after = f"{name}/after"
    return [first, await part_async.with_options(id=after)(after, 1)]


@flow
def hogging(name: str, seconds: float, hold_interpreter: bool) -> int:
    return hogs.with_options(id=name)(name, seconds, hold_interpreter)


@flow
async def hogging_loop(name: str, seconds: float) -> int:
    return await hogs_loop.with_options(id=name)(name, seconds)


def start(name: str, count: int, *arguments: Any) -> None:
    body = globals()[name]
    for number in range(count):
        handle = getattr(body, "sync", body).run(f"{name}-{number}", *arguments)
        print(handle.exec_id, flush=True)
    os._exit(9)


if __name__ == "__main__":
    start(sys.argv[2], int(sys.argv[3]), *map(eval, sys.argv[4:]))
