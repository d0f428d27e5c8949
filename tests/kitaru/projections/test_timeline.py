"""Every event has its line in the history of its execution."""

from collections.abc import Callable, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Raw
from msgspec.structs import replace

from journal import RecordedEvent
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    ExecutionEvent,
    ExecutionStarted,
)
from kitaru.domain.values import StoredValue
from kitaru.projections.timeline import timeline_of

Record = Callable[[Sequence[ExecutionEvent]], list[RecordedEvent]]
Histories = SearchStrategy[list[ExecutionEvent]]


@given(data=st.data())
def test_every_event_has_one_entry(
    data: st.DataObject, histories: Histories, record: Record
) -> None:
    recorded = record(data.draw(histories))
    entries = timeline_of(recorded)
    assert [entry.version for entry in entries] == [event.version for event in recorded]
    assert [entry.kind for entry in entries] == [event.type for event in recorded]
    assert all(entry.text and entry.readable for entry in entries)
    assert msgspec.json.encode(entries)


def test_an_entry_tells_what_happened_where_and_when(
    started: ExecutionStarted, record: Record
) -> None:
    result = StoredValue(json=Raw(b"1"))
    call = CheckpointCompleted(
        path="f#2", name="f", attempt=3, site="a.py:7", result=result, duration_us=5
    )
    first, second = timeline_of(record([started, call]))
    assert first.text == "execution of agent started"
    assert first.since_start_us == 0
    assert second.text == "checkpoint completed"
    assert (second.path, second.attempt, second.site) == ("f#2", 3, "a.py:7")
    assert (second.since_start_us, second.duration_us, second.value) == (1_000_000, 5, result)


def test_an_event_of_a_newer_version_is_shown_as_what_it_is(
    started: ExecutionStarted, record: Record
) -> None:
    (recorded,) = record([started])
    (entry,) = timeline_of([replace(recorded, type="wait_requested", schema=4)])
    assert (entry.kind, entry.schema, entry.readable) == ("wait_requested", 4, False)
    assert "newer version" in entry.text


def test_an_erased_event_says_so(started: ExecutionStarted, record: Record) -> None:
    (recorded,) = record([started])
    (entry,) = timeline_of([replace(recorded, payload=b"", payload_digest=bytes(32))])
    assert entry.text == "unreadable: its content was erased"
