"""Where an encoded value goes: into its event, or into a blob that the event names."""

from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from kitaru.domain.values import StoredValue
from kitaru.engine.codec import digest

INLINE_BYTES = 32 * 1024
"""Longer values go into a blob, so that reading a journal does not read them all."""
KEPT_ARGUMENT_BYTES = 2 * 1024
"""Longer arguments of a checkpoint are kept as a digest only: a message history that is passed from
call to call would otherwise make the journal grow with the square of the run."""

Blobs = tuple[bytes, ...]


def stored(data: bytes) -> tuple[StoredValue, Blobs]:
    """The stored form of an encoded value, and the blobs that must be written with it."""
    if len(data) <= INLINE_BYTES:
        return StoredValue(json=Raw(data)), ()
    return StoredValue(blob=digest(data), size=len(data)), (data,)


def kept_arguments(data: bytes, record: bool | None) -> tuple[StoredValue | None, Blobs]:
    """A checkpoint's arguments, when they are to be kept beside their digest."""
    if record or (record is None and len(data) <= KEPT_ARGUMENT_BYTES):
        return stored(data)
    return None, ()


def classes_in(value: Any) -> Iterator[type]:
    """The classes of a value's objects, so far as containers hold them."""
    match value:
        case dict():
            for key, item in value.items():
                yield from classes_in(key)
                yield from classes_in(item)
        case list() | tuple() | set() | frozenset():
            yield type(value)
            for item in value:
                yield from classes_in(item)
        case _:
            yield type(value)
