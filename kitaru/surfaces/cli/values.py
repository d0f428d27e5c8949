"""Recorded values as short Python texts."""

import pprint
from typing import Any

import msgspec

from kitaru.domain.values import StoredValue
from kitaru.engine.codec import Codec, TypeScope
from kitaru.errors import KitaruSerializationError
from kitaru.surfaces.cli.text import escaped, size_text

PREVIEW = 60


def preview(value: StoredValue | None, limit: int = PREVIEW) -> str:
    """The value in one line of at most `limit` characters."""
    if value is None:
        return ""
    if value.blob is not None:
        return f"<{size_text(value.size)}>"
    return shortened(one_line(decoded(bytes(value.json))), limit)


def arguments_preview(value: StoredValue | None, limit: int = PREVIEW) -> str:
    """A call's arguments as they stand in its call."""
    if value is None or value.blob is not None:
        return preview(value, limit)
    arguments = decoded(bytes(value.json))
    if not isinstance(arguments, dict):
        return shortened(one_line(arguments), limit)
    surplus = arguments.get("*", [])
    positional = [one_line(item) for item in surplus] if isinstance(surplus, list) else []
    named = [f"{name}={one_line(item)}" for name, item in arguments.items() if name != "*"]
    return shortened(escaped(", ".join([*named, *positional])), limit)


def whole(data: bytes, width: int = 100) -> str:
    """The value in full, over as many lines as it takes."""
    return whole_value(decoded(data), width)


def whole_value(value: object, width: int = 100) -> str:
    """A value in full: a text as it is, anything else as Python writes it."""
    if isinstance(value, str):
        return escaped(value, lines=True)
    return escaped(pprint.pformat(value, width=width, sort_dicts=False), lines=True)


def decoded(data: bytes) -> Any:
    """What the codec's JSON stands for; the JSON itself where it cannot be read."""
    try:
        return Codec().decode(data, TypeScope.of())
    except KitaruSerializationError:
        return data.decode("utf-8", "backslashreplace")


def one_line(value: object) -> str:
    """The value as Python writes it."""
    return escaped(repr(value))


def one_line_json(value: object) -> str:
    """The value as JSON."""
    return escaped(msgspec.json.encode(value).decode())


def shortened(text: str, limit: int) -> str:
    """The text, cut with an ellipsis where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
