"""The standard library's types at their edges."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kitaru.engine.codec import MAX_INT_DIGITS, Codec, TypeScope
from kitaru.errors import KitaruSerializationError

Survives = Callable[..., Any]
BERLIN = ZoneInfo("Europe/Berlin")


EDGES = [2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**200, -(2**63), -(2**63) - 1]
FIRST_TOO_LONG = 10**MAX_INT_DIGITS


def test_ints_of_any_size_survive(survives: Survives) -> None:
    values = [*EDGES, FIRST_TOO_LONG - 1, -FIRST_TOO_LONG + 1]
    assert survives(values) == values


def test_an_int_of_too_many_digits_is_refused() -> None:
    for value in (FIRST_TOO_LONG, -FIRST_TOO_LONG, 1 << 40_000):
        with pytest.raises(
            KitaruSerializationError, match=r"result\[0\]: an int of more than 10,000"
        ):
            Codec().encode([value], where="result", types=TypeScope.of())


@pytest.mark.parametrize(
    "text", ["12345" * 2001, "1e9", "1e999999999", " 1", "1_0", "٣", "", "-", "0x1"]
)
def test_what_only_looks_like_an_int_is_not_read(text: str) -> None:
    data = ('{"$":["int","' + text + '"]}').encode()
    with pytest.raises(KitaruSerializationError):
        Codec().decode(data, TypeScope.of())


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308, 1e16]
)
def test_floats_survive_to_the_bit(survives: Survives, value: float) -> None:
    survives([value, complex(value, value)])


@pytest.mark.parametrize(
    "text", ["\0", "\ud800", "\ud83d\ude00", "😀", "a\udcffb", "\x1b]0;x\x07", "\u2028", "$", '"$"']
)
def test_text_of_any_kind_survives(survives: Survives, text: str) -> None:
    survives(text)
    survives({text: [text, {text}]})


@pytest.mark.parametrize(
    "value",
    [
        datetime.min,
        datetime.max,
        datetime(1, 1, 1, tzinfo=BERLIN),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=BERLIN),
        datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN),
        datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN, fold=1),
        datetime(2025, 10, 26, 2, 30, fold=1),
        datetime(2025, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=-5, microseconds=1), "odd")),
        time(1, 2, 3, 4, fold=1),
        time(23, 59, tzinfo=UTC),
        date.min,
        timedelta.min,
        timedelta.max,
        UTC,
        timezone(timedelta(0), "UTC"),
        BERLIN,
    ],
)
def test_moments_keep_zone_and_fold(survives: Survives, value: Any) -> None:
    again = survives(value)
    assert getattr(again, "fold", 0) == getattr(value, "fold", 0)


def test_a_moment_in_a_zone_keeps_its_offset_on_both_sides_of_the_fold(survives: Survives) -> None:
    first = datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN)
    assert survives(first).utcoffset() == timedelta(hours=2)
    assert survives(first.replace(fold=1)).utcoffset() == timedelta(hours=1)


def test_a_zone_without_a_key_is_refused() -> None:
    with Path("/usr/share/zoneinfo/UTC").open("rb") as file:
        zone = ZoneInfo.from_file(file)
    with pytest.raises(KitaruSerializationError, match="ZoneInfo without a key"):
        Codec().encode(zone, where="result", types=TypeScope.of())


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "a.b", "", "No/Such_Zone"])
def test_a_zone_is_read_by_its_key_only(key: str) -> None:
    with pytest.raises(KitaruSerializationError):
        Codec().decode(('{"$":["zone","' + key + '"]}').encode(), TypeScope.of())


@pytest.mark.parametrize("text", ["NaN", "-NaN", "sNaN123", "-0", "1.10", "1E+999999", "Infinity"])
def test_decimals_survive_digit_by_digit(survives: Survives, text: str) -> None:
    survives(Decimal(text))


@pytest.mark.parametrize(
    "path",
    [
        Path("a/b"), Path(), Path("/"), Path("a\udcff"), PurePosixPath("//a"),
        PureWindowsPath("c:\\x\\y"), PureWindowsPath("c:x"), PureWindowsPath("\\\\host\\share\\f"),
    ],
)  # fmt: skip
def test_paths_survive(survives: Survives, path: Any) -> None:
    survives(path)


def test_a_path_that_pathlib_itself_changes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = PureWindowsPath("c:/x")
    monkeypatch.setattr(PureWindowsPath, "__eq__", lambda self, other: False)
    with pytest.raises(KitaruSerializationError, match="does not survive being written as text"):
        Codec().encode([path], where="result", types=TypeScope.of())


def test_bytearrays_and_ranges_survive(survives: Survives) -> None:
    survives([bytearray(b"\0\1"), range(3), range(10, 2**70, 3)])
