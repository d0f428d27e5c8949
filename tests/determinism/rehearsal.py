"""Runs a program live, from every prefix of its journal, and again from the whole of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

import kitaru
from journal import Append, NewEvent, RecordedEvent
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    FlowAttemptFailed,
    TimerFired,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, new_event, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.sdk.flow import AsyncFlow, Flow

STUCK_SECONDS = 20.0
"""How long an execution may take before a test calls it stuck."""
AnyFlow = AsyncFlow[..., Any] | Flow[..., Any]


class Run(Struct, frozen=True):
    """What one execution has left behind."""

    exec_id: str
    history: tuple[RecordedEvent, ...]
    trace: tuple[str, ...]
    bodies: tuple[str, ...]

    @property
    def events(self) -> list[ExecutionEvent]:
        """The journal, decoded."""
        return [decode_event(fact) for fact in self.history]


class Stage:
    """One flow on one runtime, and where its bodies leave what they do."""

    def __init__(
        self, flow: AnyFlow, traces: dict[str, list[str]], bodies: dict[str, list[str]]
    ) -> None:
        self.flow = flow
        self.traces = traces
        self.bodies = bodies
        self.runtime: Runtime = current_runtime()
        self.runtime.worker.registry.serve(flow.reference, flow.definition)
        self._count = 0

    async def live(self, key: str) -> Run:
        """A first run."""
        handle = await self.flow.aio.run(key)
        return await self.ended(handle.exec_id)

    async def replanted(
        self, history: Sequence[RecordedEvent], *more: ExecutionEvent, seed: str
    ) -> Run:
        """A run of an execution with the first events of another: as after a crash."""
        self._count += 1
        exec_id = f"{seed}-{self._count}"
        events = [decode_event(fact) for fact in history]
        started = events[0]
        assert isinstance(started, ExecutionStarted)
        first = msgspec.structs.replace(started, seed=started.seed or seed)
        planted = [new_event(first)]
        planted += [NewEvent(fact.type, fact.payload, fact.schema) for fact in history[1:]]
        planted += [new_event(event) for event in more]
        await self.runtime.journal.append(
            Append(
                stream=stream_of(exec_id),
                events=tuple(planted),
                expected_version=0,
                head=head_of(fold(ABSENT, [first, *events[1:], *more])),
            )
        )
        self.runtime.worker.look_now()
        return await self.ended(exec_id)

    async def prefix(self, key: str, outcomes: int) -> list[RecordedEvent]:
        """The first events of a run that does not end by itself: it is dropped."""
        handle = await self.flow.aio.run(key)
        history: list[RecordedEvent] = []
        while sum(isinstance(decode_event(it), CheckpointCompleted) for it in history) < outcomes:
            await asyncio.sleep(0)
            history = await self.runtime.journal.read_stream(stream_of(handle.exec_id))
        self.runtime.worker.runners[handle.exec_id].stop()
        return history

    async def ended(self, exec_id: str) -> Run:
        """What an execution has left behind when it is over."""
        await executions.ending_of(self.runtime, exec_id, STUCK_SECONDS)
        # The runner is dropped after its last event was seen.
        while exec_id in self.runtime.worker.runners:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0)
        history = await self.runtime.journal.read_stream(stream_of(exec_id))
        return Run(
            exec_id,
            tuple(history),
            tuple(self.traces.pop(exec_id, ())),
            tuple(self.bodies.pop(exec_id, ())),
        )


async def rehearse(stage: Stage, key: str, *, cancel_at: int | None = None) -> list[Run]:
    """The laws of "same history, same decisions", for one program. Returns the runs.

    A first run; then the whole journal again; then, from each prefix of it (perhaps with a cancel
    request behind it), on in another order, and that whole journal again.
    """
    first = await stage.live(key)
    await check_replay(stage, first, first.exec_id)
    prefixes = range(1, len(first.history))
    runs = await asyncio.gather(*(_crashed(stage, first, count) for count in prefixes))
    if cancel_at is not None:
        count = 1 + cancel_at % len(prefixes)
        if not any(isinstance(event, CancelRequested) for event in first.events[:count]):
            runs.append(await _crashed(stage, first, count, CancelRequested(reason="enough")))
    return [first, *runs]


async def _crashed(stage: Stage, first: Run, count: int, *more: ExecutionEvent) -> Run:
    prefix = first.history[:count]
    run = await stage.replanted(prefix, *more, seed=first.exec_id)
    what = f"after a crash behind event {count}" + (" and a cancel request" if more else "")
    assert [fact.payload for fact in run.history[1:count]] == [
        fact.payload for fact in prefix[1:]
    ], f"the journal was rewritten {what}"
    twice = _completed(run.events[:count]) & _completed(run.events[count:])
    assert not twice, told(f"completed twice: {twice} {what}", first, run)
    if not any(isinstance(event, FlowAttemptFailed) for event in run.events[count:]):
        again = _paths_of_this_attempt(run.events[:count]) & {*run.bodies}
        assert not again, told(f"ran again: {again} {what}", first, run)
    await check_replay(stage, run, first.exec_id)
    return run


async def check_replay(stage: Stage, run: Run, seed: str) -> None:
    """The whole journal leads to the same decisions, runs nothing and ends the same way."""
    again = await stage.replanted(run.history[:-1], seed=seed)
    ran = {*again.bodies}
    if not stage.flow.definition.asynchronous:
        # A sync body can end while something that it has submitted still runs.
        ran &= _paths_of_this_attempt(run.events)
    assert not ran, told(f"a replay ran {ran}", run, again)
    assert again.trace == run.trace, told("a replay decided otherwise", run, again)
    ends = (ended(run.events), ended(again.events))
    assert ends[0] == ends[1], told(f"a replay ended otherwise: {ends}", run, again)


def ended(events: Sequence[ExecutionEvent]) -> str:
    """How an execution ended, without what is different each time."""
    match events[-1]:
        case ExecutionCompleted(result=result):
            return f"completed: {bytes(result.json).decode()}"
        case ExecutionFailed(error=error):
            return f"failed: {error.type}: {error.message}"
        case last:
            return type(last).__name__


def _completed(events: Sequence[ExecutionEvent]) -> set[tuple[str, str]]:
    return {
        (event.path, event.arguments_digest)
        for event in events
        if isinstance(event, CheckpointCompleted)
    }


def _paths_of_this_attempt(events: Sequence[ExecutionEvent]) -> set[str]:
    paths: set[str] = set()
    for event in events:
        match event:
            case FlowAttemptFailed():
                paths.clear()
            case CheckpointCompleted(path=path) | CheckpointFailed(path=path, retry_at=None):
                paths.add(path)
    return paths


def told(problem: str, *runs: Run) -> str:
    """A failure, for people: the journals and the traces side by side."""
    lines = [problem]
    for run in runs:
        lines.append(f"--- execution {run.exec_id}")
        lines += [f"  {fact.version:3} {_event_text(decode_event(fact))}" for fact in run.history]
        lines.append("  trace:")
        lines += [f"    {line}" for line in run.trace]
    return "\n".join(lines)


def _event_text(event: ExecutionEvent) -> str:
    match event:
        case CheckpointCompleted(path=path, result=result):
            return f"CheckpointCompleted {path} {bytes(result.json).decode()}"
        case CheckpointFailed(path=path, error=error, retry_at=retry_at):
            return f"CheckpointFailed {path} {error.message} retry_at={retry_at}"
        case TimerFired(path=path):
            return f"TimerFired {path}"
        case _:
            path = getattr(event, "path", "")
            return f"{type(event).__name__} {path}"


def run_on_memory(scene: Any) -> Any:
    """Runs `scene()`, a coroutine function, with a runtime in memory."""

    async def run() -> Any:
        async with kitaru.runtime(journal="memory://"):
            return await scene()

    with asyncio.Runner() as runner:
        return runner.run(run())
