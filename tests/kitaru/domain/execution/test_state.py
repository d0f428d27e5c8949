"""The fold of an execution's events: total, and its ends are final."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    CheckpointStarted,
    CodeNotLoaded,
    DeploymentReference,
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
    ForkedFrom,
    FrozenOptions,
    InputGiven,
    ReviewRequested,
    SourceReference,
    StackReference,
    TimerFired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.domain.execution.wait_ids import early_answer
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.executions import fold, head_of
from kitaru.status import ExecutionStatus, FailureOrigin

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


def placed(stack: StackReference | None, deployment: DeploymentReference | None) -> ExecutionState:
    options = FrozenOptions(stack=stack)
    return fold(ABSENT, [replace(STARTED, options=options, deployment=deployment)])


def test_an_execution_is_on_the_route_of_its_stack_or_else_of_its_version() -> None:
    version = DeploymentReference("f", 1, "ab" * 32)
    isolated, local = StackReference("iso", "process"), StackReference("here", "local")
    assert placed(None, None).route == ""
    assert placed(local, None).route == ""
    assert placed(None, version).route == placed(local, version).route == "deployment:" + "ab" * 32
    assert placed(isolated, None).route == placed(isolated, version).route == "stack:iso"


def test_a_question_says_what_is_waited_for_until_the_last_is_answered() -> None:
    review = ReviewRequested(path="c#2", name="c", attempt=1)
    state = after(ASKS, review)
    assert (state.status, state.reason) == (
        ExecutionStatus.WAITING,
        "needs review: c#2 was started and lost, and may run only once",
    )
    assert [wait.path for wait in state.questions] == ["w"]
    resolved = evolve(state, CheckpointResolved(path="c#2", decision="run again"))
    assert (resolved.status, resolved.reason) == (
        ExecutionStatus.WAITING,
        "waits for an input: w#1",
    )
    parked = evolve(resolved, ExecutionParked(due_at=9))
    answered = evolve(parked, InputGiven(path="w", value=NULL))
    assert (answered.status, answered.reason, answered.due_at) == (ExecutionStatus.RUNNING, "", 0)
    assert (answered.waits, answered.early) == ((), ())


def test_of_several_waits_that_are_parked_the_answer_of_one_makes_it_due() -> None:
    parked = after(ASKS, WaitRequested(path="v", name="v"), ExecutionParked(due_at=None))
    answered = evolve(parked, InputGiven(path="w", value=NULL))
    assert (answered.status, answered.due_at, answered.reason) == (
        ExecutionStatus.WAITING,
        0,
        "waits for an input: v#1",
    )


def test_a_wait_that_is_answered_while_its_execution_has_diverged_is_answered() -> None:
    answered = after(ASKS, DIVERGED, InputGiven(path="w", value=NULL))
    assert (answered.status, answered.reason) == (ExecutionStatus.DIVERGED, "the report")
    assert answered.waits == ()


@pytest.mark.parametrize("key", ["w", "task/w"])
def test_an_early_answer_is_taken_once_by_its_id_or_else_its_name(key: str) -> None:
    state = after(InputGiven(path=key, value=NULL), InputGiven(path="x", value=NULL))
    assert state.early == (key, "x")
    asked = evolve(state, WaitRequested(path="task/w", name="w"))
    assert (asked.early, asked.waits, asked.status) == (("x",), (), ExecutionStatus.RUNNING)
    again = evolve(asked, WaitRequested(path="task/w#2", name="w"))
    assert (again.early, [wait.path for wait in again.waits]) == (("x",), ["task/w#2"])
    assert early_answer(("w", "task/w"), "task/w", "w") == "task/w"


@pytest.mark.parametrize("due_at", [None, 5])
def test_a_parked_execution_waits_until_it_is_due(due_at: int | None) -> None:
    state = after(ExecutionParked(due_at=due_at))
    assert (state.status, state.due_at) == (ExecutionStatus.WAITING, due_at)


def test_who_asks_has_been_loaded() -> None:
    not_loaded = CodeNotLoaded(problem="p", failures=2, retry_at=9)
    assert after(not_loaded, ASKS).load_failures == 0
    assert after(not_loaded, ReviewRequested(path="c", name="c", attempt=1)).load_failures == 0


def test_an_end_says_why_and_nothing_is_open_any_more() -> None:
    failed = after(ASKS, ENDS[1])
    assert (failed.waits, failed.reason, failed.error_type, failed.origin) == (
        (),
        "boom",
        "ValueError",
        FailureOrigin.USER_CODE,
    )
    cancelled = after(ASKS, ENDS[2])
    assert (cancelled.waits, cancelled.reason) == ((), "enough")
    attempt = FlowAttemptFailed(attempt=1, error=ERROR, retry_at=7)
    tried = after(ASKS, attempt)
    assert (tried.waits, tried.reason) == ((), "attempt 1 failed: boom")
    assert tried.status is ExecutionStatus.RUNNING
    early = InputGiven(path="x", value=NULL)
    completed = after(attempt, early, ASKS, DIVERGED, ENDS[0])
    assert (completed.waits, completed.early) == ((), ())
    assert (completed.reason, completed.error_type, completed.origin) == ("", "", None)


def test_a_cancel_request_says_why_it_is_cancelled() -> None:
    assert after(CancelRequested(reason="enough")).reason == "enough"
    assert after(CancelRequested()).reason == "cancelling"


def test_a_divergence_has_its_report_and_its_origin() -> None:
    state = after(DIVERGED)
    assert (state.reason, state.origin) == ("the report", FailureOrigin.DIVERGENCE)


def test_reopening_leaves_nothing_of_the_failure_and_keeps_open_questions_of_a_resumed_one() -> (
    None
):
    before = (
        CodeNotLoaded(problem="p", failures=2, retry_at=9),
        ExecutionRecovered(previous_owner="o", recoveries=2),
        FlowAttemptFailed(attempt=1, error=ERROR, retry_at=7),
    )
    retried = after(*before, ASKS, ENDS[1], ExecutionReopened(reason="retry"))
    assert (retried.due_at, retried.load_failures, retried.recoveries) == (0, 0, 0)
    assert (retried.error_type, retried.waits) == ("", ())
    resumed = after(*before, ASKS, DIVERGED, ExecutionReopened(reason="resume"))
    assert [wait.path for wait in resumed.waits] == ["w"]
    for end, reason in ((ENDS[1], "retry"), (DIVERGED, "resume")):
        reopened = after(before[0], end, ExecutionReopened(reason=reason))
        assert (reopened.load_failures, reopened.due_at) == (0, 0)
    loading = after(*before, ExecutionReopened(reason="load"))
    assert (loading.load_failures, loading.recoveries, loading.due_at) == (0, 0, 0)
    assert loading.attempt == 2
    assert loading.reason == ""


def test_a_fork_knows_its_source() -> None:
    assert after().forked_from == ""
    source = ForkedFrom(exec_id="x", version=3, anchor="c", started_at=5)
    assert fold(ABSENT, [replace(STARTED, forked_from=source)]).forked_from == "x"
