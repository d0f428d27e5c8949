"""The fold of an execution's events: total, and its ends are final."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionParked,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    FrozenOptions,
    InputGiven,
    SourceReference,
    TimerFired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.executions import fold, head_of
from kitaru.status import ExecutionStatus

NULL = StoredValue(json=Raw(b"null"))
STARTED = ExecutionStarted(
    flow="f",
    source=SourceReference(module="m", qualname="f"),
    arguments=NULL,
    arguments_digest="d",
    options=FrozenOptions(retries=2),
)
ERROR = ErrorData(type="ValueError", message="boom")
DONE = CheckpointCompleted(path="c", name="c", attempt=1, result=NULL)
ASKS = WaitRequested(path="w", name="w")
DIVERGED = ExecutionDiverged(report="the report", facts=Raw(b"{}"))
ENDS: list[ExecutionEvent] = [
    ExecutionCompleted(result=NULL),
    ExecutionFailed(error=ERROR, origin="user_code"),
    ExecutionCancelled(reason="enough"),
]


def after(*events: ExecutionEvent) -> ExecutionState:
    return fold(ABSENT, [STARTED, *events])


@given(data=st.data())
def test_every_event_has_its_place_in_every_state(data: st.DataObject, any_event: Any) -> None:
    events = data.draw(st.lists(any_event, max_size=12))
    state = fold(ABSENT if data.draw(st.booleans()) else after(), events)
    assert isinstance(state, ExecutionState)
    if state.status is not None:
        assert head_of(state).state == state.status.value


@given(data=st.data())
def test_an_end_is_final_until_somebody_reopens_the_execution(
    data: st.DataObject, any_event: Any
) -> None:
    before = data.draw(st.lists(any_event, max_size=6))
    end = data.draw(st.sampled_from(ENDS))
    ended = after(*before, end)
    later = data.draw(st.lists(any_event, max_size=6))
    later = [event for event in later if not isinstance(event, ExecutionReopened)]
    assert ended.is_finished
    assert fold(ended, later) == ended
    assert head_of(ended).due_at is None


@given(data=st.data())
def test_what_comes_after_a_divergence_does_not_set_it_going(
    data: st.DataObject, any_event: Any
) -> None:
    on_its_way: tuple[ExecutionEvent, ...] = (
        CheckpointStarted(path="c", name="c", attempt=1),
        CheckpointFailed(path="c", name="c", attempt=1, error=ERROR, retry_at=5),
        DONE,
        TimerFired(path="sleep", due_at=3),
        InputGiven(path="w", value=NULL),
    )
    before = data.draw(st.lists(any_event, max_size=4))
    before = [event for event in before if not isinstance(event, tuple(map(type, ENDS)))]
    diverged = after(*before, DIVERGED)
    later = data.draw(st.lists(st.sampled_from(on_its_way), max_size=4))
    assert fold(diverged, later).status is ExecutionStatus.DIVERGED


def test_an_execution_that_is_started_runs_its_first_attempt() -> None:
    state = after()
    assert (state.status, state.flow, state.attempt) == (ExecutionStatus.RUNNING, "f", 1)
    assert (state.retries, state.failed_attempts, state.recoveries) == (2, 0, 0)
    assert head_of(state).due_at == 0


def test_progress_forgives_take_overs_and_a_failed_attempt_does_not() -> None:
    died = ExecutionRecovered(previous_owner="o", recoveries=3)
    failed = CheckpointFailed(path="c", name="c", attempt=1, error=ERROR)
    assert after(died).recoveries == 3
    assert after(died, failed).recoveries == 3
    assert after(died, DONE).recoveries == 0
    assert after(died, TimerFired(path="sleep", due_at=1)).recoveries == 0
    assert after(died).failed_attempts == 0


def test_failed_attempts_and_take_overs_are_counted_apart() -> None:
    failed = FlowAttemptFailed(attempt=1, error=ERROR, retry_at=7)
    state = after(failed, ExecutionRecovered(previous_owner="o", recoveries=1))
    assert (state.attempt, state.failed_attempts, state.recoveries) == (2, 1, 1)
    assert (state.due_at, state.error_type, state.status) == (7, "ValueError", "running")


@pytest.mark.parametrize(("reason", "attempt"), [("retry", 3), ("resume", 2)])
def test_reopening_forgets_failures_and_counts_an_attempt_only_for_a_retry(
    reason: str, attempt: int
) -> None:
    failed = FlowAttemptFailed(attempt=1, error=ERROR, retry_at=7)
    end = ENDS[1] if reason == "retry" else DIVERGED
    state = after(failed, end, ExecutionReopened(reason=reason))
    assert (state.status, state.attempt) == (ExecutionStatus.RUNNING, attempt)
    assert (state.failed_attempts, state.recoveries, state.reason) == (0, 0, "")
    assert state.origin is None


def test_a_resumed_execution_is_still_to_be_cancelled_and_a_retried_one_is_not() -> None:
    asked = CancelRequested(reason="enough")
    resumed = after(asked, DIVERGED, ExecutionReopened(reason="resume"))
    assert (resumed.cancel_requested, resumed.cancel_reason) == (True, "enough")
    retried = after(asked, ENDS[1], ExecutionReopened(reason="retry"))
    assert (retried.cancel_requested, retried.cancel_reason) == (False, "")


def test_a_cancel_request_makes_a_parked_execution_due_at_once() -> None:
    waits = WaitRequested(path="w", name="w")
    parked = after(waits, ExecutionParked())
    assert (parked.status, head_of(parked).due_at) == (ExecutionStatus.WAITING, None)
    asked = evolve(parked, CancelRequested())
    assert (asked.status, head_of(asked).due_at) == (ExecutionStatus.RUNNING, 0)


BEGUN = CheckpointStarted(path="c", name="c", attempt=1)


@pytest.mark.parametrize("progress", [DONE, BEGUN], ids=["done", "begun"])
@pytest.mark.parametrize(
    ("before", "status", "due_at"),
    [
        ((), ExecutionStatus.RUNNING, 0),
        ((ExecutionParked(due_at=5),), ExecutionStatus.RUNNING, 0),
        ((ExecutionParked(due_at=0),), ExecutionStatus.RUNNING, 0),
        ((FlowAttemptFailed(attempt=1, error=ERROR, retry_at=7),), ExecutionStatus.RUNNING, 0),
        ((ASKS,), ExecutionStatus.WAITING, 0),
        ((ASKS, ExecutionParked(due_at=5)), ExecutionStatus.WAITING, 0),
        ((ASKS, ExecutionParked(due_at=None)), ExecutionStatus.WAITING, 0),
        ((ExecutionParked(due_at=5), DIVERGED), ExecutionStatus.DIVERGED, 5),
        ((ASKS, DIVERGED), ExecutionStatus.DIVERGED, 0),
    ],
)
def test_an_execution_of_which_a_body_runs_is_due_and_runs_unless_it_asks(
    before: tuple[ExecutionEvent, ...],
    status: ExecutionStatus,
    due_at: int | None,
    progress: ExecutionEvent,
) -> None:
    state = after(*before, progress)
    assert (state.status, state.due_at) == (status, due_at)
    assert state.waits == after(*before).waits
