"""What goes into a journal and what comes out: frozen records, payloads are bytes.

``gc=False``: they hold no cycles, and a fan-out makes too many of them for the collector to follow.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

GENESIS = bytes(32)
"""What stands for the hash before a stream's first event."""


class NewEvent(Struct, frozen=True, gc=False):
    """A fact that is about to be appended."""

    type: str
    """An explicit tag, never a class name."""
    payload: bytes
    schema: int = 1
    """The version of the payload's form, for upcasts."""
    key: int | None = None
    """What `find` finds it by: 63 bits. It is an index, and no part of the event: no hash covers
    it, and a reader that needs certainty compares the payload."""


class RecordedEvent(Struct, frozen=True, gc=False):
    """A fact in the journal. Instants are microseconds since the Unix epoch, UTC."""

    stream: str
    version: int
    """The place in its stream: from 1, without gaps."""
    position: int
    """The place in the whole journal: rising, possibly with gaps."""
    type: str
    schema: int
    recorded_at: int
    epoch: int
    """The epoch of the lease under which it was written; 0 for a writer without a lease."""
    payload: bytes
    previous_hash: bytes
    """The hash of the event before it in its stream; 32 zero bytes for the first."""
    hash: bytes
    payload_digest: bytes | None = None
    """The SHA-256 of an erased payload, so that the chain still verifies; None: it is here."""


class Lease(Struct, frozen=True, gc=False):
    """The right to be a stream's one effective owner."""

    stream: str
    owner: str
    """Names the owner for people; nothing is decided by it."""
    epoch: int
    """The fencing number: a claim raises it, and an append of an older epoch is refused."""
    until: int
    """When others may claim the stream, by the store's clock, in microseconds."""


class Claim(Struct, frozen=True, gc=False):
    """A wish to own a stream."""

    owner: str
    seconds: float


class HeadChange(Struct, frozen=True, gc=False):
    """What an append writes into the row that stands for the stream's current state."""

    state: str
    name: str
    due_at: int | None
    """From when on a runner should look at the stream (microseconds); None: nothing to do."""
    parent: str | None = None
    summary: bytes = b""
    route: str = ""
    """Which runners may claim the stream; empty: whoever serves its name."""


class Head(Struct, frozen=True, gc=False):
    """One row per stream: its current state, indexed, and its lease."""

    stream: str
    category: str
    version: int
    hash: bytes
    state: str
    name: str
    due_at: int | None
    parent: str | None
    summary: bytes
    created_at: int
    """When the stream's first event was recorded."""
    updated_at: int
    """When the head was last changed by an append."""
    owner: str | None
    """None when nobody holds the lease."""
    epoch: int
    lease_until: int
    anchor_version: int = 0
    """The stream's version when an append last wrote the head: a shorter stream was cut."""
    anchor_hash: bytes = b""
    """The hash of the event at that version."""
    route: str = ""
    """Which runners may claim the stream; empty: whoever serves its name."""


class Append(Struct, frozen=True, gc=False):
    """One all-or-nothing append to one stream.

    The stream's name is ``category-id``; the category ends at the first hyphen. The first append to
    a stream must bring a head and an event. Without events, an append writes the head, the lease or
    blobs of a stream that is at the expected version. What no stream could accept raises
    InvalidAppend.
    """

    stream: str
    events: tuple[NewEvent, ...]
    expected_version: int
    """The version that the writer decided on; 0: the stream must not exist."""
    head: HeadChange | None = None
    """None leaves the head as it is."""
    lease: Lease | None = None
    """The lease under which the writer acts; None for a client that owns nothing."""
    claim: Claim | None = None
    """With it the append also takes the stream's lease (the epoch rises), in the same transaction,
    and its events carry the new epoch. Refused with StaleLease where another owner's lease is still
    alive; an owner's own lease is replaced, and its old epoch is refused from then on."""
    release: bool = False
    """Whether the lease, which must be given, ends with this append."""
    blobs: tuple[bytes, ...] = ()
    """Values that the events name by digest, stored in the same transaction."""


class Adoption(Struct, frozen=True, gc=False):
    """A whole stream as another journal has recorded it, to be written here as it is.

    Versions, instants, epochs and hashes stay; positions are given anew. Its events cannot be found
    by a key, and nobody holds its lease.
    """

    events: tuple[RecordedEvent, ...]
    """From version 1 on, a sound chain."""
    head: HeadChange
    blobs: tuple[bytes, ...] = ()


class Appended(Struct, frozen=True, gc=False):
    """An append that is durable."""

    events: tuple[RecordedEvent, ...]
    version: int
    """The stream's version after it."""
    lease: Lease | None = None
    """The lease that `Append.claim` asked for."""


class HeadQuery(Struct, frozen=True, kw_only=True):
    """Which heads to list, newest first."""

    category: str
    states: Sequence[str] = ()
    """Empty: all."""
    names: Sequence[str] = ()
    """Empty: all."""
    stream_prefix: str = ""
    parent: str | None = None
    """Only those whose head names this parent; None: all."""
    route_prefix: str = ""
    """Only those whose route begins so; empty: all."""
    claimable_at: int | None = None
    """Only those that are due at this instant and whose lease is free or over; None: all."""
    limit: int = 100
    cursor: str | None = None
    """The stream of the last head of the page before; an unknown one raises InvalidQuery."""


class KeyQuery(Struct, frozen=True):
    """Which events to look up by their keys."""

    keys: Sequence[int]
    before: str
    """A stream: only events that were appended before its first one are found."""


class ClaimQuery(Struct, frozen=True, kw_only=True):
    """Which streams to claim: those that are due and whose lease is free or over."""

    category: str
    names: Sequence[str] | None
    """Of what names; None: of any. An empty one claims nothing, unless `stream` is given, which is
    then enough."""
    claim: Claim
    limit: int = 10
    stream: str | None = None
    """Only this one; it is then claimed whether it is due or not, and whatever its route."""
    routes: Sequence[str] = ("",)
    """Only streams with one of these routes."""


class Rows(Struct, frozen=True):
    """What a statement of a transaction has found and done."""

    found: list[tuple[Any, ...]]
    columns: tuple[str, ...] = ()
    rowcount: int = -1
    """How many rows it has changed; -1 where that means nothing."""
    lastrowid: int | None = None
    """The row that it has inserted last."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def first(self) -> tuple[Any, ...] | None:
        """The first row that was found."""
        return self.found[0] if self.found else None
