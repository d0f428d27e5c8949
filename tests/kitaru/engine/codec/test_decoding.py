"""Bytes from anywhere are data: malformed ones are one typed error, and none ever runs code."""

import base64
import dataclasses
import json
import pickle
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.engine.codec import Codec, RecordedObject, TypeScope
from kitaru.engine.codec.decoding import CLASS_TAGS, READERS
from kitaru.errors import KitaruSerializationError


@dataclasses.dataclass(frozen=True)
class Item:
    name: Any


class Colour(Enum):
    RED = 1


SCOPE = TypeScope.of(Item, Colour)
TAGS = sorted({*READERS, *CLASS_TAGS})


def decoded_or_refused(data: bytes) -> Any:
    try:
        return Codec().decode(data, SCOPE)
    except KitaruSerializationError:
        return None


@given(st.binary())
def test_arbitrary_bytes_are_a_value_or_a_typed_error(data: bytes) -> None:
    decoded_or_refused(data)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.sampled_from(["Item", "Colour", "RED", "2020-01-01", "UTC", "<i4", "AAAAAA==", "nan"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["$", "name", "x"]), inner, max_size=2)
    | st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=4)).map(
        lambda body: {"$": [body[0], *body[1]]}
    ),
    max_leaves=12,
)  # fmt: skip


@given(trees)
def test_arbitrary_tags_are_a_value_or_a_typed_error(tree: Any) -> None:
    decoded_or_refused(msgspec.json.encode(tree))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff", b'"\xff"', b"nul", b"[1,]", b"[" * 100_000, b"1e999", b'"\\ud800"',
        b'{"$":1}', b'{"$":[]}', b'{"$":["no-such-tag",1]}', b'{"$":["tuple"],"more":1}',
        b'{"$":[["tuple"]]}', b'{"$":["object"]}', b'{"$":["object",1,{}]}', b'{"$":{}}',
        b'{"$":["object","Item",3]}', b'{"$":["object","Item",{}]}',
        b'{"$":["enum","Colour","_x"]}',
        b'{"$":["enum","Colour",1]}', b'{"$":["enum","Item","RED"]}', b'{"$":["set",[]]}',
        b'{"$":["dict",[[],1]]}', b'{"$":["bytes","!"]}', b'{"$":["float","1"]}',
        b'{"$":["datetime","now"]}', b'{"$":["datetime","2020-01-01",3]}', b'{"$":["uuid",5]}',
        b'{"$":["complex","1+2j"]}x', b'{"$":["timedelta",1e300]}', b'{"$":["str","7aCA7Q=="]}',
    ],
    ids=lambda data: repr(data)[:40],
)  # fmt: skip
def test_malformed_bytes_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(
        KitaruSerializationError, match=r"not a value|cannot be made of|another kind of class"
    ):
        Codec().decode(data, SCOPE)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def planted(canary: Path) -> list[Any]:
    """What has made other decoders run code."""
    pickled = base64.b64encode(pickle.dumps(Canary(canary))).decode()
    touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return [
        pickled,
        touch,
        "antigravity",
        "antigravity:Item",
        "os.system",
        "os:system",
        "builtins.eval",
        "subprocess:Popen",
        {"py/object": "subprocess.Popen", "args": ["touch", str(canary)]},
        {"py/reduce": [{"py/function": "builtins.eval"}, [touch]]},
        {"__reduce__": ["eval", touch], "__class__": "os.system", "__init__": touch},
        {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": touch}},
        f"!!python/object/apply:os.system ['touch {canary}']",
        ["os", "system", [f"touch {canary}"]],
    ]


@pytest.mark.parametrize("tag", [*TAGS, "pickle", "py/object", "eval", "__reduce__"])
def test_no_planted_payload_ever_runs(tag: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    loaded = set(sys.modules)
    payloads = planted(canary)
    for first in payloads:
        for parts in ([first], [first, {"x": 1}], ["Item", {"name": first}], [first, *payloads]):
            decoded_or_refused(json.dumps({"$": [tag, *parts]}).encode())
    assert not canary.exists()
    assert set(sys.modules) == loaded


def test_an_unknown_class_is_never_looked_up() -> None:
    loaded = set(sys.modules)
    value = Codec().decode(b'{"$":["object","antigravity:Item",{"__class__":1}]}', SCOPE)
    assert value == RecordedObject("antigravity:Item", {"__class__": 1})
    assert set(sys.modules) == loaded


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"$":["object","shop:Item",{}]}', "its class 'shop:Item' is not known here"),
        (b'[{"$":["tuple",{"$":["enum","Colours","RED"]}]}]', "its class 'Colours' is not known"),
        (b'{"$":["object","Item",{}]}', "'Item' cannot be made of what is recorded"),
    ],
)
def test_code_that_was_written_for_a_class_is_given_nothing_else(data: bytes, problem: str) -> None:
    with pytest.raises(KitaruSerializationError, match=problem):
        Codec().decode(data, SCOPE, known_only=True)


def test_fields_that_are_no_longer_there_do_not_change_the_object() -> None:
    value = Codec().decode(b'{"$":["object","Item",{"name":1,"__class__":2}]}', SCOPE)
    assert type(value) is Item
    assert value.name == 1
