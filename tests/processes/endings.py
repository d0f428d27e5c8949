"""A script that ends in one of many ways, after flows of both colours have run in it."""

import asyncio
import multiprocessing
import os
import sys
import threading
import time

import kitaru
from kitaru import KitaruClient, checkpoint, flow


@checkpoint(cache=False)
def part(number: int) -> int:
    return number


@checkpoint(cache=False)
def long() -> int:
    print("ready", flush=True)
    time.sleep(60)
    return 1


@checkpoint(cache=False)
def forks(how: str) -> list[int]:
    """A body that makes a child, which leaves the parent's journal alone."""
    if how == "multiprocessing":
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            return pool.map(abs, [-1, -2])
    child = os.fork()
    if child == 0:
        if how == "exit at once":
            os._exit(3)
        if how == "use the client":
            listed = KitaruClient().executions.list()
            os._exit(3 if listed else 4)
        return [99]  # as in the parent: two processes now believe to run this flow
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


@flow
def parts() -> int:
    return sum(part.submit(number).result() for number in range(3))


@flow
async def parts_async() -> int:
    return sum(await asyncio.gather(*(part.aio(number) for number in range(3))))


@flow
def waits_long() -> int:
    return long()


@flow
def forking(how: str) -> list[int]:
    made = forks(how)
    return [*made, part(7)]


async def with_runtime() -> None:
    async with kitaru.runtime():
        assert await parts_async.run().wait() == 3
        assert await parts.aio.run().wait() == 3


def main(how: str, *arguments: str) -> None:
    match how:
        case "closed":
            assert parts.run().wait() == 3
            from kitaru.bootstrap import close_background

            close_background()
        case "runtime":
            asyncio.run(with_runtime())
        case "forgotten":
            assert parts.run().wait() == 3
            return
        case "error":
            parts_async.sync.run().wait()
            raise RuntimeError("deliberate")
        case "exit":
            parts_async.sync.run().wait()
            sys.exit(4)
        case "waiting":
            waits_long.run().wait()
        case "unfinished":
            waits_long.run()
            time.sleep(0.3)
            return
        case "fork":
            print(forking.run(arguments[0]).wait(), flush=True)
            return
    # A thread that was told to end may still be on its last line.
    end = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.01)
    print(sorted(thread.name for thread in threading.enumerate()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
