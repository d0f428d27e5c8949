"""Executions are shown as their events say, whatever the events are."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Raw
from msgspec.structs import replace

from journal import Append, Head, RecordedEvent, open_journal
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    MetadataLogged,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.values import ErrorData, FrameData, StoredValue
from kitaru.engine.executions import fold, new_event
from kitaru.engine.executions import head_of as engine_head_of
from kitaru.engine.upcasts import UnknownEvent
from kitaru.projections.executions import execution_of, head_of, summary_of
from kitaru.status import ExecutionStatus, FailureOrigin

Record = Callable[[Sequence[ExecutionEvent]], list[RecordedEvent]]
HeadOf = Callable[[Sequence[ExecutionEvent]], Head]
Histories = SearchStrategy[list[ExecutionEvent]]

BEGIN = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
BOOM = ErrorData(type="ValueError", message="boom", frames=(FrameData("a.py", 3, "f", "f()"),))


def completed(path: str, attempt: int = 1, result: bytes = b"1") -> CheckpointCompleted:
    return CheckpointCompleted(
        path=path,
        name=path,
        attempt=attempt,
        site="flow.py:7",
        result=StoredValue(json=Raw(result)),
        duration_us=250_000,
        type="llm_call",
    )


def failed(path: str, attempt: int = 1, retry_at: int | None = None) -> CheckpointFailed:
    return CheckpointFailed(path=path, name=path, attempt=attempt, error=BOOM, retry_at=retry_at)


def begun(path: str, attempt: int = 1) -> CheckpointStarted:
    return CheckpointStarted(path=path, name=path, attempt=attempt)


# What is stored is what the events say: for any history, cut into appends in any way.


@given(data=st.data())
def test_a_head_rebuilt_from_events_equals_the_stored_one(
    data: st.DataObject, histories: Histories
) -> None:
    events = data.draw(histories)
    cuts = sorted({0, *data.draw(st.lists(st.integers(1, len(events)))), len(events)})

    async def scenario() -> tuple[Head | None, list[RecordedEvent]]:
        journal = await open_journal("memory://")
        stream, state = "execution-1", ABSENT
        for start, end in pairwise(cuts):
            after = fold(state, events[start:end])
            change = None if after == state else engine_head_of(after)
            batch = tuple(map(new_event, events[start:end]))
            await journal.append(
                Append(stream=stream, events=batch, expected_version=start, head=change)
            )
            state = after
        try:
            return await journal.head(stream), await journal.read_stream(stream)
        finally:
            await journal.close()

    stored, recorded = asyncio.run(scenario())
    assert stored is not None
    rebuilt = head_of(recorded)
    assert (rebuilt.version, rebuilt.hash) == (stored.version, stored.hash)
    assert (rebuilt.state, rebuilt.name) == (stored.state, stored.name)
    assert rebuilt.summary == stored.summary


@given(data=st.data())
def test_every_history_has_a_view(
    data: st.DataObject, histories: Histories, record: Record, stored_head: HeadOf
) -> None:
    events = data.draw(histories)
    head = stored_head(events)
    view = execution_of(head, record(events))
    summary = summary_of(head)
    assert (view.status, view.attempt, view.recoveries) == (
        summary.status,
        summary.attempt,
        summary.recoveries,
    )
    assert (view.ended_at is not None) == view.status.is_finished
    assert len({call.call_id for call in view.checkpoints}) == len(view.checkpoints)
    if view.status.is_finished:
        assert not {call.status for call in view.checkpoints} & {
            ExecutionStatus.RUNNING,
            ExecutionStatus.WAITING,
        }
    assert msgspec.json.encode(view)


@given(data=st.data())
def test_damage_never_breaks_a_view(
    data: st.DataObject, histories: Histories, record: Record, stored_head: HeadOf
) -> None:
    events = data.draw(histories)
    recorded = [
        replace(event, payload=data.draw(st.just(event.payload) | st.binary(max_size=20)))
        for event in record(events)
    ]
    head = replace(
        stored_head(events),
        summary=data.draw(st.binary(max_size=20)),
        state=data.draw(st.text(max_size=5)),
    )
    view = execution_of(head, recorded)
    assert view.exec_id == summary_of(head).exec_id


def test_a_summary_tells_what_the_head_says(started: ExecutionStarted, stored_head: HeadOf) -> None:
    view = summary_of(stored_head([started]))
    assert view.exec_id == "5f0c8a52-1d9c-4f6e-9f56-0e9a1c3f7b11"
    assert view.flow_name == "agent"
    assert view.status is ExecutionStatus.RUNNING
    assert (view.started_at, view.ended_at, view.duration) == (BEGIN, None, None)
    assert (view.checkpoints, view.artifacts, view.takeovers) == ((), (), None)


def test_a_failed_summary_has_the_errors_own_text(
    started: ExecutionStarted, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [started, ExecutionFailed(error=BOOM, origin="user_code")]
    failure = summary_of(stored_head(events)).failure
    assert failure is not None
    assert (failure.message, failure.exception_type) == ("boom", "ValueError")
    assert failure.origin is FailureOrigin.USER_CODE


def test_three_attempts_are_one_call(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        failed("f", 1, 1),
        failed("f", 2, 1),
        completed("f", 3),
    ]
    (call,) = execution_of(stored_head(events), record(events)).checkpoints
    assert [attempt.number for attempt in call.attempts] == [1, 2, 3]
    assert [attempt.status for attempt in call.attempts] == ["failed", "failed", "completed"]
    assert call.status is ExecutionStatus.COMPLETED
    assert call.failure is None
    assert (call.checkpoint_type, call.type, call.site) == ("llm_call", "llm_call", "flow.py:7")
    assert call.ended_at == BEGIN + timedelta(seconds=3)
    assert call.attempts[2].duration == timedelta(milliseconds=250)


def test_a_call_between_two_attempts_waits(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [started, failed("f", 1, 1_800_000_060_000_000)]
    (call,) = execution_of(stored_head(events), record(events)).checkpoints
    assert call.status is ExecutionStatus.WAITING
    assert call.attempts[0].retry_at == BEGIN + timedelta(minutes=1)
    assert call.failure is not None
    assert call.failure.message == "boom"


def test_an_attempt_that_lost_its_process_is_shown_as_interrupted(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        begun("f", 1),
        ExecutionRecovered(previous_owner="a", recoveries=1),
        completed("f", 2),
    ]
    view = execution_of(stored_head(events), record(events))
    (call,) = view.checkpoints
    first, second = call.attempts
    assert first.status is ExecutionStatus.FAILED
    assert first.failure is not None
    assert first.failure.origin is FailureOrigin.RUNTIME
    assert second.status is ExecutionStatus.COMPLETED
    assert (view.recoveries, view.takeovers) == (0, 1)


def test_what_still_ran_when_the_execution_ended_is_cancelled(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        begun("f"),
        failed("g", 1, 5),
        ExecutionCancelled(reason="enough"),
    ]
    view = execution_of(stored_head(events), record(events))
    assert [call.status for call in view.checkpoints] == ["cancelled", "failed"]
    assert view.status_reason == "enough"


def test_a_failure_names_the_call_that_failed_and_where(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        failed("f"),
        ExecutionFailed(error=BOOM, origin="user_code"),
    ]
    failure = execution_of(stored_head(events), record(events)).failure
    assert failure is not None
    assert (failure.call_id, failure.site) == ("f", "a.py:3")
    assert failure.traceback.startswith("Traceback (most recent call last):")
    assert "ValueError: boom" in failure.traceback


def test_a_reopened_execution_has_no_end_and_no_failure(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        ExecutionFailed(error=BOOM, origin="user_code"),
        ExecutionReopened(reason="retry"),
    ]
    view = execution_of(stored_head(events), record(events))
    assert (view.status, view.ended_at, view.failure) == (ExecutionStatus.RUNNING, None, None)
    assert view.attempt == 2


def test_a_diverged_execution_shows_its_report(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        ExecutionDiverged(report="the whole story", facts=Raw(b"{}")),
    ]
    view = execution_of(stored_head(events), record(events))
    assert view.failure is not None
    assert view.failure.message == "the whole story"
    assert view.failure.origin is FailureOrigin.DIVERGENCE


def test_metadata_merges_dicts_and_keeps_the_last_scalar(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        MetadataLogged(metadata=Raw(b'{"cost":{"in":1},"step":1}')),
        MetadataLogged(metadata=Raw(b'{"cost":{"out":2},"step":2}')),
        MetadataLogged(metadata=Raw(b'{"model":"m"}'), path="f"),
        completed("f"),
    ]
    view = execution_of(stored_head(events), record(events))
    assert view.metadata == {"cost": {"in": 1, "out": 2}, "step": 2}
    assert view.checkpoints[0].metadata == {"model": "m"}


def test_artifacts_name_the_call_that_saved_them(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    value = StoredValue(json=Raw(b'"text"'))
    saved = ArtifactSaved(path="f", name="report", type="output", value=value, tags=("x",))
    events: list[ExecutionEvent] = [started, saved]
    (artifact,) = execution_of(stored_head(events), record(events)).artifacts
    assert (artifact.name, artifact.kind, artifact.producing_call) == ("report", "output", "f")
    assert artifact.artifact_id.endswith("/2")
    assert artifact.tags == ("x",)


def test_arguments_and_result_are_there_as_stored(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [
        started,
        ExecutionCompleted(result=StoredValue(json=Raw(b"42"))),
    ]
    view = execution_of(stored_head(events), record(events))
    assert view.arguments == started.arguments
    assert view.result is not None
    assert bytes(view.result.json) == b"42"
    assert view.duration == timedelta(seconds=1)


@pytest.mark.parametrize(
    "change", [{"type": "something_newer"}, {"schema": 2}], ids=["type", "schema"]
)
def test_an_event_of_a_newer_version_is_named_and_the_rest_is_shown(
    change: dict[str, object], started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [started, completed("f"), completed("g")]
    recorded = record(events)
    recorded[1] = replace(recorded[1], **change)
    view = execution_of(stored_head(events), recorded)
    assert [call.call_id for call in view.checkpoints] == ["g"]
    (notice,) = view.unknown
    assert "read-only" in notice
    with pytest.raises(UnknownEvent):
        head_of(recorded)


def test_a_status_of_a_newer_version_is_said_and_not_guessed(
    started: ExecutionStarted, stored_head: HeadOf
) -> None:
    view = summary_of(replace(stored_head([started]), state="paused"))
    assert not view.status.is_finished
    assert view.status_reason == (
        "The journal says 'paused', which this version of Kitaru does not know."
    )


def test_events_that_are_newer_than_the_head_count(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    events: list[ExecutionEvent] = [started, ExecutionFailed(error=BOOM, origin="user_code")]
    view = execution_of(stored_head(events[:1]), record(events))
    assert view.status is ExecutionStatus.FAILED
    assert view.ended_at == BEGIN + timedelta(seconds=1)
    assert view.failure is not None


def test_attempts_at_a_path_with_other_arguments_are_told_apart(
    started: ExecutionStarted, record: Record, stored_head: HeadOf
) -> None:
    first = replace(completed("a"), arguments=StoredValue(json=Raw(b"10")))
    second = replace(completed("a", 2, b"2"), arguments=StoredValue(json=Raw(b"12")))
    ended = ExecutionFailed(error=BOOM, origin="user_code")
    again = ExecutionReopened(reason="retry")
    events: list[ExecutionEvent] = [started, first, ended, again, second]
    (call,) = execution_of(stored_head(events), record(events)).checkpoints
    assert [attempt.attempt_id for attempt in call.attempts] == ["a:1", "a:2"]
    assert call.arguments == second.arguments
    assert call.result == second.result
