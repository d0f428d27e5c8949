"""Every error has its facts, says what to do, and is one of the journal's."""

import inspect

import pytest

import journal
from journal import errors

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
