"""What a flow takes is said in words that people read, whatever its annotations are."""

import datetime as dt
import enum
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kitaru.engine.schema import input_schema
from kitaru.surfaces.cli.schema_text import ANYTHING, inputs_of, type_text


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Order:
    total: int


class Model(BaseModel):
    name: str


HINTS: list[tuple[Any, str]] = [
    (str, "string"),
    (int, "integer"),
    (float, "number"),
    (bool, "boolean"),
    (None, "null"),
    (bytes, "string (base64)"),
    (Decimal, "string (decimal)"),
    (dt.date, "string (date)"),
    (Path, "string (path)"),
    (str | None, "string or null"),
    (list[int], "list of integer"),
    (list[Any], "list"),
    (list, "list"),
    (tuple[int, str], "[integer, string]"),
    (dict[str, int], "object of integer"),
    (dict[str, Any], "object"),
    (list[Order], "list of Order"),
    (Order, "Order"),
    (Model, "Model"),
    (Colour, '"blue" or "red"'),
    (Literal["a", 1], '1 or "a"'),
    (Annotated[int, msgspec.Meta(ge=1)], "integer"),
    (Any, ANYTHING),
    (object, ANYTHING),
]


@pytest.mark.parametrize(("hint", "text"), HINTS, ids=lambda each: str(each))
def test_an_annotation_is_said_in_short(hint: Any, text: str) -> None:
    def flow(value: Any) -> None: ...

    flow.__annotations__["value"] = hint
    [(name, said, default)] = inputs_of(input_schema(flow))
    assert (name, set(said.split(" or ")), default) == ("value", set(text.split(" or ")), "")


def test_defaults_are_json_and_what_has_no_name_is_left_out() -> None:
    def flow(at: int, /, *more: str, url: str = "a", day: Any = None, **rest: int) -> None: ...

    assert inputs_of(input_schema(flow)) == [
        ("url", "string", '"a"'),
        ("day", ANYTHING, "null"),
        ("**", "integer", ""),
    ]


SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "anyOf", "enum", "items", "prefixItems", "$ref", "format"]),
            inner,
            max_size=3,
        )
    ),
)


@given(schema=SCHEMAS)
def test_whatever_a_schema_says_there_is_a_text(schema: Any) -> None:
    assert type_text(schema, {"a": schema})
