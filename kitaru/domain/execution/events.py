"""What can happen to an execution, as stored. A type's tag and schema stand in `EVENT_TYPES`."""

from typing import Any

from msgspec import Raw, Struct

from kitaru.domain.values import NO_JSON, ErrorData, StoredValue
from kitaru.image import ImageSettings

RUN_AGAIN = "run again"


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The root of an execution's events."""


class SourceReference(Struct, frozen=True, omit_defaults=True):
    """Where a flow's code is, so that another process can load it."""

    module: str
    qualname: str
    file: str = ""
    root: str = ""
    """The folder from which `module` can be imported."""


class DeploymentReference(Struct, frozen=True, omit_defaults=True):
    """Which version of a deployed flow an execution runs, and what a runner needs to load it."""

    flow: str
    version: int
    bundle: str
    """The hexadecimal SHA-256 of its bundle."""
    import_roots: tuple[str, ...] = ()
    """The folders of the bundle that modules are looked for in, the first one first."""


class StackReference(Struct, frozen=True, omit_defaults=True):
    """The stack that an execution was started on, as it was then."""

    name: str
    type: str


class FrozenOptions(Struct, frozen=True, omit_defaults=True):
    """The options that an execution was started with; they never change afterwards."""

    retries: int = 0
    cache: bool | None = None
    stack: StackReference | None = None
    """None: the local one."""
    image: ImageSettings | None = None
    """Without the values of secrets."""


class ForkedFrom(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Which execution this one is a fork of, and what was asked for."""

    exec_id: str
    version: int
    """How many of the source's events the fork was made from."""
    anchor: str
    """The path of the call from which on everything runs."""
    started_at: int
    """When the source's body began, in microseconds: the fork's times begin there, too."""
    overrides: tuple[str, ...] = ()
    """The calls whose outcomes were replaced: ``checkpoint.fetch#2``, ``wait.approve``."""
    inputs: tuple[str, ...] = ()
    """The names of the flow's arguments that were given anew."""
    request: str = ""
    """The digest of all that was asked for: an idempotency key belongs to it."""


class ExecutionStarted(Event, frozen=True, kw_only=True, gc=False):
    flow: str
    source: SourceReference
    arguments: StoredValue
    """A list of [positional arguments, keyword arguments]."""
    arguments_digest: str
    asynchronous: bool = False
    """Whether the flow's body is a coroutine function."""
    fingerprint: str = ""
    options: FrozenOptions = FrozenOptions()
    idempotency_key: str | None = None
    seed: str = ""
    """What the body's random values are derived from; empty: its id."""
    forked_from: ForkedFrom | None = None
    deployment: DeploymentReference | None = None
    """The version that it runs; None: the code of whoever started it. Its source's paths are then
    relative to the bundle."""
    plain: tuple[str, ...] = ()
    """The arguments that came as plain JSON, of which the runner makes what annotations say."""


class ExecutionMoved(Event, frozen=True, kw_only=True, gc=False):
    """From here on the execution runs another version of its flow."""

    deployment: DeploymentReference
    source: SourceReference
    fingerprint: str = ""


class CodeNotLoaded(Event, frozen=True, kw_only=True, gc=False):
    """A runner of the execution's version could not load its code; it is tried again later."""

    problem: str
    failures: int
    """How often in a row, this time included."""
    retry_at: int


class ExecutionRecovered(Event, frozen=True, kw_only=True, gc=False):
    """A runner has taken the execution over from one that died."""

    previous_owner: str
    recoveries: int
    """Take-overs since the last recorded progress, this one included."""


class ExecutionReopened(Event, frozen=True, kw_only=True, gc=False):
    """Somebody asked for another attempt, or for going on after a divergence."""

    reason: str
    """``retry``, ``resume``, or ``load`` for code that could not be loaded."""


class CallEvent(Event, frozen=True, kw_only=True, gc=False):
    """Something that happened to one call."""

    path: str
    """The call's identity: ``fetch``, ``fetch#2``, ``task[1]/fetch``."""


class EventOffered(CallEvent, frozen=True, kw_only=True, gc=False):
    """An event of another execution that a fork takes over if its body asks for the same call."""

    exec_id: str
    """Where it happened; for a fork of a fork, where it really did."""
    version: int
    """Its version there."""
    recorded_at: int
    """When it happened there, in microseconds."""
    type: str
    """Its tag."""
    schema: int
    event: Raw
    """Its payload."""
    overridden: bool = False
    """Whether its outcome was replaced: it is handed over whatever the call's arguments are."""


class OffersTaken(Event, frozen=True, kw_only=True, gc=False):
    """The body was given the offered outcomes of these calls."""

    paths: tuple[str, ...]


class CheckpointEvent(CallEvent, frozen=True, kw_only=True, gc=False):
    name: str
    attempt: int
    """From 1, over all that was tried at the path: flow attempts, other arguments, crashes. What is
    reused has the number of the attempt before it."""
    site: str = ""
    """``file:line`` of the call."""
    arguments_digest: str = ""
    arguments: StoredValue | None = None
    """Kept when small."""


class CheckpointStarted(CheckpointEvent, frozen=True, kw_only=True, gc=False):
    """The body runs; written only when it runs for longer than a few milliseconds."""

    once: bool = False
    """Written before the body: without an outcome nobody knows what it has done."""


class CheckpointCompleted(CheckpointEvent, frozen=True, kw_only=True, gc=False):
    result: StoredValue
    duration_us: int = 0
    type: str | None = None
    """The label that the decorator gave, such as ``llm_call``."""
    cache_key: str = ""
    """What later executions find the result by; empty: it is not offered to them."""
    cached_from: str | None = None
    """The execution whose result this is; None: the body has run here."""
    cached_path: str = ""
    """The call there."""
    resolved: bool = False
    """Whether a person gave the result, as plain JSON."""


class CheckpointFailed(CheckpointEvent, frozen=True, kw_only=True, gc=False):
    error: ErrorData
    duration_us: int = 0
    retry_at: int | None = None
    """When the next attempt is due; None: this failure is the call's outcome."""
    type: str | None = None


class RetryHastened(CallEvent, frozen=True, kw_only=True, gc=False):
    """Somebody wants a call's next attempt at once, and not at the time of its policy."""


class ReviewRequested(CheckpointEvent, frozen=True, kw_only=True, gc=False):
    """An attempt that may run only once was lost: somebody has to say what came of it."""

    schema: Raw = NO_JSON
    """The result's JSON schema, when its annotation has one."""


class CheckpointResolved(CallEvent, frozen=True, kw_only=True, gc=False):
    """Somebody has said what came of a lost attempt; an outcome follows, unless it runs again."""

    decision: str
    """``result``, ``failed`` or `RUN_AGAIN`."""


class CheckpointCancelled(CheckpointEvent, frozen=True, kw_only=True, gc=False):
    """The flow's body stopped waiting for the call, and its body was cancelled."""


class ArgumentsChanged(CallEvent, frozen=True, kw_only=True, gc=False):
    """A recorded call was made with other arguments, and given its outcome: its author wants so."""

    name: str
    site: str = ""
    arguments_digest: str = ""
    """Of the other arguments, when they were first met."""
    differences: tuple[str, ...] = ()
    """Where they differ, by path; empty where the arguments were not kept."""


class TimerStarted(CallEvent, frozen=True, kw_only=True, gc=False):
    due_at: int
    site: str = ""


class TimerFired(CallEvent, frozen=True, kw_only=True, gc=False):
    due_at: int


class WaitRequested(CallEvent, frozen=True, kw_only=True, gc=False):
    """The body waits for somebody's answer."""

    name: str
    site: str = ""
    question: str = ""
    schema: Raw = NO_JSON
    """The answer's JSON schema; left out: the wait only asks to go on, and takes no value."""
    metadata: Raw = NO_JSON
    """A JSON object in the codec's form."""
    deadline_at: int | None = None
    """When it ends without an answer."""


class InputGiven(CallEvent, frozen=True, kw_only=True, gc=False):
    """Somebody's answer to a wait, perhaps before the body asks."""

    value: StoredValue


class InputRejected(CallEvent, frozen=True, kw_only=True, gc=False):
    """The runner could not make of an answer what the body wants; the wait goes on."""

    name: str
    problem: str


class WaitAborted(CallEvent, frozen=True, kw_only=True, gc=False):
    """Somebody ended a wait without an answer: the body is given an error."""

    reason: str = ""


class WaitExpired(CallEvent, frozen=True, kw_only=True, gc=False):
    """A wait's deadline has passed without an answer."""


class ExecutionParked(Event, frozen=True, kw_only=True, gc=False):
    """Nothing is left to do before an answer comes, or a time: no runner holds the execution."""

    due_at: int | None = None
    """When it goes on by itself; None: not before somebody acts."""


class MetadataLogged(Event, frozen=True, kw_only=True, gc=False):
    metadata: Raw
    """A JSON object in the codec's form."""
    path: str | None = None
    """The checkpoint call it belongs to; None: the execution."""
    entry: str = ""
    """At flow scope, which `log()` call of the body it was: a replay does not write it again."""


class ArtifactSaved(CallEvent, frozen=True, kw_only=True, gc=False):
    name: str
    type: str
    value: StoredValue
    tags: tuple[str, ...] = ()


class FlowAttemptFailed(Event, frozen=True, kw_only=True, gc=False):
    attempt: int
    error: ErrorData
    retry_at: int


class CancelRequested(Event, frozen=True, kw_only=True, gc=False):
    reason: str = ""


class ExecutionDiverged(Event, frozen=True, kw_only=True, gc=False):
    report: str
    """The whole text that people see."""
    facts: Raw
    """The same as a JSON object."""


class ExecutionCompleted(Event, frozen=True, kw_only=True, gc=False):
    result: StoredValue
    in_spite_of_cancel: bool = False
    """Whether the body was given a cancel request, and made the best of it."""


class ExecutionFailed(Event, frozen=True, kw_only=True, gc=False):
    error: ErrorData
    origin: str
    """A `FailureOrigin`."""


class ExecutionCancelled(Event, frozen=True, kw_only=True, gc=False):
    reason: str = ""


EVENT_TYPES: dict[str, tuple[type[Event], int]] = {
    "execution_started": (ExecutionStarted, 1),
    "execution_moved": (ExecutionMoved, 1),
    "code_not_loaded": (CodeNotLoaded, 1),
    "execution_recovered": (ExecutionRecovered, 1),
    "execution_reopened": (ExecutionReopened, 1),
    "event_offered": (EventOffered, 1),
    "offers_taken": (OffersTaken, 1),
    "checkpoint_started": (CheckpointStarted, 1),
    "checkpoint_completed": (CheckpointCompleted, 1),
    "checkpoint_failed": (CheckpointFailed, 1),
    "checkpoint_cancelled": (CheckpointCancelled, 1),
    "retry_hastened": (RetryHastened, 1),
    "arguments_changed": (ArgumentsChanged, 1),
    "review_requested": (ReviewRequested, 1),
    "checkpoint_resolved": (CheckpointResolved, 1),
    "timer_started": (TimerStarted, 1),
    "timer_fired": (TimerFired, 1),
    "wait_requested": (WaitRequested, 1),
    "input_given": (InputGiven, 1),
    "input_rejected": (InputRejected, 1),
    "wait_aborted": (WaitAborted, 1),
    "wait_expired": (WaitExpired, 1),
    "execution_parked": (ExecutionParked, 1),
    "metadata_logged": (MetadataLogged, 1),
    "artifact_saved": (ArtifactSaved, 1),
    "flow_attempt_failed": (FlowAttemptFailed, 1),
    "cancel_requested": (CancelRequested, 1),
    "execution_diverged": (ExecutionDiverged, 1),
    "execution_completed": (ExecutionCompleted, 1),
    "execution_failed": (ExecutionFailed, 1),
    "execution_cancelled": (ExecutionCancelled, 1),
}
"""Tag → the event's class and the schema that this version writes."""

TAGS: dict[type[Any], tuple[str, int]] = {
    cls: (tag, schema) for tag, (cls, schema) in EVENT_TYPES.items()
}

ExecutionEvent = (
    ExecutionStarted
    | ExecutionMoved
    | CodeNotLoaded
    | ExecutionRecovered
    | ExecutionReopened
    | EventOffered
    | OffersTaken
    | CheckpointStarted
    | CheckpointCompleted
    | CheckpointFailed
    | CheckpointCancelled
    | ArgumentsChanged
    | RetryHastened
    | ReviewRequested
    | CheckpointResolved
    | TimerStarted
    | TimerFired
    | WaitRequested
    | InputGiven
    | InputRejected
    | WaitAborted
    | WaitExpired
    | ExecutionParked
    | MetadataLogged
    | ArtifactSaved
    | FlowAttemptFailed
    | CancelRequested
    | ExecutionDiverged
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
)
