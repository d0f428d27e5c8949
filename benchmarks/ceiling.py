"""The least that can be called a durable engine: coroutines, one table, a thread that commits.

A bound for `bench_engine.py`, not an engine: it has no replay, no leases, no checks, no retries
and no types. What Kitaru costs above it is what those cost.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from typing import Any

import msgspec

Row = tuple[int, int, bytes]
_WRITE = "INSERT INTO events (execution, version, body) VALUES (?, ?, ?)"


class Writer:
    """Commits what has been appended meanwhile, and wakes whoever waits for it."""

    def __init__(self, file: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._file = file
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._batches: queue.SimpleQueue[list[tuple[Row, asyncio.Future[None]]] | None]
        self._batches = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def append(self, row: Row) -> "asyncio.Future[None]":
        """The future is done once the row is on disk."""
        future: asyncio.Future[None] = self.loop.create_future()
        if not self._waiting:
            self.loop.call_soon(self._hand_over)
        self._waiting.append((row, future))
        return future

    def close(self) -> None:
        """Ends the thread."""
        self._batches.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        batch, self._waiting = self._waiting, []
        self._batches.put(batch)

    def _write(self) -> None:
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE events (id INTEGER PRIMARY KEY, execution INTEGER NOT NULL, "
            "version INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (execution, version))"
        )
        while (batch := self._batches.get()) is not None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_WRITE, [row for row, _ in batch])
            connection.execute("COMMIT")
            self.loop.call_soon_threadsafe(_wake, batch)
        connection.close()


def _wake(batch: list[tuple[Row, "asyncio.Future[None]"]]) -> None:
    for _, future in batch:
        future.set_result(None)


async def steps_per_s(file: str, executions: int, steps: int, payload: dict[str, Any]) -> float:
    """How many steps a second it does when so many executions of so many steps start at once."""
    writer = Writer(file)

    async def work(number: int) -> dict[str, Any]:
        return {**payload, "step": number}

    async def execution(number: int) -> None:
        begun = msgspec.json.encode({"flow": "trip", "arguments": steps})
        # Nobody waits for the start by itself: it commits with the first step.
        writer.append((number, 0, begun))
        for step in range(1, steps + 1):
            result = await work(step)
            done = {"checkpoint": "book", "attempt": 1, "result": result}
            await writer.append((number, step, msgspec.json.encode(done)))
        await writer.append((number, steps + 1, msgspec.json.encode(steps)))

    began = time.perf_counter()
    await asyncio.gather(*(execution(number) for number in range(executions)))
    rate = executions * steps / (time.perf_counter() - began)
    writer.close()
    return rate
