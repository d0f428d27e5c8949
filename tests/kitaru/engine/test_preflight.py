"""What code is judged to make of a recorded execution, case by case. The laws, over random
programs, are in tests/determinism/test_preflight.py."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kitaru
from journal import RecordedEvent
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import CheckpointStarted, ExecutionEvent, TimerStarted
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.executions import new_event, stream_of
from kitaru.operations.preflight import preflight, preflight_unfinished
from kitaru.verdicts import Judgement, Verdict

RUNS: list[str] = []
NOW: dict[str, Callable[[], Any]] = {}
"""What the flows' bodies do: tests change their code here."""


class Parcel(msgspec.Struct):
    weight: int


@checkpoint
def fetch(url: str) -> str:
    RUNS.append(url)
    return url


@checkpoint(retries=1)
def flaky(url: str) -> str:
    RUNS.append(url)
    if RUNS.count(url) == 1:
        raise ValueError(url)
    return url


@checkpoint
def weigh() -> Parcel:
    return Parcel(3)


@checkpoint
def large(size: int) -> str:
    return "x" * size


@checkpoint(effect="once")
def charge(amount: int) -> int:
    RUNS.append("charge")
    return amount


@flow(cache=False)
def body() -> Any:
    return NOW["sync"]()


@flow(cache=False)
async def body_async() -> Any:
    return await NOW["async"]()


@flow(cache=False, retries=1)
def body_twice() -> Any:
    return NOW["sync"]()


FLOWS: dict[str, Any] = {"sync": body, "async": body_async}
both = pytest.mark.parametrize("colour", ["sync", "async"])


class Past:
    """An execution, as it is recorded."""

    def __init__(self, events: list[RecordedEvent], blobs: dict[str, bytes]) -> None:
        self.events = events
        self.blobs = blobs

    def then(self, *more: ExecutionEvent) -> list[RecordedEvent]:
        """All but the last of its events, and others after them."""
        events = self.events[:-1]
        for event in more:
            added = new_event(event)
            last = events[-1]
            events.append(
                msgspec.structs.replace(
                    last,
                    version=last.version + 1,
                    type=added.type,
                    schema=added.schema,
                    payload=added.payload,
                )
            )
        return events


async def record(code: Any, *, until: str = "", used: Any = None) -> Past:
    """What a flow leaves behind when it has ended, or when an event of that type is there."""
    used = used or (body_async if asyncio.iscoroutinefunction(code) else body)
    NOW["async" if used is body_async else "sync"] = code
    async with kitaru.runtime(journal="memory://"):
        journal = current_runtime().journal
        handle = used.aio.run()
        await handle
        stream = stream_of(handle.exec_id)
        if not until:
            with contextlib.suppress(kitaru.KitaruExecutionError):
                await handle.wait()
        async with asyncio.timeout(30):
            while True:
                events = await journal.read_stream(stream)
                if not until or any(event.type == until for event in events):
                    break
                await asyncio.sleep(0.005)
        named = {
            word
            for event in events
            for word in event.payload.decode().split('"')
            if len(word) == 64 and set(word) <= set("0123456789abcdef")
        }
        blobs = {}
        for digest in named:
            with contextlib.suppress(kitaru.KitaruError, LookupError, Exception):
                blobs[digest] = await journal.get_blob(digest)
    RUNS.clear()
    return Past(events, blobs)


def judged(
    code: Any,
    events: Sequence[RecordedEvent],
    blobs: Mapping[str, bytes] | None = None,
    *,
    used: Any = None,
    seconds: float = 10.0,
) -> Verdict:
    """What this code makes of a history."""
    used = used or (body_async if asyncio.iscoroutinefunction(code) else body)
    NOW["async" if used is body_async else "sync"] = code
    definition: FlowDefinition = used.definition
    verdict = preflight(events, blobs or {}, definition, seconds=seconds)
    assert RUNS == [], "a checkpoint's body has run"
    return verdict


def two() -> str:
    return fetch("a") + fetch("b")


async def two_async() -> str:
    return await fetch.aio("a") + await fetch.aio("b")


TWO: dict[str, Any] = {"sync": two, "async": two_async}


@both
async def test_a_finished_execution_is_safe_with_its_own_code(colour: str) -> None:
    past = await record(TWO[colour])
    verdict = judged(TWO[colour], past.events)
    assert verdict.judgement is Judgement.SAFE
    assert verdict.is_safe
    assert verdict.is_finished
    assert verdict.version == 4
    assert verdict.summary == "it ends as recorded"


@both
async def test_what_comes_next_is_told_of_an_unfinished_one(colour: str) -> None:
    past = await record(TWO[colour])
    for count, path in ((1, "fetch"), (2, "fetch#2")):
        verdict = judged(TWO[colour], past.events[:count])
        assert verdict.is_safe
        assert not verdict.is_finished
        assert verdict.version == count
        assert verdict.summary.startswith(f"next comes {path} at ")
        assert "test_preflight.py:" in verdict.summary
    assert judged(TWO[colour], past.events[:3]).summary == "then the body returns"


@both
async def test_a_body_that_would_fail_where_nothing_is_recorded_is_safe_and_told(
    colour: str,
) -> None:
    def fails() -> None:
        raise KeyError("x")

    async def fails_async() -> None:
        raise KeyError("x")

    past = await record(TWO[colour])
    verdict = judged(fails_async if colour == "async" else fails, past.events[:1])
    assert verdict.is_safe
    assert verdict.summary == "then the body raises KeyError: 'x'"


@both
async def test_a_divergence_says_where_and_what(colour: str) -> None:
    def other() -> str:
        return fetch("a") + fetch("c")

    async def other_async() -> str:
        return await fetch.aio("a") + await fetch.aio("c")

    code: Any = {"sync": other, "async": other_async}[colour]
    past = await record(TWO[colour])
    verdict = judged(code, past.events)
    assert verdict.judgement is Judgement.DIVERGES
    assert not verdict.is_safe
    assert (verdict.version, verdict.path) == (3, "fetch#2")
    was, now = TWO[colour].__code__.co_firstlineno + 1, code.__code__.co_firstlineno + 1
    assert verdict.recorded_site == f"tests/kitaru/engine/test_preflight.py:{was}"
    assert verdict.site == verdict.place == f"tests/kitaru/engine/test_preflight.py:{now}"
    assert verdict.story == kitaru.DivergenceStory.CHANGED_ARGUMENTS
    assert "url: 'b' -> 'c'" in verdict.report
    assert verdict.summary in verdict.report


@both
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("more", "and now the code asks for fetch#3 at "),
        ("result", "and now the code returns something else"),
        ("failure", "and now the body raises ValueError: no"),
    ],
)
async def test_a_finished_execution_has_to_end_as_recorded(
    colour: str, change: str, told: str
) -> None:
    def other() -> Any:
        result = two()
        if change == "more":
            fetch("c")
        if change == "failure":
            raise ValueError("no")
        return [result]

    async def other_async() -> Any:
        result = await two_async()
        if change == "more":
            await fetch.aio("c")
        if change == "failure":
            raise ValueError("no")
        return [result]

    past = await record(TWO[colour])
    verdict = judged({"sync": other, "async": other_async}[colour], past.events)
    assert verdict.judgement is Judgement.DIVERGES
    assert verdict.version == 4
    assert "the execution completed at event 4" in verdict.summary
    assert told in verdict.summary
    assert verdict.report
    # The same history without its end says nothing of how it has to end.
    unfinished = judged(NOW[colour], past.events[:-1])
    assert unfinished.is_safe


@both
async def test_failures_are_alike_when_their_class_is(colour: str) -> None:
    text = "first"

    def fails() -> None:
        fetch("a")
        raise ValueError(text) if text != "other" else KeyError(text)

    async def fails_async() -> None:
        await fetch.aio("a")
        raise ValueError(text) if text != "other" else KeyError(text)

    code: Any = {"sync": fails, "async": fails_async}[colour]
    past = await record(code)
    assert judged(code, past.events).is_safe
    text = "second"
    assert judged(code, past.events).is_safe
    text = "other"
    verdict = judged(code, past.events)
    assert verdict.judgement is Judgement.DIVERGES
    assert "failed with ValueError: first at event 3" in verdict.summary


async def test_only_the_last_flow_attempt_is_compared() -> None:
    def fails() -> None:
        fetch("a")
        fetch("b")
        raise ValueError

    def changed() -> None:
        fetch("b")
        raise ValueError

    past = await record(fails, used=body_twice)
    types = [event.type for event in past.events]
    failed = types.index("flow_attempt_failed")
    assert judged(changed, past.events[: failed + 1], used=body_twice).is_safe
    before = judged(changed, past.events[:failed], used=body_twice)
    assert before.judgement is Judgement.DIVERGES


def twice() -> str:
    return fetch("a") + flaky("b")


async def test_a_call_in_flight_that_is_asked_for_agrees() -> None:
    past = await record(twice)
    failed = next(n for n, e in enumerate(past.events) if e.type == "checkpoint_failed")
    verdict = judged(twice, past.events[: failed + 1])
    assert verdict.is_safe
    assert verdict.summary.startswith("next comes flaky at ")


async def test_a_call_in_flight_that_is_not_asked_for_is_unknown() -> None:
    past = await record(twice)
    failed = next(n for n, e in enumerate(past.events) if e.type == "checkpoint_failed")
    verdict = judged(lambda: fetch("a"), past.events[: failed + 1])
    assert verdict.judgement is Judgement.UNKNOWN
    assert verdict.path == "flaky"
    assert verdict.version == failed
    assert verdict.recorded_site.startswith("tests/kitaru/engine/test_preflight.py:")
    assert verdict.summary == (
        "flaky has begun and has no outcome, and this code does not ask for it"
    )


@both
async def test_a_call_in_flight_with_other_arguments_is_unknown(colour: str) -> None:
    past = await record(TWO[colour])
    started = CheckpointStarted(
        path="fetch#2", name="fetch", attempt=1, site="old.py:9", arguments_digest="other"
    )
    verdict = judged(TWO[colour], [*past.events[:2], past.then(started)[-1]][:2])
    assert verdict.is_safe
    history = Past(past.events[:3], {}).then(started)
    verdict = judged(TWO[colour], history)
    assert verdict.judgement is Judgement.UNKNOWN
    assert (verdict.version, verdict.path, verdict.place) == (2, "fetch#2", "old.py:9")
    assert "gives it other arguments" in verdict.summary


@both
async def test_a_timer_in_flight_that_is_not_asked_for_is_unknown(colour: str) -> None:
    past = await record(TWO[colour])
    history = past.then(TimerStarted(path="sleep", due_at=1, site="old.py:9"))
    verdict = judged(TWO[colour], history)
    assert verdict.judgement is Judgement.UNKNOWN
    assert (verdict.version, verdict.path) == (3, "sleep")


def patient() -> Any:
    return kitaru.wait(schema=int, name="approve")


async def patient_async() -> Any:
    return await kitaru.wait(schema=int, name="approve")


@both
async def test_an_open_wait_has_to_be_asked_for(colour: str) -> None:
    code: Any = {"sync": patient, "async": patient_async}[colour]
    past = await record(code, until="wait_requested")
    verdict = judged(code, past.events)
    assert verdict.is_safe
    assert verdict.summary.startswith("next comes wait approve at ")
    verdict = judged(TWO[colour], past.events)
    assert verdict.judgement is Judgement.DIVERGES
    assert (verdict.version, verdict.path) == (2, "approve")


@both
async def test_an_answer_that_would_be_rejected_is_unknown(colour: str) -> None:
    async def answered(code: Any) -> Past:
        NOW[colour] = code
        async with kitaru.runtime(journal="memory://"):
            handle = FLOWS[colour].aio.run()
            await handle
            await kitaru.AsyncKitaruClient().executions.input(
                handle.exec_id, wait="approve", value=7
            )
            await handle.wait()
            stream = stream_of(handle.exec_id)
            return Past(await current_runtime().journal.read_stream(stream), {})

    def stricter() -> Any:
        return kitaru.wait(schema=str, name="approve")

    async def stricter_async() -> Any:
        return await kitaru.wait(schema=str, name="approve")

    past = await answered({"sync": patient, "async": patient_async}[colour])
    verdict = judged({"sync": stricter, "async": stricter_async}[colour], past.events)
    assert verdict.judgement is Judgement.UNKNOWN
    assert (verdict.version, verdict.path) == (2, "approve")
    assert "the recorded answer to approve would be rejected" in verdict.summary


@both
async def test_a_result_that_cannot_be_decoded_is_unknown(colour: str) -> None:
    def heavy() -> int:
        fetch("a")
        return weigh().weight

    async def heavy_async() -> int:
        await fetch.aio("a")
        return (await weigh.aio()).weight

    code: Any = {"sync": heavy, "async": heavy_async}[colour]
    past = await record(code)
    assert judged(code, past.events).is_safe
    place = next(n for n, e in enumerate(past.events) if b'"weight":3' in e.payload)
    payload = past.events[place].payload.replace(b'"weight":3', b'"wight":3')
    damaged = msgspec.structs.replace(past.events[place], payload=payload)
    verdict = judged(code, [*past.events[:place], damaged, *past.events[place + 1 :]])
    assert verdict.judgement is Judgement.UNKNOWN
    assert (verdict.version, verdict.path) == (2, "weigh")
    assert "the recorded result of weigh cannot be decoded by this code" in verdict.summary
    assert verdict.place.startswith("tests/kitaru/engine/test_preflight.py:")


@both
async def test_a_blob_that_is_gone_is_unknown(colour: str) -> None:
    def bulky() -> int:
        fetch("a")
        return len(large(100_000))

    async def bulky_async() -> int:
        await fetch.aio("a")
        return len(await large.aio(100_000))

    code: Any = {"sync": bulky, "async": bulky_async}[colour]
    past = await record(code)
    assert judged(code, past.events, past.blobs).is_safe
    verdict = judged(code, past.events, {})
    assert verdict.judgement is Judgement.UNKNOWN
    assert verdict.version == 2
    assert verdict.path == "large"
    assert "gone" in verdict.summary


@both
async def test_events_of_a_newer_version_are_unknown_and_what_is_before_them_is_judged(
    colour: str,
) -> None:
    past = await record(TWO[colour])
    newer = msgspec.structs.replace(past.events[2], type="checkpoint_dreamt")
    history = [*past.events[:2], newer, past.events[3]]
    verdict = judged(TWO[colour], history)
    assert verdict.judgement is Judgement.UNKNOWN
    assert verdict.version == 2
    assert "checkpoint_dreamt" in verdict.summary
    other: Any = {"sync": patient, "async": patient_async}[colour]
    assert judged(other, history).judgement is Judgement.DIVERGES
    verdict = judged(TWO[colour], [msgspec.structs.replace(past.events[0], type="dreamt")])
    assert (verdict.judgement, verdict.version) == (Judgement.UNKNOWN, 0)
    assert judged(TWO[colour], []).judgement is Judgement.UNKNOWN


@both
@pytest.mark.parametrize("how", ["computes", "sleeps"])
async def test_a_body_that_comes_to_no_next_call_is_unknown(colour: str, how: str) -> None:
    woken = threading.Event()

    def ends_never() -> None:
        if how == "sleeps":
            woken.wait(60)
        while True:
            pass

    def stuck() -> None:
        fetch("a")
        ends_never()

    async def stuck_async() -> None:
        await fetch.aio("a")
        ends_never()

    past = await record(TWO[colour])
    code: Any = {"sync": stuck, "async": stuck_async}[colour]
    verdict = judged(code, past.events, seconds=0.3)
    assert verdict.judgement is Judgement.UNKNOWN
    assert verdict.version == 2
    assert "did not come to its next call within 0.3 s" in verdict.summary
    woken.set()
    # It does not take a processor for ever.
    for thread in threading.enumerate():
        if thread.name == "kitaru-preflight":
            thread.join(30)
            assert not thread.is_alive()


async def test_a_body_that_waits_for_nothing_would_fail_and_is_told() -> None:
    async def stuck() -> None:
        await fetch.aio("a")
        await asyncio.Event().wait()

    past = await record(stuck)
    assert past.events[-1].type == "execution_failed"
    assert judged(stuck, past.events).is_safe
    verdict = judged(stuck, past.events[:-1])
    assert verdict.is_safe
    assert "waits for something that can never come" in verdict.summary


@both
async def test_a_body_that_catches_everything_hides_no_verdict(colour: str) -> None:
    def hides() -> str:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                fetch("z")
        return "done"

    async def hides_async() -> str:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                await fetch.aio("z")
        return "done"

    code: Any = {"sync": hides, "async": hides_async}[colour]
    past = await record(TWO[colour])
    verdict = judged(code, past.events)
    assert (verdict.judgement, verdict.path) == (Judgement.DIVERGES, "fetch")
    verdict = judged(code, past.events[:1])
    assert verdict.is_safe
    assert verdict.summary.startswith("next comes fetch at ")


async def test_an_execution_cannot_be_started_by_a_body_that_is_tried() -> None:
    def starts() -> None:
        body.run()

    past = await record(two)
    verdict = judged(starts, past.events[:1])
    assert "cannot be started from another flow's body" in verdict.summary


@both
async def test_a_body_that_uses_the_journal_by_itself_is_unknown(
    colour: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KITARU_JOURNAL", str(tmp_path / "journal.db"))

    def reads() -> Any:
        fetch("a")
        return kitaru.load("nobody", "nothing")

    async def reads_async() -> Any:
        await fetch.aio("a")
        return await kitaru.AsyncKitaruClient().executions.list()

    past = await record(TWO[colour])
    code: Any = {"sync": reads, "async": reads_async}[colour]
    verdict = await asyncio.to_thread(judged, code, past.events[:2])
    assert verdict.judgement is Judgement.UNKNOWN
    assert verdict.version == 2
    assert "reads or writes the journal" in verdict.summary
    assert not (tmp_path / "journal.db").exists()


async def test_arguments_that_the_code_does_not_take_diverge() -> None:
    @flow
    def needs(_value: int) -> str:
        return two()

    past = await record(two)
    verdict = preflight(past.events, {}, needs.definition)
    assert verdict.judgement is Judgement.DIVERGES
    assert "TypeError" in verdict.summary


@both
async def test_every_unfinished_execution_of_a_flow_is_judged(colour: str) -> None:
    def patient_here() -> Any:
        fetch("a")
        return patient()

    async def patient_here_async() -> Any:
        await fetch.aio("a")
        return await patient_async()

    NOW[colour] = {"sync": patient_here, "async": patient_here_async}[colour]
    chosen = FLOWS[colour]
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        handles = [chosen.aio.run() for _ in range(3)]
        for handle in handles:
            await handle
        client = kitaru.AsyncKitaruClient().executions
        async with asyncio.timeout(30):
            for handle in handles:
                while not (await client.get(handle.exec_id)).pending_waits:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        await client.input(handles[1].exec_id, wait="approve", value=1)
        await handles[1].wait()
        RUNS.clear()
        before = [await runtime.journal.read_stream(stream_of(h.exec_id)) for h in handles]
        verdicts = await preflight_unfinished(runtime, chosen.name, chosen.definition)
        assert [exec_id for exec_id, _ in verdicts] == [handles[0].exec_id, handles[2].exec_id]
        assert all(verdict.is_safe and verdict.version == 3 for _, verdict in verdicts)
        NOW[colour] = {"sync": two, "async": two_async}[colour]
        verdicts = await preflight_unfinished(runtime, chosen.name, chosen.definition)
        assert [v.judgement for _, v in verdicts] == [Judgement.DIVERGES] * 2
        assert [v.path for _, v in verdicts] == ["approve"] * 2
        assert await preflight_unfinished(runtime, "another", chosen.definition) == []
        after = [await runtime.journal.read_stream(stream_of(h.exec_id)) for h in handles]
    assert RUNS == []
    assert before == after


@both
async def test_one_that_has_diverged_is_among_them(colour: str) -> None:
    past = await record(TWO[colour])
    NOW[colour] = {"sync": patient, "async": patient_async}[colour]
    chosen = FLOWS[colour]
    from journal import Append, NewEvent
    from kitaru.engine.executions import head_of, state_of

    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        runtime.worker.registry.serve(chosen.reference, chosen.definition)
        await runtime.journal.append(
            Append(
                stream=stream_of("planted"),
                events=tuple(NewEvent(e.type, e.payload, e.schema) for e in past.events[:3]),
                expected_version=0,
                head=head_of(state_of(past.events[:3])),
            )
        )
        runtime.worker.look_now()
        with pytest.raises(kitaru.KitaruDivergenceError):
            await (await kitaru.AsyncKitaruClient().executions.handle("planted")).wait()
        ((_, verdict),) = await preflight_unfinished(runtime, chosen.name, chosen.definition)
        assert (verdict.judgement, verdict.path) == (Judgement.DIVERGES, "fetch")
        NOW[colour] = TWO[colour]
        ((_, verdict),) = await preflight_unfinished(runtime, chosen.name, chosen.definition)
        assert verdict.is_safe
        assert verdict.version == 3
    assert RUNS == []
