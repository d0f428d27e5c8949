"""Keeps a forked child from using or closing its parent's database connections."""

import os
import weakref
from typing import Protocol


class Abandonable(Protocol):
    """Something that must not be used in a forked child."""

    def abandon(self) -> list[object]:
        """Makes itself unusable; returns what must never be finalized in this process."""
        ...


class _Fork:
    """The open journals of this process."""

    def __init__(self) -> None:
        self.open: weakref.WeakSet[Abandonable] = weakref.WeakSet()
        self.abandoned: list[object] = []
        self.is_watched = False


_fork = _Fork()


def abandon_in_children(journal: Abandonable) -> None:
    _fork.open.add(journal)
    if not _fork.is_watched:
        _fork.is_watched = True
        os.register_at_fork(after_in_child=_abandon)


def _abandon() -> None:
    for journal in list(_fork.open):
        for held in journal.abandon():
            _fork.abandoned.append(held)
            _never_finalize(held)
    _fork.open.clear()


def _never_finalize(held: object) -> None:
    # SQLite's locks belong to the process: a connection that is closed here, were it by the garbage
    # collector at the child's end, works on the parent's files. One reference too many prevents it.
    try:
        from ctypes import py_object, pythonapi
    except ImportError:
        return
    pythonapi.Py_IncRef(py_object(held))
