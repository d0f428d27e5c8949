"""A flow that writes orders; killed at the boundary whose number stands in KILL_AT."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import kitaru
from journal import SqliteTransaction
from journal.backends.sqlite.committer import Committer
from journal.backends.sqlite.shared import SharedTransaction
from kitaru import checkpoint, flow

KILL_AT = int(os.environ["KILL_AT"])
_boundaries = itertools.count(1)


def _boundary() -> None:
    if next(_boundaries) == KILL_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def _bounded(of: type[Any], name: str) -> None:
    real: Callable[..., Any] = getattr(of, name)

    def bounded(*args: Any, **kwargs: Any) -> Any:
        _boundary()
        result = real(*args, **kwargs)
        _boundary()
        return result

    setattr(of, name, bounded)


@checkpoint(transaction=lambda: os.environ["ORDERS"])
def put(order: str) -> str:
    kitaru.transaction().execute("INSERT INTO orders VALUES (?)", (order,))
    return order


@checkpoint(transaction=lambda: os.environ["ORDERS"])
async def put_async(order: str) -> str:
    await kitaru.transaction().aio.execute("INSERT INTO orders VALUES (?)", (order,))
    return order


@flow
def sync_orders() -> str:
    return put("one") + put.submit("two").result()


@flow
async def async_orders() -> str:
    return "".join(await asyncio.gather(put_async("one"), put_async("two")))


if __name__ == "__main__":
    chosen: Any = sync_orders if sys.argv[1] == "sync" else async_orders
    for of, name in [
        (SqliteTransaction, "execute"),
        (SqliteTransaction, "commit"),
        (SharedTransaction, "append"),
        (Committer, "_commit"),
    ]:
        _bounded(of, name)
    handle = chosen.sync.with_options(idempotency_key="orders").run()
    print(handle.wait(timeout=60), flush=True)
