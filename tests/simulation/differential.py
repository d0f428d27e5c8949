"""The same programs on both backends: what the store of a world was asked, asked of SQLite.

Everything that a world's processes and clients ask of the reference journal is kept, with what came
of it and what the clock said. Asked of a SQLite file with the same clock, the same must come of it,
to the last byte: events and their hashes, heads, leases, refusals.
"""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from journal import Journal, JournalError, RecordedEvent, open_journal
from tests.simulation.store import at_once
from tests.simulation.violation import Violation
from tests.simulation.world import Asked, World, simulated

MEMORY = Path("/dev/shm")
FOLDER = str(MEMORY) if MEMORY.is_dir() else None
"""Where a file costs no disk, on most machines with Linux."""


class Compared(Struct, frozen=True):
    """How much was the same."""

    programs: int
    asked: int
    events: int


def compare(seed: int) -> Compared:
    """One world's questions, asked of SQLite. Raises Violation where another answer comes."""
    asked: list[Asked] = []
    with simulated(seed, asked) as world:
        world.run()
        heads = dict(world.inner._heads)
        streams = {name: at_once(world.inner.read_stream(name)) for name in heads}
    asyncio.run(_ask_sqlite(world, asked, streams, heads))
    return Compared(len(world.plans), len(asked), sum(map(len, streams.values())))


async def _ask_sqlite(
    world: World,
    asked: list[Asked],
    streams: dict[str, list[RecordedEvent]],
    heads: dict[str, Any],
) -> None:
    now = 0
    with tempfile.TemporaryDirectory(prefix="differential-", dir=FOLDER) as place:
        journal = await open_journal(f"sqlite:///{place}/journal.db", clock=lambda: now)
        try:
            for number, one in enumerate(asked):
                now = one.clock
                result = await _ask(journal, one)
                if _comparable(result) != _comparable(one.result):
                    raise Violation(
                        f"question {number} of world {world.seed}, {one.what} {one.arguments}\n"
                        f"memory: {one.result}\nsqlite: {result}"
                    )
            for stream, events in streams.items():
                if await journal.read_stream(stream) != events:
                    raise Violation(f"world {world.seed}: {stream} is another one in SQLite")
                if await journal.head(stream) != heads[stream]:
                    raise Violation(f"world {world.seed}: the head of {stream} is another one")
        finally:
            await journal.close()


async def _ask(journal: Journal, one: Asked) -> Any:
    method: Callable[..., Any] = getattr(journal, one.what)
    try:
        result = method(*one.arguments)
        return await result if asyncio.iscoroutine(result) else result
    except JournalError as error:
        return error


def _comparable(result: Any) -> Any:
    if isinstance(result, JournalError):
        return type(result).__name__, str(result)
    if isinstance(result, list):
        # Leases are renewed in the order in which they were given; claims come oldest first.
        return [_comparable(item) for item in result]
    return result
