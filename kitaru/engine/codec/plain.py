"""The fast way: values that JSON can say as they are."""

from typing import Any

TAG_KEY = "$"
MAX_DEPTH = 200
"""How many containers may lie inside each other."""

SMALLEST_JSON_INT = -(2**63)
LARGEST_JSON_INT = 2**64 - 1

_ALWAYS_PLAIN = frozenset({str, bool, type(None)})


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON says this value exactly; lone surrogates are left to the JSON writer."""
    kind = type(value)
    if kind in _ALWAYS_PLAIN:
        return True
    if kind is int:
        return bool(SMALLEST_JSON_INT <= value <= LARGEST_JSON_INT)
    if kind is float:
        return bool(value - value == 0.0)
    if depth >= MAX_DEPTH:
        return False
    if kind is dict:
        if TAG_KEY in value:
            return False
        for key in value:
            if type(key) is not str:
                return False
        return _are_plain(value.values(), depth + 1)
    return kind is list and _are_plain(value, depth + 1)


def _are_plain(items: Any, depth: int) -> bool:
    for item in items:
        kind = type(item)
        if kind in _ALWAYS_PLAIN:
            continue
        if kind is int:
            if SMALLEST_JSON_INT <= item <= LARGEST_JSON_INT:
                continue
            return False
        if kind is float:
            if item - item == 0.0:
                continue
            return False
        if not is_plain(item, depth):
            return False
    return True
