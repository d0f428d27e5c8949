"""Where the running code stands: outside, in a flow's body, or in a checkpoint's."""

from contextvars import ContextVar
from typing import Any, Protocol

from kitaru.domain.execution.events import ArtifactSaved, MetadataLogged
from kitaru.engine.transactions import AttemptTransaction
from kitaru.engine.values import Blobs
from kitaru.errors import KitaruContextError


class ExecutionSuspended(BaseException):
    """This pass of the flow's body ends here; the execution itself goes on later.

    Catching it is harmless and useless: nothing that the body does afterwards has an effect.
    """

    def __init__(self) -> None:
        super().__init__(
            "This pass of the flow's body ends here; the execution goes on elsewhere or later. "
            "Do not handle this: nothing that the body does now has an effect any more."
        )


class Recorder(Protocol):
    """What a runner offers to the code inside its flow."""

    exec_id: str
    unshared: set[str]
    """The calls whose results no other execution may reuse."""

    def note(self, event: MetadataLogged | ArtifactSaved, blobs: Blobs = ()) -> None:
        """Records an event together with the next one that is waited for."""
        ...


class FlowScope:
    """In a flow's body."""

    __slots__ = ("runner",)

    def __init__(self, runner: Any) -> None:
        self.runner = runner


class CheckpointScope:
    """In a checkpoint's body."""

    __slots__ = ("attempt", "identity", "path", "runner", "transaction")

    def __init__(
        self,
        runner: Recorder,
        path: str,
        attempt: int,
        identity: str,
        transaction: AttemptTransaction | None = None,
    ) -> None:
        self.runner = runner
        self.path = path
        self.attempt = attempt
        self.identity = identity
        """What no other call of the execution has."""
        self.transaction = transaction


Scope = FlowScope | CheckpointScope

scope: ContextVar[Scope | None] = ContextVar("kitaru_scope", default=None)


def check_journal_may_be_used() -> None:
    """Ends a flow's body that is only tried where it would use the journal by itself."""
    here = scope.get()
    if isinstance(here, FlowScope):
        refuse = getattr(here.runner, "refuse_journal", None)
        if refuse is not None:
            refuse()


def flow_scope(what: str) -> FlowScope:
    """The flow whose body runs here. Raises KitaruContextError anywhere else."""
    match scope.get():
        case FlowScope() as found:
            return found
        case CheckpointScope(path=path):
            raise KitaruContextError(
                f"{what} cannot be used inside a @checkpoint (this is {path!r}): nested checkpoint "
                "calls are not supported. Call it from the flow's body, or call a plain function."
            )
        case _:
            raise KitaruContextError(
                f"{what} can only be used inside a @flow. Start the flow with .run(...)."
            )
