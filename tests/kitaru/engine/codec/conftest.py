"""What it means that a value survives the journal."""

import dataclasses
from collections.abc import Callable
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from kitaru.engine.codec import Codec, TypeScope

CODEC = Codec()


def alike(left: Any, right: Any) -> bool:
    """Equal by value and exact type, all the way down; NaN is like NaN, 0.0 unlike -0.0."""
    if type(left) is not type(right):
        return False
    match left:
        case Enum():
            return left is right
        case list() | tuple():
            return len(left) == len(right) and all(map(alike, left, right))
        case dict():
            return alike(list(left.items()), list(right.items()))
        case set() | frozenset():
            return sorted(map(repr, left)) == sorted(map(repr, right))
        case float() | complex() | Decimal() | date() | time() | timedelta() | tzinfo():
            return repr(left) == repr(right)
        case msgspec.Struct():
            return alike(msgspec.structs.astuple(left), msgspec.structs.astuple(right))
        case _ if dataclasses.is_dataclass(left):
            return alike(_fields(left), _fields(right))
        case pydantic.BaseModel():
            return alike(left.__dict__, right.__dict__)
        case _ if attrs.has(type(left)):
            return alike(attrs.astuple(left, recurse=False), attrs.astuple(right, recurse=False))
        case _:
            return bool(left == right)


def _fields(value: Any) -> list[Any]:
    return [getattr(value, field.name, None) for field in dataclasses.fields(value)]


@pytest.fixture(scope="session")
def survives() -> Callable[..., Any]:
    """Asserts that a value comes back as it was, and gives it."""

    def check(value: Any, *annotations: Any) -> Any:
        scope = TypeScope.of(*annotations)
        data = CODEC.encode(value, where="value", types=scope)
        decoded = CODEC.decode(data, scope)
        assert alike(value, decoded), (value, data, decoded)
        assert CODEC.encode(decoded, where="value", types=scope) == data
        return decoded

    return check
