"""The composition root: settings in, a running runtime out. The only file that chooses parts."""

import asyncio
import atexit
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from journal import Head, Journal, JournalError, open_journal
from kitaru import settings
from kitaru.domain.execution.events import SourceReference
from kitaru.domain.stack.decide import LOCAL, PROCESS
from kitaru.engine.codec import Codec
from kitaru.engine.context import check_journal_may_be_used
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.deployed import BundledCode, OwnCode, Place
from kitaru.engine.registry import Registry
from kitaru.engine.source import load_flow
from kitaru.engine.worker import Worker
from kitaru.errors import KitaruBackendError, KitaruUsageError

if TYPE_CHECKING:
    # Not when it runs: most processes start no others.
    from kitaru.stacks.placer import Placer
    from kitaru.stacks.pool import RunnerPool
    from kitaru.stacks.port import Executor

T = TypeVar("T")
CLOSING_SECONDS = 5.0


class Runtime:
    """An open journal and a worker on one event loop."""

    def __init__(self, journal: Journal, worker: Worker, codec: Codec, url: str) -> None:
        self.journal = journal
        self.worker = worker
        self.codec = codec
        self.url = url
        self.loop = worker.loop
        self._thread = threading.get_ident()
        self._pool: RunnerPool | None = None
        self._placer: Placer | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        lease_seconds: float,
        *,
        route: str = "",
        bundle: str = "",
        polls: bool = True,
    ) -> "Runtime":
        """Opens the journal and starts working. Raises KitaruBackendError.

        With a `route` only executions on it are run, whatever their flow; with a `bundle` (its
        digest) by the code that is in it. Without `polls` it runs only what it is told to.
        """
        try:
            journal = await open_journal(url)
        except JournalError as error:
            raise KitaruBackendError(str(error)) from error
        codec = Codec()
        place: Place = OwnCode()
        if bundle:
            place = BundledCode(journal, bundle, str(settings.bundle_folder()))
        worker = Worker(
            journal,
            codec,
            Registry(_load_definition, place),
            loop=asyncio.get_running_loop(),
            owner=_new_owner(),
            lease_seconds=lease_seconds,
            route=route,
            polls=polls,
        )
        worker.start()
        return cls(journal, worker, codec, url)

    @property
    def on_own_loop(self) -> bool:
        """Whether the caller stands on the runtime's own event loop."""
        return threading.get_ident() == self._thread and asyncio._get_running_loop() is self.loop

    @property
    def pool(self) -> "RunnerPool":
        """The runner processes that run deployed versions; on the loop. It begins to look for work
        when it is first asked for.

        Raises KitaruUsageError where no other process can open the journal.
        """
        from kitaru.stacks.pool import PoolSettings, RunnerPool

        if self._pool is None:
            folder = settings.runner_folder(self.url)
            if folder is None:
                raise KitaruUsageError(
                    f"Deployed versions run in processes of their own, which cannot open the "
                    f"journal {self.url}: name a file for the journal."
                )
            config = settings.resolve()
            known = PoolSettings(
                journal=self.url,
                folder=folder,
                lease_seconds=self.worker.lease_seconds,
                most_per_route=config.runners,
                idle_seconds=config.runner_idle_seconds,
            )
            self._pool = RunnerPool(self.journal, known)
            self._pool.start()
        return self._pool

    @property
    def placer(self) -> "Placer":
        """What gives the executions of stacks their runners; on the loop. It begins to look for
        work when it is first asked for.

        Raises KitaruUsageError where no other process can open the journal.
        """
        from kitaru.stacks.local import LocalExecutor
        from kitaru.stacks.placer import Placer
        from kitaru.stacks.process import EACH_RUNNER_SETTING, ProcessExecutor, ProcessSettings

        if self._placer is None:
            folder = settings.runner_folder(self.url)
            if folder is None:
                raise KitaruUsageError(
                    "Stacks of type process run executions in processes of their own, which cannot "
                    f"open the journal {self.url}: name a file for the journal."
                )
            config = settings.resolve()
            known = ProcessSettings(
                journal=self.url,
                folder=folder,
                environments=settings.environment_folder(),
                lease_seconds=self.worker.lease_seconds,
                most_per_stack=EACH_RUNNER_SETTING * config.runners,
                idle_seconds=config.runner_idle_seconds,
            )
            executors: dict[str, Executor] = {
                LOCAL: LocalExecutor(self.worker.look_now),
                PROCESS: ProcessExecutor(known),
            }
            self._placer = Placer(self.journal, executors, self.worker.note_not_placed)
            self._placer.start()
        return self._placer

    def head_blocking(self, stream: str) -> Head | None:
        """One short read of a head, from any thread."""
        return self.journal.head_blocking(stream)

    async def close(self) -> None:
        """Gives the leases back and closes the journal."""
        if not self._closed:
            self._closed = True
            if self._pool is not None:
                await self._pool.close()
            if self._placer is not None:
                await self._placer.close()
            await self.worker.close()
            await self.journal.close()


class BackgroundRuntime:
    """A runtime on an event loop of its own, in a daemon thread."""

    def __init__(self, url: str, lease_seconds: float) -> None:
        from anyio.from_thread import start_blocking_portal

        self._portal_context: AbstractContextManager[Any] = start_blocking_portal(
            name="kitaru-runtime"
        )
        self.portal = self._portal_context.__enter__()
        try:
            self.runtime: Runtime = self.portal.call(Runtime.open, url, lease_seconds)
        except BaseException:
            self._portal_context.__exit__(None, None, None)
            raise

    def close(self) -> None:
        """Closes the runtime and ends its thread; for use when the process ends, too."""
        closing = self.portal.start_task_soon(self.runtime.close)
        try:
            closing.result(CLOSING_SECONDS)
        except TimeoutError:
            # Its thread is a daemon: what is left ends with the process, like a crash.
            return
        finally:
            self.portal.start_task_soon(self.portal.stop, True)


_lock = threading.RLock()
_background: dict[str, BackgroundRuntime] = {}
_explicit: Runtime | None = None


def current_runtime() -> Runtime:
    """The application's own runtime, or the background one of the configured journal.

    Raises KitaruUsageError for a bad setting and KitaruBackendError when the journal cannot open.
    """
    check_journal_may_be_used()
    if _explicit is not None:
        return _explicit
    config = settings.in_force()
    found = _background.get(config.journal)
    if found is not None:
        return found.runtime
    with _lock:
        if config.journal not in _background:
            _background[config.journal] = BackgroundRuntime(config.journal, config.lease_seconds)
        return _background[config.journal].runtime


def set_explicit(runtime: Runtime | None) -> None:
    """Makes an application's own runtime the process's; KitaruUsageError for a second one."""
    global _explicit
    with _lock:
        if runtime is not None and _explicit is not None:
            raise KitaruUsageError(
                "This process has a kitaru.runtime() already; nest nothing, and use that one."
            )
        _explicit = runtime


def close_background() -> None:
    """Closes every runtime that opened itself; the next use opens a new one."""
    with _lock:
        runtimes = list(_background.values())
        _background.clear()
    for runtime in runtimes:
        runtime.close()


def _forget_after_fork() -> None:
    # The child has none of the parent's threads, and must not touch its connections.
    global _explicit, _lock
    _background.clear()
    _explicit = None
    _lock = threading.RLock()


def _load_definition(reference: SourceReference) -> FlowDefinition:
    definition: FlowDefinition = load_flow(reference).definition
    return definition


def _new_owner() -> str:
    """A name for people; nothing is decided by it."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def blocking(runtime: Runtime, make: Callable[[], Any]) -> Any:
    """Runs a coroutine on the runtime's loop and waits for it, on a thread that may block."""
    return asyncio.run_coroutine_threadsafe(make(), runtime.loop).result()


atexit.register(close_background)
os.register_at_fork(after_in_child=_forget_after_fork)
