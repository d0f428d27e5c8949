"""The hash chain of a stream: what is hashed, and how damage is found.

What verification finds: a changed event, a missing one between two others, events in each other's
place, a cut tail whenever the head was written with or after the part that is gone (as with every
final state), and, over a whole SQLite file, any gap in the positions. What it cannot find: the very
last events of the whole journal gone, when no head was written with them, and a chain that was
recomputed from some event after the head's anchor; against those only a copy elsewhere helps.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct as Layout
from typing import Literal

from msgspec import Struct

from journal.records import GENESIS, Head, RecordedEvent

_MARK = b"journal event 1\n"
_LENGTHS = Layout(">II").pack
_NUMBERS = Layout(">qqqq").pack
_SWAPS_LOOKED_AT = 100


class Finding(Struct, frozen=True):
    """One place where the stored bytes are not what was written."""

    stream: str
    version: int
    kind: Literal["altered", "missing", "swapped", "unreadable"]
    what: str


def canonical_bytes(
    stream: str,
    version: int,
    type: str,  # noqa: A002 - the event's field
    schema: int,
    recorded_at: int,
    epoch: int,
    payload_digest: bytes,
    previous_hash: bytes,
) -> bytes:
    """What an event's hash covers: lengths first, so that no two events share their bytes.

    The position is not part of it: an exported stream keeps its hashes in another journal.
    """
    name, tag = stream.encode(), type.encode()
    return b"".join(
        (
            _MARK,
            _LENGTHS(len(name), len(tag)),
            name,
            tag,
            _NUMBERS(version, schema, recorded_at, epoch),
            payload_digest,
            previous_hash,
        )
    )


def event_hash(
    stream: str,
    version: int,
    type: str,  # noqa: A002 - the event's field
    schema: int,
    recorded_at: int,
    epoch: int,
    payload_digest: bytes,
    previous_hash: bytes,
) -> bytes:
    """The hash of an event: 32 bytes."""
    return sha256(
        canonical_bytes(
            stream, version, type, schema, recorded_at, epoch, payload_digest, previous_hash
        )
    ).digest()


def hash_of(event: RecordedEvent, *, version: int | None = None) -> bytes | None:
    """What the event's hash should be (were it at `version`); None when its fields have no form."""
    digest = event.payload_digest
    try:
        if digest is None:
            digest = sha256(event.payload).digest()
        elif event.payload not in (b"", None):
            return None  # it stands for a payload that is gone
        if len(digest) != 32 or len(event.previous_hash) != 32:
            return None
        return event_hash(
            event.stream,
            event.version if version is None else version,
            event.type,
            event.schema,
            event.recorded_at,
            event.epoch,
            digest,
            event.previous_hash,
        )
    except Exception:  # a damaged row may hold anything
        return None


def verify_stream(events: Iterable[RecordedEvent], *, head: Head | None = None) -> list[Finding]:
    """What is wrong with one stream's events, given from version 1 on; empty when all is well.

    With the stream's head a cut tail is found too, up to the version at which the head was last
    written.
    """
    return list(_findings(events, head))


def _findings(events: Iterable[RecordedEvent], head: Head | None) -> Iterator[Finding]:
    altered: list[RecordedEvent] = []
    stream, version, previous_hash = "" if head is None else head.stream, 0, GENESIS
    for event in events:
        stream = event.stream
        if event.version != version + 1:
            yield _gap(stream, version + 1, event.version - 1)
            previous_hash = event.previous_hash
        if hash_of(event) != event.hash:
            altered.append(event)
        elif event.previous_hash != previous_hash:
            yield Finding(
                stream, event.version, "altered", "it does not follow the event before it"
            )
        version, previous_hash = event.version, event.hash
        if head is not None and version == head.anchor_version and event.hash != head.anchor_hash:
            yield Finding(
                stream, version, "altered", "it is not the event that its head was written with"
            )
    yield from _told_apart(altered)
    if head is not None and version < head.anchor_version:
        yield _gap(stream, version + 1, head.anchor_version)


def _gap(stream: str, first: int, last: int) -> Finding:
    if last < first:
        return Finding(stream, first, "missing", "events are out of order or there twice")
    if last == first:
        return Finding(stream, first, "missing", "the event is gone")
    return Finding(stream, first, "missing", f"the events {first} to {last} are gone")


def _told_apart(altered: list[RecordedEvent]) -> Iterator[Finding]:
    """Of events whose hash is wrong: those that stand in another's place, and the changed ones."""
    versions = [event.version for event in altered[:_SWAPS_LOOKED_AT]]
    for event in altered:
        home = next((v for v in versions if hash_of(event, version=v) == event.hash), None)
        if home is None:
            what = "its content does not have its hash"
            yield Finding(event.stream, event.version, "altered", what)
        else:
            yield Finding(event.stream, event.version, "swapped", f"event {home} is in its place")
