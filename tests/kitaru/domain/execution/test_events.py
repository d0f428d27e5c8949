"""What happened survives being written down: every event of every type, with every field."""

import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from journal import RecordedEvent
from journal.records import GENESIS
from kitaru.domain.execution.events import EVENT_TYPES, TAGS, ExecutionEvent, ExecutionStarted
from kitaru.engine.executions import new_event
from kitaru.engine.upcasts import UnknownEvent, decode_event

TYPES = typing.get_args(ExecutionEvent)


def recorded(event: Any) -> RecordedEvent:
    """The event as a journal gives it back."""
    new = new_event(event)
    return RecordedEvent(
        stream="execution-x",
        version=1,
        position=1,
        type=new.type,
        schema=new.schema,
        recorded_at=0,
        epoch=0,
        payload=new.payload,
        previous_hash=GENESIS,
        hash=GENESIS,
    )


@pytest.mark.parametrize("tag", EVENT_TYPES)
@given(data=st.data())
def test_every_event_is_read_back_as_it_was(tag: str, data: st.DataObject, events_of: Any) -> None:
    event = data.draw(events_of[tag])
    again = decode_event(recorded(event))
    assert again == event
    assert type(again) is type(event)


@pytest.mark.parametrize("tag", EVENT_TYPES)
@given(data=st.data())
def test_an_event_of_a_newer_schema_is_refused_and_not_skipped(
    tag: str, data: st.DataObject, events_of: Any
) -> None:
    fact = recorded(data.draw(events_of[tag]))
    newer = data.draw(st.integers(min_value=fact.schema + 1, max_value=10**6))
    with pytest.raises(UnknownEvent, match="read-only"):
        decode_event(replace(fact, schema=newer))


def test_every_event_has_one_tag_and_every_tag_one_event() -> None:
    assert {cls for cls, _ in EVENT_TYPES.values()} == set(TYPES)
    assert len(EVENT_TYPES) == len(TAGS) == len(TYPES)
    assert all(TAGS[cls] == (tag, schema) for tag, (cls, schema) in EVENT_TYPES.items())


def test_an_event_that_lacks_what_was_added_later_is_read() -> None:
    # Fields that are added to a schema have defaults: journals of before stay readable.
    fact = recorded(
        ExecutionStarted(flow="f", source=None, arguments=None, arguments_digest="d")  # type: ignore[arg-type]
    )
    old = (
        b'{"flow":"f","source":{"module":"m","qualname":"f"},"arguments":{},"arguments_digest":"d"}'
    )
    event = decode_event(replace(fact, payload=old))
    assert isinstance(event, ExecutionStarted)
    assert (event.asynchronous, event.seed, event.options.retries) == (False, "", 0)
