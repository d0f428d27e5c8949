"""Objects of users' classes are put together as they were, without running their ``__init__``."""

import dataclasses
import functools
from collections import namedtuple
from collections.abc import Callable
from enum import Enum, Flag, IntFlag
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from kitaru.engine.codec import Codec, TypeScope
from kitaru.errors import KitaruSerializationError

Survives = Callable[..., Any]
T = TypeVar("T")


def recoded(value: Any, written: type, read: type) -> Any:
    """The value as a later version of its class reads it."""
    data = Codec().encode(value, where="value", types=TypeScope.of(written))
    return Codec().decode(data, TypeScope.of(read))


@dataclasses.dataclass
class Counted:
    made: ClassVar[int] = 0
    start: int
    scale: dataclasses.InitVar[int] = 2
    scaled: int = dataclasses.field(init=False)

    def __post_init__(self, scale: int) -> None:
        type(self).made += 1
        self.scaled = self.start * scale
        self.unlisted = [self.scaled]


def test_a_dataclass_is_put_together_without_its_init(survives: Survives) -> None:
    value = Counted(3, scale=5)
    made = Counted.made
    again = survives(value, Counted)
    assert Counted.made == made
    assert (again.scaled, again.unlisted) == (15, [15])


@dataclasses.dataclass(frozen=True)
class Lazy:
    name: str

    @functools.cached_property
    def length(self) -> int:
        return len(self.name)


def test_a_cached_property_does_not_change_the_bytes() -> None:
    value, scope = Lazy("abc"), TypeScope.of(Lazy)
    before = Codec().encode(value, where="value", types=scope)
    assert value.length == 3
    assert Codec().encode(value, where="value", types=scope) == before


@dataclasses.dataclass(slots=True)
class SlotBase:
    a: int


@dataclasses.dataclass(slots=True)
class SlotChild(SlotBase):
    b: Any = None


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


def test_slots_generics_and_inheritance_survive(survives: Survives) -> None:
    survives(SlotChild(1, Box[int](2)), SlotChild, Box[int])


def test_a_field_that_came_later_gets_its_default() -> None:
    def version(fields: list[Any]) -> type:
        cls = dataclasses.make_dataclass("Order", fields)
        cls.__qualname__ = "Order"
        return cls

    old = version([("name", str), ("gone", int)])
    new = version(
        [
            ("name", str),
            ("tags", list[str], dataclasses.field(default_factory=list)),
            ("size", int, dataclasses.field(default=3)),
        ]
    )
    assert dataclasses.asdict(recoded(old("a", 1), old, new)) == {
        "name": "a",
        "tags": [],
        "size": 3,
    }
    stricter = version([("name", str), ("needed", int)])
    with pytest.raises(KitaruSerializationError, match="without its field 'needed'"):
        recoded(old("a", 1), old, stricter)


class Plain(msgspec.Struct, frozen=True, tag="other-name", rename="camel"):
    first_name: str
    rest: Any = msgspec.UNSET


class Checked(msgspec.Struct):
    size: int
    doubled: int = 0

    def __post_init__(self) -> None:
        self.doubled = self.size * 2


def test_structs_survive_whatever_their_post_init_does(survives: Survives) -> None:
    survives([Plain("a"), Plain("b", rest=(1,))], Plain)
    value = Checked(3)
    value.doubled = 1
    assert survives(value, Checked).doubled == 1


class Settings(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    validated: ClassVar[int] = 0
    size: int
    name: str = "x"
    _hidden: int = pydantic.PrivateAttr(default=1)
    _unset: int = pydantic.PrivateAttr()

    @pydantic.field_validator("size")
    @classmethod
    def count(cls, size: int) -> int:
        Settings.validated += 1
        return size


def test_a_pydantic_model_keeps_what_was_set_and_is_not_validated_again(survives: Survives) -> None:
    value = Settings.model_validate({"size": 3, "more": (1, 2)})
    value._hidden = 5
    value.size = "not an int"  # type: ignore[assignment]
    validated = Settings.validated
    again = survives(value, Settings)
    assert Settings.validated == validated
    assert again.model_fields_set == value.model_fields_set
    assert again.model_extra == {"more": (1, 2)}
    assert again._hidden == 5
    assert again.model_dump(exclude_unset=True, warnings=False) == {
        "size": "not an int",
        "more": (1, 2),
    }


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    items: dict[int, tuple[str, ...]]


class Names(pydantic.RootModel[list[str]]):
    pass


class Wrapped(pydantic.BaseModel, Generic[T]):
    item: T


@pydantic.dataclasses.dataclass
class Validated:
    size: int


def test_pydantic_models_of_every_kind_survive(survives: Survives) -> None:
    survives(Frozen(items={1: ("a",)}), Frozen)
    survives(Names(["a"]), Names)
    survives(Wrapped[Frozen](item=Frozen(items={})), Wrapped[Frozen])
    survives(Validated(3), Validated)


def test_a_field_that_a_model_gained_later_gets_its_default() -> None:
    old = pydantic.create_model("Order", name=(str, ...))
    new = pydantic.create_model("Order", name=(str, ...), size=(int, 3))
    again = recoded(old(name="a"), old, new)
    assert again == new(name="a")
    assert again.model_fields_set == {"name"}


@attrs.frozen(cache_hash=True)
class Hashed:
    name: str
    _private: int = 1

    @functools.cached_property
    def length(self) -> int:
        return len(self.name)


@attrs.define(slots=False, unsafe_hash=True, cache_hash=True)
class Loose:
    name: str = attrs.field(converter=str)
    late: int = attrs.field(init=False)


def test_attrs_classes_survive_and_still_hash(survives: Survives) -> None:
    value = Hashed("abc", 2)
    assert (value.length, hash(value)) == (3, hash(Hashed("abc", 2)))
    again = survives(value, Hashed)
    assert (again.length, hash(again)) == (3, hash(value))
    loose = Loose("abc")
    loose.name, loose.late = "as it is", 3
    assert hash(survives(loose, Loose)) == hash(loose)


class Place(NamedTuple):
    name: str
    at: tuple[int, int] = (0, 0)


Old = namedtuple("Old", ["a", "b"])


def test_named_tuples_survive(survives: Survives) -> None:
    survives([Place("a"), Old(1, (2,))], Place, Old)


class Suit(Enum):
    SPADES = 1
    PIKE = 1  # noqa: PIE796
    HEARTS = [1, 2]  # noqa: RUF012


class Mode(IntFlag):
    R = 4
    W = 2


class Bits(Flag):
    A = 1
    B = 2


def test_enums_survive_by_name_and_flags_in_any_combination(survives: Survives) -> None:
    for member in (*Suit, Suit.PIKE, *Mode, Mode(0), Mode(6), Mode(64), Bits(0), Bits.A | Bits.B):
        assert survives(member, type(member)) is member


class Name(str):
    pass


class Amount(int):
    pass


class Row(dict[str, int]):
    pass


class Bag(list[int]):
    def __init__(self) -> None:
        self.label = "a bag"


class Ratio(float):
    pass


class Pile(set[int]):
    pass


class Route(tuple[int, ...]):
    pass


class Blob(bytes):
    pass


def test_subclasses_of_builtins_survive_when_they_are_in_scope(survives: Survives) -> None:
    bag = Bag()
    bag += [1, 2]
    row, pile = Row(a=1), Pile({1, 2})
    values = [
        Name("x\ud800"),
        Amount(2**70),
        row,
        bag,
        Ratio("-0.0"),
        pile,
        Route((1,)),
        Blob(b"x"),
    ]
    again = survives(values, Name, Amount, Row, Bag, Ratio, Pile, Route, Blob)
    assert again[3].label == "a bag"


@pytest.mark.parametrize("value", [Name("x"), Amount(1), Row(a=1), Ratio(1), Route(), Blob()])
def test_a_subclass_of_a_builtin_is_never_turned_into_it(value: Any) -> None:
    with pytest.raises(KitaruSerializationError, match=f"result: .*{type(value).__name__} cannot"):
        Codec().encode(value, where="result", types=TypeScope.of())


@dataclasses.dataclass
class Failure(Exception):
    code: int


def test_a_dataclass_over_another_builtin_is_refused() -> None:
    with pytest.raises(KitaruSerializationError, match="Failure cannot be kept"):
        Codec().encode(Failure(1), where="result", types=TypeScope.of(Failure))
