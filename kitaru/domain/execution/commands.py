"""What can be asked of an execution."""

from msgspec import Struct

from kitaru.domain.execution.events import (
    CheckpointEvent,
    DeploymentReference,
    ExecutionStarted,
    SourceReference,
)
from kitaru.domain.execution.retry import Retry
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.status import FailureOrigin


class Start(Struct, frozen=True):
    """Begin an execution with these facts."""

    facts: ExecutionStarted


class Move(Struct, frozen=True):
    """Let another version of its flow go on with the execution."""

    deployment: DeploymentReference
    source: SourceReference
    fingerprint: str = ""


class ReportNotLoaded(Struct, frozen=True):
    """The code of the execution's version could not be loaded."""

    problem: str
    now: int


class Recover(Struct, frozen=True):
    """Take the execution over from an owner that died."""

    previous_owner: str
    limit: int
    """How many take-overs without progress are allowed."""


class FailCheckpoint(Struct, frozen=True):
    """Record a failed attempt of a call."""

    call: CheckpointEvent
    error: ErrorData
    bases: tuple[str, ...]
    """The names of the error's classes, its own first."""
    policy: Retry
    tried: int
    """Attempts of the call in this flow attempt, this one included."""
    duration_us: int
    now: int
    jitter: float
    """A number from 0 to 1, drawn by the caller."""
    type: str | None = None
    retryable: bool = True


class Complete(Struct, frozen=True):
    """The flow's body has returned."""

    result: StoredValue


class FailAttempt(Struct, frozen=True):
    """The flow's body has raised."""

    error: ErrorData
    origin: FailureOrigin
    now: int
    retryable: bool = True


class Cancel(Struct, frozen=True):
    """Somebody wants the execution to end early."""

    reason: str = ""


class ConfirmCancel(Struct, frozen=True):
    """The flow's body has ended after a cancel request, or nobody can run it any more."""


class GiveInput(Struct, frozen=True):
    """Answer a wait, by its id or by its name."""

    wait: str
    value: StoredValue
    answered: StoredValue | None = None
    """The answer that the wait of this id has had already."""


class AbortWait(Struct, frozen=True):
    """End a wait without an answer; the body is given an error."""

    wait: str
    reason: str = ""


class Resolve(Struct, frozen=True):
    """Say what came of an attempt that was lost and may not be repeated unasked."""

    call: str
    """Its path."""
    review: CheckpointEvent | None
    """What is known of it; None when the call needs no review."""
    result: StoredValue | None = None
    error: ErrorData | None = None
    """With neither of them, it runs again."""


class Reopen(Struct, frozen=True):
    """Another attempt for an execution that failed (``retry``) or diverged (``resume``), or whose
    code could not be loaded (``load``)."""

    reason: str


Command = (
    Start
    | Move
    | ReportNotLoaded
    | Recover
    | FailCheckpoint
    | Complete
    | FailAttempt
    | Cancel
    | ConfirmCancel
    | GiveInput
    | AbortWait
    | Resolve
    | Reopen
)
