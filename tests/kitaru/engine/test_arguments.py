"""Naming a call's arguments and spreading them out again is the call itself."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.engine.arguments import Binder
from kitaru.errors import KitaruUsageError


def plain(a: int, b: int = 2) -> Any:
    return a, b


def positional(a: int, b: int = 2, /, c: int = 3) -> Any:
    return a, b, c


def keywords(a: int, *, b: int = 2, **rest: int) -> Any:
    return a, b, rest


def backwards(z: int, *rest: int, y: int = 2, x: int = 3, **more: int) -> Any:
    return z, rest, y, x, more


def surplus(a: int, *args: int, b: int = 2) -> Any:
    return a, args, b


def everything(a: int, /, b: int = 2, *args: int, c: int = 3, **rest: int) -> Any:
    return a, b, args, c, rest


def nothing() -> Any:
    return ()


FUNCTIONS: list[Callable[..., Any]] = [plain, positional, keywords, surplus, everything, nothing]
NAMES = st.sampled_from(["a", "b", "c", "args", "rest", "*", "**", "self", "a b", ""])


@given(
    function=st.sampled_from(FUNCTIONS),
    args=st.lists(st.integers(), max_size=5),
    kwargs=st.dictionaries(NAMES, st.integers(), max_size=4),
)
def test_what_python_accepts_is_called_the_same(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    binder = Binder(function)
    try:
        # The call itself: signature().bind() of Python 3.13.0 takes a name for what has none.
        expected = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(KitaruUsageError, match=function.__name__):
            binder.name_all(tuple(args), kwargs)
        return
    positionals, rest = binder.spread(binder.name_all(tuple(args), kwargs))
    assert function(*positionals, **rest) == expected


@given(a=st.integers(), b=st.integers())
def test_a_call_by_name_is_the_call_by_position(a: int, b: int) -> None:
    binder = Binder(plain)
    ways = [binder.name_all((a, b), {}), binder.name_all((a,), {"b": b})]
    ways += [binder.name_all((), {"b": b, "a": a}), binder.name_all((), {"a": a, "b": b})]
    assert all(list(way.items()) == [("a", a), ("b", b)] for way in ways)


@given(order=st.permutations(["z", "y", "x", "b", "a"]))
def test_the_order_in_which_names_are_given_does_not_count(order: list[str]) -> None:
    binder = Binder(backwards)
    named = binder.name_all((), {name: ord(name) for name in order})
    assert list(named) == ["z", "y", "x", "a", "b"]


def test_a_call_by_name_is_in_the_order_of_the_signature() -> None:
    binder = Binder(backwards)
    by_place = list(binder.name_all((1, 7), {"x": 3}))
    assert by_place == ["z", "x", "*"]
    assert list(binder.name_all((1,), {"x": 3})) == list(binder.name_all((), {"x": 3, "z": 1}))


def test_defaults_are_not_part_of_the_call() -> None:
    assert Binder(plain).name_all((1,), {}) == {"a": 1}
