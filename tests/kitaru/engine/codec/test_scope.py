"""A scope holds what annotations reach, and nothing else."""

import dataclasses
import functools
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, TypedDict, TypeVar, Union

import attrs
import msgspec
import pydantic
import pytest

from kitaru.engine.codec import Codec, TypeScope
from kitaru.errors import KitaruSerializationError

if TYPE_CHECKING:
    from somewhere import Missing  # type: ignore[import-not-found]


@dataclasses.dataclass
class Item:
    name: str = "item"


class Grade(Enum):
    A = 1


class Holder(msgspec.Struct):
    item: Item


class Wide(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    holders: list[Holder] = []


@attrs.define
class Deep:
    wide: "Wide | None" = None


class Entry(TypedDict, total=False):
    deep: Deep


@dataclasses.dataclass
class Chain:
    next: "Chain | None" = None
    item: Item | None = None


ItemId = NewType("ItemId", Item)
Bound = TypeVar("Bound", bound=Item)


@pytest.mark.parametrize(
    "annotation",
    [
        Item,
        list[Item],
        dict[str, tuple[Item, ...]],
        Item | None,
        Union[Item, None],  # noqa: UP007
        Annotated[list[Item], "note", msgspec.Meta(min_length=1)],
        Callable[[Item], None],
        Awaitable[Sequence[Item]],
        ItemId,
        Bound,
        Holder,
        Wide,
        Deep,
        Entry,
        Chain,
        type[Item],
    ],
)
def test_the_scope_reaches_a_class_through(annotation: Any) -> None:
    assert TypeScope.of(annotation).by_class(Item) is not None


def test_the_enum_of_a_literal_is_reached() -> None:
    assert TypeScope.of(Literal[Grade.A, "b"]).by_class(Grade) is not None


def test_nothing_is_reached_by_accident() -> None:
    scope = TypeScope.of(list[Any], dict[str, object], "Item", ..., None)
    assert scope.by_class(Item) is None


def test_a_function_resolves_forward_references() -> None:
    def function(item: "Item", *more: "list[Grade]", **rest: "Holder") -> "Chain":
        raise NotImplementedError

    scope = TypeScope.of_function(function)
    assert all(scope.by_class(cls) for cls in (Item, Grade, Holder, Chain))


def test_a_name_for_type_checkers_only_does_not_hide_the_others() -> None:
    def function(one: "Missing", two: "dict[str, Missing | Item]") -> "list[Grade]":
        raise NotImplementedError

    scope = TypeScope.of_function(function)
    assert scope.by_class(Item) is not None
    assert scope.by_class(Grade) is not None


def test_classes_of_the_enclosing_function_are_found() -> None:
    @dataclasses.dataclass
    class Local:
        size: int

    def function() -> "list[Local]":
        return [Local(1)]

    scope = TypeScope.of_function(function)
    data = Codec().encode(function(), where="result", types=scope)
    assert Codec().decode(data, scope) == [Local(1)]


def test_a_scope_is_made_once_for_a_function_and_seen_through_wrappers() -> None:
    def function() -> Item:
        raise NotImplementedError

    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    class Callables:
        def method(self) -> Item:
            raise NotImplementedError

        def __call__(self) -> Item:
            raise NotImplementedError

    assert TypeScope.of_function(function) is TypeScope.of_function(wrapper)
    assert TypeScope.of_function(functools.partial(function)) is TypeScope.of_function(function)
    for callable_ in (Callables().method, Callables()):
        assert TypeScope.of_function(callable_).by_class(Item) is not None
    assert TypeScope.of_function(len).by_class(Item) is None


def make_twins() -> tuple[type, type]:
    def make(module: str) -> type:
        cls = dataclasses.make_dataclass("Twin", [("size", int)])
        cls.__module__ = module
        return cls

    return make("first"), make("second")


def test_two_classes_of_one_name_are_told_apart() -> None:
    first, second = make_twins()
    scope = TypeScope.of(first, second)
    data = Codec().encode([first(1), second(1)], where="result", types=scope)
    one, two = Codec().decode(data, scope)
    assert (type(one), type(two)) == (first, second)


def test_a_name_that_now_fits_two_classes_is_not_guessed() -> None:
    first, second = make_twins()
    data = Codec().encode(first(1), where="result", types=TypeScope.of(first))
    with pytest.raises(KitaruSerializationError, match="'Twin' can be more than one class"):
        Codec().decode(data, TypeScope.of(first, second))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement came with 3.12")
def test_a_type_statement_is_followed_even_to_itself() -> None:
    names: dict[str, Any] = {"Item": Item}
    exec("type Tree = Item | list[Tree]\ntype Broken = Missing", names)
    assert TypeScope.of(names["Tree"]).by_class(Item) is not None
    assert TypeScope.of(names["Broken"]).by_class(Item) is None
