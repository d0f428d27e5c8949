"""A forked child must neither use nor close what its parent has open."""

import gc
import os
import sys
import weakref
from collections.abc import Callable

import pytest

from journal.backends.sqlite import forking
from journal.backends.sqlite.forking import abandon_in_children


class Connection:
    """What must not be closed."""


class Open:
    """Something that is open, and what it holds."""

    def __init__(self) -> None:
        self.times = 0
        self.holds = Connection()

    def abandon(self) -> list[object]:
        self.times += 1
        return [self.holds]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What is run in each forked child, where nothing is open yet."""
    registered: list[Callable[[], None]] = []

    def register_at_fork(*, after_in_child: Callable[[], None]) -> None:
        registered.append(after_in_child)

    monkeypatch.setattr(forking, "_fork", forking._Fork())
    monkeypatch.setattr(os, "register_at_fork", register_at_fork)
    return registered


def test_everything_open_is_abandoned_in_a_child_once(
    children: list[Callable[[], None]],
) -> None:
    everything = [Open(), Open()]
    for one in everything:
        abandon_in_children(one)
    (begin_child,) = children
    begin_child()
    assert [one.times for one in everything] == [1, 1]
    begin_child()  # a child of the child has nothing of it open any more
    assert [one.times for one in everything] == [1, 1]


def test_what_is_held_is_never_finalized_in_a_child(children: list[Callable[[], None]]) -> None:
    """Not even at its end, when everything that anybody can reach is cleared away."""
    one = Open()
    held = weakref.ref(one.holds)
    abandon_in_children(one)
    children[0]()
    del one
    forking._fork.abandoned.clear()
    gc.collect()
    assert held() is not None


def test_where_nothing_can_be_kept_for_ever_it_is_kept_to_the_end(
    children: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    one = Open()
    held = weakref.ref(one.holds)
    abandon_in_children(one)
    children[0]()
    del one
    gc.collect()
    assert held() is not None
    forking._fork.abandoned.clear()
    gc.collect()
    assert held() is None


def test_what_is_forgotten_here_is_not_kept_for_a_child(
    children: list[Callable[[], None]],
) -> None:
    abandon_in_children(Open())
    gc.collect()
    assert len(forking._fork.open) == 0
