"""Sync flows: retries, cancellation, submitted calls, blobs and failing journals.

The laws: no call has two recorded outcomes, a completed body never runs again, and whatever was
recorded, a replay of it takes the same way, wherever the process died.
"""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

import kitaru
from journal import Append, NewEvent
from kitaru import KitaruCancelled, Retry, checkpoint, flow
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionRecovered,
    FlowAttemptFailed,
    WaitRequested,
)
from kitaru.engine.codec import Codec
from kitaru.engine.executions import stream_of
from kitaru.engine.sync_resting import Resting
from kitaru.operations import executions
from kitaru.operations.waits import give_input

ran: list[str] = []
at: dict[str, Any] = {}
"""What the checkpoint of a name does while it runs, beside its work."""


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> None:
    ran.clear()
    at.clear()


@checkpoint
def step(name: str) -> str:
    ran.append(name)
    at.get(name, lambda: None)()
    return name


@checkpoint
def undo(name: str, why: str) -> str:
    ran.append(name)
    at.get(name, lambda: None)()
    return name


@checkpoint(retries=2)
def flaky(name: str) -> str:
    ran.append(name)
    if ran.count(name) < 3:
        raise ValueError(f"{name} {ran.count(name)}")
    return name


@checkpoint
def large(name: str, bytes_: int) -> str:
    ran.append(name)
    return name * bytes_


# cancelling


@flow
def compensating() -> str:
    at.get("body", lambda: None)()
    try:
        step("first")
        at.get("between", lambda: None)()
        futures = [step.submit(f"submitted {n}") for n in range(2)]
        step("second")
        at.get("before the futures", lambda: None)()
        for future in futures:
            future.result()
        step("third")
    except KitaruCancelled as cancelled:
        undo("undo", str(cancelled))
        undo("undo more", "again")
        raise
    return "done"


POINTS = [
    "body",
    "first",
    "between",
    "submitted 0",
    "submitted 1",
    "second",
    "before the futures",
    "third",
]


async def cancelled_at(bench: Any, point: str, body: Any, *, twice: str | None = None) -> str:
    """The id of an execution that was cancelled once when it came to this point."""
    handle: Any = None
    known = threading.Event()
    cancels: list[int] = []

    def cancel() -> None:
        known.wait()
        if not cancels:
            cancels.append(1)
            bench.in_body(executions.cancel(bench.runtime, handle.exec_id, "enough"))

    def cancel_again() -> None:
        bench.in_body(executions.cancel(bench.runtime, handle.exec_id, "more than enough"))

    at[point] = cancel
    if twice is not None:
        at[twice] = cancel_again
    handle = await body.aio.run()
    known.set()
    await bench.ending(handle.exec_id)
    at.clear()
    return str(handle.exec_id)


@pytest.mark.parametrize("point", POINTS)
async def test_a_cancel_reaches_the_body_wherever_it_stands(bench: Any, point: str) -> None:
    exec_id = await cancelled_at(bench, point, compensating)
    events = await bench.events(exec_id)
    assert events[-1] == ExecutionCancelled(reason="enough")
    assert [name for name in ran if name.startswith("undo")] == ["undo", "undo more"]
    # A request that comes while nothing is appended may be noticed one call later.
    assert ran.count("third") <= (point in ("third", "before the futures"))


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_anywhere_after_a_cancel_changes_nothing(bench: Any, point: str) -> None:
    exec_id = await cancelled_at(bench, point, compensating)
    history = await bench.recorded(exec_id)
    events = await bench.events(exec_id)
    asked = next(n for n, event in enumerate(events) if isinstance(event, CancelRequested))
    undone = [e for e in events if isinstance(e, CheckpointCompleted) and e.name == "undo"]
    for count in range(asked + 1, len(history)):
        done = {e.path for e in events[:count] if isinstance(e, CheckpointCompleted)}
        ran.clear()
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(compensating, history[:count], crashed)
        await bench.ending(crashed)
        again = await bench.events(crashed)
        assert again[-1] == events[-1], count
        assert max(bench.outcomes_by_path(again).values(), default=1) == 1
        assert not done & {e.path for e in again[count:] if isinstance(e, CheckpointCompleted)}
        repeated = [e for e in again if isinstance(e, CheckpointCompleted) and e.name == "undo"]
        assert [e.arguments_digest for e in repeated] == [e.arguments_digest for e in undone]


async def test_a_second_cancel_while_handlers_run_changes_nothing(bench: Any) -> None:
    exec_id = await cancelled_at(bench, "second", compensating, twice="undo")
    events = await bench.events(exec_id)
    assert [e for e in events if isinstance(e, CancelRequested)] == [
        CancelRequested(reason="enough")
    ]
    assert events[-1] == ExecutionCancelled(reason="enough")
    assert [name for name in ran if name.startswith("undo")] == ["undo", "undo more"]


@flow(retries=3)
def waits_for_a_future() -> str:
    ran.append("pass")
    return step.submit("held").result()


async def test_a_body_that_waits_for_a_future_is_cancelled_and_not_retried(
    bench: Any, gate: threading.Event
) -> None:
    at["held"] = gate.wait
    handle = await waits_for_a_future.aio.run()
    await bench.until(lambda: "held" in ran)
    await executions.cancel(bench.runtime, handle.exec_id, "enough")
    assert await bench.ending(handle.exec_id) == ExecutionCancelled(reason="enough")
    assert ran.count("pass") == 1


@flow
def leaves_a_submitted_call() -> str:
    step.submit("held")
    return "done"


async def test_a_cancel_ends_a_flow_whose_body_has_returned_before_its_calls(
    bench: Any, gate: threading.Event
) -> None:
    at["held"] = gate.wait
    handle = await leaves_a_submitted_call.aio.run()
    await bench.until(lambda: "held" in ran)
    await executions.cancel(bench.runtime, handle.exec_id, "enough")
    assert await bench.ending(handle.exec_id) == ExecutionCancelled(reason="enough")


@flow
def swallows() -> str:
    try:
        step("first")
    except KitaruCancelled:
        return step("after all")
    return "not cancelled"


async def test_a_body_may_go_on_in_spite_of_a_cancel(bench: Any) -> None:
    exec_id = await cancelled_at(bench, "first", swallows)
    assert await bench.result(exec_id, swallows) == "after all"
    with pytest.raises(kitaru.KitaruStateError, match="already completed"):
        await executions.cancel(bench.runtime, exec_id)


@checkpoint(retries=Retry(max_attempts=5, first_delay=3600, max_delay=3600))
def slow_to_retry(name: str) -> None:
    ran.append(name)
    raise ValueError(name)


@flow
def backs_off() -> None:
    slow_to_retry("once")


async def test_a_cancel_ends_a_back_off(bench: Any) -> None:
    handle = await backs_off.aio.run()
    await bench.until(lambda: "once" in ran)
    await asyncio.sleep(0.05)
    await executions.cancel(bench.runtime, handle.exec_id, "enough")
    assert await bench.ending(handle.exec_id) == ExecutionCancelled(reason="enough")
    assert ran == ["once"]


@flow(retries=1)
def fails_when_cancelled() -> str:
    ran.append("pass")
    at.get("body", lambda: None)()
    if ran.count("pass") == 1:
        raise ValueError("the body itself fails")
    return step("second pass")


async def test_a_cancel_that_comes_just_before_a_retry_is_not_lost(bench: Any) -> None:
    exec_id = await cancelled_at(bench, "body", fails_when_cancelled)
    events = await bench.events(exec_id)
    assert events[-1] == ExecutionCancelled(reason="enough")
    assert "second pass" not in ran


# retries


@flow(retries=2)
def retried() -> list[str]:
    ran.append("pass")
    done = [step("a"), *[future.result() for future in step.map(["b", "c"])]]
    at.get(f"pass {ran.count('pass')}", lambda: None)()
    return [*done, step("d")]


def fail() -> None:
    raise ValueError("the body itself fails")


@pytest.mark.counts_passes
async def test_flow_retries_keep_completed_calls_after_every_crash(bench: Any) -> None:
    at.update({"pass 1": fail, "pass 2": fail})
    handle = await retried.aio.run()
    assert await bench.result(handle.exec_id, retried) == ["a", "b", "c", "d"]
    assert Counter(ran) == {"pass": 3, "a": 1, "b": 1, "c": 1, "d": 1}
    history = await bench.recorded(handle.exec_id)
    events = await bench.events(handle.exec_id)
    for count in range(1, len(history)):
        failed = sum(isinstance(event, FlowAttemptFailed) for event in events[:count])
        done = {e.path for e in events[:count] if isinstance(e, CheckpointCompleted)}
        ran[:] = ["pass"] * failed
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(retried, history[:count], crashed)
        assert await bench.result(crashed, retried) == ["a", "b", "c", "d"]
        again = await bench.events(crashed)
        assert bench.outcomes_by_path(again) == dict.fromkeys(("step", *steps(2, 4)), 1)
        assert not done & {e.path for e in again[count:] if isinstance(e, CheckpointCompleted)}


def steps(first: int, last: int) -> list[str]:
    return [f"step#{n}" for n in range(first, last + 1)]


@flow
def tried_again() -> str:
    return flaky("f")


async def test_attempts_go_on_after_a_crash_and_their_budget_is_not_reset(bench: Any) -> None:
    handle = await tried_again.aio.run()
    assert await bench.result(handle.exec_id, tried_again) == "f"
    history = await bench.recorded(handle.exec_id)
    failures = [e for e in await bench.events(handle.exec_id) if isinstance(e, CheckpointFailed)]
    assert [failure.attempt for failure in failures] == [1, 2]
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


@checkpoint(retries=Retry(max_attempts=3, first_delay=0.2))
def slowly_retried(name: str) -> str:
    ran.append(name)
    if ran.count(name) == 1:
        raise ValueError("first")
    return name


@flow(retries=1)
def fails_while_a_call_backs_off() -> str:
    future = slowly_retried.submit("s")
    ran.append("pass")
    if ran.count("pass") == 1:
        step("until the first attempt has failed")
        raise ValueError("the body itself fails")
    return future.result()


async def test_a_call_of_a_failed_pass_does_not_run_beside_the_next_pass(bench: Any) -> None:
    def wait() -> None:
        while "s" not in ran:
            threading.Event().wait(0.001)
        threading.Event().wait(0.05)

    at["until the first attempt has failed"] = wait
    handle = await fails_while_a_call_backs_off.aio.run()
    assert await bench.result(handle.exec_id, fails_while_a_call_backs_off) == "s"
    await asyncio.sleep(0.5)
    assert ran.count("s") == 2


@flow(retries=1)
def fails_while_a_call_is_recorded() -> str:
    future = step.submit("s")
    ran.append("pass")
    if ran.count("pass") == 1:
        at["being recorded"].wait()
        raise ValueError("the body itself fails")
    return future.result()


@pytest.mark.needs_threads
async def test_an_outcome_of_a_failed_pass_is_recorded_in_it_or_not_at_all(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roundtrip = Codec.roundtrip
    at["being recorded"] = reached = threading.Event()
    next_pass = threading.Event()

    def slow_roundtrip(codec: Codec, value: Any, **options: Any) -> Any:
        if value == "s" and not reached.is_set():
            reached.set()
            next_pass.wait(bench.DEADLINE_SECONDS)
        return roundtrip(codec, value, **options)

    def second_run() -> None:
        if ran.count("s") == 2:
            # The first one's outcome is on its way, in the middle of the second pass.
            next_pass.set()
            threading.Event().wait(0.1)

    at["s"] = second_run
    monkeypatch.setattr(Codec, "roundtrip", slow_roundtrip)
    handle = await fails_while_a_call_is_recorded.aio.run()
    assert await bench.result(handle.exec_id, fails_while_a_call_is_recorded) == "s"
    events = await bench.events(handle.exec_id)
    assert bench.outcomes_by_path(events) == {"step": 1}
    assert sum(isinstance(event, FlowAttemptFailed) for event in events) == 1
    assert isinstance(events[-1], ExecutionCompleted)


# submitted calls


@checkpoint
def fails(name: str, kind: str) -> None:
    ran.append(name)
    raise {"Exception": ValueError, "BaseException": SystemExit}[kind](name)


@flow
def leaves_a_failure(kind: str) -> str:
    step.submit("fine")
    fails.submit("unseen", kind)
    return "done"


@pytest.mark.parametrize("kind", ["Exception", "BaseException"])
async def test_a_failure_that_nobody_looks_at_fails_the_flow(bench: Any, kind: str) -> None:
    handle = await leaves_a_failure.aio.run(kind)
    end = await bench.ending(handle.exec_id)
    assert isinstance(end, ExecutionFailed)
    assert end.error.message == "unseen"
    assert sorted(ran) == ["fine", "unseen"]


@flow
def fails_early() -> None:
    step.submit("held")
    raise ValueError("early")


@pytest.mark.needs_threads
async def test_a_body_that_raises_does_not_wait_for_its_submitted_calls(
    bench: Any, gate: threading.Event
) -> None:
    at["held"] = gate.wait
    handle = await fails_early.aio.run()
    end = await bench.ending(handle.exec_id)
    assert isinstance(end, ExecutionFailed)
    version = len(await bench.recorded(handle.exec_id))
    gate.set()
    await asyncio.sleep(0.05)
    assert len(await bench.recorded(handle.exec_id)) == version


# large values


@flow
def heavy() -> int:
    ran.append("pass")
    first = large("a", 100_000)
    futures = [large.submit(name, 50_000) for name in "bc"]
    chained = large.submit("d", 40_000, after=futures)
    return len(first) + sum(len(future.result()) for future in futures) + len(chained.result())


async def test_large_values_are_replayed_from_their_blobs(bench: Any) -> None:
    handle = await heavy.aio.run()
    assert await bench.result(handle.exec_id, heavy) == 240_000
    history = await bench.recorded(handle.exec_id)
    assert sum(len(fact.payload) for fact in history) < 10_000
    for count in range(1, len(history)):
        crashed = f"crashed-after-{count}"
        await bench.crashed_after(heavy, history[:count], crashed)
        assert await bench.result(crashed, heavy) == 240_000
        assert set(bench.outcomes_by_path(await bench.events(crashed)).values()) == {1}


@flow
def branches_on_an_error() -> str:
    try:
        large("a", 100_000)
    except Exception:
        return step("the wrong way")
    return step("the right way")


async def test_a_blob_that_cannot_be_read_now_is_no_error_of_the_checkpoint(bench: Any) -> None:
    handle = await branches_on_an_error.aio.run()
    assert await bench.result(handle.exec_id, branches_on_an_error) == "the right way"
    history = await bench.recorded(handle.exec_id)
    ran.clear()
    bench.faults.blob_reads_that_fail = 1
    await bench.crashed_after(branches_on_an_error, history[:2], "crashed")
    await bench.until(lambda: not bench.faults.blob_reads_that_fail)
    await bench.until(lambda: not bench.runtime.worker.runners)
    bench.let_leases_run_out()
    assert await bench.result("crashed", branches_on_an_error) == "the right way"
    assert ran == ["the right way"]


@flow
def depends_on_a_large_value() -> int:
    first = large.submit("a", 100_000)
    return len(large.submit(first, 1).result())


async def test_a_blob_that_a_dependent_call_needs_and_cannot_read_ends_the_pass(
    bench: Any,
) -> None:
    handle = await depends_on_a_large_value.aio.run()
    assert await bench.result(handle.exec_id, depends_on_a_large_value) == 100_000
    history = await bench.recorded(handle.exec_id)
    bench.faults.blob_reads_that_fail = 1
    await bench.crashed_after(depends_on_a_large_value, history[:2], "crashed")
    await bench.until(lambda: not bench.faults.blob_reads_that_fail)
    await bench.until(lambda: not bench.runtime.worker.runners)
    bench.let_leases_run_out()
    assert await bench.result("crashed", depends_on_a_large_value) == 100_000


# failing journals


@flow(retries=1)
def all_sorts() -> list[Any]:
    ran.append("pass")
    kitaru.log(stage="begun")
    found: list[Any] = [step("a")]
    try:
        fails("f", "Exception")
    except ValueError as error:
        found.append(str(error))
    futures = step.map(["b", "c"])
    found += [future.result() for future in futures]
    found.append(step.submit("d", after=futures).result())
    if ran.count("pass") == 1:
        raise ValueError("the body itself fails")
    return found


ALL_SORTS = ["a", "f", "b", "c", "d"]


@pytest.mark.parametrize("happens", [False, True], ids=["not-written", "unknown"])
async def test_a_journal_that_fails_at_any_append_loses_and_doubles_nothing(
    bench: Any, happens: bool
) -> None:
    handle = await all_sorts.aio.run()
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
        with_fault = await bench.result_after_faults(exec_id, all_sorts)
        assert with_fault == ALL_SORTS
        assert set(bench.outcomes_by_path(await bench.events(exec_id)).values()) == {1}
        if happens:
            # What was written before the error is known to the next pass. Only what ran beside it
            # and was not written yet runs again.
            bodies = {name: n for name, n in Counter(ran).items() if name not in ("pass", "f")}
            assert sum(bodies.values()) <= 5, bodies


# owners


@flow
def three_steps() -> list[str]:
    return [step("a"), step("b"), step.submit("c").result()]


@pytest.mark.counts_passes
@pytest.mark.parametrize("point", ["a", "b", "c"])
async def test_a_worker_that_was_taken_for_dead_records_nothing_more(
    bench: Any, point: str, gate: threading.Event
) -> None:
    at[point] = lambda: gate.wait() if ran.count(point) == 1 else None
    handle = await three_steps.aio.run()
    await bench.until(lambda: point in ran)
    async with bench.second_worker(three_steps) as second:
        second.let_leases_run_out()
        await bench.until(lambda: ran.count(point) == 2)
        assert await second.result(handle.exec_id, three_steps) == ["a", "b", "c"]
        history = await bench.recorded(handle.exec_id)
        gate.set()
        assert await bench.result(handle.exec_id, three_steps) == ["a", "b", "c"]
        await bench.until(lambda: not bench.runtime.worker.runners)
        assert await bench.recorded(handle.exec_id) == history
    events = await bench.events(handle.exec_id)
    assert set(bench.outcomes_by_path(events).values()) == {1}
    assert Counter(ran) == {**dict.fromkeys("abc", 1), point: 2}
    assert sum(isinstance(event, ExecutionRecovered) for event in events) == 1


# what clients write


@flow
def asks() -> str:
    answer: str = kitaru.wait(schema=str, name="answer")
    return answer


async def test_an_answer_that_comes_before_the_question_is_known_to_be_durable_counts(
    bench: Any,
) -> None:
    handle = await asks.aio.run()
    history = (await bench.recorded(handle.exec_id))[:1]
    crashed = "asked-again"

    def answer(append: Append) -> None:
        # The question is in the journal, and its writer has not come back to its flow yet.
        if append.stream != stream_of(crashed) or append.events[-1].type != "wait_requested":
            return
        bench.in_body(give_input(bench.runtime, crashed, "answer", "yes"))
        threading.Event().wait(0.05)

    bench.faults.after_append = answer
    await bench.crashed_after(asks, history, crashed)
    assert await bench.result(crashed, asks) == "yes"


@pytest.mark.needs_threads
async def test_an_event_of_a_newer_version_ends_the_pass_of_a_body_that_waits(
    bench: Any, gate: threading.Event
) -> None:
    at["held"] = gate.wait
    handle = await waits_for_a_future.aio.run()
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
    gate.set()
    await asyncio.sleep(0.05)
    assert len(await bench.recorded(handle.exec_id)) == version + 1


@flow
def asks_then_works() -> list[str]:
    return [kitaru.wait.sync(schema=str, name="answer"), step("after")]


@pytest.mark.counts_passes
async def test_an_answer_in_the_instant_of_a_recovery_is_not_asked_for_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await asks_then_works.aio.run()

    async def asked() -> int:
        return sum(isinstance(it, WaitRequested) for it in await bench.events(handle.exec_id))

    while not await asked():  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0)
    history = (await bench.recorded(handle.exec_id))[:2]
    wait_for_lease = Resting.wait_for_lease

    def answered_here(self: Any) -> None:
        state = self.state
        if state.exec_id == "recovered" and "answer" in state.history.waits:
            # The body has found no answer yet, and is about to look what it has asked.
            bench.in_body(give_input(bench.runtime, "recovered", "answer", "yes"))
            while "answer" not in state.history.log:
                threading.Event().wait(0.001)
        wait_for_lease(self)

    monkeypatch.setattr(Resting, "wait_for_lease", answered_here)
    await bench.crashed_after(asks_then_works, history, "recovered")
    assert await bench.result("recovered", asks_then_works) == ["yes", "after"]
    events = await bench.events("recovered")
    assert sum(isinstance(event, WaitRequested) for event in events) == 1
