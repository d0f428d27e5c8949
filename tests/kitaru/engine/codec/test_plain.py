"""The fast way takes what JSON says exactly, and nothing else."""

from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.engine.codec.plain import MAX_DEPTH, is_plain


class Number(IntEnum):
    ONE = 1


class Name(str):
    pass


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_plain_comes_back_from_plain_json(value: Any) -> None:
    if is_plain(value):
        assert repr(msgspec.json.decode(msgspec.json.encode(value))) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), 2**64, -(2**63) - 1, b"", (), set(), frozenset(), Name("x"),
        Number.ONE, Decimal(1), datetime.min, {"$": 1}, {1: 1}, {Name("x"): 1}, object(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_would_change_is_not_plain(value: Any) -> None:
    assert not is_plain(value)
    assert not is_plain([value])
    assert not is_plain({"a": {"b": [1, value]}})


def test_depth_is_limited() -> None:
    assert is_plain(nested(MAX_DEPTH))
    assert not is_plain(nested(MAX_DEPTH + 1))
