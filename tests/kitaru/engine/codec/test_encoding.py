"""What cannot be kept is refused at its place, with what to do about it."""

import dataclasses
import io
import re
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest

from kitaru.engine.codec import MAX_DEPTH, Codec, RecordedObject, TypeRegistry, TypeScope
from kitaru.errors import KitaruSerializationError

Survives = Callable[..., Any]
NOTHING = TypeScope.of()


class Client:
    pass


@dataclasses.dataclass(frozen=True)
class Item:
    client: Any = None


def refusal(value: Any, *annotations: Any) -> KitaruSerializationError:
    with pytest.raises(KitaruSerializationError) as caught:
        Codec().encode(value, where="result", types=TypeScope.of(*annotations))
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def test_the_message_names_the_place_the_class_and_the_remedy() -> None:
    error = refusal({"items": [1, 2, 3, Item(Client())]}, Item)
    assert str(error) == (
        f"result.items[3].client: {__name__}.Client cannot be kept in the journal; "
        "kitaru.register_type(Client, encode=..., decode=...), or return plain data"
    )


def test_a_class_with_fields_is_told_to_be_annotated() -> None:
    assert str(refusal((Item(),))) == (
        f"result[0]: {__name__}.Item cannot be kept in the journal; "
        "annotate the function with Item, or kitaru.register_type(Item), or return plain data"
    )


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Client(), "result"),
        ([[Client()]], "result[0][0]"),
        ({"a": ({"b c": Client()},)}, "result.a[0]['b c']"),
        ({1: {b"k": Client()}}, "result[1][b'k']"),
        ({Item(): 1}, "result.keys()[0]"),
        ({(1, 2): Client()}, "result[tuple]"),
        ({"$": Client()}, "result['$']"),
        ({Item()}, "result{member}"),
        ([frozenset({(Item(),)})], "result[0]{member}[0]"),
    ],
)
def test_the_path_leads_to_the_value(value: Any, path: str) -> None:
    assert refusal(value).path == path


@pytest.mark.parametrize(
    "value",
    [
        object(), Client, len, lambda: None, threading.Lock(), io.StringIO(), iter([]), Ellipsis,
        iter(()), ValueError("x"), memoryview(b""), slice(1), deque(), NotImplemented,
        OrderedDict(a=1), defaultdict(list), re.compile("x"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_outside_the_closed_set_is_refused(value: Any) -> None:
    assert "cannot be kept in the journal" in str(refusal([value]))
    # Annotating with it does not help either, so that nothing of it gets lost.
    assert "cannot be kept in the journal" in str(refusal([value], type(value)))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    assert refusal(loop).path == "result[1].again"
    item = Item()
    object.__setattr__(item, "client", (item,))
    assert refusal(item, Item).path == "result.client[0]"
    wide: list[Any] = []
    wide += [wide, wide]
    assert "contains itself" in str(refusal(wide))


def test_a_value_that_is_shared_is_not_a_loop(survives: Survives) -> None:
    shared = (1, [2])
    survives([shared, shared, {"a": shared}])


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "pairs": lambda value: {1: value},
    "frozenset": lambda value: frozenset({value}),
    "object": Item,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_depth_is_limited_alike_for_all_containers(wrap: Any, survives: Survives) -> None:
    value: Any = ()
    for _ in range(MAX_DEPTH - 1):
        value = wrap(value)
    data = Codec().encode(value, where="result", types=TypeScope.of(Item))
    again = Codec().decode(data, TypeScope.of(Item))
    assert Codec().encode(again, where="result", types=TypeScope.of(Item)) == data
    assert "more than 200 levels" in str(refusal(wrap(value), Item))


def test_endless_depth_is_refused_and_not_a_crash() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert "more than 200 levels" in str(refusal(value))


def test_a_recorded_object_goes_no_further_without_its_class() -> None:
    assert str(refusal([RecordedObject("shop.Order", {})])) == (
        "result[0]: the class shop.Order of this recorded object is not known here; "
        "annotate the function with it, or kitaru.register_type it"
    )


def test_a_value_that_changes_while_it_is_read_is_a_typed_error() -> None:
    host: dict[Any, Any] = {}
    registered = TypeRegistry()

    def grow(value: Client) -> int:
        host[len(host)] = 1
        return 1

    registered.register(Client, encode=grow, decode=lambda data: Client())
    host["first"] = Client()
    with pytest.raises(KitaruSerializationError, match="result: it was changed while it was read"):
        Codec().encode(host, where="result", types=TypeScope.of(registered=registered))
