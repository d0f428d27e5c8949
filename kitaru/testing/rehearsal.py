"""Runs a flow once, with faults: processes die and come back, time passes, answers are given."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from journal import RecordedEvent
from kitaru import settings, telemetry
from kitaru.bootstrap import Runtime, standing_in
from kitaru.domain.execution.events import (
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    FrozenOptions,
)
from kitaru.engine.executions import state_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError
from kitaru.operations import executions, resolving, waits
from kitaru.operations.executions import Prepared
from kitaru.status import ExecutionStatus
from kitaru.testing.bodies import Bodies, BodyRun, Ended
from kitaru.testing.clock import StillClock
from kitaru.testing.errors import NothingHappens
from kitaru.testing.fate import Destiny
from kitaru.testing.fault import AnyFault, check_faults
from kitaru.testing.laws import broken_laws
from kitaru.testing.timeline import timeline_text
from kitaru.testing.world import PATIENCE_SECONDS, AnyFlow, Running, World

T = TypeVar("T")
Answers = Mapping[str, Any]
KEY = "rehearsal"
SEED = "rehearsal"
MOST_TURNS = 100_000


class Outcome(Struct, frozen=True):
    """How an execution has ended."""

    status: ExecutionStatus
    value: Any = None
    """What the flow returned."""
    error: str = ""
    """What it raised, or how it diverged: type and message."""
    data: bytes = b""
    """The value as the journal has it."""

    def is_same(self, other: "Outcome") -> bool:
        """Whether two executions have come to the same."""
        if self.status != other.status or self.error != other.error:
            return False
        return self.data == other.data or bool(self.value == other.value)

    def __str__(self) -> str:
        match self.status:
            case ExecutionStatus.COMPLETED:
                return f"returned {self.value!r}"
            case ExecutionStatus.FAILED:
                return f"raised {self.error}"
            case ExecutionStatus.DIVERGED:
                return f"diverged: {self.error}"
            case status:
                return str(status)


class Run(Struct, frozen=True):
    """What one rehearsal has left behind."""

    exec_id: str
    outcome: Outcome
    recorded: tuple[RecordedEvent, ...]
    commits: tuple[int, ...]
    """The execution's version after each append."""
    happened: tuple[AnyFault, ...]
    """The faults that have come to pass."""
    bodies: tuple[BodyRun, ...]
    """Every checkpoint's body that has begun, in all processes."""
    processes: int
    reviews: int
    """How many lost attempts of checkpoints that may run only once were reviewed."""
    problems: tuple[str, ...]
    """The laws of the engine that did not hold."""

    @property
    def timeline(self) -> str:
        """The journal, for people."""
        return self.marked_timeline()

    def marked_timeline(self, version: int = 0) -> str:
        """The same, with a mark after an event."""
        return timeline_text(self.recorded, version)

    @property
    def events(self) -> list[ExecutionEvent]:
        """The journal, decoded."""
        return [decode_event(fact) for fact in self.recorded]

    @property
    def boundaries(self) -> tuple[int, ...]:
        """After how many events a process can die: after each append but the last."""
        return self.commits[:-1]


class Rehearsal:
    """One execution of a flow, and what befalls it."""

    def __init__(
        self,
        flow: AnyFlow,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        faults: Sequence[AnyFault] = (),
        answers: Answers | None = None,
        bodies: Bodies | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        check_faults(tuple(faults))
        self.flow = flow
        self.args = tuple(args)
        self.kwargs = dict(kwargs)
        self.answers = dict(answers or {})
        self.bodies = bodies or Bodies()
        self.patience_seconds = patience_seconds
        self.exec_id = executions.new_exec_id(flow.name, KEY)
        self.destiny = Destiny(stream_of(self.exec_id), faults)
        self.clock = StillClock()
        self.world: World
        self.running: Running
        self._stand_in: Callable[[Runtime], None]
        self._left: list[Running] = []
        """Processes that were taken over from, and still run."""
        self._jumps: list[int] = []
        self._given = 0
        self._reviews = 0

    async def run(self) -> Run:
        """Plays it to its end. Raises NothingHappens when it does not come to one."""
        self.world = world = await World.open(self.clock, self.bodies, self.destiny)
        world.patience_seconds = self.patience_seconds
        self.destiny.jumped = self._jumps.append
        with telemetry.muted(), standing_in() as self._stand_in:
            self._begin_process()
            try:
                await self._start()
                await self._play()
                run = await self._left_behind()
            except BaseException:
                # What has gone wrong is told, not what its remains do.
                with contextlib.suppress(NothingHappens):
                    await self._end()
                raise
            await self._end()
            return run

    async def _end(self) -> None:
        for running in [self.running, *self._left]:
            await self.world.end_process(running)
        await self.world.close()

    def _begin_process(self) -> None:
        self.running = self.world.begin_process(
            [(self.flow.reference, self.flow.definition)], notes_starts=False
        )
        self.destiny.serving = self.running.process
        self._stand_in(self.running.runtime)

    async def _start(self) -> None:
        for _ in range(2 if self.destiny.arrives_twice(0) else 1):
            prepared = self._prepared()
            # Its process may die of the start: then it is durable, and another goes on.
            with contextlib.suppress(KitaruBackendError):
                await executions.start(self.running.runtime, prepared)

    def _prepared(self) -> Prepared:
        flow = self.flow
        config = settings.in_force()
        options = flow._options
        return executions.prepare(
            self.running.runtime,
            flow.definition,
            flow.reference,
            "",
            flow.definition.binder.name_all(self.args, self.kwargs),
            FrozenOptions(
                retries=config.retries if options.retries is None else options.retries,
                cache=False if options.cache is None else options.cache,
            ),
            KEY,
            SEED,
        )

    # the play

    async def _play(self) -> None:
        for _ in range(MOST_TURNS):
            await self.world.settle(
                self.running, self._needs_attention, lambda: self.destiny.news_lost
            )
            if await self._turn():
                return
        raise NothingHappens(f"the flow does not come to an end:\n{await self._text()}")

    def _needs_attention(self) -> bool:
        process = self.running.process
        return process.is_dead or process.hangs or bool(self._jumps) or self._is_over()

    def _is_over(self) -> bool:
        """Whether the execution has ended, and its runner knows."""
        if self.exec_id in self.running.worker.runners:
            return False
        head = self.world.head(self.exec_id)
        return head is not None and head.state not in ("running", "waiting")

    async def _turn(self) -> bool:
        """Does the next thing that somebody or time has to do; True when the play is over."""
        running = self.running
        if self._jumps:
            await self.world.move_to(self.clock() + self._jumps.pop(0), running)
        elif running.process.is_dead:
            await self.world.end_process(running)
            if self.world.head(self.exec_id) is None:
                # It has died before the start was durable: whoever has started it, tries again.
                self._begin_process()
                await self._start()
            else:
                self._begin_process()
        elif running.process.hangs:
            self._left.append(running)
            self._begin_process()
        elif self._is_over():
            return True
        else:
            await self._go_on()
        return False

    async def _go_on(self) -> None:
        """Nothing happens: an answer, a body that is let through, or time must bring it on."""
        running = self.running
        if self.destiny.news_lost:
            self.destiny.news_lost = False
            running.process.look_again()
            # What looks regularly does so now and then only.
            await asyncio.sleep(0.15)
            return
        if await self._answer_or_review():
            return
        held = running.worker.held
        if held:
            running.worker.let_through(held[self.destiny.pick([each.path for each in held])])
            return
        due_at = await self.world.next_due(running)
        if due_at is None:
            raise NothingHappens(await self._told_idle())
        await self.world.move_to(due_at, running)

    async def _answer_or_review(self) -> bool:
        state = state_of(await self.world.recorded(self.exec_id))
        for wait in state.waits:
            if wait.is_review:
                await self._review(wait.path)
                return True
            for name in (wait.id, wait.path, wait.name):
                if name in self.answers:
                    await self._answer(wait.id, self.answers[name])
                    return True
        return False

    async def _answer(self, wait: str, value: Any) -> None:
        self._given += 1
        for again in range(2 if self.destiny.arrives_twice(self._given) else 1):
            try:
                given = value() if callable(value) else value
                await waits.give_input(self.running.runtime, self.exec_id, wait, given)
            except KitaruBackendError:
                # The process that it came through has died: it may have arrived all the same.
                return
            except KitaruStateError:
                # Its execution may have ended of the first.
                if not again:
                    raise

    async def _review(self, path: str) -> None:
        """Says what came of a lost attempt: the truth, as an operator would find it out."""
        self._reviews += 1
        runtime = self.running.runtime
        truth = self._truth(path)
        with contextlib.suppress(KitaruBackendError):
            if truth is None:
                await resolving.let_run_again(runtime, self.exec_id, path)
            elif truth.error is None:
                result = _as_json(truth.value, path)
                await resolving.give_result(runtime, self.exec_id, path, result)
            else:
                await resolving.give_failure(runtime, self.exec_id, path, str(truth.error))

    def _truth(self, path: str) -> Ended | None:
        """What the call's last attempt has come to; None when its body never ran."""
        ended = [known for known in self.bodies.ended if known.run.path == path]
        return ended[-1] if ended else None

    # what is left

    async def _left_behind(self) -> Run:
        recorded = tuple(await self.world.recorded(self.exec_id))
        head = self.world.head(self.exec_id)
        assert head is not None
        return Run(
            exec_id=self.exec_id,
            outcome=await self._outcome(_end_of(recorded)),
            recorded=recorded,
            commits=tuple(self.destiny.commits),
            happened=tuple(self.destiny.happened),
            bodies=tuple(run for run in self.bodies.begun if run.exec_id == self.exec_id),
            processes=self.world.started,
            reviews=self._reviews,
            problems=(*self.destiny.problems, *broken_laws(recorded, head)),
        )

    async def _outcome(self, end: ExecutionEvent) -> Outcome:
        match end:
            case ExecutionCompleted(result=result):
                data = bytes(result.json)
                if result.blob is not None:
                    data = await self.world.journal.get_blob(result.blob)
                value = self.running.runtime.codec.decode(data, self.flow.definition.types)
                return Outcome(ExecutionStatus.COMPLETED, value=value, data=data)
            case ExecutionFailed(error=error):
                text = f"{error.type}: {error.message}"
                return Outcome(ExecutionStatus.FAILED, error=text)
            case ExecutionCancelled(reason=reason):
                return Outcome(ExecutionStatus.CANCELLED, error=reason)
            case ExecutionDiverged(report=report):
                return Outcome(ExecutionStatus.DIVERGED, error=report)
            case other:
                raise AssertionError(f"{type(other).__name__} is no end")

    async def _text(self) -> str:
        return timeline_text(await self.world.recorded(self.exec_id))

    async def _told_idle(self) -> str:
        state = state_of(await self.world.recorded(self.exec_id))
        if state.questions:
            first = state.questions[0].name
            ids = ", ".join(repr(wait.id) for wait in state.questions)
            problem = (
                f"the flow waits for {ids}, and the test gives no answer: "
                f"add answers={{{first!r}: ...}}"
            )
        else:
            problem = "the flow waits, and nothing is left that could bring it on"
        refused = self.running.worker.why_not(self.exec_id)
        if refused is not None:
            problem = f"the flow cannot be taken over: {refused}"
        return f"{problem}\n{await self._text()}"


_ENDS = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled, ExecutionDiverged)


def _end_of(recorded: Sequence[RecordedEvent]) -> ExecutionEvent:
    """The event with which an execution that is over has ended, whatever stands behind it."""
    return next(it for it in map(decode_event, reversed(recorded)) if isinstance(it, _ENDS))


def _as_json(value: Any, path: str) -> Any:
    """A result as the plain JSON that an operator would give for it."""
    dumped = getattr(value, "model_dump", None)
    if callable(dumped):
        return dumped(mode="json")
    try:
        return msgspec.to_builtins(value)
    except TypeError as error:
        raise KitaruUsageError(
            f"the attempt of {path!r} was lost, and its result has no plain JSON that a review "
            f"could give for it: {error}. Let a stand-in return another value."
        ) from error


def run_apart(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on an event loop of its own, whether or not one runs on this thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                results.append(runner.run(make()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="kitaru-rehearsal", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def is_flow(flow: object) -> bool:
    """Whether something was made by `@flow`."""
    return getattr(flow, "__kitaru_flow__", False) is True and not inspect.isclass(flow)
