"""Executions as people see them, folded from their heads and events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from journal import Head, RecordedEvent
from kitaru.divergence import Divergence, divergence_of
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointResolved,
    CheckpointStarted,
    EventOffered,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    MetadataLogged,
    OffersTaken,
    RetryHastened,
    ReviewRequested,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.domain.stack.decide import LOCAL
from kitaru.domain.values import ErrorData
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_event, offered_event
from kitaru.errors import KitaruSerializationError
from kitaru.projections.calls import CallFold
from kitaru.projections.failures import divergence, failure_of, origin_of
from kitaru.projections.instants import instant
from kitaru.projections.metadata import merged, metadata_of
from kitaru.projections.views import (
    ArtifactRef,
    CheckpointAttempt,
    CheckpointCall,
    Execution,
    FailureInfo,
    ForkInfo,
)
from kitaru.projections.waits import WaitFold
from kitaru.status import ExecutionStatus, FailureOrigin

__all__ = [
    "CATEGORY",
    "ArtifactRef",
    "CheckpointAttempt",
    "CheckpointCall",
    "Execution",
    "FailureInfo",
    "ForkInfo",
    "RebuiltHead",
    "execution_of",
    "head_of",
    "summary_of",
]

CATEGORY = "execution"

_encode_state = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(ExecutionState).decode


class RebuiltHead(Struct, frozen=True):
    """What a stream's head must say, by its events alone."""

    version: int
    hash: bytes
    state: str
    name: str
    parent: str | None
    summary: bytes
    route: str = ""


def head_of(events: Sequence[RecordedEvent]) -> RebuiltHead:
    """The head that an execution's events, from the first on, lead to.

    Raises UnknownEvent and DamagedEvent: what cannot be read cannot be rebuilt.
    """
    state = ABSENT
    for recorded in events:
        state = evolve(state, decode_event(recorded))
    return RebuiltHead(
        version=events[-1].version if events else 0,
        hash=events[-1].hash if events else b"",
        state=state.status or "",
        name=state.flow,
        parent=f"{CATEGORY}-{state.forked_from}" if state.forked_from else None,
        summary=_encode_state(state),
        route=state.route,
    )


def summary_of(head: Head) -> Execution:
    """An execution as its head alone tells it: no checkpoints, no artifacts."""
    state, unknown = _state_of(head)
    return _summary(head, state, unknown)


def execution_of(
    head: Head, events: Sequence[RecordedEvent], forks: Sequence[str] = ()
) -> Execution:
    """An execution with all that its events tell, and the forks of it that are known.

    What this version cannot read is named in `unknown`, and all else is shown. Where the events go
    further than the head, which was read before them, the events count.
    """
    fold = _Fold(_exec_id(head))
    for recorded in events:
        fold.add(recorded)
    state, unknown = _state_of(head)
    if events and events[-1].version > head.version and not fold.unknown:
        state = fold.state
    return fold.onto(_summary(head, state, unknown), forks)


def _exec_id(head: Head) -> str:
    return head.stream.removeprefix(f"{CATEGORY}-")


def _state_of(head: Head) -> tuple[ExecutionState, tuple[str, ...]]:
    unknown: tuple[str, ...] = ()
    try:
        state = _decode_state(head.summary)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        state = ExecutionState(flow=head.name)
        unknown = (f"The summary of its state cannot be read: {error}.",)
    try:
        return replace(state, status=ExecutionStatus(head.state)), unknown
    except ValueError:
        word = f"The journal says {head.state!r}, which this version of Kitaru does not know."
        return replace(state, status=ExecutionStatus.RUNNING, reason=word), (*unknown, word)


def _summary(head: Head, state: ExecutionState, unknown: tuple[str, ...]) -> Execution:
    status = state.status or ExecutionStatus.RUNNING
    waits = status is ExecutionStatus.WAITING or state.load_failures > 0
    return Execution(
        exec_id=_exec_id(head),
        flow_name=head.name,
        stack_name=LOCAL if state.stack is None else state.stack.name,
        status=status,
        original_exec_id=state.forked_from or None,
        started_at=instant(head.created_at),
        ended_at=instant(head.updated_at) if status.is_finished else None,
        updated_at=instant(head.updated_at),
        status_reason=state.reason or None,
        failure=_failure_of(state),
        attempt=state.attempt,
        recoveries=state.recoveries,
        owner=head.owner,
        lease_until=None if head.owner is None else instant(head.lease_until),
        due_at=instant(head.due_at) if waits and head.due_at else None,
        cancel_requested=state.cancel_requested,
        deployment=state.deployment,
        load_failures=state.load_failures,
        version=head.version,
        unknown=unknown,
    )


def _failure_of(state: ExecutionState) -> FailureInfo | None:
    match state.status:
        case ExecutionStatus.FAILED:
            return FailureInfo(
                message=state.reason,
                exception_type=state.error_type,
                origin=state.origin or FailureOrigin.UNKNOWN,
            )
        case ExecutionStatus.DIVERGED:
            return divergence(state.reason)
        case _:
            return None


class _Fold:
    """Collects from the events what a head does not say."""

    def __init__(self, exec_id: str) -> None:
        self.exec_id = exec_id
        self.state = ABSENT
        self.unknown: list[str] = []
        self.version = 0
        self.calls = CallFold()
        self.waits = WaitFold()
        self.artifacts: list[ArtifactRef] = []
        self.metadata: dict[str, Any] = {}
        self.takeovers = 0
        self.started: ExecutionStarted | None = None
        self.completed: ExecutionCompleted | None = None
        self.failed: ExecutionFailed | None = None
        self.failed_calls: dict[str, ErrorData] = {}
        self.ended_at: datetime | None = None
        self.offers: dict[str, list[tuple[int, EventOffered]]] = {}
        self.taken: list[str] = []
        self.diverged: ExecutionDiverged | None = None

    def add(self, recorded: RecordedEvent) -> None:
        """Takes in one event, whether it can be read or not."""
        self.version = recorded.version
        try:
            event = decode_event(recorded)
        except (UnknownEvent, DamagedEvent) as error:
            self.unknown.append(str(error))
            return
        self.state = evolve(self.state, event)
        self._note(event, instant(recorded.recorded_at), recorded.version)

    def _note(self, event: ExecutionEvent, at: datetime, version: int) -> None:
        self.waits.add(event, at)
        match event:
            case CheckpointFailed(path=path, error=error):
                self.failed_calls[path] = error
                self.calls.add(event, at)
            case CheckpointStarted() | CheckpointCompleted() | CheckpointCancelled():
                self.calls.add(event, at)
            case EventOffered(path=path):
                self.offers.setdefault(path, []).append((version, event))
            case OffersTaken(paths=paths):
                self._note_taken(paths)
            case ReviewRequested():
                self.calls.review(event, at)
            case CheckpointResolved(path=path):
                self.calls.resolve(path)
            case RetryHastened(path=path):
                self.calls.hasten(path, at)
            case MetadataLogged():
                self._note_metadata(event, version)
            case ArtifactSaved():
                self.artifacts.append(self._artifact(event, at, version))
            case ExecutionStarted():
                self.started = event
            case ExecutionRecovered():
                self.takeovers += 1
            case ExecutionReopened():
                self.ended_at = self.failed = self.completed = None
            case ExecutionCompleted():
                self.completed, self.failed, self.ended_at = event, None, at
            case ExecutionFailed():
                self.completed, self.failed, self.ended_at = None, event, at
            case ExecutionCancelled():
                self.completed, self.failed, self.ended_at = None, None, at
            case ExecutionDiverged():
                self.completed = self.failed = self.ended_at = None
                self.diverged = event
            case _:
                pass

    def _note_taken(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.taken.append(path)
            for version, offer in self.offers.get(path, ()):
                self._note_offer(version, offer)

    def _note_offer(self, version: int, offer: EventOffered) -> None:
        try:
            event = offered_event(offer)
        except (UnknownEvent, DamagedEvent) as error:
            self.unknown.append(str(error))
            return
        match event:
            case MetadataLogged():
                self._note_metadata(event, version)
            case ArtifactSaved():
                self.artifacts.append(self._artifact(event, instant(offer.recorded_at), version))
            case _:
                self.calls.add_reused(offer, event)

    def _forked_from(self) -> ForkInfo | None:
        source = self.started.forked_from if self.started else None
        if source is None:
            return None
        return ForkInfo(
            exec_id=source.exec_id,
            version=source.version,
            from_=source.anchor,
            overrides=source.overrides,
            inputs=source.inputs,
            reused=tuple(self.taken),
        )

    def _note_metadata(self, event: MetadataLogged, version: int) -> None:
        try:
            metadata = metadata_of(event.metadata)
        except KitaruSerializationError as error:
            self.unknown.append(f"The metadata of event {version} cannot be read: {error}.")
            return
        if event.path is None:
            self.metadata = merged(self.metadata, metadata)
        else:
            self.calls.add_metadata(event.path, metadata)

    def _artifact(self, event: ArtifactSaved, at: datetime, version: int) -> ArtifactRef:
        return ArtifactRef(
            artifact_id=f"{self.exec_id}/{version}",
            name=event.name,
            kind=event.type,
            producing_call=event.path,
            saved_at=at,
            value=event.value,
            tags=event.tags,
        )

    def onto(self, summary: Execution, forks: Sequence[str]) -> Execution:
        """The summary, completed by what the events say."""
        ended = summary.status.is_finished
        started = self.started
        return replace(
            summary,
            ended_at=(self.ended_at or summary.ended_at) if ended else None,
            failure=self._failure(summary.failure),
            divergence=self._divergence(summary.status),
            takeovers=self.takeovers,
            metadata=self.metadata,
            pending_waits=() if ended else self.waits.waits(),
            checkpoints=self.calls.calls(ended=ended),
            artifacts=tuple(self.artifacts),
            arguments=started.arguments if started else None,
            options=started.options if started else None,
            source=started.source if started else None,
            result=self.completed.result if self.completed and ended else None,
            forked_from=self._forked_from(),
            forks=tuple(forks),
            version=max(summary.version, self.version),
            unknown=(*summary.unknown, *self.unknown),
        )

    def _divergence(self, status: ExecutionStatus) -> Divergence | None:
        if self.diverged is None or status is not ExecutionStatus.DIVERGED:
            return None
        return divergence_of(self.diverged.facts)

    def _failure(self, known: FailureInfo | None) -> FailureInfo | None:
        if known is None or self.failed is None:
            return known
        error = self.failed.error
        return failure_of(error, origin_of(self.failed.origin), call_id=self._failed_call(error))

    def _failed_call(self, error: ErrorData) -> str | None:
        """The call whose failure the body let through: the last that failed in the same way."""
        for path, failed in reversed(self.failed_calls.items()):
            if (failed.type, failed.message) == (error.type, error.message):
                return path
        return None
