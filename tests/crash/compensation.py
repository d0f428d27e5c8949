"""Books a journey, waits, and is cancelled: what was booked is undone, however often it is killed.

``python compensation.py sync|async``. Effects are appended to the file in EFFECTS, one line each.
"""

import asyncio
import os
import sys
import time

import kitaru
from kitaru import checkpoint, flow

BOOKED = 12


def effect(line: str) -> None:
    # One write, so that a kill leaves a whole line or none.
    with open(os.environ["EFFECTS"], "ab", buffering=0) as file:
        file.write(f"{line} {time.time_ns() // 1_000}\n".encode())


@checkpoint(cache=False)
def book(number: int) -> int:
    effect(f"book {number}")
    return number


@checkpoint(cache=False)
def undo(number: int) -> int:
    effect(f"undo {number}")
    time.sleep(0.01)
    return number


@flow
def journey() -> None:
    booked: list[int] = []
    try:
        for number in range(BOOKED):
            booked.append(book(number))
        print("booked", flush=True)
        kitaru.wait(name="go")
    except kitaru.KitaruCancelled:
        for number in reversed(booked):
            print("undone", undo(number), flush=True)
        raise


@flow
async def journey_async() -> None:
    booked: list[int] = []
    try:
        for number in range(BOOKED):
            booked.append(await book.aio(number))
        print("booked", flush=True)
        await kitaru.wait(name="go")
    except asyncio.CancelledError:
        for number in reversed(booked):
            print("undone", await undo.aio(number), flush=True)
        raise


def main() -> None:
    body = journey if sys.argv[1] == "sync" else journey_async.sync
    handle = body.with_options(idempotency_key="the journey").run()
    print("started", handle.exec_id, flush=True)
    if os.environ.get("CANCEL"):
        kitaru.KitaruClient().executions.cancel(handle.exec_id)
        print("asked", flush=True)
    try:
        handle.wait()
    except kitaru.KitaruCancelledError:
        print("cancelled", flush=True)


if __name__ == "__main__":
    main()
