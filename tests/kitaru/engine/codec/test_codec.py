"""Whatever is of the closed set comes back by value and exact type, and has one form in bytes."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.engine.codec import Codec, TypeScope, digest

Survives = Callable[..., Any]


class Paint(Enum):
    RED = "red"
    BLUE = (0, 0, 255)


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"
    NO = "no"


class Right(Flag):
    READ = 1
    WRITE = 2
    RUN = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float


@dataclasses.dataclass(kw_only=True)
class Basket:
    name: str
    items: list[Any]
    total: int = dataclasses.field(init=False, default=7)


class Node(msgspec.Struct):
    name: str
    child: Any


class Pair(NamedTuple):
    left: Any
    right: Any


class Model(pydantic.BaseModel):
    name: str
    parts: Any = None


@attrs.frozen
class Leaf:
    name: str
    extra: Any = None


@attrs.define(slots=False)
class Branch:
    leaves: Any


CLASSES = (Paint, Level, Word, Right, Point, Basket, Node, Pair, Model, Leaf, Branch)
SCOPE = TypeScope.of(*CLASSES)

any_text = st.text(st.characters(), max_size=20) | st.text(
    st.characters(categories=["Cs", "Cc", "L"]), max_size=5
)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
zones: st.SearchStrategy[tzinfo] = st.one_of(
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")]),
    st.builds(timezone, offsets),
    st.builds(timezone, offsets, st.text(st.characters(), max_size=5)),
)
folded = st.booleans()
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes() | st.sampled_from([datetime.min, datetime.max]),
    st.none() | zones,
    folded,
)
times = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.times(),
    st.none() | zones,
    folded,
)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("$")
)
hashable_leaves = st.one_of(
    plain,
    st.integers(min_value=-(10**40), max_value=10**40),
    any_text,
    st.binary(max_size=20),
    st.complex_numbers(),
    st.decimals(allow_nan=False) | st.decimals(allow_nan=False, places=3),
    st.uuids(),
    st.dates(),
    st.timedeltas(),
    moments,
    times,
    zones,
    st.builds(range, st.integers(), st.integers(), st.integers(min_value=1)),
    st.builds(Path, st.text(st.characters(exclude_characters="\0"), max_size=10)),
    st.builds(PurePosixPath, st.text(max_size=10)),
    st.builds(PureWindowsPath, st.text(st.sampled_from("aBc: \\/"), max_size=10)).filter(
        lambda path: PureWindowsPath(str(path)) == path
    ),
    st.sampled_from([*Paint, *Level, *Word, *Right, Right(0), Right.READ | Right.RUN]),
    st.just(msgspec.UNSET),
    st.builds(Point, st.integers(), st.floats(allow_nan=False)),
)
leaves = hashable_leaves | st.binary(max_size=5).map(bytearray) | st.decimals()


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.just("$"), inner, max_size=4),
        st.dictionaries(hashable_leaves, inner, max_size=4),
        st.sets(hashable_leaves, max_size=4),
        st.frozensets(hashable_leaves, max_size=4),
        st.builds(Basket, name=any_text, items=st.lists(inner, max_size=3)),
        st.builds(Node, any_text, inner),
        st.builds(Pair, inner, inner),
        st.builds(Model, name=st.text(max_size=5), parts=inner),
        st.builds(Leaf, any_text, inner),
        st.builds(Branch, inner),
    )


values = st.recursive(leaves, containers, max_leaves=15)


@given(values)
def test_every_value_of_the_closed_set_survives(survives: Survives, value: Any) -> None:
    survives(value, *CLASSES)


@given(st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_plain_json_survives(survives: Survives, value: Any) -> None:
    survives(value)


@given(st.from_type(list[Point]) | st.from_type(dict[Word, Right | Level]) | st.from_type(Paint))
def test_what_a_type_allows_survives(survives: Survives, value: Any) -> None:
    survives(value, *CLASSES)


@given(st.permutations([*"abcdefgh", 1, 2.5, None, (1, 2), b"x"]))
def test_a_set_has_the_same_bytes_whatever_the_order_it_was_filled_in(members: list[Any]) -> None:
    encode = Codec().encode
    in_another_order = set(sorted(members, key=repr))  # noqa: C414
    assert encode(set(members), where="value", types=SCOPE) == encode(
        in_another_order, where="value", types=SCOPE
    )


CANONICAL = """
import dataclasses, datetime, enum, sys
from kitaru.engine.codec import Codec, TypeScope, digest

@dataclasses.dataclass(frozen=True)
class Tag:
    name: str
    more: frozenset[str]

class Kind(enum.Flag):
    A = 1
    B = 2

words = ["alpha", "beta", "gamma", "delta", "\\ud800"]
value = {
    "tags": {Tag(word, frozenset(words)) for word in words},
    (1, "a"): [set(words), frozenset({1, 2.5, None, b"x", Kind.A | Kind.B})],
    "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
}
data = Codec().encode(value, where="value", types=TypeScope.of(Tag, Kind))
assert Codec().decode(data, TypeScope.of(Tag, Kind)) == value
print(digest(data))
"""


def test_equal_values_have_the_same_bytes_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", CANONICAL],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2", "77", "4711")
    }
    assert len(digests) == 1


def test_the_bytes_of_each_kind_stay_what_they_are() -> None:
    value = {
        "plain": [1, 1.5, "ä", None, True],
        "tuple": (1,),
        "set": {"b", "a"},
        "bytes": b"\x00\xff",
        "int": 2**64,
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "dollar": {"$": 1},
        "keys": {1: 2},
        "object": Point(1, -0.0),
        "enum": Paint.RED,
    }
    assert Codec().encode(value, where="value", types=SCOPE).decode() == (
        '{"plain":[1,1.5,"ä",null,true],'
        '"tuple":{"$":["tuple",1]},'
        '"set":{"$":["set","a","b"]},'
        '"bytes":{"$":["bytes","AP8="]},'
        '"int":{"$":["int","18446744073709551616"]},'
        '"when":{"$":["datetime","2026-01-02T03:04:05",{"$":["timezone",0]}]},'
        '"dollar":{"$":["dict",["$",1]]},'
        '"keys":{"$":["dict",[1,2]]},'
        '"object":{"$":["object","Point",{"x":1,"y":-0.0}]},'
        '"enum":{"$":["enum","Paint","RED"]}}'
    )


@given(values)
def test_the_body_gets_live_what_a_replay_gives_it(value: Any) -> None:
    codec = Codec()
    data, copy = codec.roundtrip(value, where="value", types=SCOPE)
    assert codec.encode(copy, where="value", types=SCOPE) == data
    assert type(copy) is type(value)


def test_a_live_value_is_shared_with_nobody() -> None:
    value = {"items": [1, 2]}
    _, copy = Codec().roundtrip(value, where="value", types=SCOPE)
    value["items"].append(3)
    assert copy == {"items": [1, 2]}


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "text", b"bytes", datetime.min])
def test_what_cannot_change_is_handed_on_as_it_is(value: Any) -> None:
    assert Codec().roundtrip(value, where="value", types=SCOPE)[1] is value


def test_raw_json_of_an_event_is_decoded() -> None:
    assert Codec().decode(msgspec.Raw(b'{"$":["tuple",1,2]}'), SCOPE) == (1, 2)


def test_the_digest_is_sha_256() -> None:
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Codec().digest(b"") == digest(b"")


def test_importing_the_codec_imports_nothing_heavy() -> None:
    code = (
        "import sys, kitaru.engine.codec;"
        "print([name for name in ('asyncio', 'pydantic', 'numpy', 'attr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
