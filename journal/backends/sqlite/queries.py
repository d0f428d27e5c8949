"""What is read from the database and what its rows become, for the journal and its reader."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from journal.errors import BlobNotFound, CorruptJournal, InvalidQuery
from journal.records import GENESIS, ClaimQuery, Head, HeadQuery, RecordedEvent

T = TypeVar("T")
Row = tuple[Any, ...]


class Query(Struct, Generic[T], frozen=True):
    """A statement, its parameters and what its rows mean."""

    statement: str
    parameters: Sequence[Any]
    meaning: Callable[[list[Row]], T]


_EVENT = """e.version, e.position, e.type, e.schema, e.recorded_at, e.epoch, e.payload,
    e.previous_hash, e.hash, e.payload_digest"""

_STREAM_EVENTS = f"""
SELECT {_EVENT} FROM events e
WHERE e.stream = (SELECT id FROM heads WHERE stream = ?) AND e.version > ?
ORDER BY e.version LIMIT ?
"""  # noqa: S608 - a constant

_ALL_EVENTS = f"""
SELECT h.stream, {_EVENT} FROM events e LEFT JOIN heads h ON h.id = e.stream
WHERE e.position > ? ORDER BY e.position LIMIT ?
"""  # noqa: S608 - a constant

_HEAD = """
SELECT h.id, h.stream, h.category, e.version, e.hash, h.state, h.name, h.due_at, h.parent,
    h.summary, h.created_at, h.updated_at, h.owner, h.epoch, h.lease_until,
    h.anchor_version, h.anchor_hash, h.route
FROM heads h LEFT JOIN events e ON e.stream = h.id
    AND e.version = (SELECT max(version) FROM events WHERE stream = h.id)
"""

_BESIDES = "AND h.stream NOT IN (SELECT value FROM json_each(?))"

BY_KEY = """
SELECT position FROM event_keys WHERE key = ? AND position < ? ORDER BY position DESC LIMIT 1
"""
"""The position of the last event with a key before a position, as far as keys are indexed."""

_EVENT_AT = f"""
SELECT h.stream, {_EVENT} FROM events e JOIN heads h ON h.id = e.stream WHERE e.position = ?
"""  # noqa: S608 - a constant

_BEGUN_AT = """
SELECT position FROM events WHERE version = 1 AND stream = (SELECT id FROM heads WHERE stream = ?)
"""

_BLOB = "SELECT codec, size, data FROM blobs WHERE digest = ?"

_LARGEST = 2**63 - 1


def stream_events(stream: str, after: int, limit: int | None) -> Query[list[RecordedEvent]]:
    after = _limit(after)

    def meaning(rows: list[Row]) -> list[RecordedEvent]:
        return _chain(stream, after, rows)

    return Query(_STREAM_EVENTS, (stream, after, _limit(limit)), meaning)


def all_events(after: int, limit: int) -> Query[list[RecordedEvent]]:
    return Query(_ALL_EVENTS, (_limit(after), _limit(limit)), _events_of_all)


def event_at(position: int) -> Query[RecordedEvent]:
    def meaning(rows: list[Row]) -> RecordedEvent:
        if not rows:
            raise CorruptJournal("?", 0, f"the event at position {position} or its head is gone")
        return _event(rows[0][0], rows[0][1:])

    return Query(_EVENT_AT, (position,), meaning)


def begun_at(stream: str) -> Query[int | None]:
    """The position of a stream's first event."""

    def meaning(rows: list[Row]) -> int | None:
        return rows[0][0] if rows else None

    return Query(_BEGUN_AT, (stream,), meaning)


def head(stream: str) -> Query[Head | None]:
    def meaning(rows: list[Row]) -> Head | None:
        return head_of(rows[0]) if rows else None

    return Query(f"{_HEAD} WHERE h.stream = ?", (stream,), meaning)


def raw_head(stream_id: int) -> Query[Head]:
    """A head as it is stored, also without events, for `verify`."""

    def meaning(rows: list[Row]) -> Head:
        if not rows:
            raise CorruptJournal(f"(number {stream_id})", 0, "an index leads to no head")
        return Head(*rows[0][1:])

    return Query(f"{_HEAD} WHERE h.id = ?", (stream_id,), meaning)


def heads(query: HeadQuery) -> Query[list[Head]]:
    conditions: list[str] = ["h.category = ?"]
    parameters: list[Any] = [query.category]
    for column, values in (("h.state", query.states), ("h.name", query.names)):
        if values:
            conditions.append(f"{column} IN ({', '.join('?' * len(values))})")
            parameters += values
    if query.parent is not None:
        # The plus keeps SQLite from walking the category where the parent is narrower.
        conditions[0] = "+h.category = ?"
        conditions.append("h.parent = ?")
        parameters.append(query.parent)
    if query.route_prefix:
        # The words of the index on routes.
        conditions.append("h.route != ''")
        _add_prefix(conditions, parameters, "h.route", query.route_prefix)
    if query.route_prefix and query.claimable_at is not None:
        # The plus keeps SQLite from walking the category where the index on routes is narrower.
        conditions[0] = "+h.category = ?"
    if query.claimable_at is not None:
        conditions.append("h.due_at IS NOT NULL AND h.claimable_at <= ?")
        parameters.append(_within(query.claimable_at))
    if query.stream_prefix:
        if len(query.stream_prefix) > len(query.category) + 1:
            # The plus keeps SQLite from walking the category where the prefix is narrower.
            conditions[0] = "+h.category = ?"
        _add_prefix(conditions, parameters, "h.stream", query.stream_prefix)
    if query.cursor is not None:
        conditions.append("h.id < (SELECT id FROM heads WHERE stream = ?)")
        parameters.append(query.cursor)
    statement = f"{_HEAD} WHERE {' AND '.join(conditions)} ORDER BY h.id DESC LIMIT ?"
    return Query(statement, (*parameters, _limit(query.limit)), _heads_of)


def _add_prefix(conditions: list[str], parameters: list[Any], column: str, prefix: str) -> None:
    # Not LIKE: its wildcards may be in the prefix.
    conditions.append(f"{column} >= ?")
    parameters.append(prefix)
    if (end := _after_prefix(prefix)) is not None:
        conditions.append(f"{column} < ?")
        parameters.append(end)


def known(cursor: str) -> Query[None]:
    """Raises InvalidQuery where there is no such stream."""

    def meaning(rows: list[Row]) -> None:
        if not rows:
            raise InvalidQuery(f"no stream {cursor!r} to list on from")

    return Query("SELECT 1 FROM heads WHERE stream = ?", (cursor,), meaning)


def claimable(query: ClaimQuery, now: int) -> list[Query[list[tuple[int, Head]]]]:
    """One query for each name and route: each takes its first rows from the index, however many are
    due."""
    if query.stream is not None:
        return [_claimable_stream(query, query.stream, now)]
    routes = dict.fromkeys(query.routes)
    if query.names is None:
        return [_claimable_on(query, route, now) for route in routes]
    statement = f"""{_HEAD} WHERE h.category = ? AND h.name = ? AND h.route = ?
        AND h.due_at IS NOT NULL AND h.claimable_at <= ? {_BESIDES}
        ORDER BY h.claimable_at, h.id LIMIT ?"""
    besides, limit = _json_of(query.besides), _limit(query.limit)
    return [
        Query(statement, (query.category, name, route, now, besides, limit), _numbered_heads)
        for name in dict.fromkeys(query.names)
        for route in routes
    ]


def is_any_claimable(query: ClaimQuery, now: int) -> list[Query[bool]]:
    """The same questions, answered by whether there is anything: for those who only look."""
    return [
        Query(each.statement, each.parameters, bool)
        for each in claimable(replace(query, limit=min(query.limit, 1)), now)
    ]


def _claimable_on(query: ClaimQuery, route: str, now: int) -> Query[list[tuple[int, Head]]]:
    """Of any name. The plus keeps SQLite from walking the category where the route is narrower."""
    narrow = "h.route != '' AND +h.category = ?" if route else "h.category = ?"
    statement = f"""{_HEAD} WHERE h.route = ? AND {narrow} AND h.due_at IS NOT NULL
        AND h.claimable_at <= ? {_BESIDES} ORDER BY h.claimable_at, h.id LIMIT ?"""
    besides, limit = _json_of(query.besides), _limit(query.limit)
    return Query(statement, (route, query.category, now, besides, limit), _numbered_heads)


def _claimable_stream(query: ClaimQuery, stream: str, now: int) -> Query[list[tuple[int, Head]]]:
    statement = f"{_HEAD} WHERE h.stream = ? AND h.category = ? AND h.lease_until <= ? {_BESIDES}"
    parameters: list[Any] = [stream, query.category, now, _json_of(query.besides)]
    if query.names:
        statement += f" AND h.name IN ({', '.join('?' * len(query.names))})"
        parameters += query.names
    return Query(f"{statement} LIMIT ?", (*parameters, _limit(query.limit)), _numbered_heads)


def blob(digest: str) -> Query[bytes]:
    try:
        key = bytes.fromhex(digest)
    except ValueError:
        raise BlobNotFound(digest) from None

    def meaning(rows: list[Row]) -> bytes:
        if not rows:
            raise BlobNotFound(digest)
        return _opened(digest, key, *rows[0])

    return Query(_BLOB, (key,), meaning)


def _within(instant: int) -> int:
    return min(max(-_LARGEST, instant), _LARGEST)


def head_of(row: Row) -> Head:
    """The head of a row, without its number."""
    if row[3] is None:
        raise CorruptJournal(row[1], 1, "the stream has a head and no events")
    return Head(*row[1:])


def _heads_of(rows: list[Row]) -> list[Head]:
    return [head_of(row) for row in rows]


def _numbered_heads(rows: list[Row]) -> list[tuple[int, Head]]:
    return [(row[0], head_of(row)) for row in rows]


def _chain(stream: str, version: int, rows: list[Row]) -> list[RecordedEvent]:
    """The events of rows that must follow each other; their hashes are for `verify` to compute."""
    events = []
    previous = GENESIS if version == 0 else None
    for row in rows:
        version += 1
        if row[0] != version:
            raise CorruptJournal(stream, version, "the event is gone")
        if row[7] != previous and previous is not None:
            raise CorruptJournal(stream, version, "it does not follow the event before it")
        previous = row[8]
        events.append(_event(stream, row))
    return events


def _events_of_all(rows: list[Row]) -> list[RecordedEvent]:
    for row in rows:
        if row[0] is None:
            raise CorruptJournal("?", row[1], f"the head of the event at position {row[2]} is gone")
    return [_event(row[0], row[1:]) for row in rows]


def _event(stream: str, row: Row) -> RecordedEvent:
    if type(row[6]) is not bytes:
        return _erased(stream, row)
    return RecordedEvent(stream, *row)


def _erased(stream: str, row: Row) -> RecordedEvent:
    if row[6] is not None or row[9] is None:
        raise CorruptJournal(stream, row[0], "its payload is not bytes")
    return _event(stream, (*row[:6], b"", *row[7:]))


def raw_event(stream: str, row: Row) -> RecordedEvent:
    """An event as it is stored, however damaged, for `verify`."""
    # Also without a payload: an empty one that is gone is not the same as one that is there.
    return RecordedEvent(stream, *row)


def _opened(digest: str, key: bytes, codec: str, size: int, data: bytes) -> bytes:
    from hashlib import sha256  # not for reading events: the command line must start quickly

    try:
        content = _decompressed(data, size) if codec == "zlib" else bytes(data)
    except (TypeError, OverflowError, zlib.error) as error:
        raise CorruptJournal(f"blob {digest}", 0, str(error)) from error
    if codec not in ("plain", "zlib") or len(content) != size or sha256(content).digest() != key:
        raise CorruptJournal(f"blob {digest}", 0, "its content does not have its digest")
    return content


def _json_of(texts: Sequence[str]) -> str:
    if not texts:
        return "[]"
    import json  # not for listing: the command line must start quickly

    return json.dumps(texts)


def _decompressed(data: bytes, size: int) -> bytes:
    # No more than it says it is: a few damaged bytes may stand for gigabytes.
    return zlib.decompressobj().decompress(data, max(size, 0) + 1)


def _limit(limit: int | None) -> int:
    return _LARGEST if limit is None else min(max(0, limit), _LARGEST)


def _after_prefix(prefix: str) -> str | None:
    """The first text after all texts with this prefix; None when there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates are no text
        following = 0xE000
    return stem[:-1] + chr(following)
