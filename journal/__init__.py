"""An append-only event log: streams, versions, positions, leases, subscriptions."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from journal.errors import (
    BlobNotFound,
    CommitOutcomeUnknown,
    CommitRefused,
    CorruptJournal,
    DamagedFile,
    InvalidAppend,
    InvalidJournalUrl,
    InvalidQuery,
    JournalClosed,
    JournalError,
    JournalFull,
    JournalReadOnly,
    JournalUnavailable,
    NewerSchema,
    NotAJournal,
    NoTransactions,
    StaleLease,
    StatementRefused,
    TransactionOver,
    WrongExpectedVersion,
)
from journal.journal import Journal, StoreTransaction, Watcher
from journal.records import (
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
    Rows,
)

if TYPE_CHECKING:
    from journal.backends.sqlite.guarded import SqliteTransaction
    from journal.backends.sqlite.reader import SqliteReader
    from journal.hashing import Finding, verify_stream
    from journal.subscription import follow, follow_all

__all__ = [
    "Adoption",
    "Append",
    "Appended",
    "BlobNotFound",
    "Claim",
    "ClaimQuery",
    "CommitOutcomeUnknown",
    "CommitRefused",
    "CorruptJournal",
    "DamagedFile",
    "Finding",
    "Head",
    "HeadChange",
    "HeadQuery",
    "InvalidAppend",
    "InvalidJournalUrl",
    "InvalidQuery",
    "Journal",
    "JournalClosed",
    "JournalError",
    "JournalFull",
    "JournalReadOnly",
    "JournalUnavailable",
    "KeyQuery",
    "Lease",
    "NewEvent",
    "NewerSchema",
    "NoTransactions",
    "NotAJournal",
    "RecordedEvent",
    "Rows",
    "SqliteReader",
    "SqliteTransaction",
    "StaleLease",
    "StatementRefused",
    "StoreTransaction",
    "TransactionOver",
    "Watcher",
    "WrongExpectedVersion",
    "follow",
    "follow_all",
    "open_journal",
    "open_reader",
    "verify_stream",
]


async def open_journal(url: str, *, clock: Callable[[], int] | None = None) -> Journal:
    """Opens the journal that a URL or path names, for the event loop that this runs on.

    `clock` gives microseconds since the Unix epoch. A missing SQLite file is made; `memory://` is a
    new journal each time. Raises InvalidJournalUrl, NotAJournal, NewerSchema or JournalUnavailable.
    """
    from journal.urls import parse_url

    target = parse_url(url)
    if target.backend == "memory":
        from journal.backends.in_memory import InMemoryJournal

        return InMemoryJournal(clock=clock)
    from journal.backends.sqlite.journal import SqliteJournal

    return await SqliteJournal.open(target.path, clock=clock)


def open_reader(url: str) -> "SqliteReader":
    """Opens an existing SQLite journal for reading, without an event loop.

    Raises InvalidJournalUrl, NotAJournal, NewerSchema or JournalUnavailable.
    """
    from journal.backends.sqlite.reader import SqliteReader
    from journal.urls import parse_url

    target = parse_url(url)
    if target.backend != "sqlite":
        raise InvalidJournalUrl("only a SQLite journal can be read from another process")
    return SqliteReader(target.path)


# What costs more to import than it is needed for: the command line starts without an event loop.
_LAZY = {
    "Finding": "journal.hashing",
    "SqliteReader": "journal.backends.sqlite.reader",
    "SqliteTransaction": "journal.backends.sqlite.guarded",
    "follow": "journal.subscription",
    "follow_all": "journal.subscription",
    "verify_stream": "journal.hashing",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'journal' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
