"""Forks: what came before the anchor is reused, everything else runs, and the source stays."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

import kitaru
from journal import Append, Claim, NewEvent, RecordedEvent
from journal.backends.in_memory import InMemoryJournal
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    EventOffered,
    OffersTaken,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.forks import Past
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions, waits
from kitaru.sdk.flow import AsyncFlow, Flow

AnyFlow = Flow[..., Any] | AsyncFlow[..., Any]
ANSWER = 7
BLOB = "x" * 50_000

runs: list[str] = []


class OwnError(Exception):
    """An error of the user's own."""


@checkpoint
def add(name: str, value: int) -> int:
    runs.append(name)
    return value + 1


@checkpoint
async def add_async(name: str, value: int) -> int:
    runs.append(name)
    await asyncio.sleep(0.001 * (hash(name) % 3))
    return value + 1


@checkpoint
def echo(value: Any) -> Any:
    runs.append("echo")
    return value


@checkpoint
def broken(name: str) -> None:
    runs.append(name)
    raise OwnError(name)


@checkpoint(retries=1)
def flaky(name: str) -> str:
    runs.append(name)
    if runs.count(name) == 1:
        raise OwnError("first")
    return "second"


@checkpoint
def saving(value: int) -> int:
    kitaru.save("saved", value)
    kitaru.log(value=value)
    return value


@flow
async def tangled(start: int) -> list[Any]:
    total = await add_async("a", start)
    parts = await asyncio.gather(*(add_async(f"g{n}", n) for n in range(4)))
    racers = [asyncio.ensure_future(add_async(f"r{n}", n)) for n in range(3)]
    done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    # The arguments depend on who was first: only the same order finds the recorded call.
    await echo.aio([racers.index(task) for task in racers if task in done])
    if pending:
        await asyncio.wait(pending)
    try:
        await broken.aio("f")
    except OwnError as error:
        caught = str(error)
    await asyncio.sleep(0.001)
    drawn = await echo.aio([kitaru.random(), str(kitaru.uuid4()), kitaru.now().isoformat()])
    try:
        async with asyncio.timeout(0.002):
            await asyncio.sleep(30)
    except TimeoutError:
        total += 1
    answer = await kitaru.wait(schema=int, name="approve")
    large = await echo.aio(BLOB)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_nested(f"n{n}")) for n in range(2)]
    saved = await saving.aio(total)
    again = await flaky.aio("k")
    nested = [task.result() for task in tasks]
    return [total, parts, caught, len(drawn), answer, large, nested, saved, again]


async def _nested(name: str) -> int:
    return await add_async(name + "b", await add_async(name + "a", 0))


@flow
def threaded(start: int) -> list[Any]:
    first = add("first", start)
    futures = add.map([f"m{n}" for n in range(4)], [1, 2, 3, 4])
    winner = kitaru.wait_any(futures)
    echo(futures.index(winner))
    dependent = add.submit("dependent", futures[0], after=futures)
    try:
        broken("f")
    except OwnError as error:
        caught = str(error)
    kitaru.sleep(0.001)
    drawn = echo([kitaru.random(), str(kitaru.uuid4()), kitaru.now().isoformat()])
    answer = kitaru.wait(schema=int, name="approve")
    large = echo(BLOB)
    saved = saving(first)
    again = flaky("k")
    values = [future.result() for future in futures]
    return [first, values, dependent.result(), caught, len(drawn), answer, large, saved, again]


BOTH = pytest.mark.parametrize("body", [tangled, threaded], ids=["async", "sync"])


async def history_of(runtime: Runtime, exec_id: str) -> list[RecordedEvent]:
    return await runtime.journal.read_stream(stream_of(exec_id))


def past_of(exec_id: str, history: Sequence[RecordedEvent]) -> Past:
    return Past(exec_id, [(fact.version, fact.recorded_at, decode_event(fact)) for fact in history])


async def answered(runtime: Runtime, exec_id: str, body: AnyFlow) -> Any:
    """The result, with every wait answered on the way."""
    while True:
        recorded = await history_of(runtime, exec_id)
        state = fold(ABSENT, [decode_event(fact) for fact in recorded])
        if state.is_finished or state.status is ExecutionStatus.DIVERGED:
            break
        for wait in state.waits:
            await waits.give_input(runtime, exec_id, wait.path, ANSWER)
        await asyncio.sleep(0.001)
    return await result_of(runtime, exec_id, body)


async def result_of(runtime: Runtime, exec_id: str, body: AnyFlow) -> Any:
    event = await executions.ending_of(runtime, exec_id, 60)
    return await executions.outcome_of(runtime, exec_id, event, body.definition.types)


async def recorded_by(runtime: Runtime, body: AnyFlow, *args: Any) -> tuple[str, Any]:
    runs.clear()
    handle = await body.aio.run(*args)
    return handle.exec_id, await answered(runtime, handle.exec_id, body)


def replanted(
    runtime: Runtime, body: AnyFlow, history: Sequence[RecordedEvent], exec_id: str
) -> None:
    """A new execution with the first events of another: as if the process had died there."""
    runtime.worker.registry.serve(body.reference, body.definition)
    plant(runtime, history, exec_id)
    runtime.worker.look_now()


def plant(
    runtime: Runtime, history: Sequence[RecordedEvent], exec_id: str, claim: Claim | None = None
) -> None:
    """The events of another execution under another name, each recorded at the same instant."""
    journal = runtime.journal
    assert isinstance(journal, InMemoryJournal)
    clock = journal._clock
    try:
        state = ABSENT
        for fact in history:
            journal._clock = lambda at=fact.recorded_at: at
            state = fold(state, [decode_event(fact)])
            journal.append_blocking(
                Append(
                    stream=stream_of(exec_id),
                    events=(NewEvent(fact.type, fact.payload, fact.schema),),
                    expected_version=fact.version - 1,
                    head=head_of(state),
                    claim=claim if fact is history[-1] else None,
                )
            )
    finally:
        journal._clock = clock


def ran(history: Sequence[RecordedEvent]) -> list[str]:
    """The checkpoints whose own outcome an execution has recorded, each as often as it was."""
    events = [decode_event(fact) for fact in history]
    return [
        event.path
        for event in events
        if isinstance(event, CheckpointCompleted)
        or (isinstance(event, CheckpointFailed) and event.retry_at is None)
    ]


def taken(history: Sequence[RecordedEvent]) -> list[str]:
    events = [decode_event(fact) for fact in history]
    return [path for event in events if isinstance(event, OffersTaken) for path in event.paths]


def at_or_after(past: Past, anchor: str) -> set[str]:
    since = past.calls[anchor].at
    assert since is not None
    return {
        call.path
        for call in past.calls.values()
        if call.kind == "checkpoint" and call.at is not None and call.at >= since
    }


# The law: a fork at any call, without overrides, comes to the same result; it runs exactly the
# calls that were recorded at or after the anchor, and reuses the others. The source stays.


@BOTH
async def test_a_fork_at_every_call_runs_what_came_later_and_nothing_else(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, result = await recorded_by(runtime, body, 5)
        history = await history_of(runtime, source)
        before = fingerprint(await runtime.journal.head(stream_of(source)), history)
        past = past_of(source, history)
        assert len(past.calls) >= 14
        for path in past.calls:
            runs.clear()
            handle = await body.aio.replay(source, from_=path)
            assert await answered(runtime, handle.exec_id, body) == result, path
            own = await history_of(runtime, handle.exec_id)
            later = at_or_after(past, path)
            assert sorted(ran(own)) == sorted(later), path
            assert {p for p in taken(own) if past.calls[p].kind == "checkpoint"} == {
                call.path for call in past.calls.values() if call.kind == "checkpoint"
            } - later, path
        after = await history_of(runtime, source)
        assert fingerprint(await runtime.journal.head(stream_of(source)), after) == before


def fingerprint(head: Any, history: Sequence[RecordedEvent]) -> str:
    return hashlib.sha256(repr((head, history)).encode()).hexdigest()


# A fork survives a crash after every event of its own: nothing is run twice, nothing taken twice.


@BOTH
async def test_a_fork_that_crashes_after_any_event_goes_on(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, result = await recorded_by(runtime, body, 5)
        past = past_of(source, await history_of(runtime, source))
        for number, anchor in enumerate(list(past.calls)[2::5]):
            handle = await body.aio.replay(source, from_=anchor)
            assert await answered(runtime, handle.exec_id, body) == result
            history = await history_of(runtime, handle.exec_id)
            first = 1 + sum(isinstance(decode_event(fact), EventOffered) for fact in history)
            for count in range(first, len(history)):
                exec_id = f"crashed-{number}-{count}"
                replanted(runtime, body, history[:count], exec_id)
                assert await answered(runtime, exec_id, body) == result
                again = await history_of(runtime, exec_id)
                assert len(set(ran(again))) == len(ran(again)), ran(again)
                assert len(set(taken(again))) == len(taken(again)), taken(again)
                assert sorted(ran(again)) == sorted(ran(history))


# The same holds for a fork of a fork, whose source has results that it did not compute itself.


@BOTH
async def test_a_fork_of_a_fork_reuses_what_its_source_reused(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, result = await recorded_by(runtime, body, 5)
        past = past_of(source, await history_of(runtime, source))
        for first in list(past.calls)[3::4]:
            child = await body.aio.replay(source, from_=first)
            assert await answered(runtime, child.exec_id, body) == result
            own_past = past_of(child.exec_id, await history_of(runtime, child.exec_id))
            assert own_past.calls.keys() == past.calls.keys()
            for second in list(own_past.calls)[1::4]:
                grandchild = await body.aio.replay(child.exec_id, from_=second)
                assert await answered(runtime, grandchild.exec_id, body) == result
                own = await history_of(runtime, grandchild.exec_id)
                assert sorted(ran(own)) == sorted(at_or_after(own_past, second)), (first, second)


# A source may be a crashed execution, whatever the last thing was that it recorded.


@BOTH
async def test_a_fork_of_what_a_crash_left_comes_to_the_same_result(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        whole, result = await recorded_by(runtime, body, 5)
        history = await history_of(runtime, whole)
        for count in range(2, len(history), 2):
            source = f"left-{count}"
            plant(runtime, history[:count], source, Claim("a dead one", 86_400))
            past = past_of(source, history[:count])
            for anchor in list(past.calls)[-2:]:
                handle = await body.aio.replay(source, from_=anchor)
                assert await answered(runtime, handle.exec_id, body) == result
                reused = set(taken(await history_of(runtime, handle.exec_id)))
                assert anchor not in reused
                assert reused <= {path for path, call in past.calls.items() if call.outcome}


# Overrides and other inputs: a fork computes what the program computes with the other values, and
# runs nothing whose arguments have stayed the same.


class Step(Struct, frozen=True):
    kind: str
    width: int = 1


programs: dict[int, tuple[Step, ...]] = {}


@checkpoint
def mix(path: str, value: int) -> int:
    return mixed(path, value)


def mixed(path: str, value: int) -> int:
    return int(hashlib.sha256(f"{path} {value}".encode()).hexdigest()[:6], 16)


@checkpoint
def refuse(path: str, value: int) -> int:
    raise OwnError(str(mixed(path, value)))


@flow
def program(number: int, start: int) -> int:
    value = start
    for place, step in enumerate(programs[number]):
        paths = [f"{place}.{part}" for part in range(step.width)]
        if step.kind == "fan":
            futures = [mix.submit(path, value, id=path) for path in paths]
            value = sum(future.result() for future in futures)
        elif step.kind == "chain":
            future = mix.submit(paths[0], value, id=paths[0])
            value = mix.submit(f"{place}.then", future, id=f"{place}.then").result()
        elif step.kind == "fails":
            value = failed(lambda path=paths[0], given=value: refuse(path, given, id=path))
        else:
            value = mix(paths[0], value, id=paths[0])
    return value


@flow
async def program_async(number: int, start: int) -> int:
    value = start
    for place, step in enumerate(programs[number]):
        paths = [f"{place}.{part}" for part in range(step.width)]
        if step.kind == "fan":
            value = sum(await asyncio.gather(*(mix.aio(path, value, id=path) for path in paths)))
        elif step.kind == "chain":
            future = mix.aio.submit(paths[0], value, id=paths[0])
            value = await mix.aio(f"{place}.then", future, id=f"{place}.then")
        elif step.kind == "fails":
            try:
                value = await refuse.aio(paths[0], value, id=paths[0])
            except OwnError as error:
                value = int(str(error))
        else:
            value = await mix.aio(paths[0], value, id=paths[0])
    return value


def failed(call: Any) -> int:
    try:
        result: int = call()
    except OwnError as error:
        return int(str(error))
    return result


def expected(
    steps: Sequence[Step], start: int, overrides: dict[str, int]
) -> tuple[int, dict[str, int]]:
    """The program's result and the argument of each call, with these results replaced."""
    value, asked = start, dict[str, int]()

    def result(path: str, given: int) -> int:
        asked[path] = given
        return overrides.get(path, mixed(path, given))

    for place, step in enumerate(steps):
        paths = [f"{place}.{part}" for part in range(step.width)]
        if step.kind == "chain":
            value = result(f"{place}.then", result(paths[0], value))
        else:
            value = sum([result(path, value) for path in paths])
    return value, asked


steps = st.builds(Step, st.sampled_from(["call", "chain", "fails"])) | st.builds(
    Step, st.just("fan"), st.integers(2, 4)
)


@pytest.mark.parametrize("body", [program_async, program], ids=["async", "sync"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_fork_is_the_program_with_other_values(body: AnyFlow, data: st.DataObject) -> None:
    asyncio.run(check_program(body, data))


async def check_program(body: AnyFlow, data: st.DataObject) -> None:
    chosen = tuple(data.draw(st.lists(steps, min_size=1, max_size=5)))
    number = len(programs)
    programs[number] = chosen
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        handle = await body.aio.run(number, 1)
        source, start, replaced = handle.exec_id, 1, dict[str, int]()
        result, asked = expected(chosen, 1, {})
        assert await handle.wait(60) == result
        for _ in range(data.draw(st.integers(1, 2))):
            past = past_of(source, await history_of(runtime, source))
            anchor = data.draw(st.sampled_from(sorted(past.calls)))
            overrides = data.draw(
                st.dictionaries(st.sampled_from(sorted(past.calls)), st.integers(0, 9), max_size=2)
            )
            inputs = {}
            if data.draw(st.booleans()):
                start = data.draw(st.integers(1, 2))
                inputs = {"start": start}
            # What an earlier fork replaced stays replaced where it is reused.
            before = {
                p for p, call in past.calls.items() if call.path not in at_or_after(past, anchor)
            }
            replaced = {p: v for p, v in replaced.items() if p in before} | overrides
            fork = await body.aio.replay(
                source,
                from_=anchor,
                overrides={f"checkpoint.{path}": value for path, value in overrides.items()},
                **inputs,
            )
            result, now_asked = expected(chosen, start, replaced)
            assert await fork.wait(60) == result
            own = await history_of(runtime, fork.exec_id)
            reusable = {p for p in before if asked[p] == now_asked[p]} | replaced.keys()
            assert sorted(ran(own)) == sorted(now_asked.keys() - reusable)
            assert sorted(taken(own)) == sorted(reusable)
            source, asked = fork.exec_id, now_asked
