"""A process that only steers: it does what its standard input says, and says what came of it.

``python -m tests.races.client``, with the journal in the environment. A line is
``cancel ID DELAY`` or ``answer ID WAIT VALUE DELAY``, with the delay in seconds; all lines in front
of an empty one are done at the same time. For each it prints ``ID yes`` or ``ID no TEXT``.
"""

import asyncio
import sys

import kitaru

NOW = kitaru.AsyncKitaruClient().executions


async def do(line: str) -> None:
    verb, exec_id, *details = line.split()
    *what, delay = details
    await asyncio.sleep(float(delay))
    try:
        if verb == "cancel":
            await NOW.cancel(exec_id)
        else:
            await NOW.input(exec_id, wait=what[0], value=int(what[1]))
    except kitaru.KitaruStateError as refused:
        print(exec_id, "no", str(refused).replace("\n", " "), flush=True)
    else:
        print(exec_id, "yes", flush=True)


async def main() -> None:
    async with kitaru.runtime():
        print("ready", flush=True)
        lines: list[str] = []
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip():
                lines.append(line)
            else:
                await asyncio.gather(*map(do, lines))
                lines = []
                print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
