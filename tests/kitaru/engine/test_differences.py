"""Arguments are compared by path, and a value that differs each time is known by its look."""

import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.divergence import ArgumentDifference
from kitaru.engine.differences import (
    ADDRESS,
    KEPT_DIFFERENCES,
    LONGEST_VALUE,
    ORDER,
    RANDOM,
    TIME,
    UUID,
    are_equal,
    difference_lines,
    differences,
    hint_of,
    shown,
    shown_arguments,
)

trees = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(trees, trees)
def test_there_is_a_difference_exactly_where_the_bytes_differ(before: Any, now: Any) -> None:
    same = msgspec.json.encode(before) == msgspec.json.encode(now)
    assert (differences(before, now) == ()) == same


@pytest.mark.parametrize("place", [lambda d: d, lambda d: {"x": d}, lambda d: {"x": [1, d]}])
def test_another_order_of_a_dicts_keys_is_a_difference_and_says_so(place: Any) -> None:
    before, now = place({"a": 1, "b": [2]}), place({"b": [2], "a": 1})
    assert are_equal(before, now)
    (difference,) = differences(before, now)
    assert difference.hint == ORDER
    assert list(difference.recorded) == ["a", "b"]
    assert list(difference.now) == ["b", "a"]
    assert not are_equal(before, place({"b": [3], "a": 1}))


@pytest.mark.parametrize(
    ("before", "now", "paths"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["b"]),
        ({"a": [1, {"x": 2}]}, {"a": [1, {"x": 3}]}, ["a[1].x"]),
        ({"a": 1}, {"b": 1}, ["a", "b"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a[1]"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a": None}, {}, ["a"]),
        ({"p": {"$": ["tuple", 1, 2]}}, {"p": {"$": ["tuple", 1, 3]}}, ["p[1]"]),
        (
            {"o": {"$": ["object", "m.Order", {"n": 1, "p": 2}]}},
            {"o": {"$": ["object", "m.Order", {"n": 1, "p": 3}]}},
            ["o.p"],
        ),
        (
            {"o": {"$": ["object", "m.Order", {}]}},
            {"o": {"$": ["object", "m.Other", {}]}},
            ["o"],
        ),
        (1, 2, ["arguments"]),
    ],
)
def test_a_difference_is_named_by_its_path(before: Any, now: Any, paths: list[str]) -> None:
    assert [difference.path for difference in differences(before, now)] == paths


@pytest.mark.parametrize(
    ("before", "now", "hint"),
    [
        (1_700_000_000.5, 1_700_000_003.25, TIME),
        (1_700_000_000_000, 1_700_000_000_777, TIME),
        ("2026-05-01T10:00:00Z", "2026-05-02 11:00", TIME),
        ({"$": ["datetime", "2026-05-01T10:00:00"]}, {"$": ["datetime", "2026-05-02"]}, TIME),
        (str(uuid.UUID(int=7)), str(uuid.UUID(int=8)), UUID),
        ({"$": ["uuid", "a"]}, {"$": ["uuid", "b"]}, UUID),
        (0.2812683439464615, 0.17461919454116592, RANDOM),
        ("<A object at 0x7f11aa22bb>", "<A object at 0x7f11aa22cc>", ADDRESS),
        (0.25, 0.5, ""),
        (1, 2, ""),
        (True, False, ""),
        ("2026-05-01", 7, ""),
        ("one", "two", ""),
    ],
)
def test_what_differs_each_time_is_known_by_its_look(before: Any, now: Any, hint: str) -> None:
    assert hint_of(before, now) == hint


@pytest.mark.parametrize("wrapped", [[True], {"$": ["set", True]}, {"a": [[True]]}])
def test_true_is_not_one_however_deep_it_lies(wrapped: Any) -> None:
    other = json.loads(json.dumps(wrapped).replace("true", "1"))
    assert differences(wrapped, wrapped) == ()
    assert len(differences(wrapped, other)) == 1


def test_a_list_in_another_order_is_one_difference() -> None:
    (found,) = differences({"names": ["x", "y"]}, {"names": ["y", "x"]})
    assert (found.path, found.hint) == ("names", ORDER)
    assert differences({"names": ["x", "x"]}, {"names": ["x", "y"]})[0].hint == ""


def test_a_value_of_the_environment_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE_TO_GO", "a-far-place")
    assert "WHERE_TO_GO" in hint_of("home", "a-far-place")
    assert hint_of("home", "another-place") == ""


def test_what_is_kept_of_a_difference_has_its_bounds() -> None:
    many = differences({"a": list(range(1000))}, {"a": [n + 1 for n in range(1000)]})
    assert len(many) == KEPT_DIFFERENCES
    (long,) = differences({"a": "x" * 10_000}, {"a": "y"})
    assert len(long.recorded) <= LONGEST_VALUE + 1
    assert difference_lines({"a": list(range(50))}, {"a": [7] * 50})[-1].startswith("and ")


def test_nothing_and_null_are_told_apart() -> None:
    (left_out,) = differences({"a": None}, {})
    assert msgspec.json.encode(left_out) == b'{"path":"a","recorded":null}'
    assert msgspec.json.decode(msgspec.json.encode(left_out), type=ArgumentDifference) == left_out


def test_values_are_shown_in_one_line() -> None:
    assert shown({"$": ["datetime", "2026-05-01"]}) == "datetime('2026-05-01')"
    assert shown({"a": [None, "x\ny"]}) == "{'a': [None, 'x\\ny']}"
    assert len(shown("x" * 500)) == 60
    assert shown_arguments({"url": "a", "n": 1}) == "url='a', n=1"
