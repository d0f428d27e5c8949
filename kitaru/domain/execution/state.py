"""Where an execution stands: the fold of its events. Total: every event has its case."""

from msgspec import Struct
from msgspec.structs import replace

from kitaru.domain.execution.events import (
    ArtifactSaved,
    CancelRequested,
    CheckpointCancelled,
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
    FlowAttemptFailed,
    MetadataLogged,
    TimerFired,
    TimerStarted,
)
from kitaru.status import ExecutionStatus, FailureOrigin


class ExecutionState(Struct, frozen=True, omit_defaults=True):
    """What the execution's rules decide on; the calls themselves are the runner's history."""

    status: ExecutionStatus | None = None
    """None: there is no such execution."""
    flow: str = ""
    retries: int = 0
    """How often the flow's body may be run again after it raised."""
    attempt: int = 0
    """The flow attempt that runs or ran last, from 1."""
    failed_attempts: int = 0
    """Failed flow attempts since the start or the last reopening."""
    recoveries: int = 0
    """Take-overs since the last recorded progress."""
    cancel_requested: bool = False
    due_at: int = 0
    """Not before this instant (microseconds) has a runner something to do."""
    reason: str = ""
    """Why it stands where it stands, for people."""
    error_type: str = ""
    origin: FailureOrigin | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.status is not None and self.status.is_finished


ABSENT = ExecutionState()


def evolve(state: ExecutionState, event: ExecutionEvent) -> ExecutionState:
    """The state after an event."""
    match event:
        case CheckpointCompleted() | TimerFired():
            return replace(state, recoveries=0) if state.recoveries else state
        case (
            CheckpointStarted()
            | CheckpointFailed()
            | CheckpointCancelled()
            | TimerStarted()
            | MetadataLogged()
            | ArtifactSaved()
        ):
            return state
        case ExecutionStarted(flow=flow, options=options):
            return ExecutionState(
                status=ExecutionStatus.RUNNING, flow=flow, retries=options.retries, attempt=1
            )
        case ExecutionRecovered(recoveries=recoveries):
            return replace(state, recoveries=recoveries)
        case ExecutionReopened(reason=reason):
            return replace(
                state,
                status=ExecutionStatus.RUNNING,
                attempt=state.attempt + (reason == "retry"),
                failed_attempts=0,
                recoveries=0,
                cancel_requested=False,
                due_at=0,
                reason="",
                error_type="",
                origin=None,
            )
        case FlowAttemptFailed(retry_at=retry_at, error=error):
            return replace(
                state,
                attempt=state.attempt + 1,
                failed_attempts=state.failed_attempts + 1,
                due_at=retry_at,
                reason=f"attempt {state.attempt} failed: {error.message}",
                error_type=error.type,
            )
        case CancelRequested(reason=reason):
            return replace(state, cancel_requested=True, due_at=0, reason=reason or "cancelling")
        case ExecutionDiverged(report=report):
            return replace(
                state,
                status=ExecutionStatus.DIVERGED,
                reason=report,
                origin=FailureOrigin.DIVERGENCE,
            )
        case ExecutionCompleted():
            return replace(
                state, status=ExecutionStatus.COMPLETED, reason="", error_type="", origin=None
            )
        case ExecutionFailed(error=error, origin=origin):
            return replace(
                state,
                status=ExecutionStatus.FAILED,
                reason=error.message,
                error_type=error.type,
                origin=FailureOrigin(origin),
            )
        case ExecutionCancelled(reason=reason):
            return replace(state, status=ExecutionStatus.CANCELLED, reason=reason)
