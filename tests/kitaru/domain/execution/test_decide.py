"""Which events a command leads to: given events, when a command comes, then events."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kitaru.domain.execution.commands import (
    AbortWait,
    Cancel,
    Command,
    Complete,
    ConfirmCancel,
    FailAttempt,
    FailCheckpoint,
    GiveInput,
    Recover,
    Reopen,
    Resolve,
    RetryNow,
    Start,
)
from kitaru.domain.execution.decide import as_it_ends, decide, still_holds
from kitaru.domain.execution.events import (
    TAGS,
    CancelRequested,
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointResolved,
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
    InputRejected,
    RetryHastened,
    ReviewRequested,
    SourceReference,
    TimerFired,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.retry import Retry
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.executions import fold
from kitaru.errors import KitaruRuntimeError, KitaruStateError
from kitaru.status import ExecutionStatus, FailureOrigin

LIMIT = 3
NULL = StoredValue(json=Raw(b"null"))
ERROR = ErrorData(type="ValueError", message="boom")
STARTED = ExecutionStarted(
    flow="f",
    source=SourceReference(module="m", qualname="f"),
    arguments=NULL,
    arguments_digest="d",
    options=FrozenOptions(retries=2),
)
GIVEN = StoredValue(json=Raw(b'{"a":1}'))
CALL = CheckpointEvent(
    path="c#2", name="c", attempt=4, site="a.py:3", arguments_digest="x", arguments=GIVEN
)
DONE = CheckpointCompleted(path="c", name="c", attempt=1, result=NULL)
COMPLETED = ExecutionCompleted(result=NULL)
FAILED = ExecutionFailed(error=ERROR, origin="user_code")
CANCELLED = ExecutionCancelled(reason="enough")
DIVERGED = ExecutionDiverged(report="the report", facts=Raw(b"{}"))
ASKED = CancelRequested(reason="enough")
ATTEMPT_FAILED = FlowAttemptFailed(attempt=1, error=ERROR, retry_at=5)
RAISED = FailAttempt(error=ERROR, origin=FailureOrigin.USER_CODE, now=5)


def given_(*events: ExecutionEvent) -> ExecutionState:
    return fold(ABSENT, [STARTED, *events])


def failing(**changed: Any) -> FailCheckpoint:
    facts: dict[str, Any] = {
        "call": CALL,
        "error": ERROR,
        "bases": ("ValueError", "Exception"),
        "policy": Retry(max_attempts=3, first_delay=2, factor=2),
        "tried": 1,
        "duration_us": 9,
        "now": 1_000,
        "jitter": 0.5,
    }
    return FailCheckpoint(**{**facts, **changed})


# any sequence that the rules allow

COMMANDS: list[Command] = [
    Start(STARTED),
    Recover("owner", LIMIT),
    failing(),
    failing(tried=3),
    Complete(NULL),
    RAISED,
    FailAttempt(error=ERROR, origin=FailureOrigin.USER_CODE, now=5, retryable=False),
    Cancel("enough"),
    ConfirmCancel(),
    GiveInput("w", NULL),
    AbortWait("w"),
    Reopen("retry"),
    Reopen("resume"),
]
OWNERS_OWN: list[ExecutionEvent] = [
    DONE,
    TimerFired(path="sleep", due_at=3),
    WaitRequested(path="w", name="w"),
    WaitExpired(path="w"),
    ExecutionParked(due_at=9),
    DIVERGED,
]
"""What an owner records without a command, as long as it holds the execution."""
WALKS = st.lists(st.sampled_from([*COMMANDS, *OWNERS_OWN]), max_size=40)


@given(WALKS)
def test_however_an_execution_goes_its_rules_hold(walk: list[Any]) -> None:
    state, retries, take_overs = ABSENT, 0, 0
    for act in walk:
        if type(act) in TAGS:
            if state.status is None or state.is_finished:
                continue
            events: Any = (act,)
        else:
            try:
                events = decide(state, act)
            except KitaruStateError:
                continue
        before, state = state, fold(state, events)
        for event in events:
            assert type(event) in TAGS
            retries = 0 if isinstance(event, ExecutionReopened) else retries
            retries += isinstance(event, FlowAttemptFailed)
            take_overs += isinstance(event, ExecutionRecovered)
            if isinstance(event, CheckpointCompleted | TimerFired | ExecutionReopened):
                take_overs = 0
        if before.is_finished and state != before:
            assert (before.status, state.status) == ("failed", "running")
        assert retries <= 2
        assert state.failed_attempts == retries
        assert state.recoveries == take_overs
        assert take_overs <= LIMIT or state.status is ExecutionStatus.FAILED
        assert state.attempt >= before.attempt


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: type(command).__name__)
def test_what_does_not_exist_can_only_be_started(command: Command) -> None:
    with pytest.raises(KitaruStateError, match=r"no such execution|absent"):
        decide(ABSENT, command)


@pytest.mark.parametrize("end", [COMPLETED, FAILED, CANCELLED], ids=["done", "failed", "cancelled"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_has_ended_takes_no_command(command: Command, end: ExecutionEvent) -> None:
    if (end is CANCELLED and isinstance(command, Cancel)) or (
        end is FAILED and command == Reopen("retry")
    ):
        return
    with pytest.raises(KitaruStateError):
        decide(given_(end), command)


# starting and taking over


def test_an_execution_starts_once() -> None:
    assert decide(ABSENT, Start(STARTED)) == (STARTED,)
    with pytest.raises(KitaruStateError, match="exists already"):
        decide(given_(), Start(STARTED))


def test_a_take_over_is_counted_and_one_too_many_fails_the_execution() -> None:
    state = given_()
    for number in range(1, LIMIT + 1):
        (taken,) = decide(state, Recover("owner", LIMIT))
        assert taken == ExecutionRecovered(previous_owner="owner", recoveries=number)
        state = fold(state, [taken])
    taken, failed = decide(state, Recover("owner", LIMIT))
    assert taken == ExecutionRecovered(previous_owner="owner", recoveries=LIMIT + 1)
    assert isinstance(failed, ExecutionFailed)
    assert failed.origin == FailureOrigin.RUNTIME
    error = failed.error
    assert f"died {LIMIT + 1} times" in error.message
    assert (error.type, error.module, error.qualname) == (
        "kitaru.errors.KitaruRuntimeError",
        KitaruRuntimeError.__module__,
        KitaruRuntimeError.__qualname__,
    )
    assert error.bases == (("builtins", "RuntimeError"), ("builtins", "Exception"))


def test_take_overs_are_not_counted_against_the_flows_retries() -> None:
    state = given_(*decide(given_(), Recover("owner", LIMIT)))
    assert isinstance(decide(state, RAISED)[0], FlowAttemptFailed)


def test_a_take_over_after_progress_is_the_first_again() -> None:
    state = given_(ExecutionRecovered(previous_owner="o", recoveries=LIMIT), DONE)
    (taken,) = decide(state, Recover("owner", LIMIT))
    assert taken == ExecutionRecovered(previous_owner="owner", recoveries=1)


# failing


def test_a_failed_attempt_of_a_call_is_tried_again_after_its_delay() -> None:
    (failed,) = decide(given_(), failing(tried=2))
    assert failed == CheckpointFailed(
        path="c#2",
        name="c",
        attempt=4,
        site="a.py:3",
        arguments_digest="x",
        arguments=GIVEN,
        error=ERROR,
        duration_us=9,
        retry_at=1_000 + 4_000_000,
    )


def test_a_failed_call_keeps_the_type_that_it_was_given() -> None:
    for kind in (None, "tool"):
        (failed,) = decide(given_(), failing(type=kind))
        assert isinstance(failed, CheckpointFailed)
        assert failed.type == kind


@pytest.mark.parametrize(
    "changed",
    [
        {"tried": 3},
        {"tried": 4},
        {"retryable": False},
        {"bases": ("KeyboardInterrupt", "BaseException")},
        {"policy": Retry(max_attempts=9, give_up_on=(ValueError,))},
        {"policy": Retry(max_attempts=9, retry_on=(KeyError,))},
        {"policy": Retry(max_attempts=1)},
    ],
    ids=str,
)
def test_an_attempt_that_is_the_last_is_the_calls_outcome(changed: dict[str, Any]) -> None:
    (failed,) = decide(given_(), failing(**changed))
    assert isinstance(failed, CheckpointFailed)
    assert failed.retry_at is None


def test_a_flow_is_tried_again_as_often_as_it_was_said() -> None:
    state = given_()
    for attempt in (1, 2):
        (failed,) = decide(state, RAISED)
        assert failed == FlowAttemptFailed(attempt=attempt, error=ERROR, retry_at=5)
        state = fold(state, [failed])
    assert decide(state, RAISED) == (FAILED,)


def test_what_would_fail_the_same_way_again_is_not_tried_again() -> None:
    refused = FailAttempt(error=ERROR, origin=FailureOrigin.USER_CODE, now=5, retryable=False)
    assert decide(given_(), refused) == (FAILED,)


def test_a_body_that_raises_after_a_cancel_request_is_cancelled() -> None:
    assert decide(given_(ASKED), RAISED) == (CANCELLED,)
    assert decide(given_(ASKED, ATTEMPT_FAILED), RAISED) == (CANCELLED,)


def test_a_body_that_was_given_a_cancel_request_may_complete_in_spite_of_it() -> None:
    in_spite = ExecutionCompleted(result=NULL, in_spite_of_cancel=True)
    assert decide(given_(ASKED), Complete(NULL, cancel_given=True)) == (in_spite,)


def test_a_request_that_the_body_could_not_be_given_any_more_ends_the_execution() -> None:
    assert decide(given_(ASKED), Complete(NULL)) == (CANCELLED,)


@pytest.mark.parametrize("end", [COMPLETED, FAILED], ids=["completed", "failed"])
def test_an_end_that_was_decided_before_a_request_came_gives_way_to_it(
    end: ExecutionEvent,
) -> None:
    assert as_it_ends(given_(), end) == end
    assert as_it_ends(given_(ASKED), end) == CANCELLED
    assert as_it_ends(given_(ASKED), ATTEMPT_FAILED) == ATTEMPT_FAILED


# cutting a delay short


def test_calls_that_wait_for_their_next_attempt_are_hastened_once() -> None:
    both = RetryNow(calls=("a", "b"))
    assert decide(given_(), both) == (RetryHastened(path="a"), RetryHastened(path="b"))
    assert decide(given_(), RetryNow(calls=("b",), hastened=("a",))) == (RetryHastened(path="b"),)
    assert decide(given_(), RetryNow(calls=("b",), call="a", hastened=("a",))) == ()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (RetryNow(calls=()), "No call of it waits"),
        (RetryNow(calls=("a",), call="b"), "Call 'b' does not wait .*; those that do: a"),
        (RetryNow(calls=(), call="b"), r"Call 'b' does not wait for its next attempt\.$"),
    ],
)
def test_what_does_not_wait_for_its_next_attempt_is_not_hastened(
    command: RetryNow, problem: str
) -> None:
    with pytest.raises(KitaruStateError, match=problem):
        decide(given_(), command)


def test_a_parked_execution_whose_call_is_hastened_is_due() -> None:
    parked = given_(ExecutionParked(due_at=5_000))
    state = fold(parked, [RetryHastened(path="a")])
    assert (state.status, state.due_at) == (ExecutionStatus.RUNNING, 0)


# cancelling


def test_cancelling_twice_is_as_good_as_once() -> None:
    assert decide(given_(), Cancel("enough")) == (ASKED,)
    assert decide(given_(ASKED), Cancel("more than enough")) == ()
    assert decide(given_(ASKED, CANCELLED), Cancel("again")) == ()


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("end", [COMPLETED, FAILED], ids=["completed", "failed"])
def test_what_has_ended_otherwise_cannot_be_cancelled(asked: bool, end: ExecutionEvent) -> None:
    # A request that came too late, or that the body has ignored, does not make a later one true.
    state = given_(ASKED, end) if asked else given_(end)
    with pytest.raises(KitaruStateError, match="already"):
        decide(state, Cancel("enough"))


def test_a_diverged_execution_ends_at_once_when_it_is_cancelled() -> None:
    assert decide(given_(DIVERGED), Cancel("enough")) == (ASKED, CANCELLED)


def test_an_execution_that_diverged_while_it_was_being_cancelled_can_be_cancelled() -> None:
    assert decide(given_(ASKED, DIVERGED), Cancel("again")) == (CANCELLED,)


def test_a_cancel_is_confirmed_with_the_reason_that_was_given() -> None:
    assert decide(given_(ASKED), ConfirmCancel()) == (CANCELLED,)
    assert decide(given_(ASKED, ATTEMPT_FAILED), ConfirmCancel()) == (CANCELLED,)
    nameless = given_(CancelRequested())
    assert decide(nameless, ConfirmCancel()) == (ExecutionCancelled(reason=""),)


def test_a_retried_execution_can_be_cancelled_anew() -> None:
    state = given_(ASKED, FAILED, ExecutionReopened(reason="retry"))
    assert decide(state, Cancel("later")) == (CancelRequested(reason="later"),)


# reopening


@pytest.mark.parametrize(
    ("events", "reason", "possible"),
    [
        ((), "retry", False),
        ((), "resume", False),
        ((FAILED,), "retry", True),
        ((FAILED,), "resume", False),
        ((DIVERGED,), "retry", False),
        ((DIVERGED,), "resume", True),
        ((COMPLETED,), "retry", False),
        ((CANCELLED,), "retry", False),
        ((FAILED, ExecutionReopened(reason="retry")), "retry", False),
    ],
)
def test_failed_executions_are_retried_and_diverged_ones_resumed(
    events: tuple[ExecutionEvent, ...], reason: str, possible: bool
) -> None:
    if possible:
        assert decide(given_(*events), Reopen(reason)) == (ExecutionReopened(reason=reason),)
    else:
        which = {"retry": "failed .* be retried", "resume": "diverged .* be resumed"}[reason]
        with pytest.raises(KitaruStateError, match=f"Only {which}"):
            decide(given_(*events), Reopen(reason))


def test_a_retried_execution_has_all_its_retries_again() -> None:
    state = given_(ATTEMPT_FAILED, ATTEMPT_FAILED, FAILED, ExecutionReopened(reason="retry"))
    assert isinstance(decide(state, RAISED)[0], FlowAttemptFailed)


# waits

TWO = (WaitRequested(path="w", name="w"), WaitRequested(path="w#2", name="w"))


def test_an_answer_goes_to_the_wait_of_its_id_or_of_its_only_name() -> None:
    only = given_(WaitRequested(path="task[1]/w", name="w"))
    # The last is how the id of the first wait of a name was written before.
    for wait in ("w", "task[1]/w#1", "task[1]/w"):
        assert decide(only, GiveInput(wait, NULL)) == (InputGiven(path="task[1]/w", value=NULL),)
        assert decide(only, AbortWait(wait, "no")) == (WaitAborted(path="task[1]/w", reason="no"),)


def test_a_name_of_several_waits_names_none() -> None:
    several = given_(WaitRequested(path="a/w", name="w"), WaitRequested(path="b/w", name="w"))
    for state, ids in ((given_(*TWO), "w#1, w#2"), (several, "a/w#1, b/w#1")):
        for command in (GiveInput("w", NULL), AbortWait("w")):
            with pytest.raises(KitaruStateError, match=f"Several waits.*{ids}"):
                decide(state, command)


def test_each_of_several_waits_of_a_name_has_an_id() -> None:
    for wait, path in (("w#1", "w"), ("w#2", "w#2")):
        assert decide(given_(*TWO), GiveInput(wait, NULL)) == (InputGiven(path=path, value=NULL),)
        assert decide(given_(*TWO), AbortWait(wait)) == (WaitAborted(path=path),)


def test_the_id_of_a_wait_that_is_over_means_no_other_wait_of_its_name() -> None:
    answered = given_(TWO[0], InputGiven(path="w", value=NULL), TWO[1])
    for command in (GiveInput("w#1", NULL), AbortWait("w#1")):
        with pytest.raises(KitaruStateError, match=r"no open wait 'w#1'.*w#2"):
            decide(answered, command)
    assert decide(answered, GiveInput("w", NULL)) == (InputGiven(path="w#2", value=NULL),)


@pytest.mark.parametrize(
    ("given", "path", "is_for_it"),
    [
        ("w", "w", True),
        ("w#1", "w", True),
        ("w", "task[2]/w", True),
        ("task[2]/w#1", "task[2]/w", True),
        ("task[2]/w", "task[2]/w", True),
        ("w", "w#2", True),
        ("w#2", "w#2", True),
        ("w#1", "w#2", False),
        ("w#2", "w", False),
        ("w#1", "task[2]/w", False),
        ("task[2]/w#1", "task[2]/w#2", False),
        ("task[2]/w", "task[2]/w#2", False),
        ("task[2]/w", "w", False),
    ],
)
def test_an_early_answer_is_for_the_wait_of_its_id_or_the_next_of_its_name(
    given: str, path: str, is_for_it: bool
) -> None:
    early = decide(given_(), GiveInput(given, NULL))
    assert early == (InputGiven(path=given, value=NULL),)
    asked = given_(*early, WaitRequested(path=path, name="w"))
    assert [wait.path for wait in asked.waits] == ([] if is_for_it else [path])
    assert asked.early == (() if is_for_it else (given,))


def test_the_id_of_a_wait_means_none_of_the_same_name_elsewhere() -> None:
    older = WaitRequested(path="a/w", name="w")
    waiting = given_(older, WaitRequested(path="w", name="w"))
    assert decide(waiting, GiveInput("w#1", NULL)) == (InputGiven(path="w", value=NULL),)
    assert decide(waiting, AbortWait("w#1")) == (WaitAborted(path="w"),)


def test_an_answer_to_what_is_not_asked_waits_only_where_nothing_else_is_asked() -> None:
    assert decide(given_(), GiveInput("x", NULL)) == (InputGiven(path="x", value=NULL),)
    with pytest.raises(KitaruStateError, match=r"no open wait 'x'; it waits for: w#1, w#2\.$"):
        decide(given_(*TWO), GiveInput("x", NULL))
    with pytest.raises(KitaruStateError, match=r"no open wait 'x'; it waits for: w#1\.$"):
        decide(given_(TWO[0]), AbortWait("x"))
    with pytest.raises(KitaruStateError, match="does not wait for an input now"):
        decide(given_(), AbortWait("x"))


def test_the_same_answer_twice_is_fine_and_another_one_is_not() -> None:
    answered = given_(TWO[0], InputGiven(path="w", value=NULL))
    assert decide(answered, GiveInput("w", NULL, answered=NULL)) == ()
    other = StoredValue(json=Raw(b"1"))
    with pytest.raises(KitaruStateError, match="first"):
        decide(answered, GiveInput("w", other, answered=NULL))


@pytest.mark.parametrize("end", [COMPLETED, FAILED, CANCELLED])
def test_the_same_answer_is_fine_after_the_end_as_well(end: ExecutionEvent) -> None:
    ended = given_(TWO[0], InputGiven(path="w", value=NULL), end)
    assert decide(ended, GiveInput("w#1", NULL, answered=NULL)) == ()
    with pytest.raises(KitaruStateError, match=r"another value.*The execution is (com|fai|can)"):
        decide(ended, GiveInput("w#1", StoredValue(json=Raw(b"1")), answered=NULL))
    with pytest.raises(KitaruStateError, match="The execution is already"):
        decide(ended, GiveInput("w#2", NULL))
    with pytest.raises(KitaruStateError, match="The execution is already"):
        decide(ended, GiveInput("w#2", NULL, ended=True))


def test_what_clients_wrote_first_outlives_what_the_owner_meant_to_write() -> None:
    waiting = given_(TWO[0])
    answered = given_(TWO[0], InputGiven(path="w", value=NULL))
    assert still_holds(waiting, WaitExpired(path="w"))
    assert not still_holds(answered, WaitExpired(path="w"))
    assert not still_holds(answered, ExecutionParked())
    assert still_holds(answered, DONE)
    rejected = InputRejected(path="w", name="w", problem="no number")
    assert still_holds(answered, rejected)
    assert not still_holds(waiting, rejected)
    aborted = WaitAborted(path="w")
    assert still_holds(given_(*TWO), aborted)
    assert not still_holds(answered, aborted)


def test_what_is_asked_anew_reopens_no_wait_that_was_answered_meanwhile() -> None:
    again = WaitRequested(path="w", name="w", again=True)
    assert still_holds(given_(TWO[0]), again)
    answered = given_(TWO[0], InputGiven(path="w", value=NULL))
    assert not still_holds(answered, again)
    assert evolve(answered, again) == answered
    assert evolve(given_(TWO[0]), again) == given_(TWO[0])


LOST = ReviewRequested(path="c#2", name="c", attempt=4, site="a.py:3", arguments_digest="x")
IN_DOUBT = (LOST,)


def test_a_lost_attempt_is_given_the_result_that_somebody_knows() -> None:
    resolved, completed = decide(given_(*IN_DOUBT), Resolve("c#2", LOST, result=NULL))
    assert resolved == CheckpointResolved(path="c#2", decision="result")
    assert isinstance(completed, CheckpointCompleted)
    assert completed.result == NULL
    assert completed.resolved
    facts = (completed.path, completed.name, completed.attempt, completed.arguments_digest)
    assert facts == ("c#2", "c", 4, "x")


def test_a_lost_attempt_is_given_the_failure_that_somebody_knows() -> None:
    resolved, failed = decide(given_(*IN_DOUBT), Resolve("c#2", LOST, error=ERROR))
    assert resolved == CheckpointResolved(path="c#2", decision="failed")
    assert isinstance(failed, CheckpointFailed)
    assert (failed.error, failed.retry_at, failed.attempt) == (ERROR, None, 4)


def test_a_lost_attempt_of_which_nothing_is_said_runs_again() -> None:
    state = given_(*IN_DOUBT)
    assert decide(state, Resolve("c#2", LOST)) == (
        CheckpointResolved(path="c#2", decision="run again"),
    )


def test_only_what_needs_review_is_resolved_and_not_while_the_code_is_wrong() -> None:
    with pytest.raises(KitaruStateError, match="those that do: c#2"):
        decide(given_(*IN_DOUBT), Resolve("c", LOST, result=NULL))
    with pytest.raises(KitaruStateError, match=r"needs no review now; nor does any other call\.$"):
        decide(given_(), Resolve("c#2", LOST, result=NULL))
    with pytest.raises(KitaruStateError, match=r"'w' needs no review now; those that do: c#2\.$"):
        decide(given_(TWO[0], *IN_DOUBT), Resolve("w", LOST, result=NULL))
    with pytest.raises(KitaruStateError, match="those that do: c#2"):
        decide(given_(*IN_DOUBT), Resolve("c#2", None, result=NULL))
    with pytest.raises(KitaruStateError, match="has diverged"):
        decide(given_(*IN_DOUBT, DIVERGED), Resolve("c#2", LOST, result=NULL))


def test_a_review_is_no_wait_that_an_answer_could_end() -> None:
    with pytest.raises(KitaruStateError, match="needs review: resolve it"):
        decide(given_(*IN_DOUBT), GiveInput("c#2", NULL))


def test_beside_a_review_an_early_answer_is_kept() -> None:
    given = (InputGiven(path="w", value=NULL),)
    assert decide(given_(*IN_DOUBT), GiveInput("w", NULL)) == given


def test_an_answer_to_a_wait_that_is_over_is_refused() -> None:
    with pytest.raises(KitaruStateError, match=r"has ended without .* no open wait any more\.$"):
        decide(given_(), GiveInput("w", NULL, ended=True))
    others = r"no open wait any more; it waits for: w#1, w#2\.$"
    with pytest.raises(KitaruStateError, match=others):
        decide(given_(*TWO), GiveInput("x", NULL, ended=True))
