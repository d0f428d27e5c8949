"""How the arguments of two calls differ, by path, and what kind of value makes them differ."""

import os
import re
from typing import Any

import msgspec
from msgspec import UNSET

from kitaru.divergence import ArgumentDifference

KEPT_DIFFERENCES = 100
SHOWN_DIFFERENCES = 12
LONGEST_VALUE = 2_000
"""Characters of one value's JSON in a report; what is longer is cut."""
SHORTEST_VARIABLE = 3
"""Shorter values of environment variables are met by chance."""

TIME = "looks like a time: use `kitaru.now()`, which gives the same in every pass"
UUID = "looks like a UUID: use `kitaru.uuid4()`, which gives the same in every pass"
RANDOM = "looks like a random number: use `kitaru.random()`, which gives the same in every pass"
ORDER = "has the same items in another order: if a set or a listing gives them, sort them first"
ADDRESS = "holds an object's address in memory: pass what the object holds instead"

_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_INSTANT = re.compile(r"(19|20)\d\d-[01]\d-[0-3]\d([T ][0-2]\d:[0-5]\d.*)?")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
_TIME_TAGS = ("datetime", "date", "time")
_EPOCH_UNITS = (1, 1_000, 1_000_000, 1_000_000_000)
_EPOCH_SECONDS = (1_000_000_000, 4_000_000_000)
_RANDOM_DIGITS = 10


def differences(before: Any, now: Any) -> tuple[ArgumentDifference, ...]:
    """Where two calls' arguments, in the codec's JSON, differ."""
    found: list[ArgumentDifference] = []
    _compare("", before, now, found)
    return tuple(found[:KEPT_DIFFERENCES])


def are_equal(before: Any, now: Any) -> bool:
    """Whether two calls' arguments differ at most in the order of a dict's keys."""
    return msgspec.json.encode(before, order="sorted") == msgspec.json.encode(now, order="sorted")


def _compare(path: str, before: Any, now: Any, found: list[ArgumentDifference]) -> None:
    if _is_plain(before) and _is_plain(now):
        if list(before) != list(now) and are_equal(before, now):
            found.append(_difference(path, before, now, ORDER))
            return
        for key in [*before, *(key for key in now if key not in before)]:
            _compare(
                f"{path}.{key}" if path else key,
                before.get(key, UNSET),
                now.get(key, UNSET),
                found,
            )
    elif _are_alike(before, now):
        if _same_items(before, now):
            found.append(_difference(path, before, now, ORDER))
            return
        for place in range(max(len(before), len(now))):
            _compare(f"{path}[{place}]", _item(before, place), _item(now, place), found)
    elif _tag(before) == _tag(now) == "tuple":
        _compare(path, before["$"][1:], now["$"][1:], found)
    elif _tag(before) == _tag(now) == "object":
        # ["object", class, attributes]: whose class is the same differs in its attributes.
        if before["$"][:2] == now["$"][:2]:
            _compare(path, before["$"][2], now["$"][2], found)
        else:
            found.append(_difference(path, before, now))
    elif not _same(before, now):
        found.append(_difference(path, before, now))


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict) and "$" not in value


def _are_alike(before: Any, now: Any) -> bool:
    return isinstance(before, list) and isinstance(now, list) and not _same(before, now)


def _same(before: Any, now: Any) -> bool:
    if before is UNSET or now is UNSET:
        return before is now
    # Not by ==, for which True is 1, also deep inside.
    return _encoded(before) == _encoded(now)


def _tag(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("$"), list) and value["$"]:
        return str(value["$"][0])
    return ""


def _same_items(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and sorted(map(_encoded, before)) == sorted(map(_encoded, now))


def _item(items: list[Any], place: int) -> Any:
    return items[place] if place < len(items) else UNSET


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _difference(path: str, before: Any, now: Any, hint: str = "") -> ArgumentDifference:
    return ArgumentDifference(
        path=path or "arguments",
        recorded=_cut(before),
        now=_cut(now),
        hint=hint or hint_of(before, now),
    )


def _cut(value: Any) -> Any:
    if value is UNSET or len(_encoded(value)) <= LONGEST_VALUE:
        return value
    return _encoded(value)[:LONGEST_VALUE].decode("utf-8", "replace") + "…"


def hint_of(before: Any, now: Any) -> str:
    """What makes a value that differs look as if it would differ each time; empty if nothing."""
    if before is UNSET or now is UNSET:
        return ""
    for looks, hint in (
        (_is_time, TIME),
        (_is_uuid, UUID),
        (_is_random, RANDOM),
        (_has_address, ADDRESS),
    ):
        if looks(before) and looks(now):
            return hint
    return _variable_hint(now)


def _is_time(value: Any) -> bool:
    if isinstance(value, str):
        return _INSTANT.fullmatch(value) is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        least, most = _EPOCH_SECONDS
        return any(least * unit <= value <= most * unit for unit in _EPOCH_UNITS)
    return _tag(value) in _TIME_TAGS


def _is_uuid(value: Any) -> bool:
    return _tag(value) == "uuid" or (isinstance(value, str) and bool(_UUID.fullmatch(value)))


def _is_random(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1 and len(repr(value)) > _RANDOM_DIGITS


def _has_address(value: Any) -> bool:
    return isinstance(value, str) and _ADDRESS.search(value) is not None


def _variable_hint(now: Any) -> str:
    if not isinstance(now, str) or len(now) < SHORTEST_VARIABLE:
        return ""
    names = sorted(name for name, value in os.environ.items() if value == now)
    if not names:
        return ""
    return (
        f"is what the environment variable {names[0]} holds here: pass it to the flow as an "
        "argument, or read it in a checkpoint"
    )


def difference_lines(before: Any, now: Any) -> list[str]:
    """Where two calls' arguments differ, in words; of many, the first."""
    found = differences(before, now)
    lines = [
        f"arguments.{each.path}: {shown(each.recorded)} was recorded, now {shown(each.now)}"
        for each in found[:SHOWN_DIFFERENCES]
    ]
    left_out = len(found) - SHOWN_DIFFERENCES
    return [*lines, f"and {left_out} more"] if left_out > 0 else lines


def shown(value: Any, longest: int = 60) -> str:
    """A value in the codec's JSON for people, in one line."""
    text = _text(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def shown_arguments(arguments: Any, longest: int = 60) -> str:
    """Named arguments as they stand in a call."""
    if not isinstance(arguments, dict):
        return "…"
    text = ", ".join(f"{name}={_text(value)}" for name, value in arguments.items())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _text(value: Any) -> str:
    if value is UNSET:
        return "nothing"
    if _tag(value):
        tag, *parts = value["$"]
        return f"{tag}({', '.join(map(_text, parts))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value)
