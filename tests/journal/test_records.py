"""Records are values: equal by content, and never changed."""

import gc

import pytest

from journal import Append, Appended, HeadChange, Lease, NewEvent


def test_records_are_equal_by_content() -> None:
    assert NewEvent("A", b"x") == NewEvent("A", b"x", 1)
    assert NewEvent("A", b"x") != NewEvent("A", b"x", 2)


def test_records_are_never_changed() -> None:
    lease = Lease("ex-1", "me", 1, 2)
    with pytest.raises(AttributeError):
        lease.epoch = 2  # type: ignore[misc]


def test_records_are_not_followed_by_the_garbage_collector() -> None:
    append = Append("ex-1", (NewEvent("A", b""),), 0, HeadChange("s", "n", None))
    assert not any(map(gc.is_tracked, (append, append.events[0], append.head, Appended((), 0))))
