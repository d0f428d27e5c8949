"""One line for each event: what conformance cases compare. No times, no ids, no tracebacks."""

import json
from collections.abc import Iterable, Mapping

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
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.values import ErrorData, StoredValue
from tests import modes


def journal_text(events: Iterable[ExecutionEvent], names: Mapping[str, str]) -> str:
    """An execution's journal; `names` says what the case calls each execution's id."""
    lines = [line_of(event, names) for event in events if not is_noise(event)]
    return "\n".join(filter(modes.counts, lines))


def is_noise(event: ExecutionEvent) -> bool:
    """Whether it depends on how fast the machine is that an event is written at all.

    That a body or a timer has begun is told to people when it lasts for some milliseconds; but the
    start of a checkpoint that may run only once is always written, before its body.
    """
    return isinstance(event, TimerStarted) or (
        isinstance(event, CheckpointStarted) and not event.once
    )


def line_of(event: ExecutionEvent, names: Mapping[str, str]) -> str:
    """The event's tag, then what distinguishes it."""
    return " ".join(str(part) for part in _parts(event, names) if part != "")


def _parts(event: ExecutionEvent, names: Mapping[str, str]) -> list[object]:
    match event:
        case ExecutionStarted():
            return ["execution_started", event.flow, value(event.arguments), _how(event, names)]
        case ExecutionMoved(deployment=deployment):
            return ["execution_moved", deployment.version]
        case CodeNotLoaded(failures=failures):
            return ["code_not_loaded", failures]
        case ExecutionRecovered(recoveries=recoveries):
            return ["execution_recovered", recoveries]
        case ExecutionReopened(reason=reason):
            return ["execution_reopened", reason]
        case EventOffered():
            by = "overridden" if event.overridden else ""
            return ["event_offered", event.path, event.type, by]
        case OffersTaken(paths=paths):
            return ["offers_taken", *paths]
        case CheckpointStarted():
            return ["checkpoint_started", event.path, _again(event.attempt)]
        case CheckpointCompleted():
            return [
                "checkpoint_completed",
                event.path,
                value(event.result),
                _again(event.attempt),
                "resolved" if event.resolved else "",
                "" if event.cached_from is None else f"cached from {_name(event, names)}",
            ]
        case CheckpointFailed():
            later = "" if event.retry_at is None else "and will be tried again"
            return [
                "checkpoint_failed",
                event.path,
                _again(event.attempt),
                _told(event.error, later),
            ]
        case CheckpointCancelled(path=path, attempt=attempt):
            return ["checkpoint_cancelled", path, _again(attempt)]
        case ReviewRequested(path=path):
            return ["review_requested", path]
        case CheckpointResolved(path=path, decision=decision):
            return ["checkpoint_resolved", path, decision]
        case RetryHastened(path=path):
            return ["retry_hastened", path]
        case ArgumentsChanged(path=path):
            return ["arguments_changed", path, *event.differences]
        case TimerStarted(path=path):
            return ["timer_started", path]
        case TimerFired(path=path):
            return ["timer_fired", path]
        case WaitRequested(path=path):
            return ["wait_requested", path, _quoted(event.question), "again" if event.again else ""]
        case InputGiven(path=path):
            return ["input_given", path, value(event.value)]
        case InputRejected(path=path):
            return ["input_rejected", path]
        case WaitAborted(path=path, reason=reason):
            return ["wait_aborted", path, _quoted(reason)]
        case WaitExpired(path=path):
            return ["wait_expired", path]
        case ExecutionParked(due_at=due_at):
            return ["execution_parked", "" if due_at is None else "until it is due"]
        case MetadataLogged(path=path):
            return ["metadata_logged", path or "", bytes(event.metadata).decode()]
        case ArtifactSaved(path=path, name=name):
            return ["artifact_saved", path, name, value(event.value)]
        case FlowAttemptFailed():
            return ["flow_attempt_failed", event.attempt, _told(event.error)]
        case CancelRequested(reason=reason):
            return ["cancel_requested", _quoted(reason)]
        case ExecutionDiverged():
            return ["execution_diverged"]
        case ExecutionCompleted(result=result):
            return ["execution_completed", value(result)]
        case ExecutionFailed(error=error, origin=origin):
            return ["execution_failed", f"({origin})", _told(error)]
        case ExecutionCancelled(reason=reason):
            return ["execution_cancelled", _quoted(reason)]


def value(stored: StoredValue) -> str:
    """A value as the journal keeps it."""
    return bytes(stored.json).decode() if stored.blob is None else f"blob of {stored.size} bytes"


def _how(event: ExecutionStarted, names: Mapping[str, str]) -> str:
    parts = []
    if event.options.retries:
        parts.append(f"retries={event.options.retries}")
    if event.idempotency_key is not None:
        parts.append(f"key={event.idempotency_key}")
    if (fork := event.forked_from) is not None:
        source = names.get(fork.exec_id, fork.exec_id)
        parts.append(f"fork of {source} from {fork.anchor}")
        parts += fork.overrides
        parts += fork.inputs
    return " ".join(parts)


def _name(event: CheckpointCompleted, names: Mapping[str, str]) -> str:
    execution = event.cached_from or ""
    return f"{names.get(execution, execution)} {event.cached_path}"


def _again(attempt: int) -> str:
    return "" if attempt == 1 else f"attempt={attempt}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _told(error: ErrorData, later: str = "") -> str:
    lines = error.message.splitlines()
    told = error.type.removeprefix("kitaru.errors.").removeprefix("conformance_program.")
    first = lines[0] if lines else ""
    # The engine's own words may change; that an error is its own is what counts.
    text = told if error.type.startswith("kitaru.") else f"{told}: {first}"
    return f"{text} {later}".strip()
