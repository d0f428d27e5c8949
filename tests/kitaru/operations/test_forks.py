"""Forks: what came before the anchor is reused, everything else runs, and the source stays."""

import asyncio
import contextlib
import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

import kitaru
from journal import Append, Claim, JournalUnavailable, NewEvent, RecordedEvent
from journal.backends.in_memory import InMemoryJournal
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    EventOffered,
    OffersTaken,
    TimerFired,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.forks import Past
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions, forks, waits
from kitaru.sdk.checkpoint import AsyncCheckpoint, Checkpoint
from kitaru.sdk.flow import AsyncFlow, Flow


@flow
def one_call(text: str) -> int:
    return add(text[:1], 1)


AnyFlow = Flow[..., Any] | AsyncFlow[..., Any]
ANSWER = 7
BLOB = "x" * 50_000
DELAYS = {"r0": 0.02, "r1": 0.01, "g0": 0.004, "g2": 0.002}
"""What ends in another order than it was asked for."""

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
    await asyncio.sleep(DELAYS.get(name, 0.0))
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
    caught = ""
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
            journal._clock = functools.partial(int, fact.recorded_at)
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
            value = failed(refuse.with_options(id=paths[0]), paths[0], value)
        else:
            value = mix.with_options(id=paths[0])(paths[0], value)
    return value


@flow
async def program_async(number: int, start: int) -> int:
    value = start
    for place, step in enumerate(programs[number]):
        paths = [f"{place}.{part}" for part in range(step.width)]
        if step.kind == "fan":
            value = sum(await asyncio.gather(*(_aio(path)(path, value) for path in paths)))
        elif step.kind == "chain":
            future = mix.aio.submit(paths[0], value, id=paths[0])
            value = await mix.aio.submit(f"{place}.then", future, id=f"{place}.then")
        elif step.kind == "fails":
            try:
                value = await refuse.aio.with_options(id=paths[0])(paths[0], value)
            except OwnError as error:
                value = int(str(error))
        else:
            value = await _aio(paths[0])(paths[0], value)
    return value


def _aio(path: str) -> AsyncCheckpoint[[str, int], int]:
    return mix.aio.with_options(id=path)


def failed(call: Checkpoint[[str, int], int], path: str, value: int) -> int:
    try:
        return call(path, value)
    except OwnError as error:
        return int(str(error))


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
            inputs: dict[str, Any] = {}
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


# Sources of every state.


gates: dict[str, threading.Event] = {}


@checkpoint
def gated(name: str) -> str:
    runs.append(f"gated {name}")
    gates[name].wait(60)
    return name


@flow
def held(name: str) -> list[Any]:
    return [add("first", 1), gated(name), add("last", 2)]


async def until_run(what: str) -> None:
    async with asyncio.timeout(30):
        while what not in runs:  # noqa: ASYNC110 - the body runs on another thread
            await asyncio.sleep(0.001)


async def test_a_running_source_goes_on_undisturbed() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        runs.clear()
        gates["here"] = threading.Event()
        source = await held.aio.run("here")
        await until_run("gated here")
        # That the call has begun is written down when it has lasted for a while.
        while len(await history_of(runtime, source.exec_id)) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        before = await history_of(runtime, source.exec_id)
        head = await runtime.journal.head(stream_of(source.exec_id))
        with pytest.raises(kitaru.KitaruUsageError, match="has come to: add, gated"):
            await held.aio.replay(source.exec_id, from_="add#2")
        fork = await held.aio.replay(
            source.exec_id, from_="gated", overrides={"checkpoint.gated": "given"}
        )
        assert await fork.wait(30) == [2, "given", 3]
        other = await held.aio.replay(source.exec_id, from_="gated")
        assert await history_of(runtime, source.exec_id) == before
        assert await runtime.journal.head(stream_of(source.exec_id)) == head
        gates["here"].set()
        assert await source.wait(30) == await other.wait(30) == [2, "here", 3]
        assert ran(await history_of(runtime, other.exec_id)) == ["gated", "add#2"]
        assert (await history_of(runtime, source.exec_id))[: len(before)] == before


outcome = {"of": "fails"}


@checkpoint
def sometimes(value: int) -> int:
    runs.append("sometimes")
    if outcome["of"] == "fails":
        raise OwnError("not today")
    return value


@flow(retries=1)
def mended(start: int) -> int:
    return sometimes(add("before", start))


@flow(retries=1)
async def mended_async(start: int) -> int:
    return await sometimes.aio(await add_async("before", start))


@pytest.mark.parametrize("body", [mended_async, mended], ids=["async", "sync"])
async def test_a_failed_source_is_forked_from_where_it_failed(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        outcome["of"] = "fails"
        source = await body.aio.run(1)
        with pytest.raises(kitaru.KitaruUserCodeError):
            await source.wait(30)
        outcome["of"] = "works"
        runs.clear()
        fork = await body.aio.replay(source.exec_id, from_="sometimes")
        assert await fork.wait(30) == 2
        assert runs == ["sometimes"]
        execution = await kitaru.AsyncKitaruClient().executions.get(source.exec_id)
        assert execution.status is ExecutionStatus.FAILED
        assert ran(await history_of(runtime, fork.exec_id)) == ["sometimes"]


@flow(retries=1)
async def caught(start: int) -> list[Any]:
    try:
        first = str(await sometimes.aio(start))
    except OwnError as error:
        first = str(error)
    return [first, await echo.aio(len(first)), await sometimes.aio.with_options(id="again")(start)]


async def test_a_reused_failure_is_tried_again_by_the_forks_next_attempt() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        outcome["of"] = "fails"
        source = await caught.with_options(retries=0).run(1)
        with pytest.raises(kitaru.KitaruUserCodeError):
            await source.wait(30)
        runs.clear()
        fork = await caught.with_options(retries=0).replay(source.exec_id, from_="again")
        with pytest.raises(kitaru.KitaruUserCodeError):
            await fork.wait(30)
        assert runs == ["sometimes"]
        assert taken(await history_of(runtime, fork.exec_id)) == ["sometimes", "echo"]
        outcome["of"] = "works"
        await kitaru.AsyncKitaruClient().executions.retry(fork.exec_id)
        assert await fork.wait(30) == ["1", 1, 1]


async def test_a_cancelled_source_is_forked_and_its_cancel_request_is_not() -> None:
    async with kitaru.runtime(journal="memory://"):
        runs.clear()
        gates["cancelled"] = threading.Event()
        source = await held.aio.run("cancelled")
        await until_run("gated cancelled")
        await kitaru.AsyncKitaruClient().executions.cancel(source.exec_id)
        gates["cancelled"].set()
        with pytest.raises(kitaru.KitaruCancelledError):
            await source.wait(30)
        fork = await held.aio.replay(source.exec_id, from_="gated")
        assert await fork.wait(30) == [2, "cancelled", 3]


code = {"is": "old"}


@flow
async def changing(start: int) -> list[int]:
    added = 10 if code["is"] == "changed" else 0
    first = await add_async("one", start + added)
    if code["is"] == "fewer":
        return [first]
    second = await add_async("two", start)
    return [first, second, await add_async("three", first)]


@flow
def changing_threaded(start: int) -> list[int]:
    added = 10 if code["is"] == "changed" else 0
    first = add("one", start + added)
    if code["is"] == "fewer":
        return [first]
    second = add("two", start)
    return [first, second, add("three", first)]


CHANGING = pytest.mark.parametrize("body", [changing, changing_threaded], ids=["async", "sync"])


@CHANGING
async def test_a_diverged_source_is_forked_with_the_new_code(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        code["is"] = "old"
        whole, _ = await recorded_by(runtime, body, 1)
        history = await history_of(runtime, whole)
        code["is"] = "changed"
        replanted(runtime, body, history[:-1], "diverged")
        with pytest.raises(kitaru.KitaruDivergenceError):
            await result_of(runtime, "diverged", body)
        past = past_of("diverged", history)
        runs.clear()
        fork = await body.aio.replay("diverged", from_=list(past.calls)[2])
        assert await fork.wait(30) == [12, 2, 13]
        assert runs == ["one", "three"]
        code["is"] = "old"


# What a fork has been given holds like every recorded result: code that no longer asks for it,
# in a pass after a crash, diverges instead of mixing two worlds.


DIVERGENCES = {"changed": "value: 1 -> 11", "fewer": "now       it returns"}


@pytest.mark.parametrize("change", DIVERGENCES)
@CHANGING
async def test_a_fork_diverges_from_what_it_was_given(body: AnyFlow, change: str) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        code["is"] = "old"
        source, result = await recorded_by(runtime, body, 1)
        third = list(past_of(source, await history_of(runtime, source)).calls)[2]
        fork = await body.aio.replay(source, from_=third)
        assert await fork.wait(30) == result
        history = await history_of(runtime, fork.exec_id)
        told = next(n for n, f in enumerate(history) if isinstance(decode_event(f), OffersTaken))
        code["is"] = change
        replanted(runtime, body, history[: told + 1], "crashed")
        runs.clear()
        with pytest.raises(kitaru.KitaruDivergenceError, match=DIVERGENCES[change]):
            await result_of(runtime, "crashed", body)
        assert runs == []
        code["is"] = "old"
        await executions.resume(runtime, "crashed")
        assert await result_of(runtime, "crashed", body) == result


# Whatever is wrong with the request is told before anything is written.


@flow
async def branches(start: int) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_nested(f"n{n}")) for n in range(2)]
    return [start, await add_async("x", 1), *(task.result() for task in tasks)]


@pytest.mark.parametrize(
    ("request_of", "error", "text"),
    [
        ({"from_": "nope"}, kitaru.KitaruUsageError, "come to no call 'nope'.*add_async"),
        ({"from_": "checkpoint.add_async"}, kitaru.KitaruUsageError, "you mean 'add_async'"),
        ({"from_": "add_asinc"}, kitaru.KitaruUsageError, "you mean 'add_async'"),
        ({"from_": ""}, kitaru.KitaruUsageError, "from_=''"),
        ({"from_": None}, kitaru.KitaruUsageError, "from_=None"),
        ({"overrides": {"add_async": 1}}, kitaru.KitaruUsageError, "did you mean|Did you mean"),
        ({"overrides": {"checkpoint.": 1}}, kitaru.KitaruUsageError, "names nothing"),
        ({"overrides": {"checkpoint.x": 1}}, kitaru.KitaruUsageError, "no checkpoint 'x'"),
        ({"overrides": {"wait.add_async": 1}}, kitaru.KitaruUsageError, "no wait 'add_async'"),
        ({"overrides": {1: 1}}, kitaru.KitaruUsageError, "a dict is needed"),
        ({"overrides": ["x"]}, kitaru.KitaruUsageError, "a dict is needed"),
        (
            {"overrides": {"checkpoint.add_async": [1, object()]}},
            kitaru.KitaruSerializationError,
            r"overrides\['checkpoint.add_async'\]\[1\]",
        ),
        ({"start": object()}, kitaru.KitaruSerializationError, "arguments.start"),
        ({"begin": 1}, kitaru.KitaruUsageError, "begin"),
        ({"retries": -1}, kitaru.KitaruUsageError, "retries"),
        ({"cache": 3}, kitaru.KitaruUsageError, "cache"),
        ({"stack": "x"}, kitaru.KitaruUsageError, "There is no stack 'x'"),
        ({"image": "x"}, kitaru.KitaruUsageError, "image.base_image"),
        ({"idempotency_key": ""}, kitaru.KitaruUsageError, "idempotency key"),
    ],
)
async def test_a_request_that_makes_no_sense_writes_nothing(
    request_of: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, _ = await recorded_by(runtime, branches, 1)
        before = await runtime.journal.read_all()
        options: dict[str, Any] = {"from_": "add_async"} | request_of
        with pytest.raises(error, match=text):
            await branches.replay(source, **options)
        assert await runtime.journal.read_all() == before


async def test_a_name_that_several_calls_have_is_ambiguous_unless_it_is_a_path() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, _ = await recorded_by(runtime, branches, 1)
        past = past_of(source, await history_of(runtime, source))
        assert past.find("add_async").path == "add_async"
        assert past.find("task[1]/add_async#2").path == "task[1]/add_async#2"
        del past.calls["add_async"]
        with pytest.raises(kitaru.KitaruUsageError, match=r"4 calls named.*task\[2\]/add_async"):
            past.find("add_async")


@pytest.mark.parametrize("exec_id", ["", "  ", 3, "\0", "x" * 501])
async def test_a_bad_id_of_a_source_is_refused_at_once(exec_id: Any) -> None:
    async with kitaru.runtime(journal="memory://"):
        with pytest.raises(kitaru.KitaruUsageError, match="execution id"):
            branches.replay(exec_id, from_="x")


async def test_an_unknown_source_and_one_of_another_flow_are_refused() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, _ = await recorded_by(runtime, branches, 1)
        before = await runtime.journal.read_all()
        with pytest.raises(kitaru.KitaruStateError, match="no execution"):
            await branches.replay("nowhere", from_="add_async")
        with pytest.raises(kitaru.KitaruUsageError, match="'branches', not of 'changing'"):
            await changing.replay(source, from_="add_async")
        assert await runtime.journal.read_all() == before


async def test_an_execution_that_has_come_to_nothing_yet_cannot_be_forked() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, _ = await recorded_by(runtime, branches, 1)
        plant(runtime, (await history_of(runtime, source))[:1], "new", Claim("x", 1_000_000))
        with pytest.raises(kitaru.KitaruUsageError, match="come to none at all"):
            await branches.replay("new", from_="add_async")


# Waits.


class Verdict(Struct):
    fine: bool


schemas: dict[str, Any] = {"now": Verdict}


@flow
def asking(start: int) -> list[Verdict | int | str]:
    first = kitaru.wait(schema=schemas["now"], name="approve", question="Fine?")
    late = kitaru.wait(schema=str, name="late", deadline=0.01, default="nobody")
    return [add("a", start), first, late, add("b", 1)]


@flow
async def asking_async(start: int) -> list[Verdict | int | str]:
    first = await kitaru.wait(schema=schemas["now"], name="approve", question="Fine?")
    late = await kitaru.wait(schema=str, name="late", deadline=0.01, default="nobody")
    return [await add_async("a", start), first, late, await add_async("b", 1)]


ASKING = pytest.mark.parametrize("body", [asking_async, asking], ids=["async", "sync"])


async def asked(runtime: Runtime, exec_id: str) -> None:
    executions_ = kitaru.AsyncKitaruClient().executions
    async with asyncio.timeout(30):
        while not await executions_.pending_waits(exec_id):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@ASKING
async def test_answers_are_kept_replaced_and_asked_for_again(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source = await body.aio.run(1)
        await asked(runtime, source.exec_id)
        await waits.give_input(runtime, source.exec_id, "approve", Verdict(True))
        assert await source.wait(30) == [2, Verdict(True), "nobody", 2]
        last = list(past_of("", await history_of(runtime, source.exec_id)).calls)[-1]

        kept = await body.aio.replay(source.exec_id, from_=last)
        assert await kept.wait(30) == [2, Verdict(True), "nobody", 2]
        assert taken(await history_of(runtime, kept.exec_id))[:2] == ["approve", "late"]

        overrides: dict[str, Any] = {"wait.approve": {"fine": False}, "wait.late#1": "somebody"}
        replaced = await body.aio.replay(source.exec_id, from_=last, overrides=overrides)
        assert await replaced.wait(30) == [2, Verdict(False), "somebody", 2]

        again = await body.aio.replay(source.exec_id, from_="approve")
        await asked(runtime, again.exec_id)
        await waits.give_input(runtime, again.exec_id, "approve", Verdict(False))
        assert await again.wait(30) == [2, Verdict(False), "nobody", 2]

        # A fork of a fork knows the waits that its source did not ask.
        grandchild = await body.aio.replay(
            replaced.exec_id, from_=last, overrides={"wait.approve": Verdict(True)}
        )
        assert await grandchild.wait(30) == [2, Verdict(True), "somebody", 2]


@ASKING
async def test_a_fork_answers_what_its_source_still_waits_for(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source = await body.aio.run(1)
        await asked(runtime, source.exec_id)
        fork = await body.aio.replay(
            source.exec_id, from_="approve#1", overrides={"wait.approve": Verdict(True)}
        )
        assert await fork.wait(30) == [2, Verdict(True), "nobody", 2]
        assert source.status is ExecutionStatus.WAITING


@pytest.mark.parametrize("answer", [{"fine": "perhaps"}, 3, None, object()])
async def test_an_override_must_fit_what_was_asked(answer: Any) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source = await asking_async.run(1)
        await asked(runtime, source.exec_id)
        before = await runtime.journal.read_all()
        with pytest.raises(kitaru.KitaruWaitValidationError, match=r"overrides\['wait.approve'\]"):
            await asking_async.replay(
                source.exec_id, from_="approve", overrides={"wait.approve": answer}
            )
        assert await runtime.journal.read_all() == before


@ASKING
async def test_a_kept_answer_that_the_new_code_cannot_take_is_asked_for_again(
    body: AnyFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source = await body.aio.run(1)
        await asked(runtime, source.exec_id)
        await waits.give_input(runtime, source.exec_id, "approve", Verdict(True))
        await source.wait(30)
        last = list(past_of("", await history_of(runtime, source.exec_id)).calls)[-1]
        monkeypatch.setitem(schemas, "now", int)
        fork = await body.aio.replay(source.exec_id, from_=last)
        await asked(runtime, fork.exec_id)
        await waits.give_input(runtime, fork.exec_id, "approve", 3)
        assert await fork.wait(30) == [2, 3, "nobody", 2]
        history = await history_of(runtime, fork.exec_id)
        assert "approve" not in taken(history)
        for count in range(len(history) - 8, len(history)):
            exec_id = f"crashed-{count}"
            replanted(runtime, body, history[:count], exec_id)
            result = asyncio.create_task(result_of(runtime, exec_id, body))
            while not result.done():
                await asyncio.sleep(0.001)
                if (await kitaru.AsyncKitaruClient().executions.get(exec_id)).pending_waits:
                    with contextlib.suppress(kitaru.KitaruStateError):
                        await waits.give_input(runtime, exec_id, "approve", 3)
            assert await result == [2, 3, "nobody", 2]


# Idempotency keys.


async def test_the_same_key_and_request_give_the_same_fork() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, _ = await recorded_by(runtime, changing, 1)
        paths = list(past_of(source, await history_of(runtime, source)).calls)
        keyed = changing.with_options(idempotency_key="key")

        def replay(**options: Any) -> kitaru.AsyncFlowHandle[list[int]]:
            wanted: dict[str, Any] = {
                "from_": paths[2],
                "overrides": {"checkpoint.add_async": 5},
                "start": 2,
            }
            return keyed.replay(source, **(wanted | options))

        handles = await asyncio.gather(*(replay() for _ in range(20)))
        assert len({handle.exec_id for handle in handles}) == 1
        assert await handles[0].wait(30) == [5, 3, 6]
        assert (await replay()).exec_id == handles[0].exec_id
        before = await runtime.journal.read_all()
        different: list[dict[str, Any]] = [
            {"from_": paths[1]},
            {"overrides": {"checkpoint.add_async": 6}},
            {"overrides": None},
            {"start": 3},
        ]
        for options in different:
            with pytest.raises(kitaru.KitaruStateError, match="key 'key' of flow 'changing'"):
                await replay(**options)
        with pytest.raises(kitaru.KitaruStateError, match="as a fork of"):
            await keyed.run(2)
        client = kitaru.AsyncKitaruClient().executions
        same = await client.replay(
            source,
            from_=paths[2],
            overrides={"checkpoint.add_async": 5},
            start=2,
            idempotency_key="key",
        )
        assert same.exec_id == handles[0].exec_id
        assert await runtime.journal.read_all() == before
        other = await changing.with_options(idempotency_key="run").run(1)
        with pytest.raises(kitaru.KitaruStateError, match=r"with run\(\)"):
            await changing.replay(source, from_=paths[2], idempotency_key="run")
        await other.wait(30)


@flow
async def twins(start: int) -> list[int]:
    return await asyncio.gather(*(_nested(f"n{n}") for n in range(start, start + 2)))


async def test_a_key_finds_its_fork_when_the_name_has_become_ambiguous_since() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        whole, _ = await recorded_by(runtime, twins, 1)
        history = await history_of(runtime, whole)
        # As it is while the source still runs: one call of that name, and later several.
        plant(runtime, history[:2], "growing", Claim("x", 86_400))
        known = past_of("growing", history[:2])
        assert len(known.calls) == 1
        keyed = twins.with_options(idempotency_key="once")
        first = await keyed.replay("growing", from_="add_async")
        for fact in history[2:]:
            state = fold(ABSENT, [decode_event(each) for each in history[: fact.version]])
            await runtime.journal.append(
                Append(
                    stream=stream_of("growing"),
                    events=(NewEvent(fact.type, fact.payload, fact.schema),),
                    expected_version=fact.version - 1,
                    head=head_of(state),
                )
            )
        with pytest.raises(kitaru.KitaruUsageError, match="calls named 'add_async'"):
            await twins.replay("growing", from_="add_async")
        again = await keyed.replay("growing", from_="add_async")
        assert again.exec_id == first.exec_id
        await first.wait(30)


# What people see.


async def test_the_lineage_is_seen_from_both_ends() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        client = kitaru.AsyncKitaruClient().executions
        source, _ = await recorded_by(runtime, threaded, 1)
        first = await threaded.aio.replay(
            source, from_="flaky", overrides={"checkpoint.broken": None}, start=1
        )
        await answered(runtime, first.exec_id, threaded)
        second = await client.replay(source, from_="saving")
        third = await client.replay(first.exec_id, from_="flaky")
        for exec_id in (second.exec_id, third.exec_id):
            await result_of(runtime, exec_id, threaded)

        assert (await client.get(source)).forks == (first.exec_id, second.exec_id)
        assert (await client.get(source)).forked_from is None
        seen = await client.get(first.exec_id)
        assert seen.original_exec_id == source
        assert seen.forks == (third.exec_id,)
        info = seen.forked_from
        assert info is not None
        version = len(await history_of(runtime, source))
        assert (info.exec_id, info.version, info.from_) == (source, version, "flaky")
        assert (info.overrides, info.inputs) == (("checkpoint.broken",), ("start",))
        assert {"sleep", "approve", "add#5", "broken"} <= set(info.reused)
        calls = {call.call_id: call for call in seen.checkpoints}
        assert calls["add"].original_exec_id == source
        assert calls["add"].original_call_id == "add"
        assert calls["broken"].is_overridden
        assert not calls["add"].is_overridden
        assert calls["flaky"].original_exec_id is None
        listed = {each.exec_id: each.original_exec_id for each in await client.list()}
        assert listed[first.exec_id] == source
        # What was reused twice is said to be from where it ran.
        twice = {call.call_id: call for call in (await client.get(third.exec_id)).checkpoints}
        assert twice["add"].original_exec_id == source
        assert twice["broken"].original_exec_id == source
        assert twice["broken"].is_overridden


async def test_what_a_reused_call_has_saved_and_logged_is_the_forks_too() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, _ = await recorded_by(runtime, threaded, 1)
        fork = await threaded.aio.replay(source, from_="flaky")
        await result_of(runtime, fork.exec_id, threaded)
        for exec_id in (source, fork.exec_id):
            seen = await kitaru.AsyncKitaruClient().executions.get(exec_id)
            assert [(each.name, each.producing_call) for each in seen.artifacts] == [
                ("saved", "saving")
            ]
            calls = {call.call_id: call.metadata for call in seen.checkpoints}
            assert calls["saving"] == {"value": 2}
            loaded = await asyncio.to_thread(kitaru.load, exec_id, "saved")
            assert loaded == 2
            assert await asyncio.to_thread(kitaru.load, exec_id, "saving") == 2
        rerun = await threaded.aio.replay(source, from_="saving")
        await result_of(runtime, rerun.exec_id, threaded)
        seen = await kitaru.AsyncKitaruClient().executions.get(rerun.exec_id)
        assert len(seen.artifacts) == 1


async def test_what_was_offered_and_not_asked_for_is_not_shown() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        code["is"] = "old"
        source, _ = await recorded_by(runtime, changing_threaded, 1)
        code["is"] = "fewer"
        fork = await changing_threaded.aio.replay(source, from_="add#3")
        assert await fork.wait(30) == [2]
        seen = await kitaru.AsyncKitaruClient().executions.get(fork.exec_id)
        assert [call.call_id for call in seen.checkpoints] == ["add"]
        assert seen.forked_from is not None
        assert seen.forked_from.reused == ("add",)
        code["is"] = "old"


# The clock of a fork is its source's where it reuses, and the time of day where it runs: what
# sleeps after the anchor sleeps as long as it says.


@flow
def sleepy(start: int) -> str:
    add("a", start)
    kitaru.sleep(0.02)
    before = echo(kitaru.now().isoformat())
    kitaru.sleep(0.05)
    assert isinstance(before, str)
    return before


@flow
async def sleepy_async(start: int) -> str:
    await add_async("a", start)
    await kitaru.sleep(0.02)
    before = await echo.aio(kitaru.now().isoformat())
    await kitaru.sleep(0.05)
    assert isinstance(before, str)
    return before


@pytest.mark.parametrize("body", [sleepy_async, sleepy], ids=["async", "sync"])
async def test_what_sleeps_after_the_anchor_sleeps_its_time(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, before = await recorded_by(runtime, body, 1)
        await asyncio.sleep(0.1)
        for anchor, naps in (("sleep#2", {"sleep#2": 50_000}), ("sleep", {"sleep": 20_000})):
            fork = await body.aio.replay(source, from_=anchor)
            result = await fork.wait(30)
            assert (result == before) == (anchor == "sleep#2")
            history = await history_of(runtime, fork.exec_id)
            fired = {
                event.path: fact.recorded_at - history[0].recorded_at
                for fact in history
                if isinstance(event := decode_event(fact), TimerFired)
            }
            assert naps.keys() <= fired.keys()
            assert all(fired[path] >= least for path, least in naps.items())


# Calls of a sync flow that depend on others are reused where the results they depend on, new as
# they may be, come to the same arguments.


@checkpoint
def parity(path: str, value: int) -> int:
    runs.append(path)
    return value % 2


@checkpoint
def then(value: int, other: int) -> int:
    runs.append("then")
    return 10 * value + other


@flow
def dependent(start: int) -> list[int]:
    first = parity.submit("p", start)
    second = then.submit(first, 1)
    third = then.submit(second, other=first)
    winner = kitaru.wait_any([third, second])
    last = third.result()
    parity("end", 0)
    return [[third, second].index(winner), last]


async def test_a_dependent_call_is_reused_where_its_new_arguments_are_the_old_ones() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, result = await recorded_by(runtime, dependent, 1)
        assert result == [1, 111]
        cases: list[tuple[str, int, list[str], list[int]]] = [
            ("then#2", 3, ["p", "then", "end"], [1, 111]),
            ("parity#2", 3, ["p", "end"], [1, 111]),
            ("then#2", 2, ["p", "then", "then", "end"], [1, 10]),
        ]
        for anchor, start, expected_runs, expected_result in cases:
            runs.clear()
            fork = await dependent.aio.replay(source, from_=anchor, start=start)
            assert await fork.wait(30) == expected_result
            assert runs == expected_runs
            history = await history_of(runtime, fork.exec_id)
            first = 1 + sum(isinstance(decode_event(fact), EventOffered) for fact in history)
            for count in range(first, len(history)):
                exec_id = f"crashed-{anchor}-{start}-{count}"
                replanted(runtime, dependent, history[:count], exec_id)
                assert await result_of(runtime, exec_id, dependent) == expected_result


# Results of earlier executions: none for a fork, unless it is asked for; never for the anchor.


@checkpoint
def pure(value: int) -> int:
    return value + 1


@flow
def chained(start: int) -> int:
    return pure(pure(pure(start)))


@flow
async def chained_async(start: int) -> int:
    return await pure.aio(await pure.aio(await pure.aio(start)))


@pytest.mark.parametrize("body", [chained_async, chained], ids=["async", "sync"])
async def test_the_anchor_is_never_served_from_the_cache(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        source, result = await recorded_by(runtime, body, 1)
        for cache, cached in ((None, []), (False, []), (True, ["pure#3"])):
            fork = await body.aio.replay(source, from_="pure#2", cache=cache)
            assert await fork.wait(30) == result
            events = [decode_event(fact) for fact in await history_of(runtime, fork.exec_id)]
            assert [
                event.path
                for event in events
                if isinstance(event, CheckpointCompleted) and event.cached_from
            ] == cached


# The path and the name must agree, not the path alone.


@checkpoint
def subtract(name: str, value: int) -> int:
    return value - 1


@flow
def renamed(start: int) -> int:
    step = subtract if code["is"] == "changed" else add
    first: int = step.submit("step", start, id="step").result()
    return add("last", first)


async def test_another_checkpoint_under_the_same_id_is_run() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        code["is"] = "old"
        source, result = await recorded_by(runtime, renamed, 5)
        assert result == 7
        code["is"] = "changed"
        fork = await renamed.aio.replay(source, from_="add")
        assert await fork.wait(30) == 5
        code["is"] = "old"


# The place of a reused call in a fork is where the body was given it, and what it was not given it
# has not come to.


@CHANGING
async def test_a_fork_of_a_fork_runs_from_its_anchor_on(body: AnyFlow) -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        code["is"] = "old"
        source, result = await recorded_by(runtime, body, 1)
        paths = list(past_of(source, await history_of(runtime, source)).calls)
        child = await body.aio.replay(source, from_=paths[2])
        assert await child.wait(30) == result
        for place, anchor in enumerate(paths):
            grandchild = await body.aio.replay(child.exec_id, from_=anchor)
            assert await grandchild.wait(30) == result
            own = await history_of(runtime, grandchild.exec_id)
            assert (taken(own), ran(own)) == (paths[:place], paths[place:])
        code["is"] = "fewer"
        short = await body.aio.replay(source, from_=paths[2])
        assert await short.wait(30) == [result[0]]
        assert list(past_of("", await history_of(runtime, short.exec_id)).calls) == paths[:1]
        code["is"] = "old"
        with pytest.raises(kitaru.KitaruUsageError, match=f"come to: {paths[0]}[.]"):
            await body.aio.replay(short.exec_id, from_=paths[1])
        whole = await body.aio.replay(short.exec_id, from_=paths[0])
        assert await whole.wait(30) == result
        assert ran(await history_of(runtime, whole.exec_id)) == paths


async def test_a_long_history_is_taken_over_at_once() -> None:
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        programs[-1] = tuple(Step("call") for _ in range(3_000))
        source = await program_async.run(-1, 1)
        result = await source.wait(60)
        fork = await program_async.replay(source.exec_id, from_="2999.0")
        assert await fork.wait(60) == result
        assert ran(await history_of(runtime, fork.exec_id)) == ["2999.0"]


@pytest.mark.parametrize("call", ["heads", "read_stream", "head", "get_blob"])
async def test_a_journal_that_cannot_be_read_is_told_as_such(
    bench: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whoever forks is told of the backend, and not in the journal's own words."""
    handle = await one_call.aio.run(BLOB)
    assert await bench.result(handle.exec_id, one_call) == 2

    async def refuse(*_: Any, **__: Any) -> Any:
        raise JournalUnavailable("this could not be read")

    monkeypatch.setattr(bench.runtime.journal, call, refuse, raising=False)
    request = forks.ForkRequest(
        source=handle.exec_id, anchor="add", inputs={"text": "b"}, idempotency_key="again"
    )
    with pytest.raises(kitaru.KitaruBackendError, match="could not be read"):
        await forks.fork_for_others(bench.runtime, request, retries=None, cache=None)


@flow
async def asks_two() -> list[int]:
    """Asks twice under the same name."""
    return [await kitaru.wait(schema=int, name="ask"), await kitaru.wait(schema=int, name="ask")]


async def test_a_wait_that_was_answered_in_the_source_is_answered_in_the_fork() -> None:
    """Whoever is told that an answer counts is right: nothing else would ever read it."""
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        handle = await asks_two.aio.run()
        await waits.give_input(runtime, handle.exec_id, "ask#1", 1)
        await waits.give_input(runtime, handle.exec_id, "ask#2", 2)
        assert await handle.wait() == [1, 2]
        fork = await asks_two.aio.replay(handle.exec_id, from_="ask#2")
        await waits.give_input(runtime, fork.exec_id, "ask#1", 1)
        with pytest.raises(kitaru.KitaruStateError, match="answered already"):
            await waits.give_input(runtime, fork.exec_id, "ask#1", 7)
        await waits.give_input(runtime, fork.exec_id, "ask#2", 3)
        assert await fork.wait() == [1, 3]
        given = [e for e in await history_of(runtime, fork.exec_id) if e.type == "input_given"]
        assert len(given) == 1
