"""The event loop on which an async flow's body runs: asyncio without a clock or a selector.

asyncio's own tasks, groups, locks and queues work on it unchanged. It goes forward only when it is
told to, until nothing is ready, so that the same outcomes in the same order take the same steps.
"""

import asyncio
import contextlib
import contextvars
import math
import sys
import weakref
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NoReturn, Protocol, TypeVarTuple

from kitaru.errors import KitaruUsageError

SECOND = 1_000_000
Ts = TypeVarTuple("Ts")


class Timers(Protocol):
    """Who keeps the loop's timers: the runner."""

    def timer_set(self, path: str, due_at: int, handle: asyncio.TimerHandle) -> None:
        """A timer was set by the call with this path, for an instant in microseconds."""
        ...

    def timer_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The body no longer needs the timer."""
        ...


class FlowTask(asyncio.Task[Any]):
    """A task of a flow's body. It hashes by its place in the flow, so that sets iterate alike."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        loop: "FlowLoop",
        prefix: str,
        ordinal: int,
        context: contextvars.Context,
    ) -> None:
        self.context = context
        self.prefix = prefix
        """What the paths of the calls made in this task begin with."""
        self.ordinal = ordinal
        self.children = 0
        self.names: dict[str, int] = {}
        """How often each name was called in this task."""
        super().__init__(coroutine, loop=loop, name=prefix.rstrip("/") or "flow", context=context)

    def __hash__(self) -> int:
        return self.ordinal

    def path_of(self, name: str) -> str:
        """The path of the next call of this name."""
        ordinal = self.names.get(name, 0) + 1
        self.names[name] = ordinal
        return f"{self.prefix}{name}" if ordinal == 1 else f"{self.prefix}{name}#{ordinal}"


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise KitaruUsageError(
            f"A flow's body cannot use the event loop's {name}(): what it gives would be different "
            "when the body is replayed. Put the work into a @checkpoint and call that."
        )

    refuse.__name__ = name
    return refuse


class FlowLoop(asyncio.AbstractEventLoop):
    """Runs one flow body, one recorded outcome at a time."""

    def __init__(self, timers: Timers, start: int) -> None:
        self._timers = timers
        self._ready: deque[asyncio.Handle] = deque()
        self._now = start
        self._ordinals = 0
        self._closed = False
        self._tasks: list[FlowTask] = []
        self._prune_at = 64
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], int] | None = None
        """The body's async generators, by creation order; made with the first one."""
        self._abandoned: list[tuple[int, AsyncGenerator[Any, Any]]] = []
        self.unhandled: Callable[[dict[str, Any]], None] | None = None
        """Told of errors that no task of the body has looked at."""

    def run_flow(
        self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context
    ) -> FlowTask:
        """Makes the flow's first task; it runs with the next `drive`."""
        return self._new_task(coroutine, prefix="", context=context)

    def drive(self) -> None:
        """Runs the body until it has nothing left to do."""
        if not self._ready:
            return
        outer = events._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._count_generator, self._keep_generator)
        ready = self._ready
        try:
            while ready:
                handle = ready.popleft()
                if handle.cancelled():
                    continue
                try:
                    handle._run()
                except (SystemExit, KeyboardInterrupt):
                    # Raised by the body: its task has already kept it as its outcome.
                    continue
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(outer)

    @property
    def is_busy(self) -> bool:
        """Whether anything of the body is ready to run, beside what runs now."""
        return bool(self._ready)

    def advance_clock(self, instant: int) -> None:
        """Sets the body's time to a recorded instant (microseconds); it never goes back."""
        self._now = max(self._now, instant)

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """Makes a due timer's callback ready."""
        if not handle.cancelled():
            self._ready.append(handle)

    def drop(self) -> None:
        """Forgets the body without letting it go on: its coroutines are closed where they stand."""
        self._closed = True
        self._ready.clear()
        for task in reversed(self._tasks):
            if not task.done():
                self._close_task(task)
        self._tasks.clear()

    @staticmethod
    def _close_task(task: FlowTask) -> None:
        # A dropped body is not an error: asyncio would otherwise complain about a pending task.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine = task.get_coro()
        if coroutine is None:
            return
        # Handlers of a dropped body may raise anything; none of it has an effect any more.
        with contextlib.suppress(BaseException):
            task.context.run(coroutine.close)

    def _new_task(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        prefix: str,
        context: contextvars.Context | None,
    ) -> FlowTask:
        self._ordinals += 1
        task = FlowTask(
            coroutine,
            loop=self,
            prefix=prefix,
            ordinal=self._ordinals,
            context=context or contextvars.copy_context(),
        )
        if len(self._tasks) >= self._prune_at:
            self._tasks = [known for known in self._tasks if not known.done()]
            self._prune_at = 64 + 2 * len(self._tasks)
        self._tasks.append(task)
        return task

    def current(self) -> FlowTask:
        """The task that runs now."""
        task = asyncio.current_task(self)
        if not isinstance(task, FlowTask):
            raise KitaruUsageError("This is possible only inside a task of the flow's body.")
        return task

    def coroutines(self) -> list[Any]:
        """The coroutines of the body's tasks that are not done, the first task's first."""
        return [task.get_coro() for task in self._tasks if not task.done()]

    # asyncio's own interface

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_options: Any,
    ) -> FlowTask:
        parent = self.current()
        parent.children += 1
        task = self._new_task(
            coro, prefix=f"{parent.prefix}task[{parent.children}]/", context=context
        )
        if name is not None:
            task.set_name(name)
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if not math.isfinite(when):
            raise KitaruUsageError(f"A flow cannot sleep until {when!r}: a finite time is needed.")
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers.timer_set(self.current().path_of("sleep"), round(when * SECOND), handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers.timer_cancelled(handle)

    def time(self) -> float:
        """The time of the last recorded outcome, in seconds since the Unix epoch."""
        return self._now / SECOND

    @property
    def now(self) -> int:
        """The same in microseconds."""
        return self._now

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.unhandled is not None and not self._closed:
            self.unhandled(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        """Closes the body's unfinished async generators, oldest first."""
        if self._generators is None:
            return
        unfinished = [(number, generator) for generator, number in self._generators.items()]
        for _, generator in sorted(unfinished + self._abandoned, key=_number):
            await generator.aclose()
        self._abandoned.clear()

    def _count_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._ordinals += 1
        if self._generators is None:
            self._generators = weakref.WeakKeyDictionary()
        self._generators[generator] = self._ordinals

    def _keep_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Called when the garbage collector finds it, which is at no certain moment: it is kept, and
        # closed at the flow's end with the others, so that replays take the same steps.
        assert self._generators is not None
        self._abandoned.append((self._generators.pop(generator, 0), generator))


def _number(counted: tuple[int, AsyncGenerator[Any, Any]]) -> int:
    return counted[0]


_REFUSED = (
    "add_reader",
    "add_signal_handler",
    "add_writer",
    "call_soon_threadsafe",
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "run_forever",
    "run_in_executor",
    "run_until_complete",
    "sendfile",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
)
for _name in _REFUSED:
    setattr(FlowLoop, _name, _refused(_name))
