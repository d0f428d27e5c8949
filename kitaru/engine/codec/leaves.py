"""The types of the standard library that the journal keeps: how each is written and read."""

import binascii
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec import UNSET, UnsetType

from kitaru.engine.codec.plain import LARGEST_JSON_INT, SMALLEST_JSON_INT
from kitaru.engine.codec.refusal import RefusedError

MAX_INT_DIGITS = 10_000
"""The longest int that is kept; longer ones take quadratic time to read."""

_MOST_INT_BITS = 33_220  # those of 10**10_000
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*")

Tree = Any
"""What the JSON writer takes and the JSON reader gives."""
ToTree = Callable[[Any], Tree]


class Leaf(NamedTuple):
    """How one type is written, ``{"$": [tag, *parts]}``, and read."""

    tag: str
    kind: type
    write: Callable[[Any, ToTree], list[Tree]]
    """The value's parts; nested values go through the given function."""
    read: Callable[[list[Any]], Any]
    """The value of these parts, read already; raises anything when they are malformed."""


def base64_text(data: bytes | bytearray) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def base64_bytes(text: str) -> bytes:
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


def int_text(value: int) -> str:
    if value.bit_length() <= _MOST_INT_BITS:
        # Through Decimal, because str(int) has a limit of its own that belongs to the process.
        text = str(Decimal(value))
        if len(text.removeprefix("-")) <= MAX_INT_DIGITS:
            return text
    raise RefusedError(
        f"an int of more than {MAX_INT_DIGITS:,} digits cannot be kept in the journal; "
        "keep it as bytes or as text"
    )


def int_of_text(text: str) -> int:
    if len(text) > MAX_INT_DIGITS + 1 or not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError("not an int")
    return int(Decimal(text))


def _write_zone(zone: tzinfo | None, tree: ToTree) -> Tree:
    return None if zone is None else tree(zone)


def _checked_zone(zone: Any) -> tzinfo | None:
    if zone is not None and type(zone) not in (timezone, ZoneInfo):
        raise ValueError("not a zone")
    return zone  # type: ignore[no-any-return]


def _write_moment(moment: datetime | time, tree: ToTree) -> list[Tree]:
    text = moment.replace(tzinfo=None, fold=0).isoformat()
    if moment.fold:
        return [text, _write_zone(moment.tzinfo, tree), 1]
    return [text] if moment.tzinfo is None else [text, tree(moment.tzinfo)]


def _read_moment(kind: type, parts: list[Any]) -> datetime | time:
    text, zone, fold = parts + [None, 0][len(parts) - 1 :]
    moment: datetime | time = kind.fromisoformat(text)  # type: ignore[attr-defined]
    return moment.replace(tzinfo=_checked_zone(zone), fold=fold)


def _write_timezone(zone: timezone, tree: ToTree) -> list[Tree]:
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
    return [offset // timedelta(microseconds=1), *map(tree, name)]


def _read_timezone(parts: list[Any]) -> timezone:
    microseconds, *name = parts
    return timezone(timedelta(microseconds=microseconds), *name)


def _write_zone_key(zone: ZoneInfo, tree: ToTree) -> list[Tree]:
    if zone.key is None or not _ZONE_KEY.fullmatch(zone.key):
        raise RefusedError("a ZoneInfo without a key cannot be kept in the journal")
    return [zone.key]


def _read_zone_key(parts: list[Any]) -> ZoneInfo:
    (key,) = parts
    # zoneinfo turns an unknown key into the name of a package of tzdata.
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError("not the key of a zone")
    return ZoneInfo(key)


def _write_str(text: str, tree: ToTree) -> list[Tree]:
    return [base64_text(text.encode("utf-8", "surrogatepass"))]


def _read_only(kind: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    """Reads a type that has one part, a text."""

    def read(parts: list[Any]) -> Any:
        (text,) = parts
        if type(text) is not str:
            raise ValueError("not a text")
        return kind(text)

    return read


def _write_as_text(value: Any, tree: ToTree) -> list[Tree]:
    return [str(value)]


def _write_path(path: Any, tree: ToTree) -> list[Tree]:
    text = str(path)
    # pathlib reads some odd device paths of Windows differently than it writes them.
    if type(path)(text) != path:
        raise RefusedError(f"the path {text!a} does not survive being written as text")
    return [tree(text)]


def _path_reader(kind: type) -> Callable[[list[Any]], Any]:
    def read(parts: list[Any]) -> Any:
        (text,) = parts
        return kind(text)

    return read


def _read_all(kind: type) -> Callable[[list[Any]], Any]:
    """Reads a type whose parts are its arguments."""

    def read(parts: list[Any]) -> Any:
        return kind(*parts)

    return read


def _read_float(parts: list[Any]) -> float:
    (text,) = parts
    return {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[text]


def _read_unset(parts: list[Any]) -> UnsetType:
    () = parts
    return UNSET


LEAVES: tuple[Leaf, ...] = (
    Leaf("int", int, lambda value, tree: [int_text(value)], _read_only(int_of_text)),
    Leaf("float", float, _write_as_text, _read_float),
    Leaf(
        "str",
        str,
        _write_str,
        _read_only(lambda text: base64_bytes(text).decode("utf-8", "surrogatepass")),
    ),
    Leaf("bytes", bytes, lambda value, tree: [base64_text(value)], _read_only(base64_bytes)),
    Leaf(
        "bytearray",
        bytearray,
        lambda value, tree: [base64_text(value)],
        _read_only(lambda text: bytearray(base64_bytes(text))),
    ),
    Leaf(
        "complex",
        complex,
        lambda value, tree: [tree(value.real), tree(value.imag)],
        _read_all(complex),
    ),
    Leaf("decimal", Decimal, _write_as_text, _read_only(Decimal)),
    Leaf("uuid", UUID, _write_as_text, _read_only(UUID)),
    Leaf(
        "range",
        range,
        lambda value, tree: [tree(value.start), tree(value.stop), tree(value.step)],
        _read_all(range),
    ),
    Leaf("datetime", datetime, _write_moment, lambda parts: _read_moment(datetime, parts)),
    Leaf("date", date, lambda value, tree: [value.isoformat()], _read_only(date.fromisoformat)),
    Leaf("time", time, _write_moment, lambda parts: _read_moment(time, parts)),
    Leaf(
        "timedelta",
        timedelta,
        lambda value, tree: [value.days, value.seconds, value.microseconds],
        _read_all(timedelta),
    ),
    Leaf("timezone", timezone, _write_timezone, _read_timezone),
    Leaf("zone", ZoneInfo, _write_zone_key, _read_zone_key),
    Leaf("path", type(Path()), _write_path, _path_reader(Path)),
    Leaf("posix_path", PurePosixPath, _write_path, _path_reader(PurePosixPath)),
    Leaf("windows_path", PureWindowsPath, _write_path, _path_reader(PureWindowsPath)),
    Leaf("unset", UnsetType, lambda value, tree: [], _read_unset),
)


def has_surrogates(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


NEEDS_TAG: dict[type, Callable[[Any], bool]] = {
    str: has_surrogates,
    int: lambda value: not SMALLEST_JSON_INT <= value <= LARGEST_JSON_INT,
    float: lambda value: value - value != 0.0,
}
"""Whether a str, int or float is one that JSON cannot say."""
