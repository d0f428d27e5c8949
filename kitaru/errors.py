"""Every error that Kitaru raises. Facts are attributes; the message says what to do."""

from typing import TYPE_CHECKING

from kitaru.status import ExecutionStatus, FailureOrigin

if TYPE_CHECKING:
    # Not when it runs: an error's class must cost nothing before there is one.
    from kitaru.divergence import ArgumentDifference, DivergedCall, Divergence


class KitaruError(Exception):
    """The root of every error that Kitaru raises.

    KitaruError
    ├── KitaruUsageError (ValueError)             the call was wrong
    │   ├── KitaruSerializationError              a value is not of the closed set
    │   ├── KitaruStackIntegrationDependencyError what a stack needs is not installed
    │   ├── KitaruWaitValidationError             an input does not fit its wait
    │   └── KitaruDeploymentInputValuesError      inputs do not fit a deployed version
    ├── KitaruContextError (RuntimeError)         right call, wrong place
    ├── KitaruStateError (RuntimeError)           the execution's state forbids it
    │   └── KitaruDeploymentNotFoundError (LookupError)   no such version, tag or flow
    ├── KitaruRuntimeError (RuntimeError)
    │   ├── KitaruWaitAborted                     a wait of the flow was aborted
    │   ├── KitaruWaitExpired                     nobody answered a wait by its deadline
    │   ├── KitaruTransactionError                a checkpoint's transaction was rolled back
    │   ├── KitaruImageError                      an image cannot be made
    │   ├── KitaruCheckpointProcessError          an isolated checkpoint's process died
    │   ├── KitaruBackendError                    the journal cannot be read or written
    │   └── KitaruExecutionError                  an execution did not complete
    │       ├── KitaruUserCodeError               its own code raised
    │       ├── KitaruDivergenceError             its code no longer fits its journal
    │       └── KitaruCancelledError              it was cancelled
    ├── KitaruTimeoutError (TimeoutError)         waiting took longer than allowed
    └── KitaruFeatureNotAvailableError (NotImplementedError)
    """


class KitaruUsageError(KitaruError, ValueError):
    """The call was wrong; the message says how to make it right."""


class KitaruSerializationError(KitaruUsageError):
    """A value cannot be kept in the journal, or what is kept cannot be read."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path
        """Where in the value the trouble is, such as ``result.items[3].client``."""


class KitaruStackIntegrationDependencyError(KitaruUsageError):
    """A stack needs a tool that is not installed; the message says how to get it."""


class KitaruWaitValidationError(KitaruUsageError):
    """An input does not fit the schema of its wait; the execution goes on waiting."""


class KitaruDeploymentInputValuesError(KitaruUsageError):
    """Inputs are missing, unknown, or do not fit the signature of a deployed flow."""


class KitaruContextError(KitaruError, RuntimeError):
    """The call is right in another place only."""


class KitaruStateError(KitaruError, RuntimeError):
    """The execution's state forbids what was asked."""


class KitaruDeploymentNotFoundError(KitaruStateError, LookupError):
    """There is no such version, or tag, of this flow, or the flow was never deployed."""


class KitaruRuntimeError(KitaruError, RuntimeError):
    """Something failed while running."""


class KitaruWaitAborted(KitaruRuntimeError):
    """Raised in a flow's body where it waits: somebody ended the wait without an answer."""


class KitaruWaitExpired(KitaruRuntimeError):
    """Raised in a flow's body where it waits: its deadline has passed without an answer."""


class KitaruTransactionError(KitaruRuntimeError):
    """A transactional checkpoint's transaction was rolled back, or is over."""


class KitaruImageError(KitaruRuntimeError):
    """What an image asks for cannot be made."""

    def __init__(self, message: str, *, output: str = "") -> None:
        super().__init__(message)
        self.output = output
        """All that the tool said which was to make it."""


class KitaruCheckpointProcessError(KitaruRuntimeError):
    """The process of an isolated checkpoint's attempt died before it had a result.

    It counts as a failed attempt, which the checkpoint's retries are for.
    """


class KitaruBackendError(KitaruRuntimeError):
    """The journal cannot be read or written."""


class KitaruExecutionError(KitaruRuntimeError):
    """An execution did not complete."""

    def __init__(
        self,
        message: str,
        *,
        exec_id: str,
        status: ExecutionStatus,
        failure_origin: FailureOrigin,
    ) -> None:
        super().__init__(message)
        self.exec_id = exec_id
        self.status = status
        self.failure_origin = failure_origin


class KitaruUserCodeError(KitaruExecutionError):
    """A flow's or checkpoint's own code raised; ``__cause__`` is that error."""


class KitaruDivergenceError(KitaruExecutionError):
    """The flow's code no longer asks for what its journal has recorded."""

    def __init__(
        self,
        message: str,
        *,
        exec_id: str,
        status: ExecutionStatus,
        failure_origin: FailureOrigin,
        divergence: "Divergence",
    ) -> None:
        super().__init__(message, exec_id=exec_id, status=status, failure_origin=failure_origin)
        self.divergence = divergence
        """All the facts of the report."""

    @property
    def story(self) -> str:
        """What has most likely happened: a `DivergenceStory`."""
        return self.divergence.story

    @property
    def recorded(self) -> "DivergedCall":
        """The recorded call that does not fit."""
        return self.divergence.recorded

    @property
    def asked(self) -> "tuple[DivergedCall, ...]":
        """What the code waits for instead; empty when it has ended."""
        return self.divergence.asked

    @property
    def differences(self) -> "tuple[ArgumentDifference, ...]":
        """Where the arguments differ, by path."""
        return self.divergence.differences


class KitaruCancelledError(KitaruExecutionError):
    """The execution was cancelled."""


class KitaruTimeoutError(KitaruError, TimeoutError):
    """Waiting took longer than allowed. The execution goes on."""

    def __init__(
        self,
        *,
        exec_id: str,
        timeout_seconds: float,
        elapsed_seconds: float,
        last_status: ExecutionStatus,
    ) -> None:
        super().__init__(
            f"execution {exec_id} is still {last_status} after {elapsed_seconds:.3g} s; "
            "it goes on, and you can wait for it again"
        )
        self.exec_id = exec_id
        self.timeout_seconds = timeout_seconds
        self.elapsed_seconds = elapsed_seconds
        self.last_status = last_status


class KitaruFeatureNotAvailableError(KitaruError, NotImplementedError):
    """This does not exist yet."""


class KitaruCancelled(BaseException):
    """Reaches a flow's body where its execution is being cancelled.

    Not an `Exception`, so that ``except Exception`` around a call does not swallow it. Checkpoints
    in the handlers that it passes still run.
    """
