"""What may run only once is never repeated unasked, wherever its process is killed."""

import asyncio
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import Append, NewEvent, RecordedEvent
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import close_background, current_runtime
from kitaru.domain.execution.events import CheckpointCompleted, CheckpointStarted, ReviewRequested
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.upcasts import decode_event

effects: list[str] = []


@dataclasses.dataclass
class Receipt:
    number: int
    text: str = ""


@pytest.fixture(autouse=True)
def own_journal(journal_url: str) -> Iterator[None]:
    effects.clear()
    kitaru.configure(journal=journal_url)
    yield
    close_background()
    kitaru.configure(journal=None, lease_seconds=None)


@checkpoint(effect="once")
def charge(order: str) -> Receipt:
    effects.append(order)
    return Receipt(len(effects))


@checkpoint(effect="once")
async def charge_async(order: str) -> Receipt:
    effects.append(order)
    await asyncio.sleep(0)
    return Receipt(len(effects))


@checkpoint(cache=False)
def note(text: str) -> str:
    return text


@flow
def direct(order: str) -> str:
    note("before")
    try:
        receipt = charge(order)
    except kitaru.KitaruRuntimeError as error:
        return f"not charged: {error}"
    return f"{type(receipt).__name__} {receipt.number} {note('after')}"


@flow
def submitted(order: str) -> str:
    future = charge.submit(order)
    dependent = note.submit("after", after=future)
    try:
        receipt = future.result()
    except kitaru.KitaruRuntimeError as error:
        dependent.wait()
        return f"not charged: {error}"
    return f"{type(receipt).__name__} {receipt.number} {dependent.result()}"


@flow
async def awaited(order: str) -> str:
    await note.aio("before")
    try:
        receipt = await charge_async(order)
    except kitaru.KitaruRuntimeError as error:
        return f"not charged: {error}"
    return f"{type(receipt).__name__} {receipt.number} {await note.aio('after')}"


@flow
async def gathered(order: str) -> str:
    try:
        receipt, after = await asyncio.gather(charge.aio(order), note.aio("after"))
    except kitaru.KitaruRuntimeError as error:
        return f"not charged: {error}"
    return f"{type(receipt).__name__} {receipt.number} {after}"


BODIES = [direct, submitted, awaited, gathered]
executions = kitaru.KitaruClient().executions


def on_loop(make: Callable[[], Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(make(), current_runtime().loop).result()


def events_of(exec_id: str) -> list[RecordedEvent]:
    journal = current_runtime().journal
    return list(on_loop(lambda: journal.read_stream(stream_of(exec_id))))


def replanted(body: Any, history: list[RecordedEvent], exec_id: str) -> None:
    """A new execution with the first events of another: as if the process had died there."""
    runtime = current_runtime()
    runtime.worker.registry.serve(body.reference, body.definition)
    append = Append(
        stream=stream_of(exec_id),
        events=tuple(NewEvent(fact.type, fact.payload, fact.schema) for fact in history),
        expected_version=0,
        head=head_of(fold(ABSENT, [decode_event(fact) for fact in history])),
    )
    on_loop(lambda: runtime.journal.append(append))
    runtime.loop.call_soon_threadsafe(runtime.worker.look_now)


def eventually(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "this never became true"
        time.sleep(0.01)


def needs_review(exec_id: str) -> list[str]:
    return [call.call_id for call in executions.get(exec_id).checkpoints if call.needs_review]


def path_of(body: Any) -> str:
    return "charge_async" if body is awaited else "charge"


def lost(body: Any, exec_id: str) -> None:
    """An execution whose process died after the start of the charge, and before its outcome."""
    handle = body.sync.run("order")
    assert handle.wait(timeout=60) == "Receipt 1 after"
    history = events_of(handle.exec_id)
    kinds = [decode_event(fact) for fact in history]
    starts = [n for n, e in enumerate(kinds) if isinstance(e, CheckpointStarted) and e.once]
    assert len(starts) == 1
    effects.clear()
    replanted(body, history[: starts[0] + 1], exec_id)
    eventually(lambda: needs_review(exec_id) == [path_of(body)])


READER = """
import sys
from journal import open_reader

with open_reader(sys.argv[1]) as reader:
    print(*[event.type for event in reader.read_stream(sys.argv[2])])
"""


@pytest.mark.parametrize("body", BODIES)
def test_the_start_is_durable_before_the_body_begins(body: Any) -> None:
    seen: list[list[str]] = []
    location = current_runtime().journal.location

    @checkpoint(effect="once")
    def looks() -> None:
        exec_id = kitaru.current_execution_id()
        assert exec_id is not None
        command = [sys.executable, "-c", READER, location, stream_of(exec_id)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        seen.append(found.stdout.split())

    @flow
    def sync_body() -> None:
        looks() if body is direct else looks.submit().result()

    @flow
    async def async_body() -> None:
        await looks.aio()

    chosen: Any = sync_body if body in (direct, submitted) else async_body
    chosen.sync.run().wait(timeout=60)
    assert seen == [["execution_started", "checkpoint_started"]]


@pytest.mark.parametrize("failing", range(2, 5))
@pytest.mark.parametrize("body", BODIES)
async def test_nothing_begins_whose_start_was_not_written(
    body: Any, failing: int, bench: Any
) -> None:
    """Whichever append fails: of a charge that was made the journal says that it was begun."""
    bench.faults.fail_at = failing
    order = f"{body.name} {failing}"
    handle = await body.aio.run(order)
    await bench.until(lambda: bench.faults.failed)
    await bench.until(lambda: handle.exec_id not in bench.runtime.worker.runners)
    made = effects.count(order)
    events = await bench.events(handle.exec_id)
    begun = [event for event in events if isinstance(event, CheckpointStarted) and event.once]
    assert made <= len(begun)


@pytest.mark.parametrize("body", BODIES)
def test_a_crash_at_every_event_never_charges_twice(body: Any) -> None:
    handle = body.sync.run("order")
    expected = handle.wait(timeout=60)
    history = events_of(handle.exec_id)
    for end in range(1, len(history)):
        known = [decode_event(fact) for fact in history[:end]]
        begun = any(isinstance(e, CheckpointStarted) and e.once for e in known)
        done = any(isinstance(e, CheckpointCompleted) and "charge" in e.path for e in known)
        effects.clear()
        exec_id = f"again-{end}"
        replanted(body, history[:end], exec_id)
        again = executions.handle(exec_id)
        if begun and not done:
            eventually(functools.partial(needs_review, exec_id))
            assert effects == []
            executions.resolve(exec_id, path_of(body), result={"number": 1})
            assert again.wait(timeout=60) == expected
            assert effects == []
        else:
            assert again.wait(timeout=60) == expected
            assert effects == ([] if done else ["order"])


@pytest.mark.parametrize("body", BODIES)
def test_what_somebody_says_is_what_the_body_gets_now_and_in_replays(body: Any) -> None:
    lost(body, "result")
    shown = executions.get("result")
    assert shown.status is ExecutionStatus.WAITING
    assert "needs review" in (shown.status_reason or "")
    executions.resolve("result", path_of(body), result={"number": 42, "text": "by hand"})
    assert executions.handle("result").wait(timeout=60) == "Receipt 42 after"
    history = events_of("result")
    replanted(body, history[:-1], "result-again")
    assert executions.handle("result-again").wait(timeout=60) == "Receipt 42 after"
    assert effects == []


def test_an_open_review_is_asked_for_once_however_often_a_runner_comes() -> None:
    lost(direct, "asked")
    history = events_of("asked")
    assert isinstance(decode_event(history[-1]), ReviewRequested)
    replanted(direct, history, "asked-again")
    eventually(lambda: "asked-again" in current_runtime().worker.runners)
    executions.resolve("asked-again", "charge", result={"number": 3})
    assert executions.handle("asked-again").wait(timeout=60) == "Receipt 3 after"
    events = [decode_event(fact) for fact in events_of("asked-again")]
    assert len([event for event in events if isinstance(event, ReviewRequested)]) == 1


@pytest.mark.parametrize("body", BODIES)
def test_a_failure_is_raised_in_the_body(body: Any) -> None:
    lost(body, "failed")
    executions.resolve("failed", path_of(body), failed="the bank says no")
    assert executions.handle("failed").wait(timeout=60) == "not charged: the bank says no"
    assert effects == []


# What a person has said has failed is not tried again by a flow's own retries, but by a person's.


@flow(retries=2)
def insisting(order: str) -> str:
    try:
        return f"Receipt {charge(order).number} after"
    except kitaru.KitaruRuntimeError as error:
        raise ValueError(str(error)) from error


@flow(retries=2)
def insisting_submitted(order: str) -> str:
    try:
        return f"Receipt {charge.submit(order).result().number} after"
    except kitaru.KitaruRuntimeError as error:
        raise ValueError(str(error)) from error


@flow(retries=2)
async def insisting_async(order: str) -> str:
    try:
        return f"Receipt {(await charge.aio(order)).number} after"
    except kitaru.KitaruRuntimeError as error:
        raise ValueError(str(error)) from error


@pytest.mark.parametrize("body", [insisting, insisting_submitted, insisting_async])
def test_a_flows_retries_do_not_repeat_what_somebody_said_has_failed(body: Any) -> None:
    lost(body, "insisting")
    executions.resolve("insisting", "charge", failed="the bank says no")
    with pytest.raises(kitaru.KitaruUserCodeError, match="the bank says no"):
        executions.handle("insisting").wait(timeout=60)
    assert effects == []
    failed = [fact.type for fact in events_of("insisting") if fact.type.endswith("failed")]
    assert len(failed) == 4  # the call, two attempts of the flow, the execution

    executions.retry("insisting")
    assert executions.handle("insisting").wait(timeout=60) == "Receipt 1 after"
    assert effects == ["order"]


@pytest.mark.parametrize("body", BODIES)
def test_run_again_runs_it_once_more(body: Any) -> None:
    lost(body, "again")
    executions.resolve("again", path_of(body), run_again=True)
    assert executions.handle("again").wait(timeout=60) == "Receipt 1 after"
    assert effects == ["order"]
    (call,) = [c for c in executions.get("again").checkpoints if c.name.startswith("charge")]
    assert [attempt.number for attempt in call.attempts] == [1, 2]
    assert not call.needs_review


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("how", ["result", "failed", "run again"])
def test_an_answer_finds_a_parked_execution(
    body: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("kitaru.engine.sync_resting.IDLE_SECONDS", 0.05)
    lost(body, "parked")
    eventually(lambda: executions.get("parked").owner is None)
    eventually(lambda: "parked" not in current_runtime().worker.runners)
    shown = executions.get("parked")
    assert shown.status is ExecutionStatus.WAITING
    assert "needs review" in (shown.status_reason or "")
    answers: dict[str, dict[str, Any]] = {
        "result": {"result": {"number": 1}},
        "failed": {"failed": "no"},
        "run again": {"run_again": True},
    }
    executions.resolve("parked", path_of(body), **answers[how])
    result = executions.handle("parked").wait(timeout=60)
    assert result == ("not charged: no" if how == "failed" else "Receipt 1 after")
    assert effects == (["order"] if how == "run again" else [])


@pytest.mark.parametrize("body", BODIES)
def test_a_cancel_ends_what_waits_for_a_review(body: Any) -> None:
    lost(body, "cancelled")
    executions.cancel("cancelled")
    with pytest.raises(kitaru.KitaruExecutionError):
        executions.handle("cancelled").wait(timeout=60)
    assert executions.get("cancelled").status is ExecutionStatus.CANCELLED
    assert effects == []
    with pytest.raises(kitaru.KitaruStateError):
        executions.resolve("cancelled", path_of(body), run_again=True)


def test_two_reviews_are_resolved_in_any_order() -> None:
    @flow
    async def two() -> list[int]:
        receipts = await asyncio.gather(charge_async("one"), charge_async("two"))
        return [receipt.number for receipt in receipts]

    handle = two.sync.run()
    handle.wait(timeout=60)
    history = events_of(handle.exec_id)
    kinds = [decode_event(fact) for fact in history]
    cut = max(n for n, e in enumerate(kinds) if isinstance(e, CheckpointStarted))
    effects.clear()
    replanted(two, history[: cut + 1], "two")
    eventually(lambda: len(needs_review("two")) == 2)
    executions.resolve("two", "charge_async#2", result={"number": 2})
    eventually(lambda: len(needs_review("two")) == 1)
    executions.resolve("two", "charge_async", run_again=True)
    assert executions.handle("two").wait(timeout=60) == [1, 2]
    assert effects == ["one"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_error_that_was_raised_is_retried_as_configured(colour: str) -> None:
    @checkpoint(effect="once", retries=2)
    def flaky() -> int:
        effects.append("try")
        if len(effects) < 3:
            raise ValueError("the body has told us")
        return len(effects)

    @flow
    def retrying() -> int:
        return flaky()

    @flow
    async def retrying_async() -> int:
        return await flaky.aio()

    body: Any = retrying if colour == "sync" else retrying_async
    handle = body.sync.run()
    assert handle.wait(timeout=60) == 3
    history = events_of(handle.exec_id)
    assert [decode_event(fact).__class__.__name__ for fact in history].count(
        "CheckpointStarted"
    ) == 3
    # Killed between two attempts: the last one has told what came of it.
    for end in (3, 5):
        effects[:] = ["try"] * (end // 2)
        replanted(body, history[:end], f"{colour}-{end}")
        assert executions.handle(f"{colour}-{end}").wait(timeout=60) == 3


def test_it_is_never_reused() -> None:
    for _ in range(2):
        direct.with_options(cache=True).run("order").wait(timeout=60)
    assert effects == ["order", "order"]


# What is refused.


def test_a_bad_answer_is_refused_and_changes_nothing() -> None:
    lost(direct, "refused")
    version = executions.get("refused").version
    for bad in ({"number": "many"}, 5, None, {}):
        with pytest.raises(kitaru.KitaruUsageError, match="charge"):
            executions.resolve("refused", "charge", result=bad)
    for options in ({}, {"result": 1, "run_again": True}, {"failed": "x", "result": 1}):
        with pytest.raises(kitaru.KitaruUsageError, match="one of"):
            executions.resolve("refused", "charge", **options)
    for no_message in ("", " ", 5, b"gone"):
        with pytest.raises(kitaru.KitaruUsageError, match="said in a text"):
            executions.resolve("refused", "charge", failed=no_message)  # type: ignore[arg-type]
    with pytest.raises(kitaru.KitaruStateError, match="charge"):
        executions.resolve("refused", "note", run_again=True)
    with pytest.raises(kitaru.KitaruStateError):
        executions.input("refused", wait="charge", value=1)
    with pytest.raises(kitaru.KitaruStateError):
        executions.abort_wait("refused", wait="charge")
    assert executions.get("refused").version <= version + 2
    assert needs_review("refused") == ["charge"]


def test_only_the_first_answer_counts() -> None:
    lost(direct, "first")
    executions.resolve("first", "charge", result={"number": 7})
    with pytest.raises(kitaru.KitaruStateError):
        executions.resolve("first", "charge", run_again=True)
    assert executions.handle("first").wait(timeout=60) == "Receipt 7 after"
    assert effects == []


@pytest.mark.parametrize("options", [{"effect": "twice"}, {"effect": "once", "cache": True}])
def test_options_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError):
        checkpoint(**options)


# A process that is really killed.

PROGRAM = """
import os, signal, sys, time
from kitaru import checkpoint, flow

@checkpoint(effect="once")
def charge(order: str) -> int:
    with open("effects", "a") as file:
        file.write(order + "\\n")
        file.flush()
        os.fsync(file.fileno())
    if os.environ.get("KILLED") == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1

@flow
def order(name: str) -> int:
    return charge(name)

@flow
async def order_async(name: str) -> int:
    return await charge.aio(name)

if __name__ == "__main__":
    flow = order if sys.argv[1] == "sync" else order_async.sync
    handle = flow.run("book", idempotency_key="one")
    print(handle.exec_id, flush=True)
    print(handle.wait(timeout=float(sys.argv[2])), flush=True)
"""


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("answer", ["--result=1", "--run-again", "--failed=gone"])
def test_a_kill_inside_the_body_is_not_repeated_and_is_resolved_from_the_command_line(
    tmp_path: Path, journal_url: str, colour: str, answer: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {
        **os.environ,
        "KITARU_JOURNAL": journal_url,
        "KITARU_LEASE_SECONDS": "1",
        "KITARU_LOG_LEVEL": "off",
    }

    def run(*command: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    killed = run(str(program), colour, "30", KILLED="inside")
    assert killed.returncode == -signal.SIGKILL
    exec_id = killed.stdout.split()[0]
    assert (tmp_path / "effects").read_text() == "book\n"
    second = run(str(program), colour, "4", KITARU_LOG_LEVEL="warning")
    assert "KitaruTimeoutError" in second.stderr
    (told,) = [line for line in second.stderr.splitlines() if "checkpoint_needs_review" in line]
    assert f"exec_id={exec_id} path=charge site=program.py:" in told
    assert (tmp_path / "effects").read_text() == "book\n"
    shown = run("-m", "kitaru", "executions", "get", exec_id)
    assert "Needs review" in shown.stdout, shown.stdout + shown.stderr
    assert "needs review" in shown.stdout
    how = f"kitaru executions resolve {exec_id} charge --result JSON | --failed TEXT | --run-again"
    resumed = run("-m", "kitaru", "executions", "resume", exec_id, "--timeout", "0.5")
    assert how in resumed.stderr
    answered = run("-m", "kitaru", "executions", "input", exec_id, "--value", "1")
    assert answered.returncode == 1
    assert how in answered.stderr
    resolved = run("-m", "kitaru", "executions", "resolve", exec_id, "charge", answer)
    assert resolved.returncode == 0, resolved.stderr
    assert "It goes on with the next process that serves its flow" in resolved.stdout
    again = run("-m", "kitaru", "executions", "resolve", exec_id, "charge", answer)
    assert again.returncode == 1
    assert "needs no review now; nor does any other call" in again.stderr
    last = run(str(program), colour, "30")
    runs = 2 if answer == "--run-again" else 1
    assert (tmp_path / "effects").read_text() == "book\n" * runs
    if answer == "--failed=gone":
        assert "gone" in last.stderr
    else:
        assert last.stdout.split() == [exec_id, "1"], last.stderr
