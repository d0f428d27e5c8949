"""Objects of unknown classes can be looked at, and not changed."""

import copy
import dataclasses
import pickle
from enum import Enum

import pytest

from kitaru.engine.codec import Codec, RecordedObject, TypeScope


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    price: int


class Paint(Enum):
    RED = 1


class Name(str):
    pass


def seen_from_outside(value: object) -> object:
    data = Codec().encode(value, where="value", types=TypeScope.of(Item, Paint, Name))
    return Codec().decode(data, TypeScope.of())


def test_fields_are_attributes() -> None:
    item = seen_from_outside(Item("tea", 3))
    assert isinstance(item, RecordedObject)
    assert (item.type_name, item.name, item.price) == ("Item", "tea", 3)
    assert repr(item) == "Item(name='tea', price=3)"
    with pytest.raises(AttributeError, match="Item was recorded without 'size'"):
        _ = item.size


def test_members_and_derived_values_show_what_they_are() -> None:
    assert repr(seen_from_outside([Paint.RED, Name("x")])) == "[Paint(name='RED'), Name(value='x')]"


def test_a_set_of_unknown_objects_is_still_a_set() -> None:
    items = {Item("tea", 3), Item("milk", 1)}
    assert seen_from_outside(items) == {
        RecordedObject("Item", {"name": "milk", "price": 1}),
        RecordedObject("Item", {"name": "tea", "price": 3}),
    }
    assert RecordedObject("Item", {}) != RecordedObject("Other", {})
    assert RecordedObject("Item", {}) != "Item"


def test_a_recorded_object_cannot_be_changed() -> None:
    item = RecordedObject("Item", {"name": "tea"})
    with pytest.raises(AttributeError, match="cannot be changed"):
        item.name = "milk"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del item.name
    with pytest.raises(TypeError):
        item.fields["name"] = "milk"  # type: ignore[index]


def test_a_recorded_object_can_be_copied() -> None:
    item = RecordedObject("Item", {"name": ["tea"], "fields": 1})
    assert copy.copy(item) == item
    assert copy.deepcopy(item) == item
    assert pickle.loads(pickle.dumps(item)) == item
    assert item.fields["fields"] == 1
