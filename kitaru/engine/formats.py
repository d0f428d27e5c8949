"""Formats of text in JSON schemas: said where msgspec does not say them, and checked."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from jsonschema import FormatChecker

Schema = dict[str, Any]

_SAID = {inspect.DateTimeType: "date-time", inspect.TimeType: "time"}
"""What msgspec leaves out, as its own values may be without a zone."""
_ARRAYS = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.CollectionType,
    inspect.VarTupleType,
)
_CLASSES = (
    inspect.StructType,
    inspect.DataclassType,
    inspect.TypedDictType,
    inspect.NamedTupleType,
)


def say_times(hints: Sequence[Any], schemas: Sequence[Schema], definitions: Schema) -> None:
    """Adds to these schemas, and to what they refer to, where a text is a time."""
    infos = inspect.multi_type_info(hints)
    for info, schema in zip(infos, schemas, strict=True):
        _say(info, schema)
    for known in _classes(infos):
        of_it = [each for each in definitions.values() if each.get("title") == known.cls.__name__]
        if len(of_it) == 1:
            _say_fields(known, of_it[0])


def _say(info: Any, schema: Schema) -> None:
    """What one hint says of one schema; not what it refers to."""
    match info:
        case inspect.Metadata(type=inner):
            _say(inner, schema)
        case inspect.DateTimeType() | inspect.TimeType():
            for text in _leaves(schema, "string"):
                text.setdefault("format", _SAID[type(info)])
        case inspect.UnionType(types=members):
            for member in members:
                _say(member, schema)
        case inspect.DictType(value_type=value):
            for leaf in _leaves(schema, "object"):
                _say(value, leaf.get("additionalProperties", {}))
        case inspect.TupleType(item_types=items):
            for leaf in _leaves(schema, "array"):
                for item, place in zip(items, leaf.get("prefixItems", ()), strict=False):
                    _say(item, place)
        case _ if isinstance(info, _ARRAYS):
            for leaf in _leaves(schema, "array"):
                _say(info.item_type, leaf.get("items", {}))
        case _:
            pass


def _say_fields(info: Any, schema: Schema) -> None:
    properties, items = schema.get("properties", {}), schema.get("prefixItems", [])
    for number, field in enumerate(info.fields):
        if field.encode_name in properties:
            _say(field.type, properties[field.encode_name])
        elif number < len(items):
            _say(field.type, items[number])


def _leaves(schema: Any, kind: str) -> Iterator[Schema]:
    """The member of a schema that is of this JSON type: of a union there is one at most."""
    if not isinstance(schema, dict):
        return
    for member in schema.get("anyOf", ()):
        yield from _leaves(member, kind)
    if schema.get("type") == kind and "enum" not in schema:
        yield schema


def _classes(infos: Sequence[Any]) -> Iterator[Any]:
    """Every class with fields that is somewhere in these hints, once."""
    seen: set[int] = set()
    waiting = list(infos)
    while waiting:
        info = waiting.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        if isinstance(info, _CLASSES):
            yield info
        waiting.extend(_within(info))


def _within(info: Any) -> Iterator[Any]:
    for name in ("type", "item_type", "key_type", "value_type"):
        if isinstance(inner := getattr(info, name, None), inspect.Type):
            yield inner
    yield from getattr(info, "item_types", ())
    yield from getattr(info, "types", ())
    for field in getattr(info, "fields", ()):
        yield field.type


# checking

_DURATION = re.compile(
    r"[-+]?(\d+ ?(d|days?),? ?)?\d+:\d+(:\d+(\.\d+)?)?|[-+]?\d+ ?(d|days?)", re.IGNORECASE
)


def _converts(text: str, kind: Any) -> bool:
    try:
        msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _is_instant(text: str) -> bool:
    return _converts(text, datetime) or _parses(text, datetime.fromisoformat)


def _is_date(text: str) -> bool:
    return _converts(text, date) or _is_instant(text)


def _is_time(text: str) -> bool:
    return _converts(text, time) or _parses(text, time.fromisoformat)


def _is_duration(text: str) -> bool:
    return _converts(text, timedelta) or _DURATION.fullmatch(text) is not None


def _parses(text: str, parse: Callable[[str], object]) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


FORMATS: Mapping[str, Callable[[str], bool]] = {
    "date-time": _is_instant,
    "date": _is_date,
    "time": _is_time,
    "duration": _is_duration,
    "uuid": lambda text: _parses(text, UUID),
    "decimal": lambda text: _converts(text, Decimal),
}
"""Whether a text is of a format. What msgspec or pydantic takes for it, each in its own way, is."""


@functools.cache
def checker() -> "FormatChecker":
    """Checks the formats that are known here, and lets the others be anything."""
    from jsonschema import FormatChecker

    made = FormatChecker(formats=())
    for name, holds in FORMATS.items():
        made.checks(name)(_text_only(holds))
    return made


def _text_only(holds: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or holds(value)


def is_base64(text: str) -> bool:
    """Whether bytes can be read from a text."""
    return _converts(text, bytes)
