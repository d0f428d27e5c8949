"""What goes into a journal and what comes out: frozen records, payloads are bytes."""

from collections.abc import Sequence

from msgspec import Struct


class NewEvent(Struct, frozen=True):
    """A fact that is about to be appended."""

    type: str
    """An explicit tag, never a class name."""
    payload: bytes
    schema: int = 1
    """The version of the payload's form, for upcasts."""


class RecordedEvent(Struct, frozen=True):
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


class Lease(Struct, frozen=True):
    """The right to be a stream's one effective owner."""

    stream: str
    owner: str
    """Names the owner for people; nothing is decided by it."""
    epoch: int
    """The fencing number: a claim raises it, and an append of an older epoch is refused."""
    until: int
    """When others may claim the stream, by the store's clock, in microseconds."""


class Claim(Struct, frozen=True):
    """A wish to own a stream."""

    owner: str
    seconds: float


class HeadChange(Struct, frozen=True):
    """What an append writes into the row that stands for the stream's current state."""

    state: str
    name: str
    due_at: int | None
    """From when on a runner should look at the stream (microseconds); None: nothing to do."""
    parent: str | None = None
    summary: bytes = b""


class Head(Struct, frozen=True):
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


class Append(Struct, frozen=True):
    """One all-or-nothing append to one stream.

    The stream's name is ``category-id``; the category ends at the first hyphen. The first append to
    a stream must bring a head.
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
    """With it the append also takes the stream's lease (the epoch rises), in the same transaction.
    Refused with StaleLease where another owner's lease is still alive."""
    release: bool = False
    """Whether the lease ends with this append."""
    blobs: tuple[bytes, ...] = ()
    """Values that the events name by digest, stored in the same transaction."""


class Appended(Struct, frozen=True):
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
    limit: int = 100
    cursor: str | None = None
    """The stream of the last head of the page before."""


class ClaimQuery(Struct, frozen=True, kw_only=True):
    """Which streams to claim: those that are due and whose lease is free or over."""

    category: str
    names: Sequence[str]
    claim: Claim
    limit: int = 10
    stream: str | None = None
    """Only this one; it is then claimed whether it is due or not."""
