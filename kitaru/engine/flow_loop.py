"""The event loop on which an async flow's body runs: asyncio without a clock or a selector.

asyncio's own tasks, groups, locks and queues work on it unchanged. It goes forward only when it is
told to, until nothing is ready, so that the same outcomes in the same order take the same steps.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import math
import os
import sys
import threading
import types
import weakref
from asyncio import events, futures
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, NoReturn, Protocol, TypeVarTuple

from kitaru.engine.context import ExecutionSuspended
from kitaru.errors import KitaruContextError, KitaruUsageError

SECOND = 1_000_000
LATEST = 253_402_300_799 * SECOND
"""The end of the year 9999: no timer is due later."""
CLOSING_TRIES = 100
"""How often a dropped coroutine may go on to another await before it is left where it stands."""
MOST_SEARCHED = 10_000
"""How many items a dropped body's list may have and still be searched for coroutines."""
Ts = TypeVarTuple("Ts")

SLEEP = "sleep"
TIMEOUT = "timeout"


class Timers(Protocol):
    """Who keeps the loop's timers: a part of the runner."""

    def timer_set(self, path: str, due_at: int, handle: asyncio.TimerHandle) -> None:
        """A timer was set by the call with this path, for an instant in microseconds.

        The path's name is ``sleep`` for asyncio.sleep, and ``timeout`` for everything else.
        """
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
        # asyncio keeps a set of all tasks of all loops. There the ordinals of thousands of flows
        # would collide, so for that one look the hash is the usual one.
        self._place = object.__hash__(self)
        super().__init__(coroutine, loop=loop, name=prefix.rstrip("/") or "flow", context=context)
        self._place = ordinal

    def __hash__(self) -> int:
        return self._place

    @property
    def ends_group(self) -> bool:
        """Whether it stands at the end of a `TaskGroup` that cancels its other tasks.

        There a group swallows a cancellation of the task itself, before Python 3.13.
        """
        coroutine: Any = self.get_coro()
        while coroutine is not None:
            if getattr(coroutine, "cr_code", None) is asyncio.TaskGroup.__aexit__.__code__:
                group = coroutine.cr_frame.f_locals.get("self")
                if getattr(group, "_aborting", False):
                    return True
            coroutine = getattr(coroutine, "cr_await", None)
        return False

    def path_of(self, name: str) -> str:
        """The path of the next call of this name."""
        ordinal = self.names.get(name, 0) + 1
        self.names[name] = ordinal
        return f"{self.prefix}{name}" if ordinal == 1 else f"{self.prefix}{name}#{ordinal}"


def _hash_by_place(future: "asyncio.Future[Any]") -> int:
    """The hash of a future of a flow's body: its place among those that were hashed."""
    loop = future.get_loop()
    if not isinstance(loop, FlowLoop):
        return object.__hash__(future)
    place: int | None = getattr(future, "place", None)
    if place is None:
        # Futures are first hashed at the same step of each pass; most are never.
        place = loop.next_ordinal()
        future.place = place  # type: ignore[attr-defined]
    return place


class FlowFuture(asyncio.Future[Any]):
    """A future of a flow's body; sets of them iterate alike in each pass."""

    __hash__ = _hash_by_place


def _order_gatherings() -> None:
    """Makes what asyncio.gather() returns hash by its place, too, when it is a flow's.

    It is the one future that asyncio makes without asking the loop. On other loops it hashes as
    ever.
    """
    gathering: Any = getattr(asyncio.tasks, "_GatheringFuture", None)
    if gathering is not None and gathering.__hash__ is not _hash_by_place:
        gathering.__hash__ = _hash_by_place


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

    def __init__(self, timers: Timers, start: int, began_at: int = 0) -> None:
        """A loop whose body's time begins at `start`, and whose timers run from `began_at` on."""
        _order_gatherings()
        self._timers = timers
        self._ready: deque[asyncio.Handle] = deque()
        self._now = start
        self._began_at = began_at
        self._ordinals = 0
        self._closed = False
        self._thread = threading.get_ident()
        self._root: FlowTask | None = None
        self._tasks: list[FlowTask] = []
        self._prune_at = 64
        self._in_order: dict[int, FlowTask] = {}
        """Tasks that are made and were not asked for yet, by their coroutine's identity."""
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], int] | None = None
        """The body's async generators, by creation order; made with the first one."""
        self._generator_numbers: dict[int, int] = {}
        """The same by identity: its weak references are gone when a generator is finalised."""
        self._abandoned: list[tuple[int, AsyncGenerator[Any, Any]]] = []
        self.unhandled: Callable[[dict[str, Any]], None] | None = None
        """Told of errors that no task of the body has looked at."""

    def run_flow(
        self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context
    ) -> FlowTask:
        """Makes the flow's first task; it runs with the next `drive`."""
        self._root = self._new_task(coroutine, prefix="", context=context)
        return self._root

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
        """Forgets the body without letting it go on: its coroutines are closed where they stand.

        Handlers and ``finally`` clauses run, in their tasks' contexts and now, so that the garbage
        collector has nothing left to run in the middle of another flow.
        """
        self._closed = True
        self._ready.clear()
        outer = events._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._count_generator, self._keep_generator)
        try:
            # A handler may make more tasks; they are closed before they begin.
            while self._tasks:
                task = self._tasks.pop()
                if not task.done():
                    _close_task(task)
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(outer)
            self._abandoned.clear()
            # Else it would take the garbage collector to let the body and its runner go.
            self._root = None
            self.unhandled = None

    def next_ordinal(self) -> int:
        """The next number in the order in which the body makes things."""
        self._ordinals += 1
        return self._ordinals

    def _new_task(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        prefix: str,
        context: contextvars.Context | None,
    ) -> FlowTask:
        task = FlowTask(
            coroutine,
            loop=self,
            prefix=prefix,
            ordinal=self.next_ordinal(),
            context=context or contextvars.copy_context(),
        )
        if len(self._tasks) >= self._prune_at:
            self._tasks = [known for known in self._tasks if _is_needed(known)]
            self._prune_at = 64 + 2 * len(self._tasks)
        self._tasks.append(task)
        return task

    def current(self) -> FlowTask:
        """The task that runs now. Raises KitaruContextError in another thread or loop."""
        if events._get_running_loop() is not self:
            raise KitaruContextError(
                "Checkpoints of an async flow can be called only from the flow's own body: the "
                "order of calls from other threads and event loops would differ in a replay. Use "
                "asyncio.gather() or a TaskGroup; or put the work into a @checkpoint."
            )
        task = asyncio.current_task(self)
        if isinstance(task, FlowTask):
            return task
        if task is not None:
            raise KitaruUsageError(
                "This task was made with asyncio.Task(): make it with asyncio.create_task(), so "
                "that the flow knows its place."
            )
        # A callback: it stands for the flow as a whole.
        if self._root is None:
            raise ExecutionSuspended
        return self._root

    def places(self) -> list[str]:
        """Where the body's unfinished tasks stand, in the order in which they were made."""
        return [_place_of(task) for task in self._tasks if not task.done()][:5]

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
        eager_start: bool | None = None,
    ) -> FlowTask:
        if eager_start:
            coro.close()
            raise KitaruUsageError(
                "A flow's tasks cannot start eagerly: leave eager_start= away. They start in the "
                "order in which they are made."
            )
        given = _given_to_as_completed()
        task = self._child(coro, context) if given is None else self._ordered_child(coro, given)
        if name is not None:
            task.set_name(name)
        return task

    def _child(self, coro: Any, context: contextvars.Context | None) -> FlowTask:
        parent = self.current()
        parent.children += 1
        return self._new_task(
            coro, prefix=f"{parent.prefix}task[{parent.children}]/", context=context
        )

    def _ordered_child(self, coro: Any, given: Any) -> FlowTask:
        """The task of one of the coroutines that asyncio.as_completed() was given.

        It takes them from a set, where they are in the order of their addresses: their tasks are
        made here all at once, in the order in which they were given.
        """
        if id(coro) not in self._in_order:
            if isinstance(given, set | frozenset) or iter(given) is given:
                coro.close()
                raise KitaruUsageError(
                    "asyncio.as_completed() starts what it finds in a set or in an iterator in an "
                    "order that differs in a replay: give it a list."
                )
            for each in given:
                if asyncio.iscoroutine(each) and id(each) not in self._in_order:
                    self._in_order[id(each)] = self._child(each, None)
        task = self._in_order.pop(id(coro), None)
        return self._child(coro, None) if task is None else task

    def create_future(self) -> asyncio.Future[Any]:
        return FlowFuture(loop=self)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            raise KitaruContextError(
                "Another thread cannot wake a flow's body: when it does would differ in a replay. "
                "Put the work into a @checkpoint and call that."
            )
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
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._closed:
            name = SLEEP if callback is _wakes_sleep else TIMEOUT
            self._timers.timer_set(self.current().path_of(name), _instant(when), handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers.timer_cancelled(handle)

    def time(self) -> float:
        """What timers are set by: the time of the last recorded outcome, in seconds.

        In a later attempt of the flow it begins when the attempt does, although the outcomes that
        are kept are older: a time limit must not be over before the attempt has begun.
        """
        return max(self._now, self._began_at) / SECOND

    @property
    def now(self) -> int:
        """The time of the last recorded outcome, in microseconds since the Unix epoch."""
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

    def get_task_factory(self) -> None:
        """None: the flow makes its tasks itself."""
        return

    def get_exception_handler(self) -> None:
        """None: errors that nobody looks at are reported."""
        return

    async def finish(self) -> None:
        """Ends what the body has left behind, in the order in which it was made.

        As asyncio.run() does: tasks are cancelled and awaited, then async generators are closed.
        """
        current = asyncio.current_task(self)
        while left := [task for task in self._tasks if task is not current and not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        await self.shutdown_asyncgens()
        for task in self._tasks:
            if task is not current and task.done():
                self._report_unseen(task)

    def _report_unseen(self, task: FlowTask) -> None:
        if not task.cancelled() and task._log_traceback:
            error = task.exception()
            message = "An error in a task was never looked at."
            self.call_exception_handler({"message": message, "exception": error, "task": task})

    async def shutdown_asyncgens(self) -> None:
        """Closes the body's unfinished async generators, oldest first."""
        if self._generators is None:
            return
        unfinished = [(number, generator) for generator, number in self._generators.items()]
        for _, generator in sorted(unfinished + self._abandoned, key=_number):
            try:
                await generator.aclose()
            except Exception as error:
                message = "An async generator raised when it was closed."
                context = {"message": message, "exception": error, "asyncgen": generator}
                self.call_exception_handler(context)
        self._abandoned.clear()

    def _count_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._generators is None:
            self._generators = weakref.WeakKeyDictionary()
        numbers = self._generator_numbers
        if len(numbers) > 64 + 2 * len(self._generators):
            numbers.clear()
            numbers.update((id(known), number) for known, number in self._generators.items())
        self._generators[generator] = numbers[id(generator)] = self.next_ordinal()

    def _keep_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Called when the garbage collector finds it, which is at no certain moment: it is kept, and
        # closed at the flow's end with the others, so that replays take the same steps.
        if not self._closed:
            self._abandoned.append((self._generator_numbers.pop(id(generator), 0), generator))


def _number(counted: tuple[int, AsyncGenerator[Any, Any]]) -> int:
    return counted[0]


_NESTED_LOOPS = (
    "asyncio.run() cannot be called from a running event loop",
    "Cannot run the event loop while another loop is running",
    "Runner.run() cannot be called from a running event loop",
)


def explained(error: BaseException) -> BaseException:
    """The error, with a note on what to do when it is asyncio's about a loop inside a loop."""
    if isinstance(error, RuntimeError) and str(error) in _NESTED_LOOPS:
        error.add_note(
            "A flow's body cannot run an event loop of its own. Await the coroutine; if it does "
            "I/O, put it into a @checkpoint and await that."
        )
    return error


def _place_of(task: FlowTask) -> str:
    """The innermost line of the task that is not asyncio's own."""
    coroutine: Any = task.get_coro()
    places = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno))
        coroutine = coroutine.cr_await
    of_users = [place for place in places if not place[0].startswith(_OWN_FILES)]
    file, line = (of_users or places)[-1]
    return f"{task.get_name()} stands at {file}:{line}"


_OWN_FILES = (os.path.dirname(asyncio.__file__), os.path.dirname(__file__))
_wakes_sleep = getattr(futures, "_set_result_unless_cancelled", None)
"""What asyncio.sleep has called when it is over."""


_iterator: Any = getattr(asyncio.tasks, "_AsCompletedIterator", None)
"""What asyncio.as_completed() is from Python 3.13 on; a generator function before."""
_AS_COMPLETED = (asyncio.as_completed if _iterator is None else _iterator.__init__).__code__
_TASKS_FILE = _AS_COMPLETED.co_filename


def _given_to_as_completed() -> Any:
    """What asyncio.as_completed() was called with, when it is what makes a task now."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename == _TASKS_FILE:
        if frame.f_code is _AS_COMPLETED:
            given = frame.f_locals
            return given["fs" if _iterator is None else "aws"]
        frame = frame.f_back
    return None


def _instant(when: float) -> int:
    """An instant of asyncio's in microseconds, never before it. Raises KitaruUsageError."""
    if not math.isfinite(when) or when * SECOND > LATEST:
        raise KitaruUsageError(
            f"A flow cannot sleep until {when!r}: a time before the year 10000 is needed."
        )
    instant = math.ceil(when * SECOND)
    # A callback that compares the loop's time with what it asked for must find that it has come.
    return instant if instant / SECOND >= when else instant + 1


def _is_needed(task: FlowTask) -> bool:
    return not task.done() or (not task.cancelled() and task._log_traceback)


_left_open: list[object] = []
"""Coroutines of dropped bodies that cannot be closed. Kept for ever: the garbage collector would
run them on in the middle of whatever runs then."""


def _close_task(task: FlowTask) -> None:
    # A dropped body is not an error: asyncio would otherwise complain about a pending task.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    if coroutine is None:
        return
    _close_unawaited(coroutine, set())
    _close_chain(task, coroutine)


def _close_chain(task: FlowTask, outermost: Any) -> None:
    """Closes what stands in one another, up to this, in the task to which it belongs."""
    passed: list[types.AsyncGeneratorType[Any, Any]] = []
    standing = _standing(outermost, passed)
    for _ in range(CLOSING_TRIES):
        # From the inside: one that goes on to another await would be lost if its caller were closed
        # instead, and the garbage collector would close it later, anywhere.
        innermost = standing.pop()
        # Handlers of a dropped body may raise anything; none of it has an effect any more.
        with contextlib.suppress(BaseException), _as_current(task):
            task.context.run(innermost.close)
        if getattr(outermost, "cr_frame", None) is None:
            break
        if not standing or getattr(innermost, "cr_frame", None) is not None:
            # It has gone on to another await.
            standing = _standing(outermost, passed)
    else:
        _left_open.append(outermost)
    for generator in passed:
        # Since Python 3.13 closing what awaits a generator closes that, too: its handlers may have
        # gone on to another await, where nobody is left who stands in it.
        awaited = generator.ag_await
        if isinstance(awaited, types.CoroutineType) and awaited.cr_frame is not None:
            _close_chain(task, awaited)


@contextlib.contextmanager
def _as_current(task: FlowTask) -> Iterator[None]:
    """What handlers do happens in their task: asyncio.timeout() refuses to begin outside of one."""
    loop = task.get_loop()
    if asyncio.current_task(loop) is not None:
        yield
        return
    asyncio._enter_task(loop, task)
    try:
        yield
    finally:
        asyncio._leave_task(loop, task)


def _standing(coroutine: Any, passed: list[types.AsyncGeneratorType[Any, Any]]) -> list[Any]:
    """The coroutines, not yet closed, in which this one stands, from itself to the innermost.

    The async generators on the way are added to `passed`.
    """
    found, here = [coroutine], coroutine
    while here is not None:
        if isinstance(here, types.CoroutineType):
            if here.cr_frame is None:
                break
            if here is not coroutine:
                found.append(here)
            here = here.cr_await
        elif isinstance(here, types.AsyncGeneratorType):
            if here not in passed:
                passed.append(here)
            here = here.ag_await
        else:
            # What an async generator is awaited by.
            behind = gc.get_referents(here) if type(here).__name__ in _STEPS else ()
            here = next((it for it in behind if isinstance(it, types.AsyncGeneratorType)), None)
    return found


_STEPS = ("async_generator_asend", "async_generator_athrow")


def _close_unawaited(holder: object, seen: set[int]) -> None:
    """Closes the coroutines that a body has made and was yet to await.

    They are no mistake of the body's, and Python would warn of each that it was never awaited.
    """
    seen.add(id(holder))
    for held in gc.get_referents(holder):
        if type(held) not in _SEARCHED or id(held) in seen:
            continue
        if isinstance(held, types.CoroutineType):
            if inspect.getcoroutinestate(held) == inspect.CORO_CREATED:
                held.close()
            else:
                _close_unawaited(held, seen)
        elif len(held) <= MOST_SEARCHED:
            _close_unawaited(held, seen)


_SEARCHED = frozenset((types.CoroutineType, list, tuple, dict, set, deque))


_REFUSED = (
    "add_reader",
    "add_signal_handler",
    "add_writer",
    "call_soon_threadsafe",
    "close",
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
    "remove_reader",
    "remove_signal_handler",
    "remove_writer",
    "run_forever",
    "run_in_executor",
    "run_until_complete",
    "sendfile",
    "set_debug",
    "set_default_executor",
    "set_exception_handler",
    "set_task_factory",
    "shutdown_default_executor",
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
    "stop",
    "subprocess_exec",
    "subprocess_shell",
)
for _name in _REFUSED:
    setattr(FlowLoop, _name, _refused(_name))
