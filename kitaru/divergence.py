"""A divergence as facts: what was recorded, what the code asks for now, and the likeliest story."""

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct


class DivergenceStory(StrEnum):
    """What has most likely happened to the code."""

    INSERTED = "inserted"
    """A call was put in front of the recorded one."""
    REMOVED = "removed"
    """The recorded call is not made any more."""
    RENAMED = "renamed"
    """The recorded call has another name now, and the same arguments."""
    REPLACED = "replaced"
    """Another call stands in the place of the recorded one."""
    SWAPPED = "swapped"
    """Recorded calls are made in another order."""
    MOVED = "moved"
    """The same call is made in another task, or with another id."""
    MORE_CALLS = "more_calls"
    """A place in the code calls more often than is recorded."""
    FEWER_CALLS = "fewer_calls"
    """The code ends without a call that is recorded."""
    OTHER_BRANCH = "other_branch"
    """A condition that led to the recorded call does not lead to it now."""
    CHANGED_ARGUMENTS = "changed_arguments"
    """The recorded call is made with other arguments."""
    CHANGED_KIND = "changed_kind"
    """What was a checkpoint, a wait or a sleep is another of these now."""
    UNREADABLE_VALUE = "unreadable_value"
    """What is recorded as a result or an answer does not fit the code's types any more."""
    NOT_ASKED_FOR = "not_asked_for"
    """The recorded call is not made where it was; what became of it cannot be told."""


class DivergedCall(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A call that does not fit: as it is recorded, or as the code makes it now."""

    path: str
    name: str = ""
    kind: str = "checkpoint"
    """``checkpoint``, ``wait`` or ``sleep``."""
    site: str = ""
    """``file:line`` of the call; empty when it is not known."""
    version: int | None = None
    """The event that recorded its outcome; None for what the code asks for now."""
    arguments: Any = UNSET
    """By name, in the codec's JSON; left out where they were not kept."""
    arguments_digest: str = ""


class ArgumentDifference(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One place where the arguments differ."""

    path: str
    """Such as ``url`` or ``order.items[3].price``."""
    recorded: Any = UNSET
    """In the codec's JSON; left out where nothing was."""
    now: Any = UNSET
    hint: str = ""
    """What kind of value it looks like, and what to use instead."""


class Divergence(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a flow's code and its journal part."""

    story: str
    """A `DivergenceStory`, or one of a later version."""
    summary: str = ""
    """The story in one sentence."""
    recorded: DivergedCall
    asked: tuple[DivergedCall, ...] = ()
    """What the code waits for now, the call that does not fit first; empty when it has ended."""
    differences: tuple[ArgumentDifference, ...] = ()
    hints: tuple[str, ...] = ()
    """What the cause may be, and what to use instead."""
    ended: str = ""
    """How the body ended, where it ended: ``returned``, or the error it raised."""


def divergence_of(facts: Raw | bytes) -> Divergence:
    """The facts that a journal keeps; without a story where another version wrote them."""
    try:
        return msgspec.json.decode(facts, type=Divergence)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Divergence(story="", recorded=DivergedCall(path=""))
