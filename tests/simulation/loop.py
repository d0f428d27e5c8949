"""An event loop without a clock or a selector: it goes forward only when it is told to."""

import asyncio
import contextlib
import heapq
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any


class SimulatedLoop(asyncio.BaseEventLoop):
    """One process's loop, in virtual time. Callbacks run in asyncio's order, one at a time."""

    _ready: "deque[asyncio.Handle]"
    _scheduled: "list[asyncio.TimerHandle]"

    def __init__(self, failed: Callable[[str], None]) -> None:
        super().__init__()
        self.now = 0.0
        """Seconds, by this process's own clock."""
        self.is_halted = False
        """Whether its process has died in the middle of a callback."""
        # What a worker compares with its own thread to see whether it stands on its loop.
        self._thread_id: int | None = threading.get_ident()
        self._unfinished: set[asyncio.Task[Any]] = set()
        self._failed = failed
        self.set_exception_handler(self._unhandled)

    def time(self) -> float:
        return self.now

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> Any:
        task = super().create_task(coro, **options)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due, by this process's clock; None: there is none."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        return scheduled[0].when() if scheduled else None

    @property
    def is_ready(self) -> bool:
        """Whether a callback could run now."""
        if self._ready:
            return True
        timer = self.next_timer
        return timer is not None and timer <= self.now

    def step(self, most: int = 1) -> int:
        """Runs so many callbacks that are ready or due, or fewer; returns how many."""
        while (timer := self.next_timer) is not None and timer <= self.now:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(handle)
        ready, ran = self._ready, 0
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            while ready and ran < most and not self.is_halted:
                handle_ = ready.popleft()
                if not handle_._cancelled:
                    ran += 1
                    handle_._run()
        finally:
            events._set_running_loop(outer)
        return ran

    def finish(self, task: "asyncio.Task[Any]") -> Any:
        """Runs until a task is done, and gives its result; time stands still."""
        while not task.done():
            if not self.step(1_000):
                raise RuntimeError(f"{task!r} waits for what never comes")
        return task.result()

    @contextlib.contextmanager
    def running(self) -> Any:
        """What is done here is done on this loop."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(outer)

    def abandon(self) -> None:
        """Its process is dead: nothing of it runs on, now or when the collector finds it."""
        self._failed = _ignore
        self.forget()
        self._thread_id = None
        self.close()

    def forget(self) -> None:
        """Nothing of what was to be done on it is done any more; another process may use it."""
        failed, self._failed = self._failed, _ignore
        self._ready.clear()
        self._scheduled.clear()
        with self.running():
            for task in list(self._unfinished):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine: Any = task.get_coro()
                with contextlib.suppress(BaseException):
                    coroutine.close()
        self._unfinished.clear()
        self._ready.clear()
        self._scheduled.clear()
        self.is_halted = False
        self._failed = failed

    def leave(self) -> tuple[Any, ...]:
        """What was to be done on it, which is not even closed; another process may use it."""
        left = (self._ready, self._scheduled, self._unfinished)
        self._ready, self._scheduled, self._unfinished = deque(), [], set()
        self.is_halted = False
        return left

    def _unhandled(self, _loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._failed(f"{context['message']}: {error!r}")


@contextlib.contextmanager
def simulated_loop(failed: Callable[[str], None], runners: list[Any]) -> Iterator[SimulatedLoop]:
    """A loop that is abandoned in the end, with the bodies of these runners."""
    loop = SimulatedLoop(failed)
    try:
        yield loop
    finally:
        with loop.running():
            for runner in runners:
                if not runner.state.stopped:
                    runner.stop()
        loop.abandon()


def _ignore(_problem: str) -> None:
    """Nobody is there any more."""
