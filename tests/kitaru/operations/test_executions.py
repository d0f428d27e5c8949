"""Starting, following and steering executions, from the process that runs them or from another."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import kitaru
from journal import Append, Claim, ClaimQuery, JournalUnavailable, NewEvent
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import (
    CancelRequested,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionFailed,
    ExecutionRecovered,
    ExecutionReopened,
    FrozenOptions,
)
from kitaru.engine.executions import CATEGORY, stream_of
from kitaru.operations import executions

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> None:
    ran.clear()


@checkpoint
def step(name: str) -> str:
    ran.append(name)
    return name


held = threading.Event()


@checkpoint
def hold(name: str) -> str:
    ran.append(name)
    held.wait(30)
    return name


@flow
def plain(name: str) -> str:
    return step(name)


@flow
def holding(name: str) -> str:
    return hold(name)


@flow
async def waits_for_ever(name: str) -> None:
    await step.aio(name)
    await asyncio.sleep(3600)


broken = {"now": False}


@flow
def sometimes(name: str) -> str:
    first = step(name)
    if broken["now"]:
        raise ValueError("not today")
    return first + step("second")


@flow
def changing(name: str) -> str:
    return step(name + ("!" if broken["now"] else ""))


@pytest.fixture(autouse=True)
def _nothing_is_broken_or_held(request: pytest.FixtureRequest) -> Any:
    broken["now"] = False
    held.clear()
    yield
    held.set()


def prepared(
    bench: Any, body: Any = plain, name: str = "a", key: str | None = None
) -> executions.Prepared:
    return executions.prepare(
        bench.runtime, body.definition, body.reference, "", {"name": name}, FrozenOptions(), key
    )


async def start_in_thread(runtime: Runtime, prepared_: executions.Prepared) -> None:
    await asyncio.to_thread(executions.start_blocking, runtime, prepared_)


Start = Callable[[Runtime, executions.Prepared], Any]
STARTS = [executions.start, start_in_thread]


# starting


@pytest.mark.parametrize("start", STARTS, ids=["loop", "thread"])
@pytest.mark.parametrize("body", [plain, holding, waits_for_ever])
async def test_a_start_is_durable_when_it_returns(bench: Any, start: Start, body: Any) -> None:
    begun = prepared(bench, body)
    with pytest.raises(kitaru.KitaruStateError, match="no execution"):
        await executions.status_of(bench.runtime, begun.exec_id)
    await start(bench.runtime, begun)
    first = (await bench.events(begun.exec_id))[0]
    assert first == begun.event
    head = await bench.runtime.journal.head(stream_of(begun.exec_id))
    assert head.owner in (bench.runtime.worker.owner, None)


@pytest.mark.parametrize("start", STARTS, ids=["loop", "thread"])
async def test_one_key_with_one_input_is_one_execution(bench: Any, start: Start) -> None:
    first, again = prepared(bench, key="order 7"), prepared(bench, key="order 7")
    assert first.exec_id == again.exec_id
    await start(bench.runtime, first)
    await start(bench.runtime, again)
    assert await bench.result(first.exec_id, plain) == "a"
    await start(bench.runtime, prepared(bench, key="order 7"))
    assert ran == ["a"]


@pytest.mark.parametrize("start", STARTS, ids=["loop", "thread"])
async def test_one_key_with_another_input_is_a_conflict_that_changes_nothing(
    bench: Any, start: Start
) -> None:
    first = prepared(bench, key="order 7")
    await start(bench.runtime, first)
    await bench.ending(first.exec_id)
    before = await bench.recorded(first.exec_id)
    with pytest.raises(kitaru.KitaruStateError, match="other arguments"):
        await start(bench.runtime, prepared(bench, name="b", key="order 7"))
    assert await bench.recorded(first.exec_id) == before


@pytest.mark.parametrize("start", STARTS, ids=["loop", "thread"])
@pytest.mark.parametrize("happens", [False, True], ids=["not-written", "unknown"])
async def test_a_start_that_failed_can_be_made_again_with_its_key(
    bench: Any, start: Start, happens: bool
) -> None:
    bench.faults.fail_at, bench.faults.happens = bench.faults.appends + 1, happens
    first = prepared(bench, key="order 7")
    with pytest.raises(kitaru.KitaruBackendError):
        await start(bench.runtime, first)
    await start(bench.runtime, prepared(bench, key="order 7"))
    assert await bench.result_after_faults(first.exec_id, plain) == "a"
    assert ran == ["a"]


async def test_a_key_finds_an_execution_that_nobody_runs_and_takes_it_over(bench: Any) -> None:
    first = prepared(bench, key="order 7")
    await abandoned(bench, first.exec_id)
    await executions.start(bench.runtime, prepared(bench, key="order 7"))
    assert await bench.result(first.exec_id, plain) == "a"


def claim_of(exec_id: str) -> ClaimQuery:
    return ClaimQuery(
        category=CATEGORY,
        names=(),
        claim=Claim("another process", 5),
        limit=1,
        stream=stream_of(exec_id),
    )


# following


async def test_waiting_has_an_end_and_the_execution_goes_on(bench: Any) -> None:
    handle = await holding.aio.run("held")
    with pytest.raises(kitaru.KitaruTimeoutError) as caught:
        await executions.ending_of(bench.runtime, handle.exec_id, 0.01)
    assert caught.value.last_status is ExecutionStatus.RUNNING
    held.set()
    assert await bench.result(handle.exec_id, holding) == "held"


async def test_the_result_of_a_blob_that_is_gone_is_a_backend_error(bench: Any) -> None:
    handle = await plain.aio.run("x" * 100_000)
    event = await bench.ending(handle.exec_id)
    bench.faults.blob_reads_that_fail = 1
    with pytest.raises(kitaru.KitaruBackendError, match="cannot be read"):
        await executions.outcome_of(bench.runtime, handle.exec_id, event, plain.definition.types)


async def test_an_execution_that_is_unknown_is_said_to_be_with_the_journal_that_was_searched(
    bench: Any,
) -> None:
    for asking in (
        executions.status_of(bench.runtime, "nobody"),
        executions.ending_of(bench.runtime, "nobody", None),
        executions.cancel(bench.runtime, "nobody"),
        executions.force_cancel(bench.runtime, "nobody"),
        executions.reopen(bench.runtime, "nobody", "retry"),
        executions.resume(bench.runtime, "nobody"),
        executions.find_id(bench.runtime, "nobody"),
    ):
        with pytest.raises(kitaru.KitaruStateError, match=r"no execution nobody in memory://"):
            await asking


# cancelling


@pytest.mark.parametrize("reason", ["", "enough", "日本", "a\nb", "\ud800", "x" * 10_000])
async def test_a_cancel_with_any_reason_ends_the_execution(bench: Any, reason: str) -> None:
    handle = await waits_for_ever.run("a")
    await bench.until(lambda: ran)
    await executions.cancel(bench.runtime, handle.exec_id, reason)
    await executions.cancel(bench.runtime, handle.exec_id, "again")
    end = await bench.ending(handle.exec_id)
    assert isinstance(end, ExecutionCancelled)
    assert end.reason == ("\\ud800" if reason == "\ud800" else reason)
    await executions.cancel(bench.runtime, handle.exec_id)
    events = await bench.events(handle.exec_id)
    assert sum(isinstance(event, CancelRequested) for event in events) == 1
    with pytest.raises(kitaru.KitaruCancelledError):
        await bench.result(handle.exec_id, waits_for_ever)


async def test_what_has_ended_cannot_be_cancelled(bench: Any) -> None:
    handle = await plain.aio.run("a")
    await bench.ending(handle.exec_id)
    for cancel in (executions.cancel, executions.force_cancel):
        with pytest.raises(kitaru.KitaruStateError, match="already completed"):
            await cancel(bench.runtime, handle.exec_id)
    assert isinstance((await bench.events(handle.exec_id))[-1], ExecutionCompleted)


async def test_a_hundred_cancels_at_once_are_one(bench: Any) -> None:
    handle = await waits_for_ever.run("a")
    await asyncio.gather(
        *(executions.cancel(bench.runtime, handle.exec_id, str(n)) for n in range(100))
    )
    assert isinstance(await bench.ending(handle.exec_id), ExecutionCancelled)
    events = await bench.events(handle.exec_id)
    assert sum(isinstance(event, CancelRequested) for event in events) == 1


async def abandoned(bench: Any, exec_id: str = "left") -> str:
    """An execution that no process runs, and whose flow nobody here serves."""
    begun = prepared(bench)
    await bench.runtime.journal.append(
        Append(
            stream=stream_of(exec_id),
            events=begun.append.events,
            expected_version=0,
            head=begun.append.head,
        )
    )
    return exec_id


async def test_what_nobody_runs_can_be_cancelled_by_force_and_again(bench: Any) -> None:
    exec_id = await abandoned(bench)
    await executions.force_cancel(bench.runtime, exec_id)
    assert await executions.status_of(bench.runtime, exec_id) is ExecutionStatus.CANCELLED
    await executions.force_cancel(bench.runtime, exec_id)
    head = await bench.runtime.journal.head(stream_of(exec_id))
    assert (head.owner, head.due_at) == (None, None)
    assert ran == []


async def test_what_somebody_runs_cannot_be_cancelled_by_force(bench: Any) -> None:
    exec_id = await abandoned(bench)
    await bench.runtime.journal.claim(claim_of(exec_id))
    with pytest.raises(kitaru.KitaruStateError, match="run by another process"):
        await executions.force_cancel(bench.runtime, exec_id)
    # The request itself stands: the process that runs it gets it.
    assert isinstance((await bench.events(exec_id))[-1], CancelRequested)


async def diverged(bench: Any) -> str:
    handle = await changing.aio.run("a")
    await bench.ending(handle.exec_id)
    history = await bench.recorded(handle.exec_id)
    broken["now"] = True
    await bench.crashed_after(changing, history[:-1], "diverged")
    assert isinstance(await bench.ending("diverged"), ExecutionDiverged)
    return "diverged"


@pytest.mark.parametrize("cancel", [executions.cancel, executions.force_cancel])
async def test_a_diverged_execution_can_be_cancelled(bench: Any, cancel: Any) -> None:
    exec_id = await diverged(bench)
    await cancel(bench.runtime, exec_id)
    assert isinstance(await bench.ending(exec_id), ExecutionCancelled)
    assert await executions.status_of(bench.runtime, exec_id) is ExecutionStatus.CANCELLED


async def test_a_force_that_fails_leaves_no_lease_behind(bench: Any) -> None:
    exec_id = await abandoned(bench)
    bench.faults.fail_at = bench.faults.appends + 2
    with pytest.raises(kitaru.KitaruBackendError, match=r"[Nn]othing was written"):
        await executions.force_cancel(bench.runtime, exec_id)
    head = await bench.runtime.journal.head(stream_of(exec_id))
    assert head.owner is None


@pytest.mark.parametrize(
    ("operation", "method"),
    [
        (executions.find_id, "heads"),
        (executions.find_id, "head"),
        (executions.force_cancel, "claim"),
        (executions.force_cancel, "read_stream"),
        (executions.force_cancel, "append"),
        (executions.resume, "claim"),
        (executions.resume, "head"),
        (executions.cancel, "read_stream"),
        (executions.retry_now, "read_stream"),
    ],
)
async def test_a_journal_that_fails_is_told_in_kitarus_own_words(
    bench: Any, monkeypatch: pytest.MonkeyPatch, operation: Any, method: str
) -> None:
    exec_id = await abandoned(bench)

    async def fails(*_: Any, **__: Any) -> Any:
        raise JournalUnavailable("the disk is gone")

    monkeypatch.setattr(bench.runtime.journal, method, fails, raising=False)
    if (operation, method) == (executions.find_id, "head"):
        exec_id = "unknown"
    with pytest.raises(kitaru.KitaruBackendError, match=r"(?i)the disk is gone"):
        await operation(bench.runtime, exec_id)


# reopening and resuming


async def test_a_retry_keeps_what_completed(bench: Any) -> None:
    broken["now"] = True
    handle = await sometimes.aio.run("first")
    assert isinstance(await bench.ending(handle.exec_id), ExecutionFailed)
    broken["now"] = False
    await executions.reopen(bench.runtime, handle.exec_id, "retry")
    assert await bench.result(handle.exec_id, sometimes) == "firstsecond"
    assert ran == ["first", "second"]
    with pytest.raises(kitaru.KitaruStateError, match="Only failed executions"):
        await executions.reopen(bench.runtime, handle.exec_id, "retry")


async def test_two_retries_at_once_are_one(bench: Any) -> None:
    broken["now"] = True
    handle = await sometimes.aio.run("first")
    await bench.ending(handle.exec_id)
    broken["now"] = False
    done = await asyncio.gather(
        *(executions.reopen(bench.runtime, handle.exec_id, "retry") for _ in range(5)),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in done) == ["KitaruStateError"] * 4 + ["NoneType"]
    assert await bench.result(handle.exec_id, sometimes) == "firstsecond"
    events = await bench.events(handle.exec_id)
    assert sum(isinstance(event, ExecutionReopened) for event in events) == 1


async def test_a_diverged_execution_is_resumed_with_the_old_code(bench: Any) -> None:
    exec_id = await diverged(bench)
    broken["now"] = False
    ran.clear()
    await executions.resume(bench.runtime, exec_id)
    assert await bench.result(exec_id, changing) == "a"
    assert ran == []


async def test_what_nobody_runs_is_resumed_here(bench: Any) -> None:
    exec_id = await abandoned(bench)
    await executions.resume(bench.runtime, exec_id)
    assert await bench.result(exec_id, plain) == "a"
    with pytest.raises(kitaru.KitaruStateError, match="already completed"):
        await executions.resume(bench.runtime, exec_id)


async def test_what_runs_here_is_resumed_already(bench: Any) -> None:
    handle = await holding.aio.run("held")
    await bench.until(lambda: ran)
    await executions.resume(bench.runtime, handle.exec_id)
    held.set()
    assert await bench.result(handle.exec_id, holding) == "held"
    events = await bench.events(handle.exec_id)
    assert not any(isinstance(event, ExecutionRecovered) for event in events)


async def test_what_another_process_runs_is_not_resumed_here(bench: Any) -> None:
    exec_id = await abandoned(bench)
    await bench.runtime.journal.claim(claim_of(exec_id))
    with pytest.raises(kitaru.KitaruStateError, match=r"run by another process.*lease"):
        await executions.resume(bench.runtime, exec_id)
    bench.let_leases_run_out()
    await executions.resume(bench.runtime, exec_id)
    assert await bench.result(exec_id, plain) == "a"


async def test_code_that_cannot_be_loaded_is_said_to_be_why(bench: Any) -> None:
    begun = prepared(bench)
    payload = begun.append.events[0].payload.replace(b'"plain"', b'"gone"')
    await bench.runtime.journal.append(
        Append(
            stream=stream_of("left"),
            events=(NewEvent("execution_started", payload),),
            expected_version=0,
            head=begun.append.head,
        )
    )
    with pytest.raises(kitaru.KitaruUsageError, match="gone"):
        await executions.resume(bench.runtime, "left")
    head = await bench.runtime.journal.head(stream_of("left"))
    assert (head.owner, head.state) == (None, "running")


# finding


@pytest.fixture
async def three(bench: Any) -> Any:
    """Three executions of which two begin alike."""
    for exec_id in ("aaaa-1", "aaaa-2", "bbbb-1"):
        await abandoned(bench, exec_id)
    return bench


async def test_an_unambiguous_beginning_is_enough(three: Any) -> None:
    assert await executions.find_id(three.runtime, "b") == "bbbb-1"
    assert await executions.find_id(three.runtime, "aaaa-2") == "aaaa-2"


async def test_an_id_that_is_the_beginning_of_another_is_itself(three: Any) -> None:
    await abandoned(three, "aaaa-22")
    assert await executions.find_id(three.runtime, "aaaa-2") == "aaaa-2"


async def test_an_ambiguous_beginning_names_who_it_could_be(three: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match=r"could be aaaa-1, aaaa-2"):
        await executions.find_id(three.runtime, "aaaa")


@pytest.mark.parametrize("text", ["", " ", "a\nb", "%", "_", "*", "' OR 1=1 --"])
async def test_no_text_is_a_pattern(three: Any, text: str) -> None:
    with pytest.raises((kitaru.KitaruUsageError, kitaru.KitaruStateError)):
        await executions.find_id(three.runtime, text)
