"""The flows whose histories are kept: what their bodies ask for is never changed.

A change of the engine that makes one of the histories beside this file diverge breaks executions of
users; a change of this file would only hide it. New flows come in behind the others.
"""

import asyncio
import contextlib
import dataclasses
import enum
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import kitaru
from kitaru import checkpoint, flow


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Parcel:
    weight: Decimal
    labels: frozenset[str]


class Place(NamedTuple):
    row: int
    shelf: str


for kind in (Colour, Parcel, Place):
    kitaru.register_type(kind)


@checkpoint
def fetch(url: str) -> str:
    return f"<{url}>"


@checkpoint
async def fetch_async(url: str, turns: int = 0) -> str:
    for _ in range(turns):
        await asyncio.sleep(0)
    return f"<{url}>"


@checkpoint
def refuse(what: str) -> None:
    raise ValueError(what)


@checkpoint(retries=2)
def third_time(folder: str) -> int:
    tries = Path(folder) / "tries"
    count = 1 + (int(tries.read_text()) if tries.exists() else 0)
    tries.write_text(str(count))
    if count < 3:
        raise ConnectionError(f"try {count}")
    return count


@checkpoint
def once_broken(folder: str) -> str:
    broken = Path(folder) / "broken"
    if not broken.exists():
        broken.touch()
        raise RuntimeError("broken")
    return "mended"


@checkpoint
def values() -> dict[str, Any]:
    return {
        "time": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "span": timedelta(hours=30),
        "amount": Decimal("1.50"),
        "id": UUID(int=7),
        "bytes": b"\x00\xff",
        "large": 2**100,
        "nothing": float("nan"),
        "tuple": (1, "two"),
        "set": {1, 2, 3},
        "keys": {1: "one", (2, 3): "pair"},
        "path": Path("a/b"),
        "colour": Colour.RED,
        "parcel": Parcel(Decimal("2.5"), frozenset({"b", "a"})),
        "place": Place(3, "c"),
        "text": "\u00fc \U0001f600 \ud800",
    }


@checkpoint
def large(size: int) -> str:
    return "x" * size


@checkpoint(effect="once")
def charge(amount: int, folder: str) -> str:
    lost = Path(folder) / "lost"
    if folder and not lost.exists():
        lost.touch()
        os._exit(1)
    return f"charged {amount}"


@checkpoint(transaction=True)
def note(text: str) -> int:
    transaction = kitaru.transaction()
    transaction.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
    return transaction.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount


@flow
def in_order(urls: list[str]) -> Any:
    first = fetch(urls[0])
    kitaru.log(first=first, chance=kitaru.random())
    futures = fetch.map(urls)
    named = fetch.submit(first, id="the named one", after=futures)
    kitaru.sleep(0.01)
    began = kitaru.now()
    assert isinstance(began, datetime)
    try:
        refuse("no")
    except ValueError as error:
        caught = str(error)
    return [future.result() for future in futures], named.result(), caught, str(kitaru.uuid4())


@flow
async def side_by_side(urls: list[str]) -> Any:
    async def branch(url: str, turns: int) -> str:
        await asyncio.sleep(0.001 * turns)
        return await fetch_async(url, turns)

    both = await asyncio.gather(*(branch(url, 9 - n) for n, url in enumerate(urls)))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(url, n)) for n, url in enumerate(urls)]
    done, pending = await asyncio.wait(
        [asyncio.create_task(branch(url, 3 * n)) for n, url in enumerate(urls)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for task in pending:
        task.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await asyncio.sleep(3600)
    return both, [task.result() for task in tasks], sorted(task.result() for task in done)


@flow
def tried_again(folder: str) -> int:
    fetch("before")
    return third_time(folder)


@flow(retries=1)
def mended(folder: str) -> str:
    fetch("kept")
    return once_broken(folder)


@flow
def asks() -> Any:
    early = kitaru.wait(schema=int, name="early")
    agreed = kitaru.wait(schema=bool, name="agree", question="Is it so?", metadata={"n": 1})
    late = kitaru.wait(schema=str, name="late", deadline=0.01, default="nobody")
    kitaru.wait(name="go on")
    return early, agreed, late


@flow
async def asks_async() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(kitaru.wait(schema=int, name=name)) for name in ("a", "b")]
    return [task.result() for task in tasks]


@flow
def keeps_values() -> Any:
    kept = values()
    return kept["place"].row, len(large(40_000)), sorted(kept["parcel"].labels)


@flow
def pays(folder: str) -> str:
    fetch("before")
    return charge(7, folder)


@flow
def writes() -> int:
    return note("one") + note("two")


@flow
def fails() -> None:
    fetch("before")
    raise LookupError("the end")


@flow
def is_cancelled() -> None:
    try:
        kitaru.wait(name="never")
    except kitaru.KitaruCancelled:
        fetch("cleaned up")
        raise


@flow
async def is_cancelled_async() -> None:
    try:
        await kitaru.wait(name="never")
    finally:
        await fetch_async("cleaned up")
