"""Recorded events as the domain's events: the one place that decodes them, whatever their age."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Raw

from journal import RecordedEvent
from kitaru.domain.deployment import events as deployment
from kitaru.domain.execution.events import EVENT_TYPES, EventOffered, ExecutionEvent
from kitaru.domain.stack import events as stack
from kitaru.errors import KitaruBackendError, KitaruStateError

Fields = dict[str, Raw]


class UnknownEvent(KitaruStateError):
    """A newer version wrote this event: its execution can be looked at, and not be changed here."""

    def __init__(self, event: RecordedEvent, known_schema: int | None) -> None:
        knows = "does not know" if known_schema is None else f"knows up to schema {known_schema}"
        super().__init__(
            f"Event {event.version} of {event.stream} is a {event.type!r} of schema "
            f"{event.schema}, which this version of Kitaru {knows}. That stream is read-only "
            "here: use the version that wrote it, or a later one."
        )
        self.type = event.type
        self.schema = event.schema
        self.version = event.version


class DamagedEvent(KitaruBackendError):
    """An event's payload is not what its type and schema promise."""

    def __init__(self, event: RecordedEvent, what: str) -> None:
        super().__init__(
            f"Event {event.version} of {event.stream} ({event.type!r}) cannot be read: {what}. "
            "`kitaru journal verify` tells whether the journal is damaged."
        )
        self.version = event.version
        self.what = what


UPCASTS: dict[tuple[str, int], Callable[[Fields], Fields]] = {}
"""(tag, schema) → how the fields of that schema become those of the next one.

The values are raw JSON, so that what an upcast does not touch stays as it was written.
"""

Decoders = dict[str, tuple[msgspec.json.Decoder[Any], int]]


def _decoders(types: Mapping[str, tuple[type[Any], int]]) -> Decoders:
    return {
        tag: (msgspec.json.Decoder[Any](event_type), schema)
        for tag, (event_type, schema) in types.items()
    }


_DECODERS = _decoders(EVENT_TYPES)
_STACK_DECODERS = _decoders(stack.EVENT_TYPES)
_DEPLOYMENT_DECODERS = _decoders(deployment.EVENT_TYPES)
_FIELDS = msgspec.json.Decoder(Fields)


def decode_event(recorded: RecordedEvent) -> ExecutionEvent:
    """The event that was recorded, in today's form.

    Raises UnknownEvent for a newer one and DamagedEvent for one that cannot be read.
    """
    return cast("ExecutionEvent", _decoded(recorded, _DECODERS))


def decode_stack_event(recorded: RecordedEvent) -> stack.StackEvent:
    """The same for a stack's event."""
    return cast("stack.StackEvent", _decoded(recorded, _STACK_DECODERS))


def decode_deployment_event(recorded: RecordedEvent) -> deployment.Event:
    """The same for an event of a flow's deployments."""
    return cast("deployment.Event", _decoded(recorded, _DEPLOYMENT_DECODERS))


def _decoded(recorded: RecordedEvent, decoders: Decoders) -> Any:
    known = decoders.get(recorded.type)
    if known is None:
        raise UnknownEvent(recorded, None)
    decoder, schema = known
    if recorded.schema > schema:
        raise UnknownEvent(recorded, schema)
    if recorded.payload_digest is not None:
        raise DamagedEvent(recorded, "its content was erased")
    try:
        return decoder.decode(_upcast(recorded, schema))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedEvent(recorded, str(error)) from error


def offered_event(offer: EventOffered) -> ExecutionEvent:
    """The event that a fork was offered, in today's form. Raises as `decode_event` does."""
    recorded = RecordedEvent(
        stream=offer.exec_id,
        version=offer.version,
        position=0,
        type=offer.type,
        schema=offer.schema,
        recorded_at=offer.recorded_at,
        epoch=0,
        payload=bytes(offer.event),
        previous_hash=b"",
        hash=b"",
    )
    return decode_event(recorded)


def _upcast(recorded: RecordedEvent, schema: int) -> bytes:
    if recorded.schema == schema:
        return recorded.payload
    fields = _FIELDS.decode(recorded.payload)
    for older in range(recorded.schema, schema):
        upcast = UPCASTS.get((recorded.type, older))
        if upcast is None:
            raise DamagedEvent(recorded, f"no schema {older} of this type was ever written")
        fields = upcast(fields)
    return msgspec.json.encode(fields)
