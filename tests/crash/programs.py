"""What the killed processes run: five flows at once, each line of theirs that was reached told."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

import kitaru
from kitaru import KitaruClient, KitaruStateError, checkpoint, flow
from tests.crash import failpoints


class Orders(Struct, frozen=True):
    """What one process is to do."""

    journal: str
    effects: str
    """The file in which bodies write down that they run."""
    offset_us: int = 0
    """How far its clock is ahead of the first process's: the leases of the dead are over."""
    steps: int = 8
    failpoint: str = ""
    log_is_due_bytes: int = 4 * 1024 * 1024


_orders = Orders("", "")


def tell(*words: object) -> None:
    """One line to whoever listens, in one write: whole or not at all."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def now() -> int:
    """The journal's clock in this process."""
    return time.time_ns() // 1000 + _orders.offset_us


def effect(path: str) -> None:
    """Writes down that a body runs."""
    descriptor = os.open(_orders.effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{path} {now()}\n".encode())
    os.close(descriptor)


@checkpoint
def double(path: str, number: int) -> int:
    effect(path)
    return number * 2


@checkpoint
async def double_async(path: str, number: int) -> int:
    effect(path)
    await asyncio.sleep(0)
    return number * 2


@checkpoint(retries=5)
def fails_first(path: str, number: int) -> int:
    """Fails the first time that it runs at all; later ones find its mark."""
    effect(path)
    mark = Path(f"{_orders.effects}-{path.replace('/', '-')}")
    if not mark.exists():
        mark.touch()
        raise OSError("not this time")
    return number * 2


def _told(path: str, value: int) -> int:
    tell("ack", path, value)
    return value


@flow
def chain(steps: int) -> int:
    total = 0
    for number in range(steps):
        path = f"chain/{number}"
        total += _told(path, double.with_options(id=path)(path, number))
        names = [f"chain/{number}/{part}" for part in range(3)]
        futures = [double.submit(name, part, id=name) for part, name in enumerate(names)]
        total += sum(future.result() for future in futures)
    return total


@flow
async def chain_async(steps: int) -> int:
    total = 0
    for number in range(steps):
        path = f"async/{number}"
        total += _told(path, await double_async.with_options(id=path)(path, number))
        names = [f"async/{number}/{part}" for part in range(3)]
        calls = [double_async.with_options(id=name)(name, n) for n, name in enumerate(names)]
        total += sum(await asyncio.gather(*calls))
    return total


@flow
def asks(steps: int) -> int:
    total = 0
    for number in range(steps // 2):
        answer = kitaru.wait(schema=int, name=f"q{number}")
        path = f"asks/{number}"
        total += _told(path, double.with_options(id=path)(path, answer))
    return total


@flow
def tries_again(steps: int) -> int:
    total = 0
    for number in range(steps // 4):
        path = f"tries/{number}"
        total += _told(path, fails_first.with_options(id=path)(path, number))
    return total


@flow
async def sleeps(steps: int) -> int:
    total = 0
    for number in range(steps // 2):
        await asyncio.sleep(0.002)
        path = f"sleeps/{number}"
        total += _told(path, await double_async.with_options(id=path)(path, number))
    return total


FLOWS: dict[str, Any] = {
    "chain": chain,
    "async": chain_async.sync,
    "asks": asks,
    "tries": tries_again,
    "sleeps": sleeps.sync,
}


def expected(steps: int) -> dict[str, int]:
    """What each flow returns."""
    fan = steps * sum(2 * part for part in range(3))
    doubled = sum(2 * number for number in range(steps))
    return {
        "chain": doubled + fan,
        "async": doubled + fan,
        "asks": sum(2 * answer_to(number) for number in range(steps // 2)),
        "tries": sum(2 * number for number in range(steps // 4)),
        "sleeps": sum(2 * number for number in range(steps // 2)),
    }


def answer_to(number: int) -> int:
    """What the people of these tests answer."""
    return 100 + number


def _answer(client: KitaruClient, exec_id: str, number: int) -> bool:
    """Answers; False when the flow has its answers and has ended, which the result shows."""
    try:
        client.executions.input(exec_id, wait=f"q{number}", value=answer_to(number))
    except KitaruStateError as error:
        if "already completed" not in str(error):
            raise
        return False
    return True


def run(orders: Orders) -> None:
    """Starts every flow, or finds it started, answers what it asks, and waits for its end."""
    global _orders
    _orders = orders
    os.environ["KITARU_JOURNAL"] = orders.journal
    os.environ["KITARU_LEASE_SECONDS"] = "30"
    os.environ["KITARU_LOG_LEVEL"] = "off"
    from journal.backends.sqlite import checkpoints
    from journal.backends.sqlite import journal as sqlite_journal

    patched: Any = sqlite_journal
    patched.system_clock = now
    checkpoints.DUE_BYTES = orders.log_is_due_bytes
    failpoints.arm(orders.failpoint)
    handles = {}
    for name, body in FLOWS.items():
        handles[name] = body.with_options(idempotency_key=name).run(orders.steps)
        tell("started", name, handles[name].exec_id)
    client = KitaruClient()
    for number in range(orders.steps // 2):
        if _answer(client, handles["asks"].exec_id, number):
            tell("answered", f"q{number}", answer_to(number))
    for name, handle in handles.items():
        tell("result", name, handle.wait())
