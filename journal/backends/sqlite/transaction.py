"""What one write transaction does: appends, claims, renewals and releases, on the streams' ends."""

import sqlite3
import zlib
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from journal.backends.sqlite.queries import Row, claimable
from journal.backends.sqlite.work import Work
from journal.clock import microseconds
from journal.errors import CorruptJournal, StaleLease, WrongExpectedVersion
from journal.hashing import event_hash
from journal.records import (
    GENESIS,
    Adoption,
    Append,
    Appended,
    Claim,
    ClaimQuery,
    Head,
    HeadChange,
    Lease,
    RecordedEvent,
)
from journal.rules import category_of, check_adoption, check_append

_MOST_ENDS = 50_000
_COMPRESSED_FROM_BYTES = 512
_MOST_UNINDEXED = 1000
"""How many events may be appended before their keys are indexed, whether anybody looks or not."""

_END = """
SELECT h.id, e.version, e.hash, h.owner, h.epoch, h.lease_until FROM heads h
LEFT JOIN events e ON e.stream = h.id
    AND e.version = (SELECT max(version) FROM events WHERE stream = h.id)
WHERE h.stream = ?
"""
_LAST_POSITION = "SELECT coalesce(max(position), 0) FROM events"
_LAST_STREAM = "SELECT coalesce(max(id), 0) FROM heads"
_INSERT_EVENT = """
INSERT INTO events (position, stream, version, type, schema, recorded_at, epoch, previous_hash,
    hash, payload, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_ADOPTED = """
INSERT INTO events (position, stream, version, type, schema, recorded_at, epoch, previous_hash,
    hash, payload_digest, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INDEXED = "SELECT position FROM indexed"
# In the order of the keys: many of them share a page.
_INDEX = """
INSERT OR IGNORE INTO event_keys (key, position)
SELECT key, position FROM events WHERE position > ? AND key IS NOT NULL ORDER BY key
"""
_NOTE_INDEXED = "UPDATE indexed SET position = ?"
_INSERT_HEAD = """
INSERT INTO heads (id, stream, category, state, name, due_at, parent, summary, route, created_at,
    updated_at, anchor_version, anchor_hash, owner, epoch, lease_until)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE_HEAD = """
UPDATE heads SET state = ?, name = ?, due_at = ?, parent = ?, summary = ?, route = ?,
    updated_at = ?,
    anchor_version = ?, anchor_hash = ? WHERE id = ?
"""
_UPDATE_HEAD_AND_LEASE = """
UPDATE heads SET state = ?, name = ?, due_at = ?, parent = ?, summary = ?, route = ?,
    updated_at = ?,
    anchor_version = ?, anchor_hash = ?, owner = ?, epoch = ?, lease_until = ? WHERE id = ?
"""
_UPDATE_LEASE = "UPDATE heads SET owner = ?, epoch = ?, lease_until = ? WHERE id = ?"
_INSERT_BLOB = """
INSERT INTO blobs (digest, codec, size, data) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_IS_EVENT_THERE = "SELECT 1 FROM events WHERE stream = ? AND version = ? AND hash = ?"
_IS_LEASE_THERE = """
SELECT 1 FROM heads WHERE id = ? AND owner IS ? AND epoch = ? AND lease_until = ?
"""
_IS_HEAD_THERE = """
SELECT 1 FROM heads WHERE state = ? AND name = ? AND due_at IS ? AND parent IS ? AND summary = ?
    AND route = ? AND updated_at = ? AND id = ?
"""


class PreparedAppend(Work[Appended]):
    """An append with everything computed that needs no transaction."""

    __slots__ = ("append", "blobs", "digests", "size")

    def __init__(self, append: Append) -> None:
        super().__init__()
        check_append(append)
        self.append = append
        self.digests: list[bytes] = []
        size = 0
        for event in append.events:
            self.digests.append(sha256(event.payload).digest())
            size += len(event.payload)
        self.blobs: Sequence[tuple[bytes, str, int, bytes]] = ()
        if append.blobs:
            self.blobs = [_stored_blob(blob) for blob in append.blobs]
            size += sum(len(blob[3]) for blob in self.blobs)
        self.size = size

    def perform(self, transaction: "Transaction") -> Appended:
        return transaction.append(self)


class PreparedAdoption(Work[tuple[RecordedEvent, ...]]):
    """A stream of another journal, found to be sound."""

    __slots__ = ("adoption", "blobs")

    def __init__(self, adoption: Adoption) -> None:
        super().__init__()
        check_adoption(adoption)
        self.adoption = adoption
        self.blobs = [_stored_blob(blob) for blob in adoption.blobs]

    def perform(self, transaction: "Transaction") -> tuple[RecordedEvent, ...]:
        return transaction.adopt(self)


class StreamEnd:
    """What the next append to a stream is checked against."""

    __slots__ = ("epoch", "hash", "id", "lease_until", "owner", "version")

    def __init__(
        self,
        id: int,  # noqa: A002 - the row's
        version: int,
        hash: bytes,  # noqa: A002 - the event's
        owner: str | None,
        epoch: int,
        lease_until: int,
    ) -> None:
        self.id = id
        self.version = version
        self.hash = hash
        self.owner = owner
        self.epoch = epoch
        self.lease_until = lease_until

    def is_held_by(self, lease: Lease) -> bool:
        return self.epoch == lease.epoch and self.owner == lease.owner


class Ends:
    """The ends of streams as last read or written; true only while no other connection writes."""

    __slots__ = ("by_stream", "indexed", "keyed", "position", "released", "stream_id")

    def __init__(self) -> None:
        self.by_stream: dict[str, StreamEnd] = {}
        self.released: list[str] = []
        """The streams that their owner has let go: most of them have ended."""
        self.position: int | None = None
        """The journal's last position."""
        self.stream_id: int | None = None
        """The last number that a stream was given."""
        self.indexed: int | None = None
        """Up to which position keys are indexed."""
        self.keyed: int | None = None
        """How many events with keys are not indexed."""

    def forget(self) -> None:
        self.by_stream.clear()
        self.released.clear()
        self.position = None
        self.stream_id = None
        self.indexed = None
        self.keyed = None

    def stay_small(self) -> None:
        """Between transactions: what is in the database can be forgotten."""
        for stream in self.released:
            self.by_stream.pop(stream, None)
        self.released.clear()
        if len(self.by_stream) > _MOST_ENDS:
            self.by_stream.clear()


class Transaction:
    """The work inside one BEGIN IMMEDIATE. A refusal comes before anything was changed."""

    __slots__ = (
        "_connection",
        "_ends",
        "_heads",
        "_now",
        "_rows",
        "_touched",
        "events",
        "evidence",
        "hint",
        "size",
    )

    def __init__(self, connection: sqlite3.Connection, ends: Ends, now: int) -> None:
        self._connection = connection
        self._ends = ends
        self._now = now
        self._rows: list[Row] = []
        self._heads: dict[str, list[Row]] = {}
        """What is still to be written into heads: statement → parameters."""
        self._touched: set[int] = set()
        """The streams with something in `_heads`: each once, so that their order does not count."""
        self.events: list[RecordedEvent] = []
        self.hint = False
        """Whether something changed that watchers should read again for."""
        self.size = 0
        self.evidence: tuple[str, tuple[Any, ...]] | None = None
        """A query that finds a row where, and only where, this transaction was committed."""

    def append(self, prepared: PreparedAppend) -> Appended:
        append = prepared.append
        end = self._ends.by_stream.get(append.stream) or self._stored_end(append.stream)
        epoch = 0
        if append.lease is not None or append.claim is not None:
            epoch = self._epoch_of(append, end)
        version = 0 if end is None else end.version
        if append.expected_version != version:
            raise WrongExpectedVersion(append.stream, append.expected_version, version)
        is_new = end is None
        if end is None:
            # What it may look up is what is there before it begins.
            self._index_keys()
            end = StreamEnd(self._next_stream_id(), 0, GENESIS, None, 0, 0)
            self._ends.by_stream[append.stream] = end
        events = self._record(prepared, end, epoch)
        lease = None
        if append.claim is not None:
            lease = self._lease(append.stream, end, append.claim)
        elif append.release:
            self._set_lease(end, None, end.epoch, 0)
            self._ends.released.append(append.stream)
        self._write_head(append, end, is_new=is_new)
        for blob in prepared.blobs:
            self._connection.execute(_INSERT_BLOB, blob)
        self.size += prepared.size
        return Appended(events, end.version, lease)

    def adopt(self, prepared: PreparedAdoption) -> tuple[RecordedEvent, ...]:
        adoption = prepared.adoption
        first, last = adoption.events[0], adoption.events[-1]
        stream = first.stream
        known = self._ends.by_stream.get(stream) or self._stored_end(stream)
        if known is not None:
            raise WrongExpectedVersion(stream, 0, known.version)
        self.flush()
        position = self._last_position()
        events = tuple(
            replace(event, position=position + event.version) for event in adoption.events
        )
        epoch = max(event.epoch for event in events)
        id_ = self._next_stream_id()
        self._connection.executemany(_INSERT_ADOPTED, [_adopted_row(id_, it) for it in events])
        name = (id_, stream, category_of(stream))
        times = (first.recorded_at, last.recorded_at)
        anchor = (last.version, last.hash)
        row = (*name, *_head_values(adoption.head), *times, *anchor, None, epoch, 0)
        self._connection.execute(_INSERT_HEAD, row)
        for blob in prepared.blobs:
            self._connection.execute(_INSERT_BLOB, blob)
        self._ends.position = events[-1].position
        self.events += events
        self.evidence = (_IS_EVENT_THERE, (id_, last.version, last.hash))
        self.size += sum(len(event.payload) for event in events)
        self.size += sum(len(blob[3]) for blob in prepared.blobs)
        return events

    def claim(self, query: ClaimQuery) -> list[tuple[Head, Lease]]:
        self.flush()
        found = [
            numbered
            for each in claimable(query, self._now)
            for numbered in each.meaning(
                self._connection.execute(each.statement, each.parameters).fetchall()
            )
        ]
        found.sort(key=lambda numbered: (_claimable_at(numbered[1]), numbered[0]))
        claimed = []
        for id_, head in found[: max(0, query.limit)]:
            end = self._ends.by_stream[head.stream] = _end_of(id_, head)
            claimed.append((head, self._lease(head.stream, end, query.claim)))
            self._write_lease(end)
        return claimed

    def renew(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        until = self._now + microseconds(seconds)
        renewed = []
        for lease in leases:
            end = self._ends.by_stream.get(lease.stream) or self._stored_end(lease.stream)
            if end is not None and end.is_held_by(lease):
                self._set_lease(end, end.owner, end.epoch, until)
                self._write_lease(end)
                renewed.append(replace(lease, until=until))
        return renewed

    def release(self, lease: Lease) -> None:
        end = self._ends.by_stream.get(lease.stream) or self._stored_end(lease.stream)
        if end is not None and end.is_held_by(lease):
            self._set_lease(end, None, end.epoch, 0)
            self._write_lease(end)
            self.hint = True

    def flush(self) -> None:
        """Writes what was gathered, each kind of it in one go."""
        self._flush_heads()
        self._flush_events()
        if self._ends.keyed is not None and self._ends.keyed >= _MOST_UNINDEXED:
            self._index_keys()

    def _flush_events(self) -> None:
        if self._rows:
            self._execute(_INSERT_EVENT, self._rows)
            self._rows = []

    def _flush_heads(self) -> None:
        if self._heads:
            for statement, rows in self._heads.items():
                self._execute(statement, rows)
            self._heads = {}
            self._touched.clear()

    def _execute(self, statement: str, rows: list[Row]) -> None:
        if len(rows) == 1:
            self._connection.execute(statement, rows[0])
        else:
            self._connection.executemany(statement, rows)

    def _index_keys(self) -> None:
        """Makes the events that have keys known to look-ups."""
        ends = self._ends
        if ends.keyed == 0:
            return
        self._flush_events()
        if ends.indexed is None:
            (ends.indexed,) = self._connection.execute(_INDEXED).fetchone()
        last = self._last_position()
        if last > ends.indexed:
            found = self._connection.execute(_INDEX, (ends.indexed,)).rowcount
            if found or last - ends.indexed > _MOST_UNINDEXED:
                self._connection.execute(_NOTE_INDEXED, (last,))
                ends.indexed = last
        ends.keyed = 0

    def _stored_end(self, stream: str) -> StreamEnd | None:
        row = self._connection.execute(_END, (stream,)).fetchone()
        if row is None:
            return None
        if row[1] is None:
            raise CorruptJournal(stream, 1, "the stream has a head and no events")
        end = StreamEnd(*row)
        self._ends.by_stream[stream] = end
        return end

    def _epoch_of(self, append: Append, end: StreamEnd | None) -> int:
        """The epoch that the events carry. Refuses a stale lease and a claim against a live one."""
        lease, claim = append.lease, append.claim
        if lease is not None and (end is None or not end.is_held_by(lease)):
            raise StaleLease(append.stream, lease.epoch, 0 if end is None else end.epoch)
        if claim is None:
            return 0 if lease is None else lease.epoch
        if end is None:
            return 1
        is_anothers = end.owner is not None and end.owner != claim.owner
        if lease is None and is_anothers and end.lease_until > self._now:
            raise StaleLease(append.stream, 0, end.epoch)
        return end.epoch + 1

    def _record(
        self, prepared: PreparedAppend, end: StreamEnd, epoch: int
    ) -> tuple[RecordedEvent, ...]:
        """The stream's next events; their rows are written later, with those of the whole group."""
        stream, now = prepared.append.stream, self._now
        version, previous = end.version, end.hash
        position = self._last_position()
        events = []
        keyed = 0
        for event, digest in zip(prepared.append.events, prepared.digests, strict=True):
            version += 1
            position += 1
            type_, schema, payload = event.type, event.schema, event.payload
            hashed = event_hash(stream, version, type_, schema, now, epoch, digest, previous)
            recorded = RecordedEvent(
                stream, version, position, type_, schema, now, epoch, payload, previous, hashed
            )
            row = (
                position, end.id, version, type_, schema, now, epoch, previous, hashed, payload,
                event.key,
            )  # fmt: skip
            events.append(recorded)
            self._rows.append(row)
            previous = hashed
            keyed += event.key is not None
        if keyed and self._ends.keyed is not None:
            self._ends.keyed += keyed
        if events:
            end.version, end.hash, self._ends.position = version, previous, position
            self.events += events
            self.evidence = (_IS_EVENT_THERE, (end.id, version, previous))
        else:
            self.hint = True
        return tuple(events)

    def _last_position(self) -> int:
        if self._ends.position is None:
            (self._ends.position,) = self._connection.execute(_LAST_POSITION).fetchone()
        return self._ends.position or 0

    def _next_stream_id(self) -> int:
        if self._ends.stream_id is None:
            (self._ends.stream_id,) = self._connection.execute(_LAST_STREAM).fetchone()
        self._ends.stream_id = (self._ends.stream_id or 0) + 1
        return self._ends.stream_id

    def _write_head(self, append: Append, end: StreamEnd, *, is_new: bool) -> None:
        """What the append changes in the stream's head, where the lease is set already."""
        changes_lease = append.claim is not None or append.release
        if append.head is None:
            if changes_lease:
                self._write_lease(end)
            return
        head, now = _head_values(append.head), self._now
        if is_new:
            name = (end.id, append.stream, category_of(append.stream))
            lease = (end.owner, end.epoch, end.lease_until)
            row = (*name, *head, now, now, end.version, end.hash, *lease)
            self._change_head(_INSERT_HEAD, end, row)
        elif changes_lease:
            lease = (end.owner, end.epoch, end.lease_until)
            row = (*head, now, end.version, end.hash, *lease, end.id)
            self._change_head(_UPDATE_HEAD_AND_LEASE, end, row)
        else:
            self._change_head(_UPDATE_HEAD, end, (*head, now, end.version, end.hash, end.id))
            if not self.events:
                self.evidence = (_IS_HEAD_THERE, (*head, now, end.id))

    def _write_lease(self, end: StreamEnd) -> None:
        self._change_head(_UPDATE_LEASE, end, (end.owner, end.epoch, end.lease_until, end.id))

    def _change_head(self, statement: str, end: StreamEnd, row: Row) -> None:
        if end.id in self._touched:
            self._flush_heads()
        self._touched.add(end.id)
        self._heads.setdefault(statement, []).append(row)

    def _lease(self, stream: str, end: StreamEnd, claim: Claim) -> Lease:
        until = self._now + microseconds(claim.seconds)
        # Also where the owner's name is the same: only the epoch tells two owners apart.
        self._set_lease(end, claim.owner, end.epoch + 1, until)
        return Lease(stream, claim.owner, end.epoch, until)

    def _set_lease(self, end: StreamEnd, owner: str | None, epoch: int, until: int) -> None:
        end.owner, end.epoch, end.lease_until = owner, epoch, until
        if not self.events:
            self.evidence = (_IS_LEASE_THERE, (end.id, owner, epoch, until))


def _adopted_row(stream_id: int, event: RecordedEvent) -> Row:
    payload = event.payload if event.payload_digest is None else None
    return (
        event.position, stream_id, event.version, event.type, event.schema, event.recorded_at,
        event.epoch, event.previous_hash, event.hash, event.payload_digest, payload,
    )  # fmt: skip


def _head_values(change: HeadChange) -> tuple[Any, ...]:
    return (
        change.state, change.name, change.due_at, change.parent, change.summary, change.route
    )  # fmt: skip


def _end_of(id_: int, head: Head) -> StreamEnd:
    return StreamEnd(id_, head.version, head.hash, head.owner, head.epoch, head.lease_until)


def _claimable_at(head: Head) -> int:
    return max(head.due_at or 0, head.lease_until)


def _stored_blob(content: bytes) -> tuple[bytes, str, int, bytes]:
    digest = sha256(content).digest()
    if len(content) >= _COMPRESSED_FROM_BYTES:
        packed = zlib.compress(content, 1)
        if len(packed) < len(content) * 0.9:
            return digest, "zlib", len(content), packed
    return digest, "plain", len(content), content
