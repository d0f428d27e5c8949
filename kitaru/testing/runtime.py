"""A runtime in memory for one test, which moves its clock and replaces its checkpoints."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from msgspec import Struct

from kitaru.bootstrap import Runtime, standing_in
from kitaru.engine.executions import state_of
from kitaru.errors import KitaruUsageError
from kitaru.operations import executions, waits
from kitaru.projections.timeline import TimelineEntry, timeline_of
from kitaru.sdk.flow import AsyncFlow, Flow
from kitaru.sdk.handle import AsyncFlowHandle, FlowHandle
from kitaru.status import ExecutionStatus
from kitaru.testing.bodies import (
    NOT_GIVEN,
    Bodies,
    BodyRun,
    Scripted,
    StandIn,
    always,
    outcome_of,
    raising,
)
from kitaru.testing.clock import START, StillClock, instant_of
from kitaru.testing.errors import NothingHappens
from kitaru.testing.world import Running, World

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Execution = FlowHandle[Any] | AsyncFlowHandle[Any] | str
"""A handle, or an execution's id."""
LOOK_SECONDS = 0.002
CLOSING_SECONDS = 1.0
MOST_TURNS = 100_000


class Ran(Struct, frozen=True):
    """A flow that a test has run from its beginning to its end."""

    flow: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answers: dict[str, Any]


class _Core:
    """What both faces of a test's runtime share; everything on one event loop."""

    def __init__(self, clock: StillClock, *, auto_advance: bool, reuse_results: bool) -> None:
        self.clock = clock
        self.reuse_results = reuse_results
        self.bodies = Bodies()
        self.auto_advance = auto_advance
        self.ran: list[Ran] = []
        self.world: World
        self.running: Running
        self.loop: asyncio.AbstractEventLoop
        self._turns = asyncio.Lock()
        self._skipping: asyncio.Task[None] | None = None
        self._standing = ExitStack()
        self._stand_in: Callable[[Runtime], None]

    @property
    def runtime(self) -> Runtime:
        return self.running.runtime

    async def open(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.world = await World.open(self.clock, self.bodies)
        self.world.reuses_results = self.reuse_results
        self.running = self.world.begin_process([], notes_starts=True)
        self._stand_in = self._standing.enter_context(standing_in())
        self._stand_in(self.runtime)
        if self.auto_advance:
            self._skipping = self.loop.create_task(self._skip_for_ever())

    async def close(self) -> None:
        if self._skipping is not None:
            self._skipping.cancel()
            await asyncio.wait([self._skipping])
        self._standing.close()
        self.world.patience_seconds = CLOSING_SECONDS
        # A body that still runs is a thread that nobody can end; its process has died for it.
        with contextlib.suppress(NothingHappens):
            await self.world.end_process(self.running)
        await self.world.close()

    async def crash(self) -> None:
        async with self._turns:
            served = self.running.worker.registry.served
            await self.world.end_process(self.running)
            self.running = self.world.begin_process(served, notes_starts=True)
            self._stand_in(self.runtime)

    # time

    async def settle(self) -> None:
        async with self._turns:
            await self._settle()

    async def _settle(self, is_over: Callable[[], bool] = lambda: False) -> None:
        await self.world.settle(self.running, is_over)

    async def advance(self, by: timedelta) -> None:
        if by < timedelta(0):
            raise KitaruUsageError(f"The clock goes forwards: advance({by!r}).")
        end = self.clock() + by // timedelta(microseconds=1)
        async with self._turns:
            await self._settle()
            # What becomes due on the way becomes so at its own time.
            while (due_at := await self.world.next_due(self.running)) is not None:
                if due_at > end:
                    break
                await self.world.move_to(due_at, self.running)
                await self._settle()
            await self.world.move_to(end, self.running)
            await self._settle()

    async def _skip_for_ever(self) -> None:
        """Time passes by itself while somebody waits for an execution, and nothing runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            running = self.running
            if self._turns.locked() or not running.worker.is_waited_for:
                continue
            async with self._turns:
                if await self.world.is_still_for_a_while(running):
                    due_at = await self.world.next_due(running)
                    if due_at is not None and running.worker.is_waited_for:
                        await self.world.move_to(due_at, running)

    # executions

    async def run(
        self,
        flow: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        answers: Mapping[str, Any] | None,
    ) -> Any:
        if not getattr(flow, "__kitaru_flow__", False):
            raise KitaruUsageError(f"run() needs a @flow, not {flow!r}.")
        self.ran.append(Ran(flow, args, kwargs, dict(answers or {})))
        handle = await flow.aio.run(*args, **kwargs)
        return await self.outcome(handle, answers)

    async def outcome(self, execution: Execution, answers: Mapping[str, Any] | None) -> Any:
        exec_id = id_of(execution)
        async with self._turns:
            await self._drive(exec_id, dict(answers or {}))
        end = await executions.ending_of(self.runtime, exec_id, None)
        return await executions.outcome_of(self.runtime, exec_id, end, self._types(exec_id))

    def _types(self, exec_id: str) -> Any:
        head = self.world.head(exec_id)
        assert head is not None
        served = self.running.worker.registry.served
        return next(it.types for _, it in reversed(served) if it.name == head.name)

    async def _drive(self, exec_id: str, answers: dict[str, Any]) -> None:
        await executions.status_of(self.runtime, exec_id)
        for _ in range(MOST_TURNS):
            await self._settle(lambda: self._is_over(exec_id))
            if self._is_over(exec_id):
                return
            if not await self._answered_one(exec_id, answers):
                due_at = await self.world.next_due(self.running)
                if due_at is None:
                    raise NothingHappens(await self._told_idle(exec_id))
                await self.world.move_to(due_at, self.running)
        raise NothingHappens(f"the flow comes to no end:\n{await self.world.text(exec_id)}")

    def _is_over(self, exec_id: str) -> bool:
        head = self.world.head(exec_id)
        gone = exec_id not in self.running.worker.runners
        return gone and head is not None and not _goes_on(head.state)

    async def _answered_one(self, exec_id: str, answers: dict[str, Any]) -> bool:
        state = state_of(await self.world.recorded(exec_id))
        for wait in state.questions:
            for name in (wait.id, wait.path, wait.name):
                if name in answers:
                    given = answers[name]
                    value = given() if callable(given) else given
                    await waits.give_input(self.runtime, exec_id, wait.id, value)
                    return True
        return False

    async def _told_idle(self, exec_id: str) -> str:
        state = state_of(await self.world.recorded(exec_id))
        open_waits = ", ".join(repr(wait.id) for wait in state.waits)
        what = f"waits for {open_waits}, and no answer is given" if open_waits else "waits"
        return (
            f"the flow {what}; nothing is left that could bring it on:\n"
            f"{await self.world.text(exec_id)}"
        )

    async def answer(self, execution: Execution, wait: str, value: Any) -> None:
        await waits.give_input(self.runtime, id_of(execution), wait, value)

    async def cancel(self, execution: Execution, reason: str) -> None:
        await executions.cancel(self.runtime, id_of(execution), reason)

    async def status(self, execution: Execution) -> ExecutionStatus:
        return await executions.status_of(self.runtime, id_of(execution))

    async def timeline(self, execution: Execution) -> str:
        await executions.status_of(self.runtime, id_of(execution))
        return await self.world.text(id_of(execution))

    async def events(self, execution: Execution) -> list[TimelineEntry]:
        await executions.status_of(self.runtime, id_of(execution))
        recorded = await self.world.recorded(id_of(execution))
        return timeline_of(recorded)


class _Face:
    """What needs no event loop: the script, and what has run."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    def script(
        self,
        checkpoint: str,
        *,
        result: Any = NOT_GIVEN,
        raises: BaseException | type[BaseException] | None = None,
        results: Sequence[Any] | None = None,
        call: StandIn | None = None,
    ) -> None:
        """What a checkpoint does from now on, by its path (``fetch#2``) or its name.

        One of: `result`, which it returns; `raises`, which it raises; `results`, one for each time
        that it runs, of which exceptions are raised, and one time more is a failure of the test;
        `call`, a function that is called with its arguments. Retries and the journal work as they
        do for the checkpoint itself. Raises KitaruUsageError when it is not one of them.
        """
        given = (result is not NOT_GIVEN, raises is not None, results is not None, call is not None)
        if sum(given) != 1:
            raise KitaruUsageError(
                f"script({checkpoint!r}, ...) needs one of result=, raises=, results=, call=."
            )
        stand_ins = self._core.bodies.stand_ins
        if raises is not None:
            stand_ins[checkpoint] = raising(raises)
        elif results is not None:
            items = [outcome_of(item) for item in results]
            stand_ins[checkpoint] = Scripted(checkpoint, items)
        else:
            stand_ins[checkpoint] = always(result) if call is None else call

    def calls(self, checkpoint: str) -> list[dict[str, Any]]:
        """The arguments of each time that a checkpoint's body, or its stand-in, has begun.

        By its name or path, oldest first, over all executions.
        """
        return [run.arguments for run in self.bodies if checkpoint in (run.name, run.path)]

    @property
    def bodies(self) -> list[BodyRun]:
        """Every checkpoint's body, or stand-in, that has begun, oldest first."""
        return list(self._core.bodies.begun)

    @property
    def ran(self) -> list[Ran]:
        """What was run with `run`."""
        return list(self._core.ran)

    @property
    def stand_ins(self) -> dict[str, StandIn]:
        """What stands in for checkpoints, as `crash_sweep` takes it: sequences begin anew."""
        return self._core.bodies.from_the_beginning().stand_ins


class TestRuntime(_Face):
    """A runtime in memory, for the length of a block; every flow that is started runs on it.

    In a ``with`` block it has an event loop on a thread of its own; in an ``async with`` block it
    is on the caller's, and its `aio` has the methods that are awaited. Time begins at `start`.
    With `auto_advance` it passes by itself while somebody waits for an execution and nothing runs.
    Results of earlier executions are reused only with `reuse_results`: a script that has changed
    would not be seen otherwise.
    """

    __test__ = False

    def __init__(
        self,
        *,
        start: datetime = START,
        auto_advance: bool = True,
        reuse_results: bool = False,
    ) -> None:
        core = _Core(StillClock(start), auto_advance=auto_advance, reuse_results=reuse_results)
        super().__init__(core)
        self.clock = TestClock(self)
        """The only time there is for executions."""
        self._exits = ExitStack()

    def __enter__(self) -> "TestRuntime":
        from anyio.from_thread import start_blocking_portal

        portal = self._exits.enter_context(start_blocking_portal(name="kitaru-test-runtime"))
        try:
            portal.call(self._core.open)
        except BaseException:
            self._exits.close()
            raise
        self._exits.callback(portal.call, self._core.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.close()

    async def __aenter__(self) -> "TestRuntime":
        await self._core.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._core.close()

    @property
    def aio(self) -> "AsyncTestRuntime":
        """The same runtime, for code on an event loop."""
        return AsyncTestRuntime(self._core)

    def run(
        self,
        flow: Flow[P, R] | AsyncFlow[P, R],
        /,
        *args: Any,
        answers: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> R:
        """Runs a flow to its end and returns its result; time passes as it is needed.

        `answers` are given to its waits when they are open, by id or name; one that can be called
        is called for its value. Raises what ``handle.wait()`` raises, and NothingHappens, with the
        timeline, when the flow waits for what is not given.
        """
        result: R = self._do("run", self._core.run(flow, args, kwargs, answers))
        return result

    def outcome(self, execution: Execution, *, answers: Mapping[str, Any] | None = None) -> Any:
        """Brings an execution that was started elsewhere to its end, as `run` does."""
        return self._do("outcome", self._core.outcome(execution, answers))

    def settle(self) -> None:
        """Blocks until nothing happens any more but by time, or by somebody's act."""
        self._do("settle", self._core.settle())

    def answer(self, execution: Execution, wait: str, value: Any = None) -> None:
        """Answers a wait, by id or name, as ``executions.input`` does."""
        self._do("answer", self._core.answer(execution, wait, value))

    def cancel(self, execution: Execution, reason: str = "") -> None:
        """Asks an execution to end."""
        self._do("cancel", self._core.cancel(execution, reason))

    def crash(self) -> None:
        """Kills the process at once; another one takes its executions over.

        What its bodies still do, as threads cannot be killed, reaches no journal. Handles are of
        the process that has died: go on with ``outcome(handle)``.
        """
        self._do("crash", self._core.crash())

    def status(self, execution: Execution) -> ExecutionStatus:
        """Where an execution stands."""
        return self._do("status", self._core.status(execution))

    def timeline(self, execution: Execution) -> str:
        """An execution's journal, one line for each event."""
        return self._do("timeline", self._core.timeline(execution))

    def events(self, execution: Execution) -> list[TimelineEntry]:
        """An execution's journal, one entry for each event."""
        return self._do("events", self._core.events(execution))

    def _do(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        if asyncio._get_running_loop() is self._core.loop:
            work.close()
            raise KitaruUsageError(
                f"runtime.{name}() would block the event loop that it needs; "
                f"use `await runtime.aio.{name}(...)` instead."
            )
        return asyncio.run_coroutine_threadsafe(work, self._core.loop).result()


class AsyncTestRuntime(_Face):
    """The methods of a `TestRuntime` that are awaited."""

    async def run(
        self,
        flow: Flow[P, R] | AsyncFlow[P, R],
        /,
        *args: Any,
        answers: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> R:
        """As `TestRuntime.run`."""
        result: R = await self._do(self._core.run(flow, args, kwargs, answers))
        return result

    async def outcome(
        self, execution: Execution, *, answers: Mapping[str, Any] | None = None
    ) -> Any:
        """As `TestRuntime.outcome`."""
        return await self._do(self._core.outcome(execution, answers))

    async def settle(self) -> None:
        """As `TestRuntime.settle`."""
        await self._do(self._core.settle())

    async def advance(
        self,
        by: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """As `TestClock.advance`."""
        span = _span(by, days, hours, minutes, seconds)
        await self._do(self._core.advance(span))

    async def answer(self, execution: Execution, wait: str, value: Any = None) -> None:
        """As `TestRuntime.answer`."""
        await self._do(self._core.answer(execution, wait, value))

    async def cancel(self, execution: Execution, reason: str = "") -> None:
        """As `TestRuntime.cancel`."""
        await self._do(self._core.cancel(execution, reason))

    async def crash(self) -> None:
        """As `TestRuntime.crash`."""
        await self._do(self._core.crash())

    async def status(self, execution: Execution) -> ExecutionStatus:
        """As `TestRuntime.status`."""
        return await self._do(self._core.status(execution))

    async def timeline(self, execution: Execution) -> str:
        """As `TestRuntime.timeline`."""
        return await self._do(self._core.timeline(execution))

    async def events(self, execution: Execution) -> list[TimelineEntry]:
        """As `TestRuntime.events`."""
        return await self._do(self._core.events(execution))

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio.get_running_loop() is self._core.loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._core.loop))


class TestClock:
    """The clock of a test's runtime: it stands still until somebody moves it.

    While somebody waits for an execution, and nothing runs, it moves by itself to whatever is due
    next (unless the runtime was told ``auto_advance=False``).
    """

    __test__ = False

    def __init__(self, runtime: TestRuntime) -> None:
        self._runtime = runtime

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return instant_of(self._runtime._core.clock())

    def advance(
        self,
        by: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Lets time pass, and blocks until all that has become due has happened.

        Timers, deadlines and delays between attempts that lie on the way become due one after the
        other, each at its own time. In async code on the runtime's loop: ``await
        runtime.aio.advance(...)``.
        """
        span = _span(by, days, hours, minutes, seconds)
        self._runtime._do("advance", self._runtime._core.advance(span))

    def __repr__(self) -> str:
        return f"TestClock({self.now.isoformat()})"


def _span(
    by: timedelta | None, days: float, hours: float, minutes: float, seconds: float
) -> timedelta:
    return (by or timedelta(0)) + timedelta(
        days=days, hours=hours, minutes=minutes, seconds=seconds
    )


def id_of(execution: Execution) -> str:
    """The id of an execution that a handle or its id stands for."""
    if isinstance(execution, str):
        return execution
    if isinstance(execution, FlowHandle | AsyncFlowHandle):
        return execution.exec_id
    raise KitaruUsageError(f"A handle or an execution's id is needed, not {execution!r}.")


def _goes_on(state: str) -> bool:
    return state in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING)
