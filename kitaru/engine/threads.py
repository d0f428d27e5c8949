"""Worker threads that never keep a process from ending."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

IDLE_SECONDS = 10.0


class DaemonThreads:
    """Runs functions on daemon threads, made when needed and reused.

    `concurrent.futures` and anyio join their threads when the interpreter ends, so that a script
    would hang until every checkpoint's body has returned.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._starting = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def close(self) -> None:
        """Ends the threads that have nothing to do, and the others when they have done it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def submit(self, function: Callable[[], None]) -> None:
        """Runs a function that does not raise, as soon as a thread is free.

        Where no more threads can be started it waits for those that there are. Raises RuntimeError
        when there is none; then it is not run.
        """
        with self._starting:
            with self._changed:
                self._work.append(function)
                if self._idle >= len(self._work) or self._threads >= self._limit:
                    self._changed.notify()
                    return
                name = f"{self._name}-{self._threads + 1}"
            try:
                # Not while `_changed` is held: the thread would stop before it has done anything.
                threading.Thread(target=self._run, name=name, daemon=True).start()
            except RuntimeError:
                with self._changed:
                    if self._threads == 0 and self._work:
                        self._work.pop()
                        raise
            else:
                with self._changed:
                    self._threads += 1

    def _run(self) -> None:
        while (function := self._next()) is not None:
            function()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._idle += 1
            try:
                if not self._work:
                    self._changed.wait_for(lambda: self._work or self._closed, IDLE_SECONDS)
                if self._work:
                    return self._work.popleft()
                self._threads -= 1
                return None
            finally:
                self._idle -= 1


TRANSACTIONS_AT_ONCE = 10_000


class TransactionThreads:
    """Runs the statements of async bodies; there is always a thread for whoever holds the lock.

    Were they run beside checkpoints' bodies, those that wait for a database could have taken every
    thread that the one which it waits for needs to go on.
    """

    def __init__(self) -> None:
        self._threads = DaemonThreads(TRANSACTIONS_AT_ONCE, "kitaru-transaction")

    def close(self) -> None:
        """Ends the threads that have nothing to do."""
        self._threads.close()

    def run(self, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """What the function returns or raises, on the running event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            result, failure = None, None
            try:
                result = function()
            except BaseException as error:  # handed to whoever waits
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_tell, future, result, failure)

        self._threads.submit(run)
        return future


def _tell(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
