"""Plays a conformance case: processes that die and come back over one journal, and its clients."""

import asyncio
import contextlib
import importlib.util
import json
import linecache
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

import kitaru
from journal import (
    Append,
    Appended,
    ClaimQuery,
    CommitOutcomeUnknown,
    Head,
    Journal,
    JournalClosed,
    JournalError,
    JournalUnavailable,
    Lease,
    RecordedEvent,
    open_journal,
    verify_stream,
)
from kitaru.bootstrap import Runtime, set_explicit
from kitaru.domain.execution.events import EVENT_TYPES, ExecutionEvent, ExecutionParked
from kitaru.domain.execution.state import ABSENT, evolve
from kitaru.engine.executions import head_of, state_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.sdk.flow import AsyncFlow, Flow
from kitaru.status import ExecutionStatus
from tests.conformance import stagehands
from tests.conformance.case import (
    FIRST,
    MAIN,
    NOTHING,
    Abort,
    Answer,
    Cancel,
    Case,
    Clock,
    Colour,
    Dies,
    Down,
    Fork,
    Held,
    Release,
    Repeat,
    Resolve,
    Restart,
    Resume,
    Retry,
    RetryNow,
    Start,
    Steal,
    Steering,
    Step,
    Until,
    Up,
    source_of,
    steps_of,
)
from tests.conformance.lines import journal_text, line_of

AnyFlow = AsyncFlow[..., Any] | Flow[..., Any]
LEASE_SECONDS = 30.0
GRACE_SECONDS = 0.15
MODULE = "conformance_program"
PREAMBLE = """\
import asyncio, contextlib, dataclasses, datetime, enum, decimal, pathlib, uuid
import kitaru
from kitaru import Retry, checkpoint, flow
from tests.conformance.stagehands import hold_{colour} as hold, ran
"""


class Process:
    """What one process sees of the journal: until it dies."""

    def __init__(self, journal: Journal, stage: "Stage") -> None:
        self.journal = journal
        self.stage = stage
        self.dies: Dies | None = None
        self.seen = 0
        """How many of the events that it is to die of have come."""
        self.dead = asyncio.Event()
        self.is_dead = False
        self.hangs = False
        """Whether it takes no part in the hunt for leases any more."""

    def __getattr__(self, name: str) -> Any:
        if self.is_dead and name not in ("now", "location", "watch"):
            raise JournalClosed("this process is dead")
        return getattr(self.journal, name)

    async def append(self, append: Append) -> Appended:
        struck = self._struck(append)
        appended = await self.journal.append(append)
        self._after(struck)
        return appended

    def append_blocking(self, append: Append) -> Appended:
        struck = self._struck(append)
        appended = self.journal.append_blocking(append)
        self._after(struck)
        return appended

    def append_soon(
        self, append: Append, done: Callable[[Appended | None, BaseException | None], None]
    ) -> None:
        try:
            struck = self._struck(append)
        except JournalError as error:
            asyncio.get_running_loop().call_soon(done, None, error)
            return

        def told(appended: Appended | None, error: BaseException | None) -> None:
            if struck and appended is not None:
                self.die()
                appended, error = None, CommitOutcomeUnknown("the process died")
            done(appended, error)

        self.journal.append_soon(append, told)

    async def claim(self, query: ClaimQuery) -> list[tuple[Head, Lease]]:
        if self.is_dead or self.hangs:
            return []
        return await self.journal.claim(query)

    async def release(self, lease: Lease) -> None:
        if not (self.is_dead or self.hangs):
            await self.journal.release(lease)

    async def close(self) -> None:
        self.is_dead = True
        await self.stage.disconnect(self.journal)

    def die(self) -> None:
        """Nothing of it reaches the journal from now on."""
        self.is_dead = True
        self.stage.loop.call_soon_threadsafe(self.dead.set)

    def _struck(self, append: Append) -> bool:
        """Whether it dies of this append. Raises when it does before, or is dead."""
        if self.is_dead:
            raise JournalUnavailable("this process is dead")
        dies = self.dies
        if dies is None or not self._meets(append, dies):
            return False
        if dies.before:
            self.die()
            raise JournalUnavailable("the process died")
        return True

    def _meets(self, append: Append, dies: Dies) -> bool:
        wanted = dies.before or dies.after
        for event in append.events:
            if fits(line_of(self.stage.decoded(event.type, event.payload), {}), wanted):
                self.seen += 1
                if self.seen == dies.nth:
                    return True
        return False

    def _after(self, struck: bool) -> None:
        if struck:
            self.die()
            raise CommitOutcomeUnknown("the process died")


def fits(line: str, wanted: str) -> bool:
    """Whether a line begins with these words."""
    return line == wanted or line.startswith(f"{wanted} ")


class Stage:
    """The journal of one case, the processes over it, and the executions in it."""

    def __init__(self, case: Case, colour: Colour, backend: str, folder: Path) -> None:
        self.case = case
        self.colour = colour
        self.backend = backend
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        self.records = stagehands.reset()
        self.offset_us = 0
        self.program = FIRST
        self.module: Any = None
        self.ids: dict[str, str] = {}
        self.flows: dict[str, AnyFlow] = {}
        self.process: Process | None = None
        self.next_dies: Dies | None = None
        """What the next process that serves the flow dies of."""
        self.runtimes: list[Runtime] = []
        self._in_memory: Journal | None = None
        self._observer: Journal | None = None

    def clock(self) -> int:
        """The journal's clock."""
        return time.time_ns() // 1_000 + self.offset_us

    @staticmethod
    def decoded(tag: str, payload: bytes) -> ExecutionEvent:
        """An event that is about to be appended."""
        event: Any = msgspec.json.decode(payload, type=EVENT_TYPES[tag][0])
        return cast("ExecutionEvent", event)

    # the journal

    async def connect(self) -> Journal:
        """The journal as a new process opens it."""
        if self.backend == "sqlite":
            return await open_journal(f"sqlite:///{self.folder / 'journal.db'}", clock=self.clock)
        if self._in_memory is None:
            self._in_memory = await open_journal("memory://", clock=self.clock)
        return self._in_memory

    async def disconnect(self, journal: Journal) -> None:
        """A process no longer needs it."""
        if journal is not self._in_memory:
            await journal.close()

    async def observer(self) -> Journal:
        """Nobody's view of the journal."""
        if self._observer is None:
            self._observer = await self.connect()
        return self._observer

    async def events(self, name: str) -> list[ExecutionEvent]:
        """The events of an execution; none when it is not there."""
        if name not in self.ids:
            return []
        journal = await self.observer()
        return [decode_event(fact) for fact in await journal.read_stream(self._stream(name))]

    async def text(self, name: str) -> str:
        """An execution's journal, for comparison."""
        return journal_text(await self.events(name), {each: key for key, each in self.ids.items()})

    async def status(self, name: str) -> str:
        """Where an execution stands."""
        head = await (await self.observer()).head(self._stream(name))
        return "absent" if head is None else head.state

    def _stream(self, name: str) -> str:
        return stream_of(self.ids[name])

    # processes

    def load(self, program: str) -> None:
        """Puts the code into its file, and reads it as a new process does."""
        file = self.folder / f"{MODULE}.py"
        text = source_of(self.case.programs[program], self.colour)
        file.write_text(PREAMBLE.format(colour=self.colour) + text, encoding="utf-8")
        linecache.checkcache(str(file))
        specification = importlib.util.spec_from_file_location(MODULE, file)
        assert specification is not None
        assert specification.loader is not None
        self.module = importlib.util.module_from_spec(specification)
        sys.modules[MODULE] = self.module
        # Not by its loader: two versions of one second and one length would be one to its cache.
        exec(compile(file.read_bytes(), file, "exec"), self.module.__dict__)
        self.flows = {
            name: it for name, it in vars(self.module).items() if isinstance(it, AsyncFlow | Flow)
        }

    async def open_process(self, *, serving: bool) -> None:
        """A new process, which is the one that steps are done in from now on."""
        process = Process(await self.connect(), self)
        if serving:
            process.dies, self.next_dies = self.next_dies, None

        async def opened(_url: str) -> Any:
            return process

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kitaru.bootstrap.open_journal", opened)
            runtime = await Runtime.open("memory://", LEASE_SECONDS)
        self.process = process
        self.runtimes.append(runtime)
        set_explicit(None)
        set_explicit(runtime)
        if serving:
            for flow in self.flows.values():
                runtime.worker.registry.serve(flow.reference, flow.definition)
            runtime.worker.look_now()

    async def up(self, program: str) -> None:
        """A process that has the flow's code."""
        await self.close_process(orderly=True)
        if program:
            self.program = program
        self.load(self.program)
        await self.open_process(serving=True)

    async def down(self, *, orderly: bool) -> None:
        """The process ends, and what follows is done from another, which runs no flow."""
        process = self.process
        assert process is not None
        if process.dies is not None:
            await self.in_time(process.dead.wait(), f"the process never came to {process.dies}")
        await self.close_process(orderly=orderly)
        if not orderly:
            # Its leases are over by the time that anybody else looks.
            self.offset_us += round(LEASE_SECONDS * 1_000_000) + 1
        await self.open_process(serving=False)

    async def close_process(self, *, orderly: bool) -> None:
        """Ends the process that steps are done in."""
        if self.process is None:
            return
        if not orderly:
            self.process.die()
        set_explicit(None)
        await self.runtimes.pop().close()
        self.process = None

    async def close(self) -> None:
        """The case is over."""
        self.records.open_all()
        set_explicit(None)
        for runtime in self.runtimes:
            with contextlib.suppress(JournalError):
                await runtime.close()
        if self._observer is not None:
            await self._observer.close()
        sys.modules.pop(MODULE, None)

    # steps

    async def play(self, steps: Sequence[Step]) -> None:
        """Does one thing after the other."""
        for step in steps:
            await self._do(step)

    async def _do(self, step: Step) -> None:
        match step:
            case Start():
                await self._refused(step.refused, self._start(step))
            case Dies():
                if self.runtimes[-1].worker.registry.names:
                    assert self.process is not None
                    self.process.dies, self.process.seen = step, 0
                else:
                    self.next_dies = step
            case Down(orderly=orderly):
                await self.down(orderly=orderly)
            case Up(program=program):
                await self.up(program)
            case Restart(program=program, orderly=orderly):
                await self.down(orderly=orderly)
                await self.up(program)
            case Steal(of=of):
                await self._steal(of)
            case Until():
                await self._until(step)
            case Held(gate=gate, count=count):
                await self._held(gate, count)
            case Release(gate=gate):
                self.records.gate(gate).set()
            case Clock(seconds=seconds):
                self.offset_us += round(seconds * 1_000_000)
                self.runtimes[-1].worker.look_now()
            case Repeat(times=times, steps=written):
                for _ in range(times):
                    await self.play(steps_of(self.case.id, written))
            case Steering():
                async with self._client():
                    await self._refused(step.refused, self._steer(step))
            case _:
                raise AssertionError(step)

    async def _start(self, step: Start) -> None:
        name = step.flow or next(iter(self.flows))
        flow: Any = self.flows[name].with_options(
            retries=step.retries, cache=step.cache, idempotency_key=step.key
        )
        handle = flow.aio.run(*step.arguments)
        self.ids[step.name] = handle.exec_id
        await handle

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[None]:
        """Whoever steers: beside the flow, or, when its process is about to die, from another."""
        if self.process is None or self.process.dies is None:
            yield
            return
        serving = self.process
        await self.open_process(serving=False)
        try:
            yield
        finally:
            await self.close_process(orderly=True)
            self.process = serving
            set_explicit(self.runtimes[-1])

    async def _steer(self, step: Steering) -> None:
        executions = kitaru.AsyncKitaruClient().executions
        exec_id = self.ids[step.of]
        match step:
            case Answer(wait=wait, value=value):
                await executions.input(exec_id, wait=wait, value=value)
            case Abort(wait=wait, reason=reason):
                await executions.abort_wait(exec_id, wait=wait, reason=reason)
            case Cancel(reason=reason, force=force):
                if force:
                    await executions.force_cancel(exec_id)
                else:
                    await executions.cancel(exec_id, reason)
            case Retry():
                await executions.retry(exec_id)
            case RetryNow(call=call):
                await executions.retry_now(exec_id, call=call)
            case Resume():
                await executions.resume(exec_id)
            case Resolve(call=call):
                given: dict[str, Any] = {"failed": step.failed, "run_again": step.run_again}
                if step.result != NOTHING:
                    given["result"] = step.result
                await executions.resolve(exec_id, call, **given)
            case Fork():
                made = await executions.replay(
                    exec_id,
                    from_=step.from_,
                    overrides=step.overrides,
                    idempotency_key=step.key,
                    **step.inputs,
                )
                self.ids[step.name] = made.exec_id
            case _:
                raise AssertionError(step)

    async def _refused(self, refused: str, doing: Any) -> None:
        if not refused:
            await doing
            return
        kind, _, text = refused.partition(":")
        with pytest.raises(kitaru.KitaruError) as raised:
            await doing
        assert type(raised.value).__name__ == kind, repr(raised.value)
        assert text.strip() in str(raised.value)

    async def _steal(self, of: str) -> None:
        assert self.process is not None
        self.process.hangs = True
        journal = await self.observer()
        before = await journal.head(self._stream(of))
        assert before is not None
        self.offset_us += round(LEASE_SECONDS * 1_000_000) + 1
        self.load(self.program)
        await self.open_process(serving=True)

        async def stolen() -> bool:
            head = await journal.head(self._stream(of))
            return head is not None and head.epoch > before.epoch

        await self.eventually(stolen, f"nobody takes {of} over")

    async def _held(self, gate: str, count: int) -> None:
        async def there() -> bool:
            return self.records.held[gate] >= count

        await self.eventually(there, f"nobody stands before {gate!r}")

    async def _until(self, step: Until) -> None:
        async def there() -> bool:
            if step.status:
                return await self.status(step.of) == step.status
            names = {each: key for key, each in self.ids.items()}
            lines = [line_of(event, names) for event in await self.events(step.of)]
            return sum(fits(line, step.event) for line in lines) >= step.count

        await self.eventually(there, f"never: {step}")

    async def in_time(self, doing: Any, problem: str) -> None:
        """Waits for something, and says what it was when it does not come."""
        try:
            async with asyncio.timeout(stagehands.DEADLINE_SECONDS):
                await doing
        except TimeoutError:
            raise AssertionError(await self.told(problem)) from None

    async def eventually(self, holds: Callable[[], Awaitable[bool]], problem: str) -> None:
        """Waits until something is true."""
        end = time.monotonic() + stagehands.DEADLINE_SECONDS
        while not await holds():
            if time.monotonic() > end:
                raise AssertionError(await self.told(problem))
            await asyncio.sleep(0.002)

    async def told(self, problem: str) -> str:
        """A failure, for people: with all journals of the case."""
        return "\n".join([problem, *[f"--- {name}\n{await self.text(name)}" for name in self.ids]])

    # the end

    async def settled(self) -> None:
        """Waits until every execution looks as the case says, or nothing more comes of it."""
        unfinished = False
        for name, expected in self.case.expected.items():
            unfinished |= not ExecutionStatus(expected.status).is_finished
            await self._settled(name, expected.status, expected.text(self.colour))
        if unfinished or any(isinstance(step, Steal) for step in self.case.all_steps):
            # Whatever must not happen is given the time to.
            await asyncio.sleep(GRACE_SECONDS)

    async def _settled(self, name: str, status: str, text: str) -> None:
        finished = status in {each.value for each in ExecutionStatus if each.is_finished}
        patience = stagehands.DEADLINE_SECONDS if finished else 10.0
        end = time.monotonic() + patience
        while time.monotonic() < end:
            now = await self.status(name)
            if now == status and (finished or await self.text(name) == text):
                return
            if now in ("completed", "failed", "cancelled", "diverged"):
                return
            await asyncio.sleep(0.002)

    async def outcome(self) -> str:
        """What the handle on the main execution gives."""
        flow = next(iter(self.flows.values()))
        handle: Any = kitaru.AsyncFlowHandle(
            self.runtimes[-1], self.ids[MAIN], flow.definition.types
        )
        try:
            result = await handle.wait(timeout=stagehands.DEADLINE_SECONDS)
        except kitaru.KitaruError as error:
            first = (str(error).splitlines() or [""])[0].replace(self.ids[MAIN], MAIN)
            return f"raises {type(error).__name__}: {first}"
        try:
            return f"returns {json.dumps(result)}"
        except TypeError:
            return f"returns {result!r}"

    async def check_journal(self) -> None:
        """What holds of every execution, whatever its case is about."""
        journal = await self.observer()
        for name in self.ids:
            stream = self._stream(name)
            recorded = await journal.read_stream(stream)
            head = await journal.head(stream)
            assert head is not None
            assert verify_stream(recorded, head=head) == []
            change = head_of(state_of(recorded))
            kept = (head.state, head.name, head.due_at, head.parent, head.summary)
            assert kept == (
                change.state,
                change.name,
                change.due_at,
                change.parent,
                change.summary,
            ), f"the head of {name} is not what its events say"
            check_wake_sources(name, recorded)
            epochs = [fact.epoch for fact in recorded if fact.epoch]
            assert epochs == sorted(epochs), f"an older owner of {name} has written after a newer"


def check_wake_sources(name: str, recorded: Sequence[RecordedEvent]) -> None:
    """Whoever is let go of comes back: a time is set, or people are asked for something."""
    state = ABSENT
    for fact in recorded:
        event = decode_event(fact)
        state = evolve(state, event)
        if isinstance(event, ExecutionParked):
            assert state.due_at is not None or state.waits, f"nothing wakes {name} up"
