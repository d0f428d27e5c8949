"""An async flow with every way to be concurrent, whose checkpoints take random times."""

import asyncio
import json
import random

from kitaru import KitaruClient, checkpoint, flow


@checkpoint
async def work(name: str) -> str:
    """Takes a random time."""
    await asyncio.sleep(random.random() / 100)
    if name.startswith("bad"):
        raise ValueError(name)
    return name


async def branch(name: str, depth: int) -> list[str]:
    """A tree of tasks."""
    found = [await work(name)]
    if depth:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(f"{name}{n}", depth - 1)) for n in range(2)]
        for task in tasks:
            found += task.result()
    return found


@flow
async def program() -> int:
    """Its result does not depend on who is first; its calls' paths must not either."""
    seen = set(await asyncio.gather(*(work(name) for name in ("a", "b", "c"))))
    seen |= set(await branch("t", 3))
    pending = {asyncio.ensure_future(work(name)) for name in ("x", "y", "z")}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            seen.add(task.result())
    for first in asyncio.as_completed([work("p"), work("q")]):
        seen.add(await first)
    try:
        async with asyncio.timeout(60):
            await work("bad")
    except ValueError as error:
        seen.add(str(error))
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def produce() -> None:
        for name in ("m", "n"):
            await queue.put(await work(name))

    producer = asyncio.create_task(produce())
    seen |= {await queue.get(), await queue.get()}
    await producer
    await asyncio.sleep(0.001)
    return len(seen)


if __name__ == "__main__":
    handle = program.sync.run()
    count = handle.wait()
    execution = KitaruClient().executions.get(handle.exec_id)
    print(json.dumps([count, sorted(call.call_id for call in execution.checkpoints)]))
