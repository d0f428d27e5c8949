"""An execution of a deployed version: who may claim it, where it moves, code that does not load."""

import pytest
from msgspec import Raw

from kitaru.domain.execution.commands import Complete, Move, Reopen, ReportNotLoaded
from kitaru.domain.execution.decide import LOAD_DELAYS_S, decide
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CodeNotLoaded,
    DeploymentReference,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionMoved,
    ExecutionParked,
    ExecutionReopened,
    ExecutionStarted,
    InputGiven,
    SourceReference,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState
from kitaru.domain.values import StoredValue
from kitaru.engine.executions import fold, head_of
from kitaru.errors import KitaruStateError
from kitaru.status import ExecutionStatus

NULL = StoredValue(json=Raw(b"null"))
FIRST = DeploymentReference("f", 1, "ab" * 32)
SECOND = DeploymentReference("f", 2, "cd" * 32)
SOURCE = SourceReference("m", "f", "m.py")
OWN = ExecutionStarted(flow="f", source=SOURCE, arguments=NULL, arguments_digest="d")
STARTED = ExecutionStarted(
    flow="f", source=SOURCE, arguments=NULL, arguments_digest="d", deployment=FIRST
)
MOVE = Move(SECOND, SOURCE, "f2")
DONE = CheckpointCompleted(path="a", name="a", attempt=1, result=NULL)


def not_loaded(state: ExecutionState, now: int = 0) -> ExecutionState:
    return fold(state, decide(state, ReportNotLoaded("no such module", now)))


def test_only_a_deployed_execution_has_a_route_and_its_head_says_so() -> None:
    assert head_of(fold(ABSENT, [OWN])).route == ""
    assert head_of(fold(ABSENT, [STARTED])).route == f"deployment:{'ab' * 32}"
    state = fold(ABSENT, [STARTED])
    moved = fold(state, decide(state, MOVE))
    assert head_of(moved).route == f"deployment:{'cd' * 32}"
    assert (moved.due_at, moved.status) == (state.due_at, ExecutionStatus.RUNNING)


def test_a_move_leaves_what_it_waits_for() -> None:
    waiting = fold(
        ABSENT, [STARTED, WaitRequested(path="w", name="w"), ExecutionParked(due_at=None)]
    )
    moved = fold(waiting, decide(waiting, MOVE))
    assert (moved.waits, moved.due_at, moved.status) == (
        waiting.waits,
        None,
        ExecutionStatus.WAITING,
    )


def test_a_diverged_execution_goes_on_in_the_version_that_it_is_moved_to() -> None:
    diverged = fold(ABSENT, [STARTED, ExecutionDiverged(report="r", facts=Raw(b"{}"))])
    events = decide(diverged, MOVE)
    moved = ExecutionMoved(deployment=SECOND, source=SOURCE, fingerprint="f2")
    assert events == (moved, ExecutionReopened(reason="resume"))
    assert fold(diverged, events).status is ExecutionStatus.RUNNING


def test_what_runs_its_own_code_or_has_ended_is_not_moved() -> None:
    with pytest.raises(KitaruStateError, match=r"started with run\(\)"):
        decide(fold(ABSENT, [OWN]), MOVE)
    with pytest.raises(KitaruStateError, match="already completed"):
        decide(fold(ABSENT, [STARTED, ExecutionCompleted(result=NULL)]), MOVE)


def test_code_that_does_not_load_is_left_alone_longer_and_longer() -> None:
    state, now = fold(ABSENT, [STARTED]), 1
    delays = []
    for _ in range(len(LOAD_DELAYS_S) + 2):
        state = not_loaded(state, now)
        assert state.due_at is not None
        delays.append((state.due_at - now) / 1_000_000)
    assert delays == [1, 8, 60, 600, 3_600, 3_600, 3_600]
    assert (state.status, state.reason) == (ExecutionStatus.RUNNING, "no such module")


def test_progress_an_answer_a_move_and_a_resume_set_it_going_again() -> None:
    failed = not_loaded(not_loaded(fold(ABSENT, [STARTED])))
    progressed = fold(failed, [DONE])
    assert (progressed.load_failures, progressed.due_at, progressed.reason) == (0, 0, "")
    moved = fold(failed, decide(failed, MOVE))
    assert (moved.load_failures, moved.due_at, moved.reason) == (0, 0, "")
    resumed = fold(failed, decide(failed, Reopen("load")))
    assert (resumed.load_failures, resumed.due_at, resumed.attempt) == (0, 0, failed.attempt)
    ended = fold(failed, decide(failed, Complete(NULL)))
    assert ended.status is ExecutionStatus.COMPLETED


def test_a_wait_survives_that_its_code_did_not_load() -> None:
    waiting = fold(
        ABSENT,
        [STARTED, WaitRequested(path="w", name="w"), InputGiven(path="w", value=NULL)],
    )
    again = not_loaded(fold(waiting, [WaitRequested(path="v", name="v")]))
    assert [wait.path for wait in again.waits] == ["v"]
    assert again.status is ExecutionStatus.WAITING
    resumed = fold(again, decide(again, Reopen("load")))
    assert (resumed.status, resumed.due_at) == (ExecutionStatus.WAITING, 0)
    assert resumed.reason == "waits for an input: v#1"


def test_only_what_did_not_load_is_reopened_for_it() -> None:
    with pytest.raises(KitaruStateError, match="can be loaded"):
        decide(fold(ABSENT, [STARTED]), Reopen("load"))
    with pytest.raises(KitaruStateError, match="already completed"):
        decide(fold(ABSENT, [STARTED, ExecutionCompleted(result=NULL)]), Reopen("load"))


def test_a_failed_load_does_not_set_a_finished_execution_going() -> None:
    ended = fold(ABSENT, [STARTED, ExecutionCompleted(result=NULL)])
    assert fold(ended, [CodeNotLoaded(problem="p", failures=1, retry_at=1)]) == ended
