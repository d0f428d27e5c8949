"""What must be true of every execution's journal, whatever has befallen it."""

from collections import Counter
from collections.abc import Iterator, Sequence

from journal import Head, RecordedEvent, verify_stream
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionReopened,
    FlowAttemptFailed,
    TimerFired,
)
from kitaru.engine.executions import head_of, state_of
from kitaru.engine.upcasts import decode_event


def broken_laws(recorded: Sequence[RecordedEvent], head: Head) -> list[str]:
    """The laws that an execution breaks, in words; none, if all is well."""
    damage = list(_chain(recorded, head))
    # What is damaged says nothing of the rest.
    return damage or [*_status(recorded, head), *_owners(recorded), *_ends(recorded)]


def _chain(recorded: Sequence[RecordedEvent], head: Head) -> Iterator[str]:
    for finding in verify_stream(recorded, head=head):
        yield f"the journal is damaged: {finding}"


def _status(recorded: Sequence[RecordedEvent], head: Head) -> Iterator[str]:
    """Status is what the events say."""
    change = head_of(state_of(recorded))
    kept = (head.state, head.name, head.due_at, head.parent)
    if kept != (change.state, change.name, change.due_at, change.parent):
        yield f"its status says {head.state!r}, and its events say {change.state!r}"
    elif head.summary != change.summary:
        yield "its summary is not what its events say"


def _owners(recorded: Sequence[RecordedEvent]) -> Iterator[str]:
    """An older owner writes nothing after a newer one has."""
    newest = 0
    for fact in recorded:
        if fact.epoch and fact.epoch < newest:
            yield f"event {fact.version} was written by owner {fact.epoch}, after owner {newest}"
        newest = max(newest, fact.epoch)


def _ends(recorded: Sequence[RecordedEvent]) -> Iterator[str]:
    """A call has at most one outcome in an attempt of the flow, and an execution one end."""
    counts: Counter[str] = Counter()
    ends = 0
    for fact in recorded:
        event = decode_event(fact)
        if ends and not isinstance(event, ExecutionReopened):
            yield f"event {fact.version} was written after the execution had ended"
        match event:
            case (
                CheckpointCompleted(path=path)
                | CheckpointFailed(path=path, retry_at=None)
                | TimerFired(path=path)
            ):
                counts[path] += 1
            case FlowAttemptFailed() | ExecutionReopened():
                ends = 0
                # What has failed is tried anew, and so may be what is asked with other arguments.
                counts.clear()
            case ExecutionCompleted() | ExecutionFailed() | ExecutionCancelled():
                ends += 1
            case _:
                pass
    for path, count in counts.items():
        if count > 1:
            yield f"{path!r} has {count} recorded outcomes"
    if ends > 1:
        yield f"the execution has ended {ends} times"
