"""Places in the engine at which a test lets its process die, given as ``name:n``: the n-th passing.

A failpoint is put around the engine's own function from outside, in the process that is to die. The
engine knows nothing of it, so that it costs nothing, and nobody can ask for it by mistake.
"""

import itertools
import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from journal.backends.sqlite.checkpoints import Checkpoints
from journal.backends.sqlite.transaction import Transaction
from kitaru.engine.calls import Call
from kitaru.engine.executions import OwnedExecution
from kitaru.engine.worker import Worker


class Place(NamedTuple):
    """A function of the engine's, and on which side of it the process dies."""

    owner: type[Any]
    name: str
    side: Literal["before", "after"]
    meaning: str


PLACES: dict[str, Place] = {
    "between-heads-and-events": Place(
        Transaction, "_flush_heads", "after", "heads are written, the events of the group are not"
    ),
    "before-commit": Place(
        Transaction, "flush", "after", "everything of a group is written and nothing committed"
    ),
    "after-commit": Place(
        Checkpoints, "note_commit", "before", "a group is on disk and nobody was told"
    ),
    "before-acknowledgement": Place(
        OwnedExecution, "accept", "before", "an append is on disk and its execution was not told"
    ),
    "after-acknowledgement": Place(
        OwnedExecution, "accept", "after", "the execution was told, its body goes on"
    ),
    "after-body": Place(
        Call, "completed", "before", "a checkpoint's body has returned and nothing is recorded"
    ),
    "after-claim": Place(
        Worker, "_take", "before", "an execution is claimed and nothing of it is read"
    ),
    "before-run": Place(
        Worker, "run", "before", "a take-over is recorded and its runner has not begun"
    ),
    "before-log-is-moved": Place(
        Checkpoints, "take", "before", "the write-ahead log is about to be moved into the database"
    ),
    "after-log-is-moved": Place(
        Checkpoints, "take", "after", "the write-ahead log was moved and is not yet begun anew"
    ),
}
STATEMENT = "statement"
"""The failpoint before the n-th SQL statement of the process, whoever runs it."""


def arm(failpoint: str) -> None:
    """Lets this process die at a failpoint, given as ``name:n``; an empty one arms nothing."""
    if not failpoint:
        return
    name, _, count = failpoint.partition(":")
    die = _dying(int(count or 1))
    if name == STATEMENT:
        _before_statements(die)
    else:
        _around(PLACES[name], die)


def _dying(at: int) -> Callable[[], None]:
    passed = itertools.count(1)

    def die() -> None:
        if next(passed) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def _around(place: Place, die: Callable[[], None]) -> None:
    real: Callable[..., Any] = getattr(place.owner, place.name)

    def around(*args: Any, **kwargs: Any) -> Any:
        if place.side == "before":
            die()
        result = real(*args, **kwargs)
        if place.side == "after":
            die()
        return result

    setattr(place.owner, place.name, around)


def _before_statements(die: Callable[[], None]) -> None:
    class Counted(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            die()
            return super().execute(*args)

        def executemany(self, *args: Any) -> sqlite3.Cursor:
            die()
            return super().executemany(*args)

    patched: Any = sqlite3
    patched.connect = partial(sqlite3.connect, factory=Counted)
