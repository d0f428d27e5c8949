"""The reference: what a journal does, in plain Python, for tests and for comparison."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256

from msgspec.structs import replace

from journal.clock import Clock, microseconds, system_clock
from journal.errors import (
    BlobNotFound,
    InvalidQuery,
    JournalClosed,
    JournalError,
    NoTransactions,
    StaleLease,
    WrongExpectedVersion,
)
from journal.hashing import event_hash
from journal.journal import AppendDone, FindDone, StoreTransaction, Watcher
from journal.records import (
    GENESIS,
    Adoption,
    Append,
    Appended,
    Claim,
    ClaimQuery,
    Head,
    HeadChange,
    HeadQuery,
    KeyQuery,
    Lease,
    NewEvent,
    RecordedEvent,
)
from journal.rules import (
    category_of,
    check_adoption,
    check_append,
    check_claim_query,
    check_key_query,
    check_seconds,
)
from journal.watchers import Watchers


class InMemoryJournal:
    """A journal that ends with its process."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or system_clock
        self._lock = threading.Lock()
        self._heads: dict[str, Head] = {}
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._events: list[RecordedEvent] = []
        self._keyed: dict[int, list[RecordedEvent]] = {}
        self._blobs: dict[str, bytes] = {}
        self._watchers = Watchers(asyncio.get_running_loop())
        self._closed = False

    @property
    def location(self) -> str:
        return "memory://"

    def now(self) -> int:
        return self._clock()

    async def append(self, append: Append, /) -> Appended:
        return self.append_blocking(append)

    def append_soon(self, append: Append, done: AppendDone, /) -> None:
        self._refuse_when_closed()
        check_append(append)
        call_soon = asyncio.get_running_loop().call_soon
        try:
            call_soon(done, self.append_blocking(append), None)
        except JournalError as error:
            call_soon(done, None, error)

    def append_blocking(self, append: Append, /) -> Appended:
        self._refuse_when_closed()
        check_append(append)
        with self._lock:
            appended = self._append(append, self._clock())
            self._watchers.publish(appended.events)
        return appended

    async def adopt(self, adoption: Adoption, /) -> tuple[RecordedEvent, ...]:
        self._refuse_when_closed()
        check_adoption(adoption)
        stream = adoption.events[0].stream
        with self._lock:
            if stream in self._heads:
                raise WrongExpectedVersion(stream, 0, self._heads[stream].version)
            first, last = adoption.events[0], adoption.events[-1]
            position = len(self._events)
            events = tuple(
                replace(event, position=position + event.version) for event in adoption.events
            )
            self._events += events
            self._streams[stream] = list(events)
            self._heads[stream] = replace(
                _first_head(stream, adoption.head, first.recorded_at),
                version=last.version,
                hash=last.hash,
                updated_at=last.recorded_at,
                epoch=max(event.epoch for event in events),
                anchor_version=last.version,
                anchor_hash=last.hash,
            )
            for blob in adoption.blobs:
                self._blobs[sha256(blob).hexdigest()] = blob
            self._watchers.publish(events)
        return events

    def shares_store_with(self, location: str, /) -> bool:
        return False

    def transaction(
        self,
        *,
        seconds: float,
        entering: Callable[[], None],
        leaving: Callable[[bool], None],
    ) -> StoreTransaction:
        raise NoTransactions(
            "a journal in memory has no database for others to write into: name a file for the "
            "journal, or another database for the writes"
        )

    async def read_stream(
        self, stream: str, /, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        self._refuse_when_closed()
        events = self._streams.get(stream, [])[max(0, after) :]
        return events if limit is None else events[: max(0, limit)]

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        self._refuse_when_closed()
        return self._events[max(0, after) :][: max(0, limit)]

    async def heads(self, query: HeadQuery, /) -> list[Head]:
        self._refuse_when_closed()
        newest_first = list(reversed(self._heads.values()))
        if query.cursor is not None:
            if query.cursor not in self._heads:
                raise InvalidQuery(f"no stream {query.cursor!r} to list on from")
            place = newest_first.index(self._heads[query.cursor])
            newest_first = newest_first[place + 1 :]
        matching = [head for head in newest_first if _matches(head, query)]
        return matching[: max(0, query.limit)]

    def head_blocking(self, stream: str, /) -> Head | None:
        self._refuse_when_closed()
        return self._heads.get(stream)

    async def head(self, stream: str, /) -> Head | None:
        self._refuse_when_closed()
        return self._heads.get(stream)

    def find_blocking(self, query: KeyQuery, /) -> dict[int, RecordedEvent]:
        self._refuse_when_closed()
        check_key_query(query)
        with self._lock:
            begun = self._streams.get(query.before)
            end = begun[0].position if begun else 0
            earlier = {key: self._keyed_before(key, end) for key in query.keys}
            return {key: events[-1] for key, events in earlier.items() if events}

    def find_soon(self, query: KeyQuery, done: FindDone, /) -> None:
        done(self.find_blocking(query), None)

    async def claim(self, query: ClaimQuery, /) -> list[tuple[Head, Lease]]:
        self._refuse_when_closed()
        check_claim_query(query)
        with self._lock:
            now = self._clock()
            places = {stream: place for place, stream in enumerate(self._heads)}
            claimable = [head for head in self._heads.values() if _is_claimable(head, query, now)]
            claimable.sort(key=lambda head: (_claimable_at(head), places[head.stream]))
            return [
                (head, self._lease(head, query.claim, now))
                for head in claimable[: max(0, query.limit)]
            ]

    def renew_blocking(self, leases: Sequence[Lease], seconds: float, /) -> list[Lease]:
        self._refuse_when_closed()
        check_seconds(seconds)
        with self._lock:
            until = self._clock() + microseconds(seconds)
            held = [lease for lease in leases if self._holds(lease)]
            for lease in held:
                self._change(lease.stream, lease_until=until)
            return [replace(lease, until=until) for lease in held]

    async def release(self, lease: Lease, /) -> None:
        self._refuse_when_closed()
        with self._lock:
            if self._holds(lease):
                self._change(lease.stream, owner=None, lease_until=0)
                self._watchers.publish(())

    async def get_blob(self, digest: str, /) -> bytes:
        self._refuse_when_closed()
        if digest not in self._blobs:
            raise BlobNotFound(digest)
        return self._blobs[digest]

    def watch(self, stream: str | None, watcher: Watcher, /) -> Callable[[], None]:
        self._refuse_when_closed()
        return self._watchers.add(stream, watcher)

    async def close(self) -> None:
        self._closed = True
        self._watchers.publish(())

    def _keyed_before(self, key: int, position: int) -> list[RecordedEvent]:
        return [event for event in self._keyed.get(key, ()) if event.position < position]

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise JournalClosed("this journal in memory was closed; open a new one")

    def _append(self, append: Append, now: int) -> Appended:
        head = self._heads.get(append.stream)
        epoch = self._epoch_of(append, head, now)
        version = head.version if head else 0
        if append.expected_version != version:
            raise WrongExpectedVersion(append.stream, append.expected_version, version)
        events = self._record(append, head, epoch, now)
        head = _head_after(append, head, events, now)
        self._heads[append.stream] = head
        lease = None
        if append.claim is not None:
            lease = self._lease(head, append.claim, now)
        elif append.release:
            self._change(append.stream, owner=None, lease_until=0)
        for blob in append.blobs:
            self._blobs[sha256(blob).hexdigest()] = blob
        return Appended(events=events, version=head.version, lease=lease)

    def _epoch_of(self, append: Append, head: Head | None, now: int) -> int:
        """The epoch that the events carry. Refuses a stale lease and a claim against a live one."""
        current = head.epoch if head else 0
        if append.lease is not None and not self._holds(append.lease):
            raise StaleLease(append.stream, append.lease.epoch, current)
        if append.claim is None:
            return append.lease.epoch if append.lease else 0
        others = head is not None and head.owner not in (None, append.claim.owner)
        if head is not None and others and append.lease is None and head.lease_until > now:
            raise StaleLease(append.stream, 0, current)
        return current + 1

    def _record(
        self, append: Append, head: Head | None, epoch: int, now: int
    ) -> tuple[RecordedEvent, ...]:
        version, previous = (head.version, head.hash) if head else (0, GENESIS)
        recorded = []
        for event in append.events:
            version += 1
            position = len(self._events) + 1
            made = _recorded(append.stream, version, position, event, epoch, now, previous)
            previous = made.hash
            recorded.append(made)
            self._events.append(made)
            if event.key is not None:
                self._keyed.setdefault(event.key, []).append(made)
        self._streams.setdefault(append.stream, []).extend(recorded)
        return tuple(recorded)

    def _lease(self, head: Head, claim: Claim, now: int) -> Lease:
        until = now + microseconds(claim.seconds)
        lease = Lease(head.stream, claim.owner, head.epoch + 1, until)
        self._change(head.stream, owner=lease.owner, epoch=lease.epoch, lease_until=until)
        return lease

    def _holds(self, lease: Lease) -> bool:
        head = self._heads.get(lease.stream)
        return head is not None and (head.epoch, head.owner) == (lease.epoch, lease.owner)

    def _change(self, stream: str, **changes: object) -> None:
        self._heads[stream] = replace(self._heads[stream], **changes)


def _recorded(
    stream: str,
    version: int,
    position: int,
    event: NewEvent,
    epoch: int,
    now: int,
    previous: bytes,
) -> RecordedEvent:
    digest = sha256(event.payload).digest()
    return RecordedEvent(
        stream=stream,
        version=version,
        position=position,
        type=event.type,
        schema=event.schema,
        recorded_at=now,
        epoch=epoch,
        payload=event.payload,
        previous_hash=previous,
        hash=event_hash(stream, version, event.type, event.schema, now, epoch, digest, previous),
    )


def _head_after(
    append: Append, head: Head | None, events: Sequence[RecordedEvent], now: int
) -> Head:
    if head is None:
        assert append.head is not None  # check_append has seen to it
        head = _first_head(append.stream, append.head, now)
    if events:
        head = replace(head, version=events[-1].version, hash=events[-1].hash)
    if append.head is None:
        return head
    return replace(
        head,
        state=append.head.state,
        name=append.head.name,
        due_at=append.head.due_at,
        parent=append.head.parent,
        summary=append.head.summary,
        route=append.head.route,
        updated_at=now,
        anchor_version=head.version,
        anchor_hash=head.hash,
    )


def _first_head(stream: str, change: HeadChange, now: int) -> Head:
    return Head(
        stream=stream,
        category=category_of(stream),
        version=0,
        hash=GENESIS,
        state=change.state,
        name=change.name,
        due_at=change.due_at,
        parent=change.parent,
        summary=change.summary,
        route=change.route,
        created_at=now,
        updated_at=now,
        owner=None,
        epoch=0,
        lease_until=0,
    )


def _matches(head: Head, query: HeadQuery) -> bool:
    return (
        head.category == query.category
        and (not query.states or head.state in query.states)
        and (not query.names or head.name in query.names)
        and head.stream.startswith(query.stream_prefix)
        and query.parent in (None, head.parent)
        and head.route.startswith(query.route_prefix)
        and (query.claimable_at is None or _is_free(head, query.claimable_at))
    )


def _is_claimable(head: Head, query: ClaimQuery, now: int) -> bool:
    if head.category != query.category:
        return False
    if query.stream is not None:
        named = not query.names or head.name in query.names
        return named and head.stream == query.stream and head.lease_until <= now
    if head.route not in query.routes or not _is_free(head, now):
        return False
    return query.names is None or head.name in query.names


def _is_free(head: Head, now: int) -> bool:
    """Whether it is due, and nobody has it."""
    return head.due_at is not None and _claimable_at(head) <= now


def _claimable_at(head: Head) -> int:
    return max(head.due_at or 0, head.lease_until)
