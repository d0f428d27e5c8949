"""The words for where an execution stands and where a failure came from."""

from enum import StrEnum


class ExecutionStatus(StrEnum):
    """Where an execution stands."""

    RUNNING = "running"
    """It has work to do: a runner has it, or the next one that can will take it."""
    WAITING = "waiting"
    """It needs an input, or a time that has not come yet."""
    DIVERGED = "diverged"
    """The code no longer asks for what is recorded. Put the old code back and resume it."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether the execution has ended."""
        return self in _FINISHED

    @property
    def is_successful(self) -> bool:
        """Whether the execution has ended with a result."""
        return self is ExecutionStatus.COMPLETED


_FINISHED = frozenset(
    {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}
)


class FailureOrigin(StrEnum):
    """Where a failure came from, known from where it was raised."""

    USER_CODE = "user_code"
    RUNTIME = "runtime"
    BACKEND = "backend"
    DIVERGENCE = "divergence"
    UNKNOWN = "unknown"
