"""Async flows: retries, cancellation, submitted calls, blobs and failing journals.

The laws: no call has two recorded outcomes, a completed body never runs again, and whatever was
recorded, a replay of it takes the same way, wherever the process died.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import kitaru
from journal import Append, NewEvent
from kitaru import Retry, checkpoint, flow
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionRecovered,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    TimerFired,
    WaitRequested,
)
from kitaru.domain.execution.state import evolve
from kitaru.domain.values import StoredValue
from kitaru.engine.executions import head_of, new_event, state_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.operations.waits import give_input

ran: list[str] = []
at: dict[str, Any] = {}
"""What the checkpoint of a name does while it runs, beside its work."""


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> None:
    ran.clear()
    at.clear()


async def beside(name: str) -> None:
    """What the test wants to happen here."""
    ran.append(name)
    happening = at.get(name)
    if happening is not None:
        await happening()


@checkpoint
async def step(name: str) -> str:
    await beside(name)
    return name


@checkpoint
def threaded(name: str) -> str:
    ran.append(name)
    at.get(name, lambda: None)()
    return name


@checkpoint
async def undo(name: str, why: str) -> str:
    await beside(name)
    return name


@checkpoint(retries=2)
async def flaky(name: str) -> str:
    ran.append(name)
    if ran.count(name) < 3:
        raise ValueError(f"{name} {ran.count(name)}")
    return name


@checkpoint
async def large(name: str, bytes_: int) -> str:
    ran.append(name)
    return name * bytes_


@checkpoint
async def fails(name: str, kind: str) -> None:
    ran.append(name)
    raise {"Exception": ValueError, "BaseException": SystemExit}[kind](name)


# cancelling


async def branch(name: str) -> str:
    try:
        return await step(f"{name} 1") + await step(f"{name} 2")
    finally:
        await undo(f"undo {name}", "always")


@flow
async def compensating() -> str:
    at.get("body", lambda: None)()
    try:
        await step("first")
        submitted = step.submit("submitted")
        await asyncio.gather(branch("b"), branch("c"))
        await submitted
        async with asyncio.timeout(60):
            await threaded.aio("third")
    except asyncio.CancelledError:
        await undo("undo", "cancelled")
        await undo("undo more", "again")
        raise
    return "done"


POINTS = ["body", "first", "submitted", "b 1", "c 1", "b 2", "c 2", "undo b", "undo c", "third"]


async def cancelled_at(bench: Any, point: str, body: Any, *, twice: str | None = None) -> str:
    """The id of an execution that was cancelled once when it came to this point."""
    handle: Any = None
    cancels: list[str] = []

    def cancel(reason: str) -> Any:
        return executions.cancel(bench.runtime, handle.exec_id, reason)

    async def cancel_once() -> None:
        if not cancels:
            cancels.append(point)
            await cancel("enough")

    async def cancel_again() -> None:
        await cancel("more than enough")

    def cancel_in_thread() -> None:
        if not cancels:
            cancels.append(point)
            bench.in_body(cancel("enough"))

    at[point] = cancel_in_thread if point in ("body", "third") else cancel_once
    if twice is not None:
        at[twice] = cancel_again
    handle = body.run()
    await handle
    await bench.ending(handle.exec_id)
    at.clear()
    return str(handle.exec_id)


@pytest.mark.parametrize("point", POINTS)
async def test_a_cancel_reaches_the_body_wherever_it_stands(bench: Any, point: str) -> None:
    exec_id = await cancelled_at(bench, point, compensating)
    events = await bench.events(exec_id)
    assert events[-1] == ExecutionCancelled(reason="enough")
    assert ran[-2:] == ["undo", "undo more"]
    assert ran.count("third") == (point == "third")


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_anywhere_after_a_cancel_changes_nothing(bench: Any, point: str) -> None:
    exec_id = await cancelled_at(bench, point, compensating)
    history = await bench.recorded(exec_id)
    events = await bench.events(exec_id)
    asked = next(n for n, event in enumerate(events) if isinstance(event, CancelRequested))
    undone = {e.path for e in events if isinstance(e, CheckpointCompleted) and e.name == "undo"}
    # A branch that had come to its end had begun with its handler, which the cancel abandoned.
    before = [e.path for e in events[:asked] if isinstance(e, CheckpointCompleted)]
    abandoned = {path.replace("step#2", "undo") for path in before if path.endswith("/step#2")}
    for count in range(asked + 1, len(history)):
        done = {e.path for e in events[:count] if isinstance(e, CheckpointCompleted)}
        ran.clear()
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(compensating, history[:count], crashed)
        await bench.ending(crashed)
        again = await bench.events(crashed)
        assert again[-1] == events[-1], count
        assert max(bench.outcomes_by_path(again).values(), default=1) == 1
        completed = [e for e in again if isinstance(e, CheckpointCompleted)]
        # A handler's call that was itself abandoned need not be made again.
        handled = {e.path for e in completed if e.name == "undo"}
        assert {"undo", "undo#2"} <= handled <= undone
        assert undone - handled <= abandoned
        assert not done & {e.path for e in again[count:] if isinstance(e, CheckpointCompleted)}


@checkpoint
async def ends_what_has_not_begun() -> None:
    for task in asyncio.all_tasks():
        if "Attempt" in repr(task.get_coro()) and task is not asyncio.current_task():
            task.cancel()


@flow
async def two_at_once() -> list[str]:
    ended, other = await asyncio.gather(
        ends_what_has_not_begun(), step("other"), return_exceptions=True
    )
    return [type(ended).__name__, type(other).__name__]


async def test_a_body_whose_task_somebody_cancels_before_it_begins_has_an_outcome(
    bench: Any,
) -> None:
    """Nobody else would ever tell the flow, which waits for it."""
    handle = two_at_once.run()
    assert await handle.wait(timeout=30) == ["NoneType", "CancelledError"]
    assert ran == []


@flow
async def several_at_once() -> list[str]:
    first = await step("first")
    return [first, *await asyncio.gather(step("second"), flaky("third"), large("fourth", 1))]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brought eager tasks")
async def test_a_loop_that_begins_tasks_at_once_changes_nothing(bench: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    handle = several_at_once.run()
    assert await handle.wait(timeout=30) == ["first", "second", "third", "fourth"]
    assert Counter(ran) == {"first": 1, "second": 1, "third": 3, "fourth": 1}


async def test_a_second_cancel_while_handlers_run_changes_nothing(bench: Any) -> None:
    exec_id = await cancelled_at(bench, "b 1", compensating, twice="undo")
    events = await bench.events(exec_id)
    assert [e for e in events if isinstance(e, CancelRequested)] == [
        CancelRequested(reason="enough")
    ]
    assert events[-1] == ExecutionCancelled(reason="enough")
    assert ran[-2:] == ["undo", "undo more"]


@flow
async def leaves_a_submitted_call() -> str:
    step.submit("held")
    return "done"


async def test_a_cancel_ends_a_flow_whose_body_has_returned_before_its_calls(bench: Any) -> None:
    at["held"] = lambda: asyncio.sleep(3600)
    handle = await leaves_a_submitted_call.run()
    await bench.until(lambda: "held" in ran)
    await executions.cancel(bench.runtime, handle.exec_id, "enough")
    assert await bench.ending(handle.exec_id) == ExecutionCancelled(reason="enough")


@flow
async def swallows() -> str:
    try:
        await step("first")
    except asyncio.CancelledError:
        return await step("after all")
    return "not cancelled"


async def test_a_body_may_go_on_in_spite_of_a_cancel(bench: Any) -> None:
    exec_id = await cancelled_at(bench, "first", swallows)
    assert await bench.result(exec_id, swallows) == "after all"
    with pytest.raises(kitaru.KitaruStateError, match="already completed"):
        await executions.cancel(bench.runtime, exec_id)


@checkpoint(retries=Retry(max_attempts=5, first_delay=3600, max_delay=3600))
async def slow_to_retry(name: str) -> None:
    ran.append(name)
    raise ValueError(name)


@flow
async def backs_off() -> None:
    await slow_to_retry("once")


async def test_a_cancel_ends_a_back_off(bench: Any) -> None:
    handle = await backs_off.run()
    await bench.until(lambda: "once" in ran)
    await asyncio.sleep(0.05)
    await executions.cancel(bench.runtime, handle.exec_id, "enough")
    assert await bench.ending(handle.exec_id) == ExecutionCancelled(reason="enough")
    assert ran == ["once"]


@checkpoint(retries=3)
async def stubborn(name: str) -> None:
    ran.append(name)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        raise ValueError("no answer to a cancellation") from None


@flow
async def gives_up_on_a_stubborn_call() -> str:
    try:
        async with asyncio.timeout(0.05):
            await stubborn("s")
    except TimeoutError:
        await step("after the timeout")
    await asyncio.sleep(0.05)
    return "done"


async def test_a_call_that_the_body_no_longer_waits_for_is_not_tried_again(bench: Any) -> None:
    handle = await gives_up_on_a_stubborn_call.run()
    assert await bench.result(handle.exec_id, gives_up_on_a_stubborn_call) == "done"
    assert ran == ["s", "after the timeout"]
    history = await bench.recorded(handle.exec_id)
    for count in range(1, len(history)):
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(gives_up_on_a_stubborn_call, history[:count], crashed)
        assert await bench.result(crashed, gives_up_on_a_stubborn_call) == "done"


@flow
async def gives_up_on_a_call() -> str:
    try:
        async with asyncio.timeout(0.02):
            await step("held")
    except TimeoutError:
        return await step("instead")
    return "too fast"


async def test_an_abandoned_call_is_cancelled_and_recorded_so(bench: Any) -> None:
    at["held"] = lambda: asyncio.sleep(3600)
    handle = await gives_up_on_a_call.run()
    assert await bench.result(handle.exec_id, gives_up_on_a_call) == "instead"
    events = await bench.events(handle.exec_id)
    assert [e.path for e in events if isinstance(e, CheckpointCancelled)] == ["step"]
    assert bench.outcomes_by_path(events) == {"timeout": 1, "step#2": 1}


@flow(retries=1)
async def fails_when_cancelled() -> str:
    ran.append("pass")
    at.get("body", lambda: None)()
    if ran.count("pass") == 1:
        raise ValueError("the body itself fails")
    return await step("second pass")


async def test_a_cancel_that_comes_just_before_a_retry_is_not_lost(bench: Any) -> None:
    handle: Any = None

    def cancel() -> None:
        # The reference journal does at once what it is asked to do.
        with pytest.raises(StopIteration):
            executions.cancel(bench.runtime, handle.exec_id, "enough").send(None)

    handle = fails_when_cancelled.run()
    at["body"] = cancel
    await handle
    await bench.ending(handle.exec_id)
    events = await bench.events(handle.exec_id)
    assert sum(isinstance(event, FlowAttemptFailed) for event in events) == 1
    assert events[-1] == ExecutionCancelled(reason="enough")
    assert "second pass" not in ran


# retries


@flow(retries=2)
async def retried() -> list[str]:
    ran.append("pass")
    done = [await step("a"), *await asyncio.gather(step("b"), threaded.aio("c"))]
    await asyncio.sleep(0.001)
    at.get(f"pass {ran.count('pass')}", lambda: None)()
    return [*done, await step("d")]


def fail() -> None:
    raise ValueError("the body itself fails")


@pytest.mark.counts_passes
async def test_flow_retries_keep_completed_calls_after_every_crash(bench: Any) -> None:
    at.update({"pass 1": fail, "pass 2": fail})
    handle = await retried.run()
    assert await bench.result(handle.exec_id, retried) == ["a", "b", "c", "d"]
    assert Counter(ran) == {"pass": 3, "a": 1, "b": 1, "c": 1, "d": 1}
    history = await bench.recorded(handle.exec_id)
    events = await bench.events(handle.exec_id)
    for count in range(1, len(history)):
        failed = sum(isinstance(event, FlowAttemptFailed) for event in events[:count])
        done = {e.path for e in events[:count] if isinstance(e, CheckpointCompleted | TimerFired)}
        ran[:] = ["pass"] * failed
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(retried, history[:count], crashed)
        assert await bench.result(crashed, retried) == ["a", "b", "c", "d"]
        again = await bench.events(crashed)
        assert set(bench.outcomes_by_path(again).values()) == {1}
        assert len(bench.outcomes_by_path(again)) == 5
        assert not done & {e.path for e in again[count:] if isinstance(e, CheckpointCompleted)}


@checkpoint(retries=2)
async def keeps_failing(name: str) -> None:
    ran.append(name)
    raise ValueError(name)


@flow(retries=1)
async def fails_with_its_call() -> None:
    await step("a")
    await keeps_failing("f")


async def test_each_flow_attempt_has_the_whole_budget_of_a_call(bench: Any) -> None:
    handle = await fails_with_its_call.run()
    assert isinstance(await bench.ending(handle.exec_id), ExecutionFailed)
    assert Counter(ran) == {"a": 1, "f": 6}
    events = await bench.events(handle.exec_id)
    failures = [event for event in events if isinstance(event, CheckpointFailed)]
    assert [failure.attempt for failure in failures] == [1, 2, 3, 4, 5, 6]
    assert [failure.retry_at is None for failure in failures] == [False, False, True] * 2


@flow
async def tried_again() -> str:
    return await flaky("f")


@pytest.mark.counts_passes
async def test_attempts_go_on_after_a_crash_and_their_budget_is_not_reset(bench: Any) -> None:
    handle = await tried_again.run()
    assert await bench.result(handle.exec_id, tried_again) == "f"
    history = await bench.recorded(handle.exec_id)
    for count in range(1, len(history)):
        # The body forgets that it ever failed: only the recorded attempts are left of its budget.
        ran.clear()
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(tried_again, history[:count], crashed)
        end = await bench.ending(crashed)
        events = await bench.events(crashed)
        numbers = [
            e.attempt for e in events if isinstance(e, CheckpointFailed | CheckpointCompleted)
        ]
        assert numbers == [1, 2, 3]
        succeeded = count == 1 or isinstance(events[count - 1], CheckpointCompleted)
        assert isinstance(end, ExecutionCompleted if succeeded else ExecutionFailed)


@checkpoint(retries=Retry(max_attempts=2, first_delay=3600, max_delay=3600))
async def tried_in_an_hour(name: str) -> str:
    ran.append(name)
    if ran.count(name) == 1:
        raise ValueError("not yet")
    return name


@flow
async def patient() -> str:
    return await tried_in_an_hour("hour")


async def test_a_back_off_goes_on_where_it_was_after_a_crash(bench: Any) -> None:
    handle = await patient.run()
    await bench.until(lambda: ran == ["hour"])
    await asyncio.sleep(0.02)
    history = await bench.recorded(handle.exec_id)
    (failure,) = [e for e in await bench.events(handle.exec_id) if isinstance(e, CheckpointFailed)]
    assert failure.retry_at is not None
    await bench.crashed_after(patient, history, "crashed")
    await asyncio.sleep(0.05)
    assert ran == ["hour"]
    bench.faults.offset_us += 3600 * 1_000_000
    await bench.crashed_after(patient, history, "crashed-later")
    assert await bench.result("crashed-later", patient) == "hour"
    assert ran == ["hour", "hour"]


@checkpoint
async def sleep(name: str) -> str:
    ran.append(name)
    return name


@flow(retries=1)
async def sleeps_differently() -> str:
    ran.append("pass")
    if ran.count("pass") == 1:
        await sleep("a checkpoint of this name")
        raise ValueError("the body itself fails")
    await asyncio.sleep(0.001)
    return "done"


@pytest.mark.counts_passes
async def test_a_kept_checkpoint_is_not_taken_for_a_timer(bench: Any) -> None:
    handle = await sleeps_differently.run()
    assert await bench.result(handle.exec_id, sleeps_differently) == "done"


# submitted calls


@flow
async def leaves_a_failure(kind: str) -> str:
    step.submit("fine")
    fails.submit("unseen", kind)
    return "done"


@pytest.mark.parametrize("kind", ["Exception", "BaseException"])
async def test_a_failure_that_nobody_looks_at_fails_the_flow(bench: Any, kind: str) -> None:
    handle = await leaves_a_failure.run(kind)
    end = await bench.ending(handle.exec_id)
    assert isinstance(end, ExecutionFailed)
    assert end.error.message == "unseen"
    assert sorted(ran) == ["fine", "unseen"]


@flow
async def fails_early() -> None:
    threaded.aio.submit("held")
    await step("a")
    raise ValueError("early")


async def test_a_body_that_raises_does_not_wait_for_its_submitted_calls(
    bench: Any, gate: threading.Event
) -> None:
    at["held"] = gate.wait
    handle = await fails_early.run()
    end = await bench.ending(handle.exec_id)
    assert isinstance(end, ExecutionFailed)
    version = len(await bench.recorded(handle.exec_id))
    gate.set()
    await asyncio.sleep(0.05)
    assert len(await bench.recorded(handle.exec_id)) == version


# large values


@flow(retries=1)
async def heavy() -> int:
    ran.append("pass")
    first = await large("a", 100_000)
    futures = [large.submit(name, 50_000) for name in "bc"]
    chained = large.submit("d", 40_000, after=futures)
    total = len(first) + sum([len(await future) for future in futures]) + len(await chained)
    if ran.count("pass") == 1:
        raise ValueError("the body itself fails")
    return total


@pytest.mark.counts_passes
async def test_large_values_are_replayed_from_their_blobs(bench: Any) -> None:
    handle = await heavy.run()
    assert await bench.result(handle.exec_id, heavy) == 240_000
    assert Counter(ran) == {"pass": 2, "a": 1, "b": 1, "c": 1, "d": 1}
    history = await bench.recorded(handle.exec_id)
    assert sum(len(fact.payload) for fact in history) < 10_000
    for count in range(1, len(history)):
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(heavy, history[:count], crashed)
        assert await bench.result(crashed, heavy) == 240_000
        assert set(bench.outcomes_by_path(await bench.events(crashed)).values()) == {1}


@flow
async def branches_on_an_error() -> str:
    try:
        await large("a", 100_000)
    except Exception:
        return await step("the wrong way")
    return await step("the right way")


async def test_a_blob_that_cannot_be_read_now_is_no_error_of_the_checkpoint(bench: Any) -> None:
    handle = await branches_on_an_error.run()
    assert await bench.result(handle.exec_id, branches_on_an_error) == "the right way"
    history = await bench.recorded(handle.exec_id)
    ran.clear()
    bench.faults.blob_reads_that_fail = 1
    await bench.crashed_after(branches_on_an_error, history[:2], "crashed")
    assert await bench.result_after_faults("crashed", branches_on_an_error) == "the right way"
    assert ran == ["the right way"]
    assert not bench.faults.blob_reads_that_fail


async def answered_with_a_number(bench: Any, exec_id: str, wait: str) -> None:
    """Not through the operation, which would look at the answer first."""
    recorded = await bench.recorded(exec_id)
    given = InputGiven(path=wait, value=StoredValue(json=msgspec.Raw(b"17")))
    await bench.runtime.journal.append(
        Append(
            stream=stream_of(exec_id),
            events=(new_event(given),),
            expected_version=len(recorded),
            head=head_of(evolve(state_of(recorded), given)),
        )
    )


@flow
async def asks_beside_a_large_value() -> list[Any]:
    value, answer = await asyncio.gather(large("a", 100_000), kitaru.wait(schema=str, name="ask"))
    return [len(value), answer, await step(answer)]


@pytest.mark.parametrize("does", [True, False], ids=["an answer that does", "one that does not"])
async def test_an_answer_that_comes_while_a_blob_is_read_is_not_asked_for_again(
    bench: Any, does: bool
) -> None:
    """The wait was open when the body asked for it, and has its answer before anything is live."""
    handle = await asks_beside_a_large_value.run()
    await bench.until(lambda: "a" in ran)
    await give_input(bench.runtime, handle.exec_id, "ask", "yes")
    assert await bench.result(handle.exec_id, asks_beside_a_large_value) == [100_000, "yes", "yes"]
    history = await bench.recorded(handle.exec_id)
    before = next(n for n, fact in enumerate(history) if fact.type == "input_given")
    events = [decode_event(fact) for fact in history[:before]]
    assert {type(event) for event in events} >= {WaitRequested, CheckpointCompleted}
    ran.clear()

    async def answered() -> None:
        bench.faults.before_blob_read = None
        if does:
            await give_input(bench.runtime, "crashed", "ask", "no")
        else:
            await answered_with_a_number(bench, "crashed", "ask")
        await bench.until(
            lambda: bench.runtime.worker.runners["crashed"].execution.foreign_version > before
        )

    bench.faults.before_blob_read = answered
    await bench.crashed_after(asks_beside_a_large_value, history[:before], "crashed")
    if not does:
        await bench.is_recorded("crashed", InputRejected)
        await give_input(bench.runtime, "crashed", "ask", "no")
    assert await bench.result("crashed", asks_beside_a_large_value) == [100_000, "no", "no"]
    events = await bench.events("crashed")
    assert sum(isinstance(event, WaitRequested) for event in events) == 1
    assert ran == ["no"]


# failing journals


@flow(retries=1)
async def all_sorts() -> list[Any]:
    ran.append("pass")
    kitaru.log(stage="begun")
    found: list[Any] = [await step("a")]
    try:
        await fails("f", "Exception")
    except ValueError as error:
        found.append(str(error))
    found += await asyncio.gather(step("b"), threaded.aio("c"))
    await asyncio.sleep(0.001)
    found.append(await step.submit("d"))
    if ran.count("pass") == 1:
        raise ValueError("the body itself fails")
    return found


ALL_SORTS = ["a", "f", "b", "c", "d"]


@pytest.mark.parametrize("happens", [False, True], ids=["not-written", "unknown"])
async def test_a_journal_that_fails_at_any_append_loses_and_doubles_nothing(
    bench: Any, happens: bool
) -> None:
    handle = await all_sorts.run()
    assert await bench.result(handle.exec_id, all_sorts) == ALL_SORTS
    history = await bench.recorded(handle.exec_id)
    most = bench.faults.appends
    bench.faults.happens = happens
    for failing in range(1, most):
        ran.clear()
        bench.faults.appends, bench.faults.failed = 0, False
        bench.faults.fail_at = failing + 1
        exec_id = f"fault-{failing}"
        await bench.crashed_after(all_sorts, history[:1], exec_id)
        assert await bench.result_after_faults(exec_id, all_sorts) == ALL_SORTS
        assert set(bench.outcomes_by_path(await bench.events(exec_id)).values()) == {1}
        if happens:
            # What was written before the error is known to the next pass. Only what ran beside it
            # and was not written yet runs again.
            bodies = {name: n for name, n in Counter(ran).items() if name not in ("pass", "f")}
            assert sum(bodies.values()) <= 5, bodies


# owners


@flow
async def three_steps() -> list[str]:
    return [await step("a"), *await asyncio.gather(step("b"), threaded.aio("c"))]


@pytest.mark.counts_passes
@pytest.mark.parametrize("point", ["a", "b", "c"])
async def test_a_worker_that_was_taken_for_dead_records_nothing_more(
    bench: Any, point: str, gate: threading.Event
) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        if ran.count(point) == 1:
            await held.wait()

    at[point] = hold
    at["c"] = lambda: gate.wait() if ran.count("c") == 1 and point == "c" else None
    handle = await three_steps.run()
    await bench.until(lambda: point in ran)
    await asyncio.sleep(0.02)
    async with bench.second_worker(three_steps) as second:
        second.let_leases_run_out()
        await bench.until(lambda: ran.count(point) == 2)
        assert await second.result(handle.exec_id, three_steps) == ["a", "b", "c"]
        history = await bench.recorded(handle.exec_id)
        held.set()
        gate.set()
        assert await bench.result(handle.exec_id, three_steps) == ["a", "b", "c"]
        await bench.until(lambda: not bench.runtime.worker.runners)
        assert await bench.recorded(handle.exec_id) == history
    events = await bench.events(handle.exec_id)
    assert set(bench.outcomes_by_path(events).values()) == {1}
    assert Counter(ran) == {**dict.fromkeys("abc", 1), point: 2}
    assert sum(isinstance(event, ExecutionRecovered) for event in events) == 1


async def test_an_event_of_a_newer_version_ends_the_pass_of_a_body_that_waits(bench: Any) -> None:
    at["held"] = lambda: asyncio.sleep(3600)
    handle = await leaves_a_submitted_call.run()
    await bench.until(lambda: "held" in ran)
    # Nothing of its own is left to be written, so that it can hear of the event only from others.
    await bench.started_calls(handle.exec_id, 1)
    version = len(await bench.recorded(handle.exec_id))
    await bench.runtime.journal.append(
        Append(
            stream=stream_of(handle.exec_id),
            events=(NewEvent("from_the_future", b"{}"),),
            expected_version=version,
        )
    )
    await bench.until(lambda: handle.exec_id not in bench.runtime.worker.runners)
    assert len(await bench.recorded(handle.exec_id)) == version + 1


@pytest.mark.counts_passes
async def test_a_process_that_outlived_its_own_lease_goes_on_with_a_new_one(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a laptop that was shut: the worker claims anew what it still runs itself."""
    asleep = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + asleep)
    monkeypatch.setattr("kitaru.engine.heartbeat.time", clock)
    gate = asyncio.Event()
    at["a"] = gate.wait
    handle = await three_steps.run()
    await bench.started_calls(handle.exec_id, 1)
    runner = bench.runtime.worker.runners[handle.exec_id]
    asleep = 3_600.0
    gate.set()
    # Its lease may be over, so it starts nothing, and has nothing to write.
    await bench.until(lambda: runner._holding)
    bench.let_leases_run_out()
    for _ in range(20):
        # It looks for work before its heartbeat renews anything.
        await asyncio.sleep(0.001)
    asleep = 0.0
    await asyncio.to_thread(bench.runtime.worker._heartbeat._renew)
    assert await bench.result(handle.exec_id, three_steps) == ["a", "b", "c"]
    assert Counter(ran) == dict.fromkeys("abc", 1)


@pytest.mark.counts_passes
async def test_a_claim_that_was_under_way_when_it_began_does_not_cost_an_execution_its_body(
    bench: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look for work was slower than a lease, and knew nothing of what has begun meanwhile."""
    worker, journal = bench.runtime.worker, bench.runtime.journal
    asked, answer, held = asyncio.Event(), asyncio.Event(), asyncio.Event()
    claim = journal.claim

    async def slow(query: Any) -> Any:
        asked.set()
        await answer.wait()
        return await claim(query)

    worker.registry.serve(three_steps.reference, three_steps.definition)
    monkeypatch.setattr(journal, "claim", slow, raising=False)
    worker.look_now()
    await asked.wait()
    at["a"] = held.wait
    handle = await three_steps.run()
    await bench.until(lambda: "a" in ran)
    epoch = worker.runners[handle.exec_id].execution.lease.epoch
    # Nobody renews it before the claim is done.
    worker._heartbeat.remove(stream_of(handle.exec_id))
    faults.offset_us += round(worker.lease_seconds * 1_000_000) + 1
    monkeypatch.setattr(journal, "claim", claim)
    answer.set()
    runner = worker.runners[handle.exec_id]
    await bench.until(lambda: runner.execution.lease.epoch > epoch or runner.state.stopped)
    held.set()
    assert await bench.result(handle.exec_id, three_steps) == ["a", "b", "c"]
    assert Counter(ran) == dict.fromkeys("abc", 1)


@flow
async def asks_and_goes_on() -> int:
    number: int = await kitaru.wait(schema=int, name="number", timeout=600.0)
    return number + 1


@pytest.mark.counts_passes
async def test_an_answer_between_the_commit_of_a_question_and_its_runner_s_hearing_of_it(
    bench: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint comes while the append is under way, which is durable and meets no refusal."""
    # What would find the answer in the end, were the hint forgotten.
    monkeypatch.setattr(bench.runtime.worker, "_notice_all", lambda: None)

    def answer(append: Append) -> None:
        if any(event.type == "wait_requested" for event in append.events):
            faults.after_append = lambda _: None
            recorded = bench.runtime.journal._journal._streams[append.stream]
            given = InputGiven(path="number", value=StoredValue(json=msgspec.Raw(b"41")))
            bench.runtime.journal.append_blocking(
                Append(
                    stream=append.stream,
                    events=(new_event(given),),
                    expected_version=len(recorded),
                    head=head_of(evolve(state_of(recorded), given)),
                )
            )

    faults.after_append = answer
    handle = await asks_and_goes_on.run()
    assert await bench.result(handle.exec_id, asks_and_goes_on) == 42


@flow
async def asks_for_text() -> str:
    try:
        return str(await kitaru.wait(schema=str, deadline=60))
    except kitaru.KitaruWaitExpired:
        return "expired"


@pytest.mark.counts_passes
async def test_a_rejected_answer_does_not_make_a_wait_expire_twice(bench: Any) -> None:
    handle = await asks_for_text.run()
    exec_id = handle.exec_id

    async def kinds() -> list[str]:
        return [type(event).__name__ for event in await bench.events(exec_id)]

    while "WaitRequested" not in await kinds():  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0)
    await answered_with_a_number(bench, exec_id, "wait")
    while "InputRejected" not in await kinds():  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0)
    runner = bench.runtime.worker.runners[exec_id]
    await bench.until(lambda: not runner.recording.flushing)
    (wait,) = runner.waits.open.values()
    watching = [
        handle
        for handle in bench.runtime.loop._scheduled
        if not handle.cancelled() and handle._callback == wait.expiry._callback
    ]
    assert len(watching) == 1


async def test_an_answer_to_a_wait_that_has_expired_is_refused(bench: Any) -> None:
    at["held"] = lambda: asyncio.sleep(3600)
    handle = await expires_and_goes_on.run()
    await bench.until(lambda: "held" in ran)
    with pytest.raises(kitaru.KitaruStateError, match="has ended without an answer"):
        await give_input(bench.runtime, handle.exec_id, "wait", "late")


@flow
async def expires_and_goes_on() -> None:
    with contextlib.suppress(kitaru.KitaruWaitExpired):
        await kitaru.wait(schema=str, deadline=0.001)
    await step("held")
