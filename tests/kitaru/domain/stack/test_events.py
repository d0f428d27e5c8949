"""What happened to a stack survives being written down."""

import pytest

from journal import RecordedEvent
from journal.records import GENESIS
from kitaru.domain.stack.events import EVENT_TYPES, TAGS, StackCreated, StackDeleted, StackEvent
from kitaru.engine.stacks import new_stack_event
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_stack_event

CREATED = StackCreated(name="iso", stack_id="stack_1", type="process", labels={"team": "ü"})


def recorded(event: StackEvent, *, schema: int = 1) -> RecordedEvent:
    new = new_stack_event(event)
    return RecordedEvent("stack-iso", 1, 1, new.type, schema, 0, 0, new.payload, GENESIS, GENESIS)


@pytest.mark.parametrize("event", [CREATED, StackDeleted()])
def test_every_event_is_read_back_as_it_was(event: StackEvent) -> None:
    assert decode_stack_event(recorded(event)) == event


def test_every_type_has_one_tag() -> None:
    assert {tag: TAGS[cls] for tag, (cls, _) in EVENT_TYPES.items()} == {
        tag: (tag, schema) for tag, (_, schema) in EVENT_TYPES.items()
    }


def test_a_newer_event_is_not_guessed_at() -> None:
    with pytest.raises(UnknownEvent, match="stack-iso is a 'stack_created' of schema 2"):
        decode_stack_event(recorded(CREATED, schema=2))
    with pytest.raises(DamagedEvent, match="no schema 0"):
        decode_stack_event(recorded(CREATED, schema=0))
