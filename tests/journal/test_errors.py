"""Every error has its facts, says what to do, and is one of the journal's."""

import inspect

import pytest

import journal
from journal import (
    BlobNotFound,
    CorruptJournal,
    DamagedFile,
    JournalError,
    NewerSchema,
    StaleLease,
    WrongExpectedVersion,
    errors,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_public_and_stands_in_the_hierarchy_on_view(kind: type) -> None:
    assert issubclass(kind, errors.JournalError)
    assert getattr(journal, kind.__name__) is kind
    assert kind.__name__ in (errors.JournalError.__doc__ or "")


def test_errors_carry_their_facts() -> None:
    wrong = errors.WrongExpectedVersion("ex-1", 2, 3)
    assert (wrong.stream, wrong.expected, wrong.actual) == ("ex-1", 2, 3)
    stale = errors.StaleLease("ex-1", 1, 2)
    assert (stale.stream, stale.epoch, stale.current_epoch) == ("ex-1", 1, 2)
    damaged = errors.DamagedFile("journal.db", "it is torn")
    assert (damaged.location, damaged.stream, damaged.version) == ("journal.db", "", 0)
    assert damaged.what == "it is torn"
    assert str(damaged).startswith("the journal at journal.db is damaged: it is torn; restore it")
    corrupt = errors.CorruptJournal("ex-1", 2, "the event is gone")
    assert (corrupt.stream, corrupt.version, corrupt.what) == ("ex-1", 2, "the event is gone")
    assert errors.BlobNotFound("ab").digest == "ab"
    newer = errors.NewerSchema("journal.db", 9, 4)
    assert (newer.location, newer.found, newer.supported) == ("journal.db", 9, 4)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            WrongExpectedVersion("ex-1", 3, 5),
            (
                "stream 'ex-1' is at version 5, not 3: another writer appended first; "
                "read the stream again and decide anew"
            ),
        ),
        (
            StaleLease("ex-1", 1, 2),
            (
                "the lease of epoch 1 on stream 'ex-1' is over (now at epoch 2): "
                "another owner has taken it over; stop working on it"
            ),
        ),
        (
            BlobNotFound("00ff"),
            "no blob has the digest 00ff; it was erased, or never written here",
        ),
        (
            CorruptJournal("ex-1", 4, "the event is gone"),
            (
                "stream 'ex-1' is damaged at version 4: the event is gone; restore the journal "
                "from a backup, or inspect it with `kitaru journal verify`"
            ),
        ),
        (
            DamagedFile("a.db", "it is cut"),
            (
                "the journal at a.db is damaged: it is cut; restore it from a backup, "
                "or inspect it with `kitaru journal verify`"
            ),
        ),
        (
            NewerSchema("a.db", 9, 4),
            (
                "the journal at a.db has schema 9, and this version knows schemas up to 4: "
                "use the version that wrote it, or a later one"
            ),
        ),
    ],
)
def test_an_error_says_what_was_wrong_where_and_what_to_do(error: JournalError, said: str) -> None:
    assert str(error) == said
