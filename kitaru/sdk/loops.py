"""From whichever thread and loop a call comes, what it asks for happens on the runtime's loop."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from kitaru.bootstrap import Runtime, current_runtime
from kitaru.operations.backend import backend_errors
from kitaru.sdk.blocking import refuse_on_event_loop

T = TypeVar("T")


async def on_loop(runtime: Runtime, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on the runtime's loop, from whichever loop the caller stands on."""
    if runtime.on_own_loop:
        return await make()
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), runtime.loop))


async def on_runtime(make: Callable[[Runtime], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on the current runtime's loop. Raises KitaruBackendError for a journal's."""
    runtime = current_runtime()
    with backend_errors():
        return await on_loop(runtime, lambda: make(runtime))


def block(
    what: str, instead: str, make: Callable[[], Coroutine[Any, Any, T]], *, depth: int = 3
) -> T:
    """Runs a coroutine on the current runtime's loop, and blocks until it is done.

    Raises KitaruUsageError, naming what to use instead, on a thread whose event loop it would stop;
    `depth` is how many calls the user's own code is away.
    """
    refuse_on_event_loop(what, instead, depth=depth)
    # First: where there is no runtime, a coroutine would be left that nobody awaits.
    loop = current_runtime().loop
    return asyncio.run_coroutine_threadsafe(make(), loop).result()


def soon(runtime: Runtime, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Future[T] | Future[T]":
    """Begins a coroutine on the runtime's loop without waiting for it."""
    if runtime.on_own_loop:
        return runtime.loop.create_task(coroutine)
    return asyncio.run_coroutine_threadsafe(coroutine, runtime.loop)
