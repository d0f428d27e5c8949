"""JSON from outside becomes a function's arguments, or an error that names the field."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from kitaru.engine.codec import registry
from kitaru.engine.schema import bind_json, input_schema, plain_json, problem_with, schema_of
from kitaru.errors import KitaruUsageError


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@dataclasses.dataclass
class Item:
    name: str
    parts: "list[Item]" = dataclasses.field(default_factory=list)


class Struct(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(gt=0)]


class Inner(pydantic.BaseModel):
    size: int = pydantic.Field(gt=0)


class Model(pydantic.BaseModel):
    inners: list[Inner]


@attrs.define
class Attrs:
    size: int


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Entry(TypedDict):
    size: int


def takes(annotation: Any) -> Callable[..., None]:
    def function(value: Any) -> None:
        raise NotImplementedError

    function.__annotations__["value"] = annotation
    return function


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (str, "a", "a"),
        (int, 1, 1),
        (int, "1", 1),
        (float, 1, 1.0),
        (bool, True, True),
        (str | int, 1, 1),
        (str | None, None, None),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, [1], [1]),
        (list[int], [1], [1]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 2], {1, 2}),
        (frozenset[str], ["a"], frozenset({"a"})),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (bytes, "AP8=", b"\0\xff"),
        (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (date, "2026-01-02", date(2026, 1, 2)),
        (timedelta, "PT5S", timedelta(seconds=5)),
        (Decimal, "1.10", Decimal("1.10")),
        (UUID, "12345678123456781234567812345678", UUID("12345678123456781234567812345678")),
        (Path, "a/b", Path("a/b")),
        (Path | None, "a", Path("a")),
        (str | UUID, "a", "a"),
        (int | Path, "a/b", Path("a/b")),
        (list[Path], ["a"], [Path("a")]),
        (Literal["a", 1], 1, 1),
        (Colour, "red", Colour.RED),
        (Level, 1, Level.LOW),
        (Item, {"name": "a", "parts": [{"name": "b"}]}, Item("a", [Item("b")])),
        (Struct, {"size": 1}, Struct(1)),
        (Attrs, {"size": 1}, Attrs(1)),
        (Pair, [1], Pair(1)),
        (Entry, {"size": 1}, {"size": 1}),
        (Model, {"inners": [{"size": 1}]}, Model(inners=[Inner(size=1)])),
        (dict[str, list[Inner]], {"a": [{"size": 2}]}, {"a": [Inner(size=2)]}),
    ],
    ids=str,
)
def test_json_is_converted_to_the_annotated_type(
    annotation: Any, given: Any, expected: Any
) -> None:
    bound = bind_json(takes(annotation), {"value": given})
    assert bound == {"value": expected}
    assert type(bound["value"]) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "given", "message"),
    [
        (int, "x", "value: Expected `int`, got `str`"),
        (list[int], [1, "x"], "value[1]: Expected `int`, got `str`"),
        (Item, {"name": "a", "parts": [{"name": 3}]},
         "value.parts[0].name: Expected `str`, got `int`"),
        (Item, {}, "value: Object missing required field `name`"),
        (Struct, {"size": 0}, "value.size: Expected `int` >= 1"),
        (Path, 3, "value: Expected `str`, got `int`"),
        (list[Path], ["a", 3], "value[1]: Expected `str`, got `int`"),
        (Model, {"inners": [{"size": 0}]}, "value: inners.0.size: Input should be greater than 0"),
        (list[Model], [{}], "value[0]: inners: Field required"),
        (Colour, "blue", "value: Invalid enum value 'blue'"),
        (Fraction, "1/2", "value: `Fraction` cannot be given as JSON"),
        (int | Path, [], "value: Expected `int`, got `array`; Expected `str`, got `list`"),
        (datetime, "soon", "value: Invalid RFC3339 encoded datetime"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_named_by_its_path(annotation: Any, given: Any, message: str) -> None:
    with pytest.raises(KitaruUsageError) as caught:
        bind_json(takes(annotation), {"value": given})
    assert str(caught.value) == message


def flow(url: str, depth: int = 2, *, tags: list[str], note=None) -> None:  # type: ignore[no-untyped-def]
    raise NotImplementedError


def test_names_are_checked_and_each_wrong_one_is_told() -> None:
    assert bind_json(flow, {"url": "u", "tags": [], "note": [1]}) == {
        "url": "u",
        "tags": [],
        "note": [1],
    }
    with pytest.raises(KitaruUsageError) as caught:
        bind_json(flow, {"depth": 1, "dept": 2, "note": 1})
    assert str(caught.value) == (
        "there is no argument 'dept'; there are: url, depth, tags, note; "
        "the argument 'url' is missing; the argument 'tags' is missing"
    )


def test_positional_only_parameters_have_no_way_in() -> None:
    def function(a: int, b: int = 2, /, c: int = 3) -> None:
        raise NotImplementedError

    with pytest.raises(
        KitaruUsageError, match="'b' is positional-only and cannot be given by name"
    ):
        bind_json(function, {"b": 1})
    with pytest.raises(KitaruUsageError, match="'a' is missing, and being positional-only"):
        bind_json(function, {"c": 1})


def test_keyword_arguments_take_any_name() -> None:
    def function(a: int, *rest: int, **more: Path) -> None:
        raise NotImplementedError

    assert bind_json(function, {"a": 1, "rest": "x", "b": "y"}) == {
        "a": 1,
        "rest": Path("x"),
        "b": Path("y"),
    }


def test_a_registered_class_is_read_by_its_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    own = registry.TypeRegistry()
    own.register(Fraction, encode=str, decode=Fraction)
    monkeypatch.setattr("kitaru.engine.schema.REGISTRY", own)
    assert bind_json(takes(list[Fraction]), {"value": ["1/2"]}) == {"value": [Fraction(1, 2)]}


def test_the_schema_says_what_a_flow_takes() -> None:
    def function(
        url: str,
        item: Item,
        model: Model,
        path: Path = Path("a"),
        depth: int = 2,
        odd: "int | Path" = 3,
        **more: int,
    ) -> None:
        raise NotImplementedError

    schema = input_schema(function)
    assert schema["type"] == "object"
    assert schema["required"] == ["url", "item", "model"]
    assert schema["additionalProperties"] == {"type": "integer"}
    properties = schema["properties"]
    assert properties["url"] == {"type": "string"}
    assert properties["item"] == {"$ref": "#/$defs/Item"}
    assert properties["path"] == {"type": "string", "format": "path", "default": "a"}
    assert properties["depth"] == {"type": "integer", "default": 2}
    assert properties["odd"] == {"default": 3}
    assert properties["model"]["properties"]["inners"]["items"] == {"$ref": "#/$defs/Inner"}
    assert schema["$defs"].keys() == {"Item", "Inner"}


def test_what_a_wait_records_of_its_schema_stays_what_it_was() -> None:
    recorded = b'{"$ref":"#/$defs/Moment","$defs":{"Moment":{"title":"Moment","type":"object",'
    recorded += b'"properties":{"at":{"type":"string"}},"required":["at"]}}}'
    assert schema_of(Moment, "wait") == recorded
    # An open wait would be asked again, and an answer to it taken for one to other code.
    assert schema_of(datetime, "wait") == b'{"type":"string"}'
    model = {**Model.model_json_schema(), "$defs": Model.model_json_schema()["$defs"]}
    assert msgspec.json.decode(schema_of(Model, "wait")) == model


@dataclasses.dataclass
class Moment:
    at: datetime


def test_what_has_no_schema_may_be_anything() -> None:
    def function(a, b: Fraction, c: Callable[[int], str], d: "Unknown") -> None:  # type: ignore[no-untyped-def, name-defined] # noqa: F821
        raise NotImplementedError

    assert input_schema(function) == {
        "type": "object",
        "properties": {"a": {}, "b": {}, "c": {}, "d": {}},
        "required": ["a", "b", "c", "d"],
        "additionalProperties": False,
    }


def test_a_default_that_json_cannot_say_is_left_out() -> None:
    def function(
        endless: float = float("inf"),
        keys: Any = {(1, 2): 3},  # noqa: B006
        half: str = "\ud800",
        thing: object = print,
        model: Any = Renamed(fullName="a"),  # noqa: B008
        numbers: Any = {1: (2, 3)},  # noqa: B006
    ) -> None:
        raise NotImplementedError

    properties = input_schema(function)["properties"]
    said = {name: each["default"] for name, each in properties.items() if "default" in each}
    assert said == {"model": {"fullName": "a"}, "numbers": {"1": [2, 3]}}


class Renamed(pydantic.BaseModel):
    full_name: str = pydantic.Field(alias="fullName")


def test_a_model_is_given_by_the_names_that_it_takes() -> None:
    given = plain_json([Renamed(fullName="a")])
    assert problem_with({"value": given}, input_schema(takes(list[Renamed])), "inputs") is None
    assert bind_json(takes(list[Renamed]), {"value": given}) == {"value": [Renamed(fullName="a")]}


def test_a_registered_class_is_given_by_its_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    own = registry.TypeRegistry()
    own.register(Fraction, encode=str, decode=Fraction)
    monkeypatch.setattr("kitaru.engine.schema.REGISTRY", own)
    assert plain_json({"parts": [Fraction(1, 2)]}) == {"parts": ["1/2"]}


def first() -> Any:
    class Part(pydantic.BaseModel):
        left: int

    class Item(pydantic.BaseModel):
        part: Part
        items: "list[Item]" = []

    class One(pydantic.BaseModel):
        item: Item

    return One


def second() -> Any:
    class Part(pydantic.BaseModel):
        right: int

    class Item(pydantic.BaseModel):
        part: Part
        items: "list[Item]" = []

    class Two(pydantic.BaseModel):
        item: Item

    return Two


def test_definitions_of_one_name_are_each_models_own() -> None:
    one, two = first(), second()

    def function(a: Any, b: Any, c: Any, d: Any) -> None:
        raise NotImplementedError

    function.__annotations__.update(a=one, b=list[two], c=Item, d=one | None)  # type: ignore[valid-type]
    schema = input_schema(function)
    left: Any = {"item": {"part": {"left": 1}, "items": [{"part": {"left": 2}}]}}
    right: Any = {"item": {"part": {"right": 1}, "items": [{"part": {"right": 2}}]}}
    assert (
        problem_with({"a": left, "b": [right], "c": {"name": "n"}, "d": left}, schema, "in") is None
    )
    told = problem_with({"a": right, "b": [left], "c": {"name": 1}, "d": None}, schema, "in")
    assert told is not None
    assert "in.a.item.part: 'left' is a required property" in told
    assert "in.b[0].item.part: 'right' is a required property" in told
    assert "in.c.name: 1 is not of type 'string'" in told


def test_what_has_no_name_is_not_taken_for_a_keyword_argument() -> None:
    def function(a: int, /, *rest: int, **more: int) -> None:
        raise NotImplementedError

    schema = input_schema(function)
    assert problem_with({"b": 1}, schema, "inputs") is None
    told = problem_with({"a": 1, "rest": 2}, schema, "inputs")
    assert told == (
        "inputs.a: it has no name to be given by; inputs.rest: it has no name to be given by"
    )


@pytest.mark.parametrize(
    ("annotation", "given", "told"),
    [
        (Item | None, {"name": 1}, "in.value.name: 1 is not of type 'string'"),
        (int | str, [], "in.value: [] is not valid under any of the given schemas"),
        (list[int], ["x"] * 50, "in.value[9]: 'x' is not of type 'integer'; and more"),
        (datetime, "soon", "in.value: 'soon' is not a 'date-time'"),
        (bytes, "%", "in.value: '%' is not base64"),
    ],
)
def test_a_problem_is_told_at_the_field_that_has_it(annotation: Any, given: Any, told: str) -> None:
    found = problem_with({"value": given}, input_schema(takes(annotation)), "in")
    assert found is not None
    assert found.endswith(told)


def test_a_problem_with_a_huge_value_is_told_in_few_words() -> None:
    found = problem_with({"value": "x" * 10**6}, input_schema(takes(int)), "inputs")
    assert found is not None
    assert found.startswith("inputs.value: 'xxx")
    assert found.endswith("' is not of type 'integer'")
    assert len(found) < 400
