"""Histories of executions, written by hand and by chance."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Raw

from journal import Head, RecordedEvent
from kitaru.domain.execution.events import (
    ArgumentsChanged,
    ArtifactSaved,
    CancelRequested,
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    CodeNotLoaded,
    DeploymentReference,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionMoved,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    FrozenOptions,
    MetadataLogged,
    SourceReference,
    TimerFired,
    TimerStarted,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.values import ErrorData, FrameData, StoredValue
from kitaru.engine.executions import fold, head_of, new_event

STREAM = "execution-5f0c8a52-1d9c-4f6e-9f56-0e9a1c3f7b11"
BEGIN = 1_800_000_000_000_000
SECOND = 1_000_000

Record = Callable[[Sequence[ExecutionEvent]], list[RecordedEvent]]
HeadOf = Callable[[Sequence[ExecutionEvent]], Head]


@pytest.fixture(scope="session")
def started() -> ExecutionStarted:
    return ExecutionStarted(
        flow="agent",
        source=SourceReference(module="agents", qualname="agent"),
        arguments=StoredValue(json=Raw(b'{"url":"x"}')),
        arguments_digest="d",
        options=FrozenOptions(retries=1),
    )


@pytest.fixture(scope="session")
def record() -> Record:
    """Gives each event its envelope; one second passes between two of them."""

    def record(events: Sequence[ExecutionEvent]) -> list[RecordedEvent]:
        return [_recorded(version, event) for version, event in enumerate(events, 1)]

    return record


def _recorded(version: int, event: ExecutionEvent) -> RecordedEvent:
    new = new_event(event)
    return RecordedEvent(
        stream=STREAM,
        version=version,
        position=version,
        type=new.type,
        schema=new.schema,
        recorded_at=BEGIN + (version - 1) * SECOND,
        epoch=1,
        payload=new.payload,
        previous_hash=bytes(32),
        hash=bytes(32),
    )


@pytest.fixture(scope="session")
def stored_head() -> HeadOf:
    """The head that the engine writes for these events."""

    def stored_head(events: Sequence[ExecutionEvent]) -> Head:
        change = head_of(fold(ABSENT, events))
        return Head(
            stream=STREAM,
            category="execution",
            version=len(events),
            hash=bytes(32),
            state=change.state,
            name=change.name,
            due_at=change.due_at,
            parent=None,
            summary=change.summary,
            created_at=BEGIN,
            updated_at=BEGIN + (len(events) - 1) * SECOND,
            owner=None,
            epoch=1,
            lease_until=0,
        )

    return stored_head


_paths = st.sampled_from(["fetch", "fetch#2", "task[1]/fetch", "think"])
_small = st.integers(0, 4)
_instants = st.integers(-(2**63), 2**63 - 1)
_values = st.sampled_from(
    [
        StoredValue(json=Raw(b'{"a":[1,2,null]}')),
        StoredValue(json=Raw(b'{"$":["object","m.Order",{"total":1}]}')),
        StoredValue(blob="ab" * 32, size=70_000),
    ]
)
_texts = st.sampled_from(["", "boom", "\x1b]0;title\x07", "ünïcode", "two\nlines"])


def _errors() -> SearchStrategy[ErrorData]:
    flat = st.builds(
        ErrorData,
        type=st.sampled_from(["ValueError", "kitaru.errors.KitaruError"]),
        message=_texts,
        frames=st.sampled_from([(), (FrameData("a.py", 3, "f", "f()"),)]),
    )
    return st.builds(
        lambda error, cause: ErrorData(
            type=error.type, message=error.message, frames=error.frames, cause=cause
        ),
        flat,
        st.none() | flat,
    )


def _call(kind: type[Any], **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.builds(
        kind,
        path=_paths,
        name=st.sampled_from(["fetch", "think"]),
        attempt=_small,
        site=st.sampled_from(["", "a.py:7"]),
        arguments=st.none() | _values,
        **fields,
    )


def _event(started: ExecutionStarted) -> SearchStrategy[ExecutionEvent]:
    metadata = [b"{}", b'{"a":1}', b'{"a":{"b":2}}', b"[1]", b'{"$":["none such"]}']
    durations = st.integers(0, 2**63 - 1)
    return st.one_of(
        st.just(started),
        st.builds(ExecutionRecovered, previous_owner=_texts, recoveries=_small),
        st.builds(ExecutionReopened, reason=st.sampled_from(["retry", "resume", "load"])),
        st.builds(
            ExecutionMoved,
            deployment=st.builds(
                DeploymentReference, flow=_texts, version=_small, bundle=st.just("ab" * 32)
            ),
            source=st.just(started.source),
        ),
        st.builds(CodeNotLoaded, problem=_texts, failures=_small, retry_at=_instants),
        _call(CheckpointStarted),
        _call(CheckpointCompleted, result=_values, duration_us=durations),
        _call(
            CheckpointFailed,
            error=_errors(),
            duration_us=durations,
            retry_at=st.none() | _instants,
        ),
        _call(CheckpointCancelled),
        st.builds(TimerStarted, path=_paths, due_at=_instants),
        st.builds(TimerFired, path=_paths, due_at=_instants),
        st.builds(
            MetadataLogged,
            metadata=st.sampled_from(metadata).map(Raw),
            path=st.none() | _paths,
        ),
        st.builds(ArtifactSaved, path=_paths, name=_texts, type=_texts, value=_values),
        st.builds(FlowAttemptFailed, attempt=_small, error=_errors(), retry_at=_instants),
        st.builds(CancelRequested, reason=_texts),
        st.builds(
            ArgumentsChanged,
            path=_paths,
            name=_texts,
            differences=st.sampled_from([(), ("url",), ("a[0].b", "c")]),
        ),
        st.builds(ExecutionDiverged, report=_texts, facts=st.just(Raw(b"{}"))),
        st.builds(ExecutionCompleted, result=_values),
        st.builds(
            ExecutionFailed,
            error=_errors(),
            origin=st.sampled_from(["user_code", "runtime"]),
        ),
        st.builds(ExecutionCancelled, reason=_texts),
    )


@pytest.fixture(scope="session")
def histories(started: ExecutionStarted) -> SearchStrategy[list[ExecutionEvent]]:
    """Any events in any order after a start: more than the rules would ever allow."""
    return st.lists(_event(started), max_size=12).map(lambda events: [started, *events])
