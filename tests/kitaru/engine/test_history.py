"""What a pass of the body is given: recorded outcomes, over attempts, reopenings and cancels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    MetadataLogged,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.history import History

NULL = StoredValue(json=Raw(b"null"))
ERROR = ErrorData(type="ValueError")
ATTEMPT_FAILED = FlowAttemptFailed(attempt=1, error=ERROR, retry_at=5)
RETRIED = ExecutionReopened(reason="retry")
RESUMED = ExecutionReopened(reason="resume")
DIVERGED = ExecutionDiverged(report="", facts=Raw(b"{}"))
FAILED = ExecutionFailed(error=ERROR, origin="user_code")


def done(path: str, *, arguments: str = "d") -> CheckpointCompleted:
    return CheckpointCompleted(
        path=path, name=path, attempt=1, arguments_digest=arguments, result=NULL
    )


def failed(path: str, attempt: int, retry_at: int | None = None) -> CheckpointFailed:
    return CheckpointFailed(path=path, name=path, attempt=attempt, error=ERROR, retry_at=retry_at)


def history(*events: ExecutionEvent) -> History:
    return History((n, 10 * n, event) for n, event in enumerate(events, start=2))


def order(known: History) -> list[str]:
    return [outcome.event.path for outcome in known.order]


def test_outcomes_come_in_the_order_of_the_journal() -> None:
    known = history(
        CheckpointStarted(path="b", name="b", attempt=1),
        done("a"),
        TimerStarted(path="sleep", due_at=3),
        done("b"),
        failed("c", 1),
        TimerFired(path="sleep", due_at=3),
        CheckpointCancelled(path="e", name="e", attempt=1),
    )
    assert order(known) == ["a", "b", "c", "sleep"]
    assert list(known.log) == ["a", "b", "c", "sleep"]
    assert (known.order[0].version, known.order[0].recorded_at) == (3, 30)
    assert (known.kept, known.version) == ({}, 8)


def test_a_call_has_one_outcome_the_first() -> None:
    known = history(done("a", arguments="first"), done("a", arguments="second"))
    assert [outcome.is_of("a", "first") for outcome in known.order] == [True]


def test_what_is_known_already_changes_nothing() -> None:
    known = history(done("a"))
    known.add(2, 20, done("b"))
    assert order(known) == ["a"]
    known.add(3, 30, done("b"))
    assert order(known) == ["a", "b"]


@pytest.mark.parametrize("end", [(ATTEMPT_FAILED,), (FAILED, RETRIED)], ids=["retries", "reopened"])
def test_the_next_flow_attempt_keeps_what_completed_and_tries_the_rest_again(end: Any) -> None:
    known = history(
        done("a"), failed("b", 1), failed("c", 1, 99), TimerFired(path="sleep", due_at=3), *end
    )
    assert sorted(known.kept) == ["a", "sleep"]
    assert (known.log, order(known)) == ({}, [])
    assert known.attempts_of("b").last_attempt == 1
    assert (known.attempts_of("c").this_pass, known.attempts_of("c").retry_at) == (0, None)


def test_a_time_limit_that_has_run_out_is_set_anew_in_the_next_flow_attempt() -> None:
    fired = [TimerFired(path=path, due_at=3) for path in ("timeout", "task[1]/timeout#2", "sleep")]
    assert list(history(*fired, ATTEMPT_FAILED).kept) == ["sleep"]


def test_a_kept_call_that_is_made_anew_counts_with_its_new_outcome() -> None:
    known = history(done("a", arguments="old"), ATTEMPT_FAILED, done("a", arguments="new"))
    assert known.kept["a"].is_of("a", "old")
    assert known.log["a"].is_of("a", "new")
    again = history(
        done("a", arguments="old"),
        ATTEMPT_FAILED,
        done("a", arguments="new"),
        ATTEMPT_FAILED,
    )
    assert again.kept["a"].is_of("a", "new")


def test_attempts_are_numbered_on_and_their_budget_is_that_of_the_flow_attempt() -> None:
    known = history(failed("a", 1, 50), failed("a", 2, 60))
    tried = known.attempts_of("a")
    assert (tried.last_attempt, tried.this_pass, tried.retry_at) == (2, 2, 60)
    known = history(failed("a", 1, 50), failed("a", 2), ATTEMPT_FAILED, failed("a", 3, 70))
    tried = known.attempts_of("a")
    assert (tried.last_attempt, tried.this_pass, tried.retry_at) == (3, 1, 70)


def test_attempts_are_numbered_on_after_one_that_completed_with_other_arguments() -> None:
    known = history(done("a"), ATTEMPT_FAILED)
    assert known.last_attempt_of("a") == 1
    known = history(done("a"), ATTEMPT_FAILED, failed("a", 2), ATTEMPT_FAILED)
    assert known.last_attempt_of("a") == 2
    assert known.last_attempt_of("unknown") == 0


def test_an_attempt_that_a_crash_ended_has_a_number_and_costs_nothing() -> None:
    known = history(CheckpointStarted(path="a", name="a", attempt=1))
    tried = known.attempts_of("a")
    assert (tried.last_attempt, tried.this_pass, tried.retry_at) == (1, 0, None)
    assert known.attempts_of("unknown").last_attempt == 0


# cancelling


def test_a_cancel_request_stands_where_it_was_written() -> None:
    known = history(done("a"), CancelRequested(reason="enough"), done("undo"))
    assert (known.cancelled_at, known.cancel_reason) == (3, "enough")
    assert [outcome.version > 3 for outcome in known.order] == [False, True]


def test_a_cancel_request_outlives_a_failing_attempt_and_a_resumption() -> None:
    asked = CancelRequested(reason="enough")
    assert history(asked, ATTEMPT_FAILED).cancelled_at == 2
    assert history(asked, DIVERGED, RESUMED).cancelled_at == 2
    retried = history(asked, FAILED, RETRIED)
    assert (retried.cancelled_at, retried.cancel_reason) == (None, "")


def test_a_resumed_execution_is_given_the_same_outcomes_again() -> None:
    known = history(done("a"), failed("b", 1), DIVERGED, RESUMED)
    assert (order(known), known.kept) == (["a", "b"], {})


# waits and logs


def test_an_answer_is_the_outcome_of_its_wait_whichever_came_first() -> None:
    asked, given_ = WaitRequested(path="w", name="w"), InputGiven(path="w", value=NULL)
    assert order(history(asked, given_)) == order(history(given_, asked)) == ["w"]
    assert history(asked, given_).order[0].version == 3
    assert history(given_, asked).order[0].version == 3
    assert list(history(asked).waits) == ["w"]
    assert list(history(given_).early) == ["w"]
    assert history(asked, given_).waits == {}


@pytest.mark.parametrize("end", [WaitExpired(path="w"), WaitAborted(path="w")])
def test_a_wait_ends_once(end: ExecutionEvent) -> None:
    asked, given_ = WaitRequested(path="w", name="w"), InputGiven(path="w", value=NULL)
    assert order(history(asked, end)) == ["w"]
    answered = history(asked, given_, end)
    assert [type(outcome.event) for outcome in answered.order] == [InputGiven]


def test_an_answer_that_did_not_do_leaves_the_wait_open() -> None:
    asked, given_ = WaitRequested(path="w", name="w"), InputGiven(path="w", value=NULL)
    rejected = history(asked, given_, InputRejected(path="w", name="w", problem="no"))
    assert (order(rejected), list(rejected.waits)) == ([], ["w"])


def test_only_answers_are_kept_of_waits() -> None:
    asked, given_ = WaitRequested(path="w", name="w"), InputGiven(path="w", value=NULL)
    assert list(history(asked, given_, ATTEMPT_FAILED).kept) == ["w"]
    assert history(asked, WaitExpired(path="w"), ATTEMPT_FAILED).kept == {}
    assert history(asked, ATTEMPT_FAILED).waits == {}


def test_flow_scope_logs_are_known_by_their_entry() -> None:
    known = history(
        MetadataLogged(metadata=Raw(b"{}"), entry="log"),
        MetadataLogged(metadata=Raw(b"{}"), path="a"),
        MetadataLogged(metadata=Raw(b"{}"), entry="log#2"),
    )
    assert list(known.logged) == ["log", "log#2"]
    assert known.is_logged("log", b'{"said":"otherwise"}')
    assert not known.is_logged("log#3", b"{}")


def test_what_an_earlier_flow_attempt_logged_counts_only_for_the_same() -> None:
    known = history(MetadataLogged(metadata=Raw(b'{"n":1}'), entry="log"), ATTEMPT_FAILED)
    assert known.is_logged("log", b'{"n":1}')
    assert not known.is_logged("log", b'{"n":2}')
    known.add(9, 9, MetadataLogged(metadata=Raw(b'{"n":2}'), entry="log"))
    assert known.is_logged("log", b'{"n":3}')


EVENTS = [
    *(done(path) for path in "abc"),
    *(failed(path, 1) for path in "abc"),
    *(failed(path, 1, 9) for path in "abc"),
    CancelRequested(),
    ATTEMPT_FAILED,
    RETRIED,
    RESUMED,
    WaitRequested(path="w", name="w"),
    InputGiven(path="w", value=NULL),
    WaitExpired(path="w"),
]


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_every_outcome_is_ordered_once_and_after_the_last_attempt(events: Any) -> None:
    known = history(*events)
    versions = [outcome.version for outcome in known.order]
    assert versions == sorted(set(versions))
    assert order(known) == list(known.log)
    ends = [n for n, e in enumerate(events, start=2) if e in (ATTEMPT_FAILED, RETRIED)]
    assert all(version > max(ends, default=0) for version in versions)
    assert not any(isinstance(kept.event, CheckpointFailed) for kept in known.kept.values())
