"""What can happen to a stack, as stored. A type's tag and schema stand in `EVENT_TYPES`."""

from typing import Any

from msgspec import Struct


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The root of a stack's events."""


class StackCreated(Event, frozen=True, kw_only=True, gc=False):
    name: str
    stack_id: str
    """Tells this stack from one of the same name that is deleted."""
    type: str
    """How executions are placed: ``local``, ``process``."""
    labels: dict[str, str] = {}


class StackDeleted(Event, frozen=True, kw_only=True, gc=False):
    """No new execution is placed on it; those that were keep what they were started with."""


EVENT_TYPES: dict[str, tuple[type[Event], int]] = {
    "stack_created": (StackCreated, 1),
    "stack_deleted": (StackDeleted, 1),
}
"""Tag → the event's class and the schema that this version writes."""

TAGS: dict[type[Any], tuple[str, int]] = {
    cls: (tag, schema) for tag, (cls, schema) in EVENT_TYPES.items()
}

StackEvent = StackCreated | StackDeleted
