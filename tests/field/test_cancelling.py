"""Bugs of other engines around cancelling: lost, swallowed and stuck cancel requests."""

import asyncio
import threading
from typing import Any

import pytest

import kitaru
from journal import Append
from kitaru import Retry, checkpoint, flow
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    ExecutionCancelled,
)
from kitaru.engine.executions import fold, head_of, new_event, state_of, stream_of
from kitaru.operations import executions

ran: list[str] = []
held = threading.Event()


@pytest.fixture(autouse=True)
def _nothing_ran() -> Any:
    ran.clear()
    held.clear()
    yield
    held.set()


@checkpoint
def do(name: str) -> str:
    ran.append(name)
    return name


@checkpoint
def hold(name: str) -> str:
    ran.append(name)
    held.wait(30)
    return name


# cancel at every point


@flow
async def books_async() -> list[str]:
    booked: list[str] = []
    try:
        booked.append(await do.aio("flight"))
        booked += await asyncio.gather(do.aio("hotel"), do.aio("car"))
        async with asyncio.TaskGroup() as group:
            group.create_task(do.aio("tour"))
            group.create_task(asyncio.sleep(0.001))
        booked.append("tour")
        booked.append(await do.aio("dinner"))
    except asyncio.CancelledError:
        for each in reversed(booked):
            await do.aio(f"cancel {each}")
        raise
    return booked


@flow
def books() -> list[str]:
    booked: list[str] = []
    try:
        booked.append(do("flight"))
        futures = do.map(["hotel", "car"])
        booked += [future.result() for future in futures]
        kitaru.sleep(0.001)
        booked.append(do("tour"))
        booked.append(do("dinner"))
    except kitaru.KitaruCancelled:
        for each in reversed(booked):
            do(f"cancel {each}")
        raise
    return booked


both = pytest.mark.parametrize("body", [books, books_async], ids=["sync", "async"])


async def with_request(bench: Any, body: Any, history: Any, exec_id: str) -> None:
    """An execution whose process died here, and that was asked to end before the next one came."""
    await bench.crashed_after(body, history, f"{exec_id} plain")
    journal = bench.runtime.journal
    request = CancelRequested()
    state = fold(state_of(history), [request])
    stored = tuple(map(as_new, history))
    await journal.append(
        Append(
            stream=stream_of(exec_id),
            events=(*stored, new_event(request)),
            expected_version=0,
            head=head_of(state),
        )
    )
    bench.runtime.worker.look_now()


def as_new(fact: Any) -> Any:
    from journal import NewEvent

    return NewEvent(fact.type, fact.payload, fact.schema)


@both
async def test_a_cancel_at_every_point_undoes_what_was_done_and_nothing_else(
    bench: Any, body: Any
) -> None:
    handle = await body.aio.run()
    assert await bench.result(handle.exec_id, body) == ["flight", "hotel", "car", "tour", "dinner"]
    history = await bench.recorded(handle.exec_id)
    for cut in range(1, len(history)):
        exec_id = f"cut {cut}"
        await with_request(bench, body, history[:cut], exec_id)
        assert isinstance(await bench.ending(exec_id), ExecutionCancelled)
        events = await bench.events(exec_id)
        asked = next(n for n, e in enumerate(events) if isinstance(e, CancelRequested))
        names = [
            str(bytes(e.result.json).decode().strip('"'))
            for e in events
            if isinstance(e, CheckpointCompleted)
        ]
        undone = [name.removeprefix("cancel ") for name in names if name.startswith("cancel ")]
        done = [name for name in names if not name.startswith("cancel ")]
        # Nothing new was begun after the request, and whatever the body knew of was undone.
        assert set(undone) <= set(done)
        after = [e for e in events[asked:] if isinstance(e, CheckpointCompleted)]
        assert all("cancel" in str(bytes(e.result.json)) for e in after)
        # And the same again, wherever the handlers' process dies.
        recorded = await bench.recorded(exec_id)
        for again in range(asked + 1, len(recorded)):
            await bench.crashed_after(body, recorded[:again], f"{exec_id}, {again}")
            ending = await bench.ending(f"{exec_id}, {again}")
            assert isinstance(ending, ExecutionCancelled)
            outcomes = bench.outcomes_by_path(await bench.events(f"{exec_id}, {again}"))
            assert outcomes == bench.outcomes_by_path(events)


# cancel twice, and while children are being cancelled


@flow
async def children() -> str:
    async def child(name: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await hold.aio(name)

    try:
        async with asyncio.timeout(7200), asyncio.TaskGroup() as group:
            group.create_task(child("one"))
            group.create_task(child("two"))
            await do.aio("begun")
            raise ValueError("the group ends")
    except* ValueError:
        await do.aio("after the group")
    return "ended"


async def test_a_cancel_while_children_are_being_cancelled_is_not_lost(bench: Any) -> None:
    handle = await children.run()
    await bench.until(lambda: {"one", "two"} <= set(ran))
    await executions.cancel(bench.runtime, handle.exec_id)
    await executions.cancel(bench.runtime, handle.exec_id)
    held.set()
    assert isinstance(await bench.ending(handle.exec_id), ExecutionCancelled)
    assert "after the group" not in ran
    history = await bench.recorded(handle.exec_id)
    for cut in range(1, len(history)):
        await bench.crashed_after(children, history[:cut], f"cut {cut}")
        ending = await bench.ending(f"cut {cut}")
        asked = any(fact.type == "cancel_requested" for fact in history[:cut])
        assert isinstance(ending, ExecutionCancelled) is asked


@flow
async def within_a_limit() -> str:
    try:
        async with asyncio.timeout(3600):
            await asyncio.sleep(1800)
    except TimeoutError:
        return "taken for a time limit"
    return "slept"


async def test_a_cancel_inside_a_time_limit_is_no_time_limit(bench: Any) -> None:
    handle = await within_a_limit.run()
    await bench.until(lambda: handle.exec_id in bench.runtime.worker.runners)
    await executions.cancel(bench.runtime, handle.exec_id)
    assert isinstance(await bench.ending(handle.exec_id), ExecutionCancelled)


@flow
async def uncancels() -> str:
    task = asyncio.current_task()
    assert task is not None
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        task.uncancel()
        async with asyncio.timeout(3600):
            await do.aio("went on")
        return "went on"
    return "slept"


async def test_a_body_that_takes_its_cancel_back_may_use_time_limits_again(bench: Any) -> None:
    handle = await uncancels.run()
    await bench.until(lambda: handle.exec_id in bench.runtime.worker.runners)
    await executions.cancel(bench.runtime, handle.exec_id)
    assert await bench.result(handle.exec_id, uncancels) == "went on"


# what was asked for and has not started


@flow
def depends() -> list[str]:
    first = hold.submit("first")
    return [first.result(), do.submit("second", after=first).result()]


@flow
def depends_at_once() -> list[str]:
    first = hold.submit("first")
    second = do.submit("second", after=first)
    return [second.result(), first.result()]


@checkpoint
async def hold_async(name: str) -> str:
    ran.append(name)
    await asyncio.to_thread(held.wait, 30)
    return name


@checkpoint
async def join(name: str, others: list[str]) -> str:
    ran.append(name)
    return name


@flow
async def depends_async() -> list[str]:
    first = hold_async.submit("first")
    second = join.submit("second", [first])
    return [await second, await first]


@pytest.mark.parametrize(
    "body", [depends, depends_at_once, depends_async], ids=lambda each: each.name
)
async def test_a_call_that_was_not_started_never_starts_after_a_cancel(
    bench: Any, body: Any
) -> None:
    handle = await body.aio.run()
    await bench.until(lambda: ran)
    await executions.cancel(bench.runtime, handle.exec_id)
    await asyncio.sleep(0.05)
    held.set()
    assert isinstance(await bench.ending(handle.exec_id), ExecutionCancelled)
    await asyncio.sleep(0.05)
    assert ran == ["first"]


@flow
def many() -> list[str]:
    return [future.result() for future in hold.map([f"call {n}" for n in range(8)])]


@flow
async def many_async() -> list[str]:
    return list(await asyncio.gather(*(hold.aio(f"call {n}") for n in range(8))))


@pytest.mark.parametrize("body", [many, many_async], ids=["sync", "async"])
async def test_a_call_that_waits_for_a_thread_does_not_hold_up_a_cancel(
    bench: Any, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = bench.runtime.worker._threads
    monkeypatch.setattr(threads, "_limit", 2, raising=True)
    handle = await body.aio.run()
    await bench.until(lambda: len(ran) == 2)
    await executions.cancel(bench.runtime, handle.exec_id)
    held.set()
    assert isinstance(await bench.ending(handle.exec_id), ExecutionCancelled)
    # Those that had begun before the cancel was heard of end by themselves, and say so in `ran`.
    await bench.until(lambda: not threads._work and threads._idle == threads._threads)


# what is cancelled is not tried again


@checkpoint(retries=Retry(max_attempts=100, first_delay=60))
def fails() -> None:
    ran.append("attempt")
    raise ValueError("again and again")


@flow(retries=5)
def trying() -> None:
    fails()


@flow(retries=5)
async def trying_async() -> None:
    await fails.aio()


@pytest.mark.parametrize("body", [trying, trying_async], ids=["sync", "async"])
async def test_nothing_is_tried_again_after_a_cancel(
    bench: Any, faults: Any, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await body.aio.run()
    await bench.until(lambda: ran)
    await executions.cancel(bench.runtime, handle.exec_id)
    assert isinstance(await bench.ending(handle.exec_id), ExecutionCancelled)
    for _ in range(10):
        faults.offset_us += 60_000_000
        bench.runtime.worker.look_now()
        await asyncio.sleep(0.005)
    assert ran == ["attempt"]
