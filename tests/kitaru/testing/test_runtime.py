"""The runtime in memory: its clock, its scripts, its answers, in sync tests and in async ones."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import kitaru
from kitaru import Retry, checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.errors import (
    KitaruStateError,
    KitaruUsageError,
    KitaruUserCodeError,
    KitaruWaitExpired,
    KitaruWaitValidationError,
)
from kitaru.status import ExecutionStatus
from kitaru.testing import AsyncTestRuntime, BodyRun, NothingHappens, TestClock, TestRuntime
from kitaru.testing.clock import START


@checkpoint(retries=Retry(max_attempts=3, first_delay=60.0, jitter=0.0))
def fetch(url: str) -> str:
    raise AssertionError(f"the real thing was called: {url}")


@checkpoint
async def send(text: str) -> int:
    return len(text)


@flow
def reminder(url: str) -> dict[str, Any]:
    page = fetch(url)
    kitaru.sleep(timedelta(days=30))
    approved = kitaru.wait(name="approve", schema=bool)
    return {"page": page, "approved": approved, "sent": send.sync(page)}


@flow
async def reminder_async(url: str) -> dict[str, Any]:
    page = await fetch.aio(url)
    await asyncio.sleep(30 * 86_400)
    approved = await kitaru.wait(name="approve", schema=bool)
    return {"page": page, "approved": approved, "sent": await send(page)}


@flow
def three_sleeps() -> list[str]:
    seen = []
    for _ in range(3):
        kitaru.sleep(timedelta(days=10))
        seen.append(kitaru.now().date().isoformat())
    return seen


@flow
async def three_sleeps_async() -> list[str]:
    seen = []
    for _ in range(3):
        await kitaru.sleep(timedelta(days=10))
        seen.append(kitaru.now().date().isoformat())
    return seen


@flow
def question() -> str:
    try:
        kitaru.wait(name="go", deadline=timedelta(days=2))
    except KitaruWaitExpired:
        return "nobody came"
    return "gone"


@flow
async def question_async() -> str:
    try:
        await kitaru.wait(name="go", deadline=timedelta(days=2))
    except KitaruWaitExpired:
        return "nobody came"
    return "gone"


both = pytest.mark.parametrize("flow", [reminder, reminder_async])
both_questions = pytest.mark.parametrize("flow", [question, question_async])


# to the end


@both
def test_a_month_and_an_answer_pass_in_one_call(flow: Any) -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="a page")
        result = runtime.run(flow, "url", answers={"approve": True})
        assert result == {"page": "a page", "approved": True, "sent": 6}
        assert runtime.clock.now == START + timedelta(days=30)


@both
def test_delays_between_attempts_follow_the_clock(flow: Any) -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", results=[ConnectionError("1"), ConnectionError("2"), "late"])
        runtime.run(flow, "url", answers={"approve": True})
        assert runtime.calls("fetch") == [{"url": "url"}] * 3
        assert runtime.clock.now == START + timedelta(days=30, minutes=1 + 2)


def test_a_flow_that_fails_raises_what_its_handle_raises() -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", raises=LookupError("gone"))
        with pytest.raises(KitaruUserCodeError, match="gone"):
            runtime.run(reminder, "url")
        assert len(runtime.calls("fetch")) == 3


@both
def test_a_wait_without_an_answer_is_told_with_the_timeline(flow: Any) -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="a page")
        with pytest.raises(NothingHappens) as nothing:
            runtime.run(flow, "url")
    assert "waits for 'approve#1', and no answer is given" in str(nothing.value)
    assert "+30d 00:00" in str(nothing.value)


def test_an_answer_that_can_be_called_is_called_when_it_is_needed() -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="a page")
        asked_at: list[datetime] = []

        def approve() -> bool:
            asked_at.append(runtime.clock.now)
            return False

        assert runtime.run(reminder, "url", answers={"approve": approve})["approved"] is False
        assert asked_at == [START + timedelta(days=30)]


def test_an_answer_that_does_not_fit_is_refused() -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="a page")
        with pytest.raises(KitaruWaitValidationError):
            runtime.run(reminder, "url", answers={"approve": "perhaps"})


# step by step


@both
def test_a_test_moves_the_clock_and_answers_itself(flow: Any) -> None:
    with TestRuntime(auto_advance=False) as runtime:
        runtime.script("fetch", result="a page")
        handle = flow.sync.run("url")
        runtime.settle()
        assert runtime.status(handle) is ExecutionStatus.RUNNING
        runtime.clock.advance(days=29, hours=23)
        assert runtime.status(handle) is ExecutionStatus.RUNNING
        runtime.clock.advance(hours=1)
        assert runtime.status(handle) is ExecutionStatus.WAITING
        runtime.answer(handle, "approve", True)
        runtime.settle()
        assert runtime.status(handle.exec_id) is ExecutionStatus.COMPLETED
        assert handle.get()["approved"] is True


@pytest.mark.parametrize("flow", [three_sleeps, three_sleeps_async])
def test_what_becomes_due_on_the_way_does_so_at_its_own_time(flow: Any) -> None:
    with TestRuntime(auto_advance=False) as runtime:
        handle = flow.sync.run()
        runtime.clock.advance(days=30)
        assert runtime.status(handle) is ExecutionStatus.COMPLETED
        assert handle.get() == ["2026-01-11", "2026-01-21", "2026-01-31"]


@both_questions
def test_a_deadline_passes_when_the_test_says_so(flow: Any) -> None:
    with TestRuntime(auto_advance=False) as runtime:
        handle = flow.sync.run()
        runtime.clock.advance(days=1)
        assert runtime.status(handle) is ExecutionStatus.WAITING
        runtime.clock.advance(days=1)
        assert handle.get() == "nobody came"


@both_questions
def test_an_answer_before_the_deadline_counts(flow: Any) -> None:
    with TestRuntime() as runtime:
        handle = flow.sync.run()
        runtime.settle()
        runtime.answer(handle, "go")
        assert handle.wait() == "gone"
        assert runtime.clock.now == START


@both_questions
def test_time_passes_by_itself_while_somebody_waits(flow: Any) -> None:
    with TestRuntime() as runtime:
        assert flow.sync.run().wait() == "nobody came"
        assert runtime.clock.now == START + timedelta(days=2)


def test_it_stands_still_while_nobody_waits() -> None:
    with TestRuntime() as runtime:
        handle = question.run()
        runtime.settle()
        threading.Event().wait(0.05)
        assert runtime.clock.now == START
        assert runtime.status(handle) is ExecutionStatus.WAITING


def test_time_stands_still_while_a_body_runs() -> None:
    gate = threading.Event()

    def slow(url: str) -> str:
        gate.wait(10)
        return url

    with TestRuntime() as runtime:
        runtime.script("fetch", call=slow)
        handle = reminder.run("url")
        later = threading.Timer(0.1, gate.set)
        later.start()
        with pytest.raises(KitaruWaitValidationError):
            runtime.outcome(handle, answers={"approve": 1})
        assert runtime.clock.now == START + timedelta(days=30)


def test_the_clock_goes_forwards_only() -> None:
    with TestRuntime() as runtime:
        with pytest.raises(KitaruUsageError, match="goes forwards"):
            runtime.clock.advance(days=-1)
        runtime.clock.advance(timedelta(hours=1), minutes=30)
        assert runtime.clock.now == START + timedelta(hours=1.5)
        assert repr(runtime.clock) == "TestClock(2026-01-01T01:30:00+00:00)"


def test_time_begins_when_the_test_says() -> None:
    with TestRuntime(start=datetime(2031, 5, 1, tzinfo=UTC)) as runtime:
        assert runtime.run(three_sleeps)[0] == "2031-05-11"


# crashes


@both
def test_a_crash_loses_nothing_that_is_recorded(flow: Any) -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="a page")
        handle = flow.sync.run("url")
        runtime.settle()
        runtime.crash()
        runtime.settle()
        runtime.crash()
        runtime.answer(handle, "approve", True)
        assert runtime.outcome(handle)["sent"] == 6
        assert len(runtime.calls("fetch")) == 1
        kinds = [entry.kind for entry in runtime.events(handle)]
        assert kinds.count("execution_recovered") == 2
        assert "taken over from" in runtime.timeline(handle)


def test_a_handle_of_a_process_that_died_says_so() -> None:
    with TestRuntime() as runtime:
        handle = question.run()
        runtime.settle()
        runtime.crash()
        with pytest.raises(kitaru.KitaruBackendError, match="dead"):
            handle.wait()
        assert runtime.outcome(handle) == "nobody came"


# scripts


def test_a_path_goes_before_a_name() -> None:
    @flow
    def twice() -> list[str]:
        return [fetch("a"), fetch("b"), fetch("c")]

    with TestRuntime() as runtime:
        runtime.script("fetch", result="any")
        runtime.script("fetch#2", call=lambda url: f"<{url}>")
        assert runtime.run(twice) == ["any", "<b>", "any"]
        assert runtime.calls("fetch#2") == [{"url": "b"}]
        assert [run.path for run in runtime.bodies] == ["fetch", "fetch#2", "fetch#3"]
        assert isinstance(runtime.bodies[0], BodyRun)


def test_what_is_not_scripted_is_real() -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="four")
        assert runtime.run(reminder, "u", answers={"approve": True})["sent"] == 4
        assert runtime.calls("send") == [{"text": "four"}]


def test_an_async_checkpoint_takes_functions_of_both_colours() -> None:
    async def long(text: str) -> int:
        await asyncio.sleep(0)
        return 1_000

    with TestRuntime() as runtime:
        runtime.script("fetch", result="x")
        for stand_in, expected in ((long, 1_000), (lambda text: 7, 7)):
            runtime.script("send", call=stand_in)
            result = runtime.run(reminder, "u", answers={"approve": True})
            assert result["sent"] == expected


def test_results_of_earlier_executions_are_reused_when_that_is_wanted() -> None:
    for reuse, bodies in ((False, 2), (True, 1)):
        with TestRuntime(reuse_results=reuse) as runtime:
            runtime.script("fetch", result="x")
            for _ in range(2):
                runtime.run(reminder, "u", answers={"approve": True})
            assert len(runtime.calls("send")) == bodies


def test_an_attempt_that_was_lost_is_given_the_same_of_a_sequence() -> None:
    from kitaru.testing import crash_sweep

    with TestRuntime() as runtime:
        runtime.script("fetch", results=[ConnectionError("1"), "late"])
        crash_sweep(reminder, "u", answers={"approve": True}, script=runtime.stand_ins, pairs=20)


def test_one_run_more_than_is_scripted_is_a_failure() -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", results=["only"])
        runtime.run(reminder, "a", answers={"approve": True})
        with pytest.raises(KitaruUserCodeError, match="once more than there are scripted results"):
            runtime.run(reminder, "b", answers={"approve": True})


def test_a_script_is_one_thing() -> None:
    with TestRuntime() as runtime:
        with pytest.raises(KitaruUsageError, match="one of result="):
            runtime.script("fetch")
        with pytest.raises(KitaruUsageError, match="one of result="):
            runtime.script("fetch", result=None, raises=ValueError)
        runtime.script("fetch", result=None)


# whose it is


def test_each_runtime_is_its_own_and_leaves_nothing() -> None:
    with TestRuntime() as runtime:
        handle = question.run()
        runtime.settle()
        inside = current_runtime()
    with TestRuntime() as other:
        assert current_runtime() is not inside
        with pytest.raises(KitaruStateError):
            other.timeline(handle)


def test_a_body_that_never_ends_does_not_keep_the_test() -> None:
    gate = threading.Event()
    with TestRuntime() as runtime:
        runtime.script("fetch", call=lambda url: gate.wait(60))
        reminder.run("u")
    gate.set()


async def test_in_async_tests_it_is_on_their_own_loop() -> None:
    async with TestRuntime() as runtime:
        seen: list[Any] = []

        async def here(text: str) -> int:
            seen.append(asyncio.get_running_loop())
            return 1

        runtime.script("fetch", result="x")
        runtime.script("send", call=here)
        aio = runtime.aio
        assert isinstance(aio, AsyncTestRuntime)
        result = await aio.run(reminder_async, "u", answers={"approve": True})
        assert result["sent"] == 1
        assert seen == [asyncio.get_running_loop()]


async def test_async_tests_go_step_by_step_too() -> None:
    async with TestRuntime(auto_advance=False) as runtime:
        aio = runtime.aio
        aio.script("fetch", result="x")
        handle = await reminder_async.run("u")
        await aio.settle()
        await aio.advance(days=30)
        assert await aio.status(handle) is ExecutionStatus.WAITING
        await aio.crash()
        await aio.answer(handle, "approve", True)
        assert (await aio.outcome(handle))["approved"] is True
        assert "input given" in await aio.timeline(handle)
        assert (await aio.events(handle))[0].kind == "execution_started"


async def test_an_async_test_may_cancel() -> None:
    async with TestRuntime() as runtime:
        handle = await question_async.run()
        await runtime.aio.settle()
        await runtime.aio.cancel(handle, "enough")
        with pytest.raises(kitaru.KitaruCancelledError, match="enough"):
            await runtime.aio.outcome(handle)


async def test_what_would_block_the_runtimes_own_loop_is_refused() -> None:
    async with TestRuntime() as runtime:
        with pytest.raises(KitaruUsageError, match=r"await runtime\.aio\.settle"):
            runtime.settle()
        with pytest.raises(KitaruUsageError, match=r"await runtime\.aio\.advance"):
            runtime.clock.advance(days=1)


async def test_a_runtime_with_a_thread_serves_async_code_as_well() -> None:
    with TestRuntime() as runtime:
        runtime.script("fetch", result="x")
        handle = reminder_async.run("u")
        await runtime.aio.settle()
        await runtime.aio.answer(handle, "approve", True)
        assert (await handle.wait())["approved"] is True
        assert runtime.clock.now == START + timedelta(days=30)


def test_only_flows_and_executions_are_taken() -> None:
    with TestRuntime() as runtime:
        with pytest.raises(KitaruUsageError, match="needs a @flow"):
            runtime.run(fetch, "u")  # type: ignore[arg-type]
        with pytest.raises(KitaruUsageError, match="A handle or an execution's id"):
            runtime.timeline(3)  # type: ignore[arg-type]


def test_type_checkers_know_what_a_flow_returns() -> None:
    if TYPE_CHECKING:
        assert_type(TestRuntime().run(three_sleeps), list[str])
        assert_type(TestRuntime().run(question_async), str)
    # pytest must not take these for test cases.
    assert TestClock.__test__ is TestRuntime.__test__ is False
