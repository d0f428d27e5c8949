"""What an error of SQLite means, whichever of its many codes it carries."""

import sqlite3

import pytest

from journal import (
    DamagedFile,
    JournalError,
    JournalFull,
    JournalReadOnly,
    JournalUnavailable,
    NotAJournal,
)
from journal.backends.sqlite.failures import (
    explained,
    is_busy,
    is_of_the_store,
    primary_code,
    translated,
)


def failure(code: int, name: str = "") -> sqlite3.Error:
    error = sqlite3.OperationalError("made to fail")
    error.sqlite_errorcode = code
    error.sqlite_errorname = name
    return error


def test_a_code_is_known_without_its_extension() -> None:
    assert primary_code(failure(sqlite3.SQLITE_IOERR_FSYNC)) == sqlite3.SQLITE_IOERR
    assert primary_code(failure(sqlite3.SQLITE_BUSY_SNAPSHOT)) == sqlite3.SQLITE_BUSY


def test_an_error_of_the_python_module_has_no_code() -> None:
    error = sqlite3.ProgrammingError("Cannot operate on a closed database.")
    assert primary_code(error) == 0
    assert not is_busy(error)
    assert not is_of_the_store(error)
    assert not is_of_the_store(OSError("of something else"))


@pytest.mark.parametrize(
    ("code", "meaning", "is_the_stores"),
    [
        (sqlite3.SQLITE_FULL, JournalFull, True),
        (sqlite3.SQLITE_READONLY_DBMOVED, JournalReadOnly, True),
        (sqlite3.SQLITE_PERM, JournalReadOnly, True),
        (sqlite3.SQLITE_BUSY_RECOVERY, JournalUnavailable, True),
        (sqlite3.SQLITE_LOCKED, JournalUnavailable, True),
        (sqlite3.SQLITE_PROTOCOL, JournalUnavailable, True),
        (sqlite3.SQLITE_CANTOPEN, JournalUnavailable, True),
        (sqlite3.SQLITE_IOERR_READ, JournalUnavailable, True),
        (sqlite3.SQLITE_NOMEM, JournalUnavailable, True),
        (sqlite3.SQLITE_NOTADB, NotAJournal, True),
        (sqlite3.SQLITE_CORRUPT_VTAB, DamagedFile, True),
        (sqlite3.SQLITE_TOOBIG, JournalUnavailable, False),
        (sqlite3.SQLITE_CONSTRAINT, JournalUnavailable, False),
        (sqlite3.SQLITE_ERROR, JournalUnavailable, False),
    ],
)
def test_each_code_has_its_meaning(
    code: int, meaning: type[JournalError], is_the_stores: bool
) -> None:
    error = failure(code)
    assert type(translated(error, "a/journal.db")) is meaning
    assert "a/journal.db" in str(translated(error, "a/journal.db"))
    assert is_of_the_store(error) == is_the_stores


def test_an_explained_error_keeps_its_kind_and_its_codes() -> None:
    error = failure(sqlite3.SQLITE_BUSY_TIMEOUT, "SQLITE_BUSY_TIMEOUT")
    told = explained(error, "own.db", 2.5)
    assert type(told) is sqlite3.OperationalError
    assert (told.sqlite_errorcode, told.sqlite_errorname) == (
        sqlite3.SQLITE_BUSY_TIMEOUT,
        "SQLITE_BUSY_TIMEOUT",
    )
    assert str(told).startswith("own.db: made to fail (somebody else has kept it for 2.5 s")
    other = failure(sqlite3.SQLITE_CONSTRAINT)
    assert explained(other, "own.db", 2.5) is other
