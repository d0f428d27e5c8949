"""Stacks in the journal: their streams, and the heads that stand for them."""

from collections.abc import Sequence

import msgspec

from journal import Head, HeadChange, NewEvent, RecordedEvent
from kitaru.domain.execution.events import StackReference
from kitaru.domain.stack.events import TAGS, StackEvent
from kitaru.domain.stack.state import ABSENT, StackState, evolve
from kitaru.engine.upcasts import decode_stack_event
from kitaru.errors import KitaruBackendError, KitaruStateError

CATEGORY = "stack"
EXISTS = "exists"
DELETED = "deleted"


class RunsOnStack(KitaruStateError):
    """An execution that is placed by its stack: only the runner that is placed may run it."""

    def __init__(self, stack: StackReference) -> None:
        super().__init__(
            f"The execution runs on the stack {stack.name!r} (of type {stack.type}): a runner of "
            "its own runs it, and not this process."
        )
        self.stack = stack


_encode = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(StackState).decode


def stream_of_stack(name: str) -> str:
    """The stream of a stack."""
    return f"{CATEGORY}-{name}"


def new_stack_event(event: StackEvent) -> NewEvent:
    """The event as it is appended."""
    tag, schema = TAGS[type(event)]
    return NewEvent(tag, _encode(event), schema)


def stack_state_of(recorded: Sequence[RecordedEvent]) -> StackState:
    """The state that a stream's events lead to."""
    state = ABSENT
    for fact in recorded:
        state = evolve(state, decode_stack_event(fact))
    return state


def head_of_stack(state: StackState) -> HeadChange:
    """The head row that stands for a state."""
    word = EXISTS if state.exists else DELETED
    return HeadChange(state=word, name=state.name, due_at=None, summary=_encode(state))


def stack_state_in(head: Head) -> StackState:
    """The state that a head stands for. Raises KitaruBackendError when it cannot be read."""
    try:
        return _decode_state(head.summary)
    except (msgspec.DecodeError, RecursionError) as error:
        raise KitaruBackendError(
            f"The head of {head.stream} cannot be read: {error}. `kitaru journal verify` tells "
            "whether the journal is damaged."
        ) from error
