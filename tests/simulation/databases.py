"""The databases in which transactional checkpoints of the simulator's programs write."""

import asyncio
import os
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from kitaru.domain.execution.events import CheckpointCompleted, ExecutionEvent
from tests.simulation.violation import Violation

T = TypeVar("T")

_MEMORY = Path("/dev/shm")
COUNT = 3
"""Checkpoints that run at once write into different ones: a lock would be waited for in real time.
"""
_folders: list["tempfile.TemporaryDirectory[str]"] = []
_CREATE = "CREATE TABLE marks (exec_id TEXT, path TEXT, mark TEXT)"


def folder() -> Path:
    """Where they are; made by the first process that asks, and used by those that it forks."""
    if not _folders:
        place = str(_MEMORY) if _MEMORY.is_dir() else None
        _folders.append(tempfile.TemporaryDirectory(prefix="simulated-", dir=place))
    return Path(_folders[0].name)


_used: dict[int, Path] = {}
"""By number those that the present execution or world has used."""


def database(number: int) -> str:
    """The path of one of this process's databases, with a table for what bodies write."""
    path = _used.get(number)
    if path is None:
        path = _used[number] = folder() / f"{os.getpid()}-{number}.db"
        with sqlite3.connect(path) as connection:
            connection.execute(_CREATE)
        connection.close()
    return str(path)


def begin_anew() -> None:
    """Whatever was written is gone: the ids of executions are the same again and again."""
    while _used:
        _, path = _used.popitem()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()


def leave_to_parent() -> None:
    """In a forked process: what its parent has used is not its own."""
    _used.clear()


def at_once(action: Callable[[], T], seconds: float = 0.0) -> T:
    """In place of waiting for a lock, which nobody gives back while virtual time stands still."""
    return action()


def run_in_turn(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> "asyncio.Future[T]":
    """In place of a thread for statements: in one of the next turns of the loop."""
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        if future.done():
            return
        try:
            result = function()
        except BaseException as error:  # handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    loop.call_soon(run)
    return future


def check_written(exec_id: str, events: Iterable[ExecutionEvent]) -> None:
    """Exactly once: what a call has written is there with its outcome, and once at most."""
    rows: defaultdict[str, list[str]] = defaultdict(list)
    for path, mark in written(exec_id):
        rows[path].append(mark)
    for path, marks in rows.items():
        if len(marks) > 1:
            raise Violation(f"{path} has written {len(marks)} times: {marks}")
    for event in events:
        if isinstance(event, CheckpointCompleted) and event.name.startswith("keep"):
            mark = msgspec.json.decode(event.result.json)
            if rows[event.path] != [mark]:
                raise Violation(f"{event.path} is recorded as {mark}, and wrote {rows[event.path]}")


def written(exec_id: str) -> list[tuple[str, str]]:
    """(path, mark) of everything that an execution's checkpoints have committed."""
    rows: list[tuple[str, str]] = []
    for path in _used.values():
        connection = sqlite3.connect(path)
        rows += connection.execute(
            "SELECT path, mark FROM marks WHERE exec_id = ?", (exec_id,)
        ).fetchall()
        connection.close()
    return rows
