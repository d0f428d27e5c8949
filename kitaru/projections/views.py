"""What people see of an execution: frozen read models, rebuildable from the journal at any time."""

from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from kitaru.divergence import Divergence
from kitaru.domain.execution.events import DeploymentReference, FrozenOptions, SourceReference
from kitaru.domain.values import StoredValue
from kitaru.status import ExecutionStatus, FailureOrigin


class View(Struct, frozen=True, kw_only=True):
    """The root of the read models. Instants are aware and in UTC."""


class FailureInfo(View, frozen=True, kw_only=True):
    """Why something failed."""

    message: str
    """The exception's own text."""
    exception_type: str
    """``module.Qualified.Name``; builtins without their module."""
    origin: FailureOrigin
    traceback: str = ""
    """As Python prints it; empty where only a summary was read."""
    site: str = ""
    """``file:line`` where it was raised, when known."""
    call_id: str | None = None
    """The checkpoint call whose failure ended the execution, when one did."""


class Timed(View, frozen=True, kw_only=True):
    """Something that begins and, mostly, ends."""

    status: ExecutionStatus
    started_at: datetime
    ended_at: datetime | None = None

    @property
    def duration(self) -> timedelta | None:
        """From its start to its end; None while it goes on."""
        return None if self.ended_at is None else self.ended_at - self.started_at


class CheckpointAttempt(Timed, frozen=True, kw_only=True):
    """One try of a checkpoint's body."""

    attempt_id: str
    number: int
    """From 1."""
    failure: FailureInfo | None = None
    retry_at: datetime | None = None
    """When the next attempt is due, after a failure that is tried again."""


class CheckpointCall(Timed, frozen=True, kw_only=True):
    """One durable call, however many attempts it took.

    While it waits for its next attempt its status is ``waiting``.
    """

    call_id: str
    """The call's path, such as ``fetch#2`` or ``task[1]/fetch``."""
    name: str
    checkpoint_type: str | None = None
    """The label that the decorator gave, such as ``llm_call``."""
    attempts: tuple[CheckpointAttempt, ...] = ()
    metadata: dict[str, Any] = {}
    failure: FailureInfo | None = None
    """That of its last attempt, unless a later one succeeded."""
    site: str = ""
    """``file:line`` of the call."""
    arguments: StoredValue | None = None
    """None where only their digest was kept."""
    result: StoredValue | None = None
    original_exec_id: str | None = None
    """In a fork, the execution in which the call ran, when its outcome was reused."""
    original_call_id: str | None = None
    """Its path there."""
    is_overridden: bool = False
    """Whether a fork was given another outcome than the one that was recorded."""
    needs_review: bool = False
    """Whether its last attempt was lost, and may be repeated only when somebody says so."""
    cached_from: str | None = None
    """The execution whose result was reused; then this call has no attempt of its own for it."""
    cached_call_id: str | None = None
    """The call there."""

    @property
    def type(self) -> str | None:
        """The label that the decorator gave."""
        return self.checkpoint_type


class PendingWait(View, frozen=True, kw_only=True):
    """A wait that nobody has answered yet."""

    wait_id: str
    """What tells it from every other wait of the execution: ``approve#1``, ``approve#2`` for the
    next one of that name, ``task[1]/approve#1`` in a branch."""
    name: str
    question: str | None = None
    schema: dict[str, Any] | None = None
    """The answer's JSON schema; None: it only asks to go on, and takes no value."""
    metadata: dict[str, Any] = {}
    entered_waiting_at: datetime
    deadline_at: datetime | None = None
    site: str = ""
    """``file:line`` of the call."""
    rejected: str | None = None
    """Why the last answer was not taken, when one was not."""

    @property
    def names(self) -> tuple[str, str]:
        """What it may be called by: its id, and its name."""
        return self.wait_id, self.name


class ForkInfo(View, frozen=True, kw_only=True):
    """What an execution has taken over from another."""

    exec_id: str
    """The source."""
    version: int
    """How many of the source's events there were then."""
    from_: str
    """The path of the call from which on everything ran."""
    overrides: tuple[str, ...] = ()
    """The outcomes that were replaced: ``checkpoint.fetch#2``, ``wait.approve``."""
    inputs: tuple[str, ...] = ()
    """The names of the arguments that were given anew."""
    reused: tuple[str, ...] = ()
    """The paths of the calls whose outcomes the body was given: checkpoints, waits and sleeps."""


class ArtifactRef(View, frozen=True, kw_only=True):
    """A value that was saved under a name."""

    artifact_id: str
    """``<exec_id>/<version of its event>``."""
    name: str
    kind: str
    """What it was saved as, such as ``output``."""
    producing_call: str
    """The path of the call that saved it."""
    saved_at: datetime
    value: StoredValue
    tags: tuple[str, ...] = ()


class Execution(Timed, frozen=True, kw_only=True):
    """One durable run of a flow.

    In a summary, as lists give it, `pending_waits`, `checkpoints`, `artifacts`, `metadata`,
    `arguments`, `result` and `source` are empty, and a failure has neither traceback nor site.
    """

    exec_id: str
    flow_name: str
    stack_name: str = "local"
    """The stack that it was started on."""
    updated_at: datetime
    status_reason: str | None = None
    """Why it stands where it stands."""
    failure: FailureInfo | None = None
    """Why it failed or diverged."""
    divergence: Divergence | None = None
    """How its code and its journal part, while it is diverged; None in a summary."""
    attempt: int = 1
    """The flow attempt that runs or ran last, from 1."""
    recoveries: int = 0
    """Take-overs after a crash since the last recorded progress; they are limited."""
    takeovers: int | None = None
    """All take-overs; None in a summary."""
    owner: str | None = None
    """Who runs it, or ran it when it was last heard of: alive until `lease_until`."""
    lease_until: datetime | None = None
    due_at: datetime | None = None
    """When it goes on, while it waits for a time."""
    cancel_requested: bool = False
    metadata: dict[str, Any] = {}
    pending_waits: tuple[PendingWait, ...] = ()
    """Oldest first."""
    checkpoints: tuple[CheckpointCall, ...] = ()
    artifacts: tuple[ArtifactRef, ...] = ()
    arguments: StoredValue | None = None
    """A list of [positional arguments, keyword arguments]."""
    result: StoredValue | None = None
    options: FrozenOptions | None = None
    source: SourceReference | None = None
    deployment: DeploymentReference | None = None
    """The deployed version that it runs; None: the code of whoever started it."""
    load_failures: int = 0
    """How often in a row its version's code could not be loaded; `status_reason` says why."""
    original_exec_id: str | None = None
    """The execution that this one is a fork of."""
    forked_from: ForkInfo | None = None
    """The same, with all that is known of it; None in a summary."""
    forks: tuple[str, ...] = ()
    """The ids of its own forks, oldest first."""
    version: int = 0
    """How many events it has."""
    unknown: tuple[str, ...] = ()
    """What this version could not read, in words. With anything here the execution is read-only."""

    @property
    def pending_wait(self) -> PendingWait | None:
        """The oldest wait that nobody has answered."""
        return self.pending_waits[0] if self.pending_waits else None
