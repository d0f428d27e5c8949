"""The port: what every backend of the journal can do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from journal.records import (
    Adoption,
    Append,
    Appended,
    ClaimQuery,
    Head,
    HeadQuery,
    KeyQuery,
    Lease,
    RecordedEvent,
    Rows,
)

Watcher = Callable[[Sequence[RecordedEvent]], None]
"""Called on the journal's event loop after a commit of this process with the stream's new events,
or with none when another process may have written: read again."""


AppendDone = Callable[[Appended | None, BaseException | None], object]
"""Told what came of an append: either what was appended, or None and why not."""
FindDone = Callable[[dict[int, RecordedEvent] | None, BaseException | None], None]
"""What `find_soon` calls when it has an answer."""


class StoreTransaction(Protocol):
    """A transaction of the store itself: the caller's own writes, and then one append.

    It begins with its first statement, and the store takes no other write before it has ended.
    From any thread but the journal's loop's, one statement at a time.
    """

    @property
    def has_begun(self) -> bool:
        """Whether a statement has begun it, and it has not ended."""
        ...

    def execute(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /
    ) -> Rows:
        """Runs one statement. Raises the store's own errors, StatementRefused, TransactionOver."""
        ...

    def executemany(
        self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> Rows:
        """Runs one statement for each row of parameters."""
        ...

    def append(self, append: Append, /) -> Appended:
        """Appends and commits all at once; returns when both are durable.

        After WrongExpectedVersion it is open still, and may append anew. Whatever else is raised
        has ended it and left nothing: StaleLease, CommitRefused, TransactionOver,
        JournalUnavailable; or nobody knows: CommitOutcomeUnknown.
        """
        ...

    def check(self) -> None:
        """Raises TransactionOver when it has ended."""
        ...

    def abandon(self, reason: str) -> None:
        """Rolls it back, unless it has ended; from any thread, and without waiting."""
        ...


class Journal(Protocol):
    """An append-only log of streams, each a hash chain, with a head row and a lease per stream.

    Coroutines belong to the event loop that opened the journal; methods whose name ends in
    ``_blocking`` may be called from every thread but that loop's while it has more to do.
    """

    @property
    def location(self) -> str:
        """Where the journal is, for people."""
        ...

    def now(self) -> int:
        """The store's clock: microseconds since the Unix epoch."""
        ...

    async def append(self, append: Append, /) -> Appended:
        """Appends when the expected version and the lease still hold; returns once durable.

        Raises WrongExpectedVersion, StaleLease, JournalUnavailable or CommitOutcomeUnknown.
        """
        ...

    def append_soon(self, append: Append, done: AppendDone, /) -> None:
        """The same for a callback: gathered with what else this pass of the loop appends.

        `done` is called once, later, on the loop and in no task: with what was appended, or with
        None and the error. Raises InvalidAppend and JournalClosed itself.
        """
        ...

    def append_blocking(self, append: Append, /) -> Appended:
        """The same from a thread of the caller's own, without a hop to another."""
        ...

    def shares_store_with(self, location: str, /) -> bool:
        """Whether a transaction of this journal's store holds writes to that database."""
        ...

    def transaction(
        self,
        *,
        seconds: float,
        entering: Callable[[], None],
        leaving: Callable[[bool], None],
    ) -> StoreTransaction:
        """A transaction of the store, in which the caller writes into tables of its own.

        It is rolled back when it has kept others from writing for so many seconds. `entering` is
        called before it takes the store, and may block; `leaving` when it has ended, with whether
        it was committed. Raises NoTransactions.
        """
        ...

    async def adopt(self, adoption: Adoption, /) -> tuple[RecordedEvent, ...]:
        """Writes a stream as another journal has recorded it; returns its events once durable.

        Raises WrongExpectedVersion when there is such a stream, InvalidAppend for events that are
        no whole and sound chain, JournalUnavailable or CommitOutcomeUnknown.
        """
        ...

    async def read_stream(
        self, stream: str, /, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """The events of a stream after a version, in order."""
        ...

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """The events of all streams after a position, in order."""
        ...

    def head_blocking(self, stream: str, /) -> Head | None:
        """One short read of a head, from any thread."""
        ...

    async def heads(self, query: HeadQuery, /) -> list[Head]:
        """The heads that match, newest first."""
        ...

    async def head(self, stream: str, /) -> Head | None:
        """The head of a stream; None when there is no such stream."""
        ...

    def find_blocking(self, query: KeyQuery, /) -> dict[int, RecordedEvent]:
        """By key the last event that was appended with it before a stream was begun.

        One short indexed read, from any thread. A key that leads to nothing is left out.
        """
        ...

    def find_soon(self, query: KeyQuery, done: FindDone, /) -> None:
        """The same for a callback of the loop.

        `done` is called once, on the loop, perhaps at once: with what was found, or with None and
        the error. Raises InvalidQuery and JournalClosed itself.
        """
        ...

    async def claim(self, query: ClaimQuery, /) -> list[tuple[Head, Lease]]:
        """Takes the leases of streams that are due and unowned; each head is as it was before."""
        ...

    def renew_blocking(self, leases: Sequence[Lease], seconds: float, /) -> list[Lease]:
        """Prolongs leases and returns those that still hold, with their new end."""
        ...

    async def release(self, lease: Lease, /) -> None:
        """Gives a lease back, so that others may claim at once; a stale one is ignored."""
        ...

    async def get_blob(self, digest: str, /) -> bytes:
        """The blob with this hexadecimal SHA-256. Raises BlobNotFound."""
        ...

    def watch(self, stream: str | None, watcher: Watcher, /) -> Callable[[], None]:
        """Calls `watcher` after commits to a stream, or to any (None); returns how to stop it.

        A call is a hint that may be missing or superfluous: the journal itself is the truth.
        """
        ...

    async def close(self) -> None:
        """Waits for running commits and closes; later calls raise JournalClosed."""
        ...
