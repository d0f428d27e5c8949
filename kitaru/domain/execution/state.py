"""Where an execution stands: the fold of its events. Total: every event has its case."""

from msgspec import Struct
from msgspec.structs import replace

from kitaru.domain.execution.events import (
    ArgumentsChanged,
    ArtifactSaved,
    CancelRequested,
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    CheckpointStarted,
    CodeNotLoaded,
    DeploymentReference,
    EventOffered,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionMoved,
    ExecutionParked,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    MetadataLogged,
    OffersTaken,
    RetryHastened,
    ReviewRequested,
    StackReference,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.wait_ids import early_answer, wait_id
from kitaru.domain.stack.decide import LOCAL
from kitaru.status import ExecutionStatus, FailureOrigin


class OpenWait(Struct, frozen=True, omit_defaults=True):
    """A wait that nobody has answered, or a call that nobody has reviewed."""

    path: str
    name: str
    is_review: bool = False

    @property
    def id(self) -> str:
        """What an answer names it by, and no other wait."""
        return self.path if self.is_review else wait_id(self.path, self.name)


class ExecutionState(Struct, frozen=True, omit_defaults=True):
    """What the execution's rules decide on; the calls themselves are the runner's history."""

    status: ExecutionStatus | None = None
    """None: there is no such execution."""
    flow: str = ""
    forked_from: str = ""
    """The id of the execution that it is a fork of."""
    stack: StackReference | None = None
    """The stack that it was started on; None: the local one."""
    deployment: DeploymentReference | None = None
    """The version of the flow that it runs; None: the code of whoever started it."""
    load_failures: int = 0
    """How often in a row its version's code could not be loaded."""
    retries: int = 0
    """How often the flow's body may be run again after it raised."""
    attempt: int = 0
    """The flow attempt that runs or ran last, from 1."""
    failed_attempts: int = 0
    """Failed flow attempts since the start or the last reopening."""
    recoveries: int = 0
    """Take-overs since the last recorded progress."""
    cancel_requested: bool = False
    cancel_reason: str = ""
    due_at: int | None = 0
    """Not before this instant (microseconds) has a runner something to do; None: not before
    somebody acts."""
    waits: tuple[OpenWait, ...] = ()
    """The waits that are open, oldest first."""
    early: tuple[str, ...] = ()
    """The ids or names of waits that were answered before the body asked."""
    reason: str = ""
    """Why it stands where it stands, for people."""
    error_type: str = ""
    origin: FailureOrigin | None = None

    @property
    def route(self) -> str:
        """Which runners may claim it; empty: whoever serves its flow."""
        if self.stack is not None and self.stack.type != LOCAL:
            return f"{STACK_ROUTES}{self.stack.name}"
        return "" if self.deployment is None else route_of(self.deployment.bundle)

    @property
    def questions(self) -> tuple[OpenWait, ...]:
        """The waits that an input answers: all but reviews."""
        return tuple(wait for wait in self.waits if not wait.is_review)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.status is not None and self.status.is_finished


ABSENT = ExecutionState()
STACK_ROUTES = "stack:"
"""How the route of every execution of a stack begins on which each is placed by itself."""
DEPLOYMENT_ROUTES = "deployment:"
"""How the route of every execution of a deployed version begins."""


def route_of(bundle: str) -> str:
    """The route of executions whose code is in this bundle."""
    return f"{DEPLOYMENT_ROUTES}{bundle}"


def evolve(state: ExecutionState, event: ExecutionEvent) -> ExecutionState:
    """The state after an event."""
    is_running = state.status is ExecutionStatus.RUNNING
    if not is_running and state.is_finished and not isinstance(event, ExecutionReopened):
        # An end is final, whatever was on its way while it was written.
        return state
    match event:
        case CheckpointCompleted() | TimerFired():
            return _busy(replace(state, recoveries=0) if state.recoveries else state)
        case CheckpointStarted() | CheckpointFailed():
            return _busy(state)
        case (
            CheckpointCancelled()
            | ArgumentsChanged()
            | TimerStarted()
            | MetadataLogged()
            | ArtifactSaved()
            | EventOffered()
            | OffersTaken()
        ):
            return state
        case WaitRequested(again=True):
            return state
        case WaitRequested(path=path, name=name):
            return _waiting(state, path, name)
        case InputRejected(path=path, name=name):
            return _waiting(state, path, name)
        case InputGiven(path=path):
            return _answered(state, path)
        case ReviewRequested(path=path, name=name):
            return _opened(state, OpenWait(path, name, is_review=True))
        case WaitAborted(path=path) | WaitExpired(path=path) | CheckpointResolved(path=path):
            return _going_on(state, path)
        case RetryHastened():
            return _going_on(state, "")
        case ExecutionParked(due_at=due_at):
            return replace(state, status=ExecutionStatus.WAITING, due_at=due_at)
        case ExecutionStarted(
            flow=flow, options=options, forked_from=source, deployment=deployment
        ):
            return ExecutionState(
                status=ExecutionStatus.RUNNING,
                flow=flow,
                forked_from="" if source is None else source.exec_id,
                stack=options.stack,
                deployment=deployment,
                retries=options.retries,
                attempt=1,
            )
        case ExecutionRecovered(recoveries=recoveries):
            return replace(state, recoveries=recoveries)
        case ExecutionReopened(reason="load"):
            reason = _reason(state.waits[0]) if state.waits else ""
            return replace(state, load_failures=0, recoveries=0, due_at=0, reason=reason)
        case ExecutionReopened(reason=reason):
            return replace(
                state,
                status=ExecutionStatus.RUNNING,
                attempt=state.attempt + (reason == "retry"),
                failed_attempts=0,
                recoveries=0,
                # The body that is resumed is given the request where it was given it before.
                cancel_requested=state.cancel_requested and reason == "resume",
                cancel_reason=state.cancel_reason if reason == "resume" else "",
                load_failures=0,
                due_at=0,
                waits=() if reason == "retry" else state.waits,
                reason="",
                error_type="",
                origin=None,
            )
        case ExecutionMoved(deployment=deployment):
            moved = replace(state, deployment=deployment, load_failures=0)
            return replace(moved, due_at=0, reason="") if state.load_failures else moved
        case CodeNotLoaded(problem=problem, failures=failures, retry_at=retry_at):
            return replace(state, load_failures=failures, due_at=retry_at, reason=problem)
        case FlowAttemptFailed(retry_at=retry_at, error=error):
            return replace(
                state,
                attempt=state.attempt + 1,
                failed_attempts=state.failed_attempts + 1,
                status=ExecutionStatus.RUNNING,
                due_at=retry_at,
                waits=(),
                reason=f"attempt {state.attempt} failed: {error.message}",
                error_type=error.type,
            )
        case CancelRequested(reason=reason):
            return replace(
                state,
                status=ExecutionStatus.RUNNING,
                cancel_requested=True,
                cancel_reason=reason,
                due_at=0,
                reason=reason or "cancelling",
            )
        case ExecutionDiverged(report=report):
            return replace(
                state,
                status=ExecutionStatus.DIVERGED,
                reason=report,
                origin=FailureOrigin.DIVERGENCE,
            )
        case ExecutionCompleted():
            return replace(
                state,
                status=ExecutionStatus.COMPLETED,
                waits=(),
                early=(),
                reason="",
                error_type="",
                origin=None,
            )
        case ExecutionFailed(error=error, origin=origin):
            return replace(
                state,
                status=ExecutionStatus.FAILED,
                waits=(),
                reason=error.message,
                error_type=error.type,
                origin=FailureOrigin(origin),
            )
        case ExecutionCancelled(reason=reason):
            return replace(state, status=ExecutionStatus.CANCELLED, waits=(), reason=reason)


def _busy(state: ExecutionState) -> ExecutionState:
    """A body of the execution runs, whatever else it waits for."""
    if state.load_failures:
        state = replace(state, load_failures=0, reason="", due_at=0)
    if state.status is ExecutionStatus.DIVERGED:
        return state
    if state.due_at == 0 and (state.status is not ExecutionStatus.WAITING or state.waits):
        return state
    if state.waits:
        return replace(state, due_at=0)
    return replace(state, status=ExecutionStatus.RUNNING, due_at=0)


def _waiting(state: ExecutionState, path: str, name: str) -> ExecutionState:
    given = early_answer(state.early, path, name)
    if given is not None:
        return replace(state, early=tuple(known for known in state.early if known != given))
    return _opened(state, OpenWait(path, name))


def _opened(state: ExecutionState, wait: OpenWait) -> ExecutionState:
    return replace(
        state,
        status=ExecutionStatus.WAITING,
        load_failures=0,
        waits=(*state.waits, wait),
        reason=_reason(wait),
    )


def _reason(wait: OpenWait) -> str:
    if wait.is_review:
        return f"needs review: {wait.path} was started and lost, and may run only once"
    return f"waits for an input: {wait.id}"


def _answered(state: ExecutionState, path: str) -> ExecutionState:
    if any(wait.path == path for wait in state.waits):
        return _going_on(state, path)
    return replace(state, early=(*state.early, path))


def _going_on(state: ExecutionState, path: str) -> ExecutionState:
    waits = tuple(wait for wait in state.waits if wait.path != path)
    if state.status is ExecutionStatus.DIVERGED:
        # It goes on when somebody resumes it, and has the answer then.
        return replace(state, waits=waits)
    if waits:
        return replace(state, waits=waits, due_at=0, reason=_reason(waits[0]))
    return replace(state, waits=(), status=ExecutionStatus.RUNNING, due_at=0, reason="")
