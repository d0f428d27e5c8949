"""What `.run()` returns: a handle on one execution, blocking or awaitable."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from kitaru.bootstrap import Runtime
from kitaru.engine.codec import TypeScope
from kitaru.engine.executions import stream_of
from kitaru.errors import KitaruStateError
from kitaru.operations import executions
from kitaru.operations.backend import backend_errors
from kitaru.sdk import prompt
from kitaru.sdk.blocking import refuse_on_event_loop
from kitaru.sdk.loops import on_loop
from kitaru.status import ExecutionStatus

Started = asyncio.Future[None] | Future[None]
"""The start's becoming durable: of the runtime's own loop, or to be waited for by any thread."""
R = TypeVar("R")


class _Handle(Generic[R]):
    def __init__(
        self,
        runtime: Runtime,
        exec_id: str,
        types: TypeScope,
        started: "Started | None" = None,
    ) -> None:
        self._runtime = runtime
        self._exec_id = exec_id
        self._types = types
        self._started = started

    @property
    def exec_id(self) -> str:
        """The execution's id, a UUID as text."""
        return self._exec_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._exec_id!r})"

    async def _wait(self, timeout: float | None) -> R:
        with backend_errors():
            event = await executions.ending_of(self._runtime, self._exec_id, timeout)
            result: R = await executions.outcome_of(
                self._runtime, self._exec_id, event, self._types
            )
        return result

    async def _get(self) -> R:
        with backend_errors():
            status = await executions.status_of(self._runtime, self._exec_id)
        if not (status.is_finished or status is ExecutionStatus.DIVERGED):
            raise KitaruStateError(
                f"Execution {self._exec_id} is still {status}; wait() blocks until it is done."
            )
        return await self._wait(None)

    async def _start_durable(self) -> None:
        started = self._started
        if isinstance(started, Future):
            await asyncio.wrap_future(started)
        elif started is not None:
            await on_loop(self._runtime, lambda: _finished(started))
        self._started = None

    def _read_status(self) -> ExecutionStatus:
        with backend_errors():
            head = self._runtime.head_blocking(stream_of(self._exec_id))
        if head is None:
            # Submitted, and not durable yet.
            return ExecutionStatus.RUNNING
        return ExecutionStatus(head.state)


async def _finished(started: "asyncio.Future[None]") -> None:
    # Shielded: who gives up waiting does not undo the start.
    await asyncio.shield(started)


class FlowHandle(_Handle[R]):
    """A handle on an execution whose methods block. Its `aio` is the same for async code."""

    @property
    def status(self) -> ExecutionStatus:
        """Where the execution stands, read anew at each access."""
        return self._read_status()

    def wait(self, timeout: float | None = None) -> R:
        """Blocks until the execution has ended, and returns what the flow returned.

        At a terminal it asks for what the flow waits for: see `kitaru.wait`.

        Raises KitaruExecutionError, or the subclass that fits, when it did not complete;
        KitaruTimeoutError after `timeout` seconds, while the execution goes on; KitaruUsageError on
        a thread whose event loop this would block.
        """
        refuse_on_event_loop("handle.wait()", "use `await handle.aio.wait()`")
        return self._block(lambda: self._wait(timeout), asks=prompt.is_wanted())

    def get(self) -> R:
        """The flow's result when the execution has ended; raises as `wait` does when it failed.

        Raises KitaruStateError while it is still running.
        """
        refuse_on_event_loop("handle.get()", "use `await handle.aio.get()`")
        return self._block(self._get)

    @property
    def aio(self) -> "AsyncFlowHandle[R]":
        """The same handle for async code."""
        return AsyncFlowHandle(self._runtime, self._exec_id, self._types, self._started)

    def _block(self, make: Callable[[], Coroutine[Any, Any, R]], *, asks: bool = False) -> R:
        if self._started is not None:
            asyncio.run_coroutine_threadsafe(self._start_durable(), self._runtime.loop).result()
        waiting = asyncio.run_coroutine_threadsafe(make(), self._runtime.loop)
        return prompt.result_of(self._runtime, self._exec_id, waiting) if asks else waiting.result()


class AsyncFlowHandle(_Handle[R]):
    """A handle on an execution whose methods are awaited. Its `sync` is the same for sync code.

    Awaiting the handle itself waits until the start is durable.
    """

    def __await__(self) -> "Generator[Any, None, AsyncFlowHandle[R]]":
        return self._durable().__await__()

    async def _durable(self) -> "AsyncFlowHandle[R]":
        await self._start_durable()
        return self

    @property
    def status(self) -> ExecutionStatus:
        """Where the execution stands, read anew at each access: one short read of the journal."""
        return self._read_status()

    async def wait(self, timeout: float | None = None) -> R:
        """Waits until the execution has ended, and returns what the flow returned.

        Raises KitaruExecutionError, or the subclass that fits, when it did not complete, and
        KitaruTimeoutError after `timeout` seconds, while the execution goes on.
        """
        if self._started is not None:
            await self._start_durable()
        if self._runtime.on_own_loop:
            return await self._wait(timeout)
        return await on_loop(self._runtime, lambda: self._wait(timeout))

    async def get(self) -> R:
        """The flow's result when the execution has ended; raises as `wait` does when it failed.

        Raises KitaruStateError while it is still running.
        """
        await self._start_durable()
        return await on_loop(self._runtime, self._get)

    @property
    def sync(self) -> FlowHandle[R]:
        """The same handle for code that may block."""
        return FlowHandle(self._runtime, self._exec_id, self._types, self._started)
