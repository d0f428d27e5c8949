"""What SQLite's errors mean for whoever uses the journal."""

import sqlite3

from journal.errors import (
    DamagedFile,
    JournalError,
    JournalFull,
    JournalReadOnly,
    JournalUnavailable,
    NotAJournal,
)

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_STORE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 for an error of the Python module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    return primary_code(error) in _BUSY


def is_of_the_store(error: Exception) -> bool:
    """Whether the store is at fault and not what was asked of it."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in _STORE


def explained(error: sqlite3.Error, path: str, seconds: float) -> sqlite3.Error:
    """An error of the same kind that names the database and what to do.

    `seconds` is how long others were waited for. What only the statement explains stays as it is.
    """
    match primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            why = (
                f"somebody else has kept it for {seconds:g} s, by writing or, outside of WAL mode, "
                "by reading; look also for another connection of this very process"
            )
        case sqlite3.SQLITE_CANTOPEN:
            why = "its folder must exist, and it and its folder may be read and written"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            why = "see to the permissions of the file and its folder"
        case sqlite3.SQLITE_FULL:
            why = "make room and try again"
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_IOERR:
            why = "see to the file and its disk"
        case _:
            return error
    told = type(error)(f"{path}: {error} ({why})")
    for fact in ("sqlite_errorcode", "sqlite_errorname"):
        setattr(told, fact, getattr(error, fact, None))
    return told


def translated(error: sqlite3.Error, location: str) -> JournalError:
    """The journal's own error, naming the file and what to do."""
    match primary_code(error):
        case sqlite3.SQLITE_FULL:
            return JournalFull(
                f"no space is left for the journal at {location}: make room and try again; "
                "nothing was written"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return JournalReadOnly(
                f"the journal at {location} can be read but not written: see to the permissions of "
                "the file and its folder; nothing was written"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return JournalUnavailable(
                f"the journal at {location} stayed locked by another process: look for one that is "
                "stopped in the middle of a write, and try again; nothing was written"
            )
        case sqlite3.SQLITE_NOTADB:
            return NotAJournal(f"{location} is not a journal; name another file")
        case sqlite3.SQLITE_CORRUPT:
            return DamagedFile(location, str(error))
        case sqlite3.SQLITE_CANTOPEN:
            return JournalUnavailable(
                f"the journal at {location} cannot be opened: see that the file exists, that it "
                "and its folder may be read and written, and that files may still be opened"
            )
    if "decode to UTF-8" in str(error):
        return DamagedFile(location, str(error))
    return JournalUnavailable(
        f"the journal at {location} cannot be used now ({error}): see to its disk and try again"
    )
