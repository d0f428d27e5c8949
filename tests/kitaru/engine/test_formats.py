"""A schema says where a text is a time, and what takes no such text is told before it is given."""

import dataclasses
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.engine import formats
from kitaru.engine.schema import converted, input_schema, problem_with


class Tagged(msgspec.Struct, tag=True):
    at: datetime
    next: "Tagged | Other | None" = None


class Other(msgspec.Struct, tag=True):
    at: str


@dataclasses.dataclass
class Span:
    begin: datetime
    end: datetime | None = None
    name: str = ""


class Entry(TypedDict):
    at: time


class Pair(NamedTuple):
    name: str
    at: datetime


class Model(pydantic.BaseModel):
    at: datetime
    day: date
    hour: time
    long: timedelta
    key: UUID


def schema_for(annotation: Any) -> dict[str, Any]:
    def function(value: Any) -> None:
        raise NotImplementedError

    function.__annotations__["value"] = annotation
    return input_schema(function)


def problem(annotation: Any, value: Any) -> str | None:
    return problem_with({"value": value}, schema_for(annotation), "in")


AT = "2024-02-29T12:00:00Z"


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (datetime, AT, "x"),
        (datetime | None, AT, "x"),
        (datetime | int | None, 7, "x"),
        (Annotated[datetime, msgspec.Meta(description="when")], AT, "x"),
        (list[datetime], [AT], ["x"]),
        (list[time] | None, ["12:00:00"], ["x"]),
        (set[datetime], [AT], ["x"]),
        (tuple[int, datetime], [1, AT], [1, "x"]),
        (tuple[datetime, ...], [AT], ["x"]),
        (dict[str, datetime], {"a": AT}, {"a": "x"}),
        (dict[str, list[datetime | None]], {"a": [None, AT]}, {"a": ["x"]}),
        (Span, {"begin": AT, "name": "x"}, {"begin": "x"}),
        (Span, {"begin": AT, "end": None}, {"begin": AT, "end": "x"}),
        (list[Span], [{"begin": AT}], [{"begin": "x"}]),
        (Entry, {"at": "12:00:00"}, {"at": "x"}),
        (Pair, ["x", AT], ["x", "x"]),
        (Tagged, {"type": "Tagged", "at": AT}, {"type": "Tagged", "at": "x"}),
        (Tagged | Other, {"type": "Other", "at": "x"}, {"type": "Tagged", "at": "x"}),
        (date, "2024-02-29", "2024-02-30"),
        (timedelta, "PT1H", "x"),
        (UUID, "12345678-1234-5678-1234-567812345678", "x"),
        (Decimal, "1.5", "x"),
    ],
)
def test_times_are_known_wherever_they_are(annotation: Any, good: Any, bad: Any) -> None:
    assert problem(annotation, good) is None
    converted(good, annotation, "value")
    assert problem(annotation, bad) is not None


def same_with_time() -> Any:
    @dataclasses.dataclass
    class Same:
        at: datetime

    return Same


def same_with_text() -> Any:
    @dataclasses.dataclass
    class Same:
        at: str

    return Same


def test_two_classes_of_one_name_are_left_as_they_are() -> None:
    def function(one: Any, two: Any) -> None:
        raise NotImplementedError

    function.__annotations__.update(one=same_with_time(), two=same_with_text())
    schema = input_schema(function)
    assert problem_with({"one": {"at": AT}, "two": {"at": "x"}}, schema, "in") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"at": "2024-01-01 10:00", "day": "2024-01-01T00:00:00", "hour": "10:00", "long": "1 day"},
        {"at": "2024-01-01", "day": "1704067200", "hour": "10:00", "long": "1 days, 10:00:00.5"},
        {"at": "1704067200", "day": "2024-01-01", "hour": "10:00:00Z", "long": "-10:00"},
        {"at": "2024-01-01T10:00+01:00", "day": "2024-01-01", "hour": "10:00", "long": "-P1D"},
    ],
)
def test_what_a_model_takes_is_not_refused(fields: dict[str, str]) -> None:
    value = {**fields, "key": "{12345678-1234-5678-1234-567812345678}"}
    Model.model_validate(value)
    assert problem(Model, value) is None


@given(st.text() | st.from_regex(r"[-+]?[0-9:.TPDHMSZ ]+", fullmatch=True))
@settings(deadline=None)
def test_every_text_is_of_a_format_or_not(text: str) -> None:
    assert {holds(text) for holds in formats.FORMATS.values()} <= {True, False}
    assert formats.is_base64(text) in (True, False)


@given(st.datetimes() | st.times() | st.dates() | st.timedeltas() | st.uuids() | st.binary())
@settings(deadline=None)
def test_what_is_written_is_of_its_format(value: Any) -> None:
    text = msgspec.to_builtins(value)
    assert problem(type(value), text) is None
