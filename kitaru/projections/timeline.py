"""The history of an execution, one entry per event, in words."""

from collections.abc import Iterable
from datetime import datetime

from msgspec.structs import replace

from journal import RecordedEvent
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
    ForkedFrom,
    InputGiven,
    InputRejected,
    MetadataLogged,
    OffersTaken,
    RetryHastened,
    ReviewRequested,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.wait_ids import wait_id
from kitaru.domain.values import StoredValue
from kitaru.engine.forks import listed
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_event, offered_event
from kitaru.projections.executions import CATEGORY
from kitaru.projections.failures import divergence, failure_of, origin_of
from kitaru.projections.instants import instant
from kitaru.projections.views import FailureInfo, View
from kitaru.status import FailureOrigin

SHORT_ID = 13
"""How much of an id tells people which execution is meant."""


class TimelineEntry(View, frozen=True, kw_only=True):
    """One event of an execution."""

    exec_id: str
    version: int
    """The event's place in the execution, from 1."""
    kind: str
    """The event's tag, such as ``checkpoint_completed``."""
    schema: int
    recorded_at: datetime
    since_start_us: int
    """Microseconds since the execution's first event."""
    text: str
    """What happened, in words."""
    epoch: int = 0
    """Which owner wrote it: each take-over has a higher number; 0 for a client."""
    path: str | None = None
    """The call's path."""
    name: str | None = None
    """What was called or saved."""
    attempt: int | None = None
    site: str = ""
    """``file:line`` of the call."""
    duration_us: int | None = None
    arguments: StoredValue | None = None
    value: StoredValue | None = None
    """A result, a saved value or logged metadata."""
    due_at: datetime | None = None
    """When a timer fires, or the next attempt begins."""
    failure: FailureInfo | None = None
    readable: bool = True
    """False for an event that this version does not know or cannot read."""


def timeline_of(events: Iterable[RecordedEvent]) -> list[TimelineEntry]:
    """The entries of an execution's events, which begin with its first."""
    entries: list[TimelineEntry] = []
    start: int | None = None
    for recorded in events:
        start = recorded.recorded_at if start is None else start
        entries.append(_entry(recorded, start))
    return entries


def _entry(recorded: RecordedEvent, start: int) -> TimelineEntry:
    try:
        event = decode_event(recorded)
    except UnknownEvent:
        text = "something that only a newer version of Kitaru understands"
        return _bare(recorded, start, text, readable=False)
    except DamagedEvent as error:
        return _bare(recorded, start, f"unreadable: {error.what}", readable=False)
    return _described(_bare(recorded, start, _words(event)), event)


def _bare(
    recorded: RecordedEvent, start: int, text: str, *, readable: bool = True
) -> TimelineEntry:
    return TimelineEntry(
        exec_id=recorded.stream.removeprefix(f"{CATEGORY}-"),
        version=recorded.version,
        kind=recorded.type,
        schema=recorded.schema,
        recorded_at=instant(recorded.recorded_at),
        since_start_us=recorded.recorded_at - start,
        text=text,
        epoch=recorded.epoch,
        readable=readable,
    )


def _words(event: ExecutionEvent) -> str:
    match event:
        case ExecutionStarted(flow=flow, forked_from=ForkedFrom(exec_id=source, anchor=anchor)):
            return f"fork of {flow} started: of {source[:SHORT_ID]}, from {anchor} on"
        case ExecutionStarted(flow=flow, deployment=DeploymentReference(version=version)):
            return f"execution of {flow} started, version {version}"
        case ExecutionStarted(flow=flow):
            return f"execution of {flow} started"
        case ExecutionMoved(deployment=deployment):
            return f"moved to version {deployment.version} of {deployment.flow}"
        case CodeNotLoaded(problem=problem):
            return f"not loaded: {problem}"
        case ExecutionRecovered(previous_owner=owner):
            return f"taken over from {owner}, which had died"
        case ExecutionReopened(reason="retry"):
            return "retry: another attempt was asked for"
        case ExecutionReopened(reason="load"):
            return "resume: its code is to be loaded again"
        case ExecutionReopened(reason=reason):
            return f"{reason}: goes on after its divergence"
        case EventOffered(overridden=True):
            return "offered: an override"
        case EventOffered(exec_id=source, version=version):
            return f"offered: event {version} of {source[:SHORT_ID]}"
        case OffersTaken(paths=paths):
            return f"reused: {listed(paths)}"
        case CheckpointStarted():
            return "checkpoint started"
        case CheckpointCompleted(cached_from=None):
            return "checkpoint completed"
        case CheckpointCompleted(cached_from=exec_id):
            return f"result reused from execution {exec_id}"
        case CheckpointFailed(retry_at=None):
            return "checkpoint failed"
        case CheckpointFailed():
            return "checkpoint failed, will retry"
        case CheckpointCancelled():
            return "checkpoint cancelled"
        case ArgumentsChanged(differences=differences):
            where = f" ({', '.join(differences)})" if differences else ""
            return f"called with other arguments{where}: the recorded outcome was kept"
        case ReviewRequested():
            return "needs review: it was started and lost, and may run only once"
        case RetryHastened():
            return "is to be tried again at once"
        case CheckpointResolved(decision=decision):
            return f"reviewed: {decision}"
        case TimerStarted():
            return "timer started"
        case TimerFired():
            return "timer fired"
        case WaitRequested(path=path, name=name, question=question):
            called = wait_id(path, name)
            return f"waits for {called}: {question}" if question else f"waits for {called}"
        case InputGiven():
            return "input given"
        case InputRejected(problem=problem):
            return f"input rejected: {problem}"
        case WaitAborted(reason=reason):
            return _because("wait aborted", reason)
        case WaitExpired():
            return "wait expired"
        case ExecutionParked(due_at=None):
            return "suspended until somebody acts"
        case ExecutionParked():
            return "suspended"
        case MetadataLogged():
            return "metadata logged"
        case ArtifactSaved(name=name, type=kind):
            return f"{kind} {name!r} saved"
        case FlowAttemptFailed(attempt=attempt):
            return f"flow attempt {attempt} failed, will retry"
        case CancelRequested(reason=reason):
            return _because("cancel requested", reason)
        case ExecutionDiverged():
            return "diverged: the code does not fit the journal"
        case ExecutionCompleted():
            return "execution completed"
        case ExecutionFailed():
            return "execution failed"
        case ExecutionCancelled(reason=reason):
            return _because("execution cancelled", reason)


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _described(entry: TimelineEntry, event: ExecutionEvent) -> TimelineEntry:
    match event:
        case ExecutionStarted(flow=flow, arguments=arguments):
            return replace(entry, name=flow, arguments=arguments)
        case (
            CheckpointStarted()
            | CheckpointCompleted()
            | CheckpointFailed()
            | CheckpointCancelled()
            | ReviewRequested()
        ):
            return _with_call(entry, event)
        case CheckpointResolved(path=path) | RetryHastened(path=path):
            return replace(entry, path=path)
        case TimerStarted(path=path, site=site, due_at=due_at):
            return replace(entry, path=path, site=site, due_at=instant(due_at))
        case ArgumentsChanged(path=path, name=name, site=site):
            return replace(entry, path=path, name=name, site=site)
        case TimerFired(path=path) | WaitAborted(path=path) | WaitExpired(path=path):
            return replace(entry, path=path)
        case WaitRequested(path=path, name=name, site=site, deadline_at=deadline_at):
            ends_at = None if deadline_at is None else instant(deadline_at)
            return replace(entry, path=path, name=name, site=site, due_at=ends_at)
        case InputGiven(path=path, value=value):
            return replace(entry, path=path, value=value)
        case InputRejected(path=path, name=name):
            return replace(entry, path=path, name=name)
        case ExecutionParked(due_at=goes_on_at):
            return replace(entry, due_at=None if goes_on_at is None else instant(goes_on_at))
        case MetadataLogged(path=path, metadata=metadata):
            return replace(entry, path=path, value=StoredValue(json=metadata))
        case ArtifactSaved(path=path, name=name, value=value):
            return replace(entry, path=path, name=name, value=value)
        case FlowAttemptFailed(attempt=attempt, error=error, retry_at=retry_at):
            failure = failure_of(error, FailureOrigin.USER_CODE)
            return replace(entry, attempt=attempt, failure=failure, due_at=instant(retry_at))
        case ExecutionDiverged(report=report):
            return replace(entry, failure=divergence(report))
        case ExecutionCompleted(result=result):
            return replace(entry, value=result)
        case ExecutionFailed(error=error, origin=origin):
            return replace(entry, failure=failure_of(error, origin_of(origin)))
        case EventOffered():
            return _with_offer(entry, event)
        case CodeNotLoaded(retry_at=retry_at):
            return replace(entry, due_at=instant(retry_at))
        case (
            ExecutionMoved()
            | ExecutionRecovered()
            | ExecutionReopened()
            | CancelRequested()
            | ExecutionCancelled()
            | OffersTaken()
        ):
            return entry


def _with_offer(entry: TimelineEntry, offer: EventOffered) -> TimelineEntry:
    entry = replace(entry, path=offer.path)
    try:
        return _described(entry, offered_event(offer))
    except (UnknownEvent, DamagedEvent):
        return replace(entry, readable=False)


def _with_call(
    entry: TimelineEntry,
    event: CheckpointStarted
    | CheckpointCompleted
    | CheckpointFailed
    | CheckpointCancelled
    | ReviewRequested,
) -> TimelineEntry:
    entry = replace(
        entry,
        path=event.path,
        name=event.name,
        attempt=event.attempt,
        site=event.site,
        arguments=event.arguments,
    )
    match event:
        case CheckpointCompleted(result=result, duration_us=duration):
            return replace(entry, value=result, duration_us=duration)
        case CheckpointFailed(error=error, duration_us=duration, retry_at=retry_at):
            return replace(
                entry,
                failure=failure_of(error, FailureOrigin.USER_CODE),
                duration_us=duration,
                due_at=None if retry_at is None else instant(retry_at),
            )
        case _:
            return entry
