"""What users register is known everywhere, under one name each."""

import dataclasses
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from kitaru.engine.codec import Codec, TypeRegistry, TypeScope, register_type, registry
from kitaru.errors import KitaruSerializationError, KitaruUsageError


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> TypeRegistry:
    monkeypatch.setattr(registry.REGISTRY, "_by_class", {})
    monkeypatch.setattr(registry.REGISTRY, "_by_name", {})
    return registry.REGISTRY


def recoded(value: Any) -> Any:
    data = Codec().encode(value, where="value", types=TypeScope.of())
    return Codec().decode(data, TypeScope.of())


def test_a_registered_class_needs_no_annotation() -> None:
    @register_type
    @dataclasses.dataclass
    class Order:
        size: int

    assert recoded([Order(3)]) == [Order(3)]


def test_a_class_of_any_make_is_kept_by_its_two_functions() -> None:
    register_type(
        Fraction,
        encode=lambda value: (value.numerator, value.denominator),
        decode=lambda parts: Fraction(*parts),
    )
    assert recoded({Fraction(1, 3): Fraction(2, 3)}) == {Fraction(1, 3): Fraction(2, 3)}


def test_registering_also_reaches_scopes_made_before() -> None:
    scope = TypeScope.of()
    register_type(Fraction, encode=str, decode=Fraction)
    assert Codec().encode(Fraction(1, 2), where="value", types=scope) == (
        b'{"$":["custom","Fraction","1/2"]}'
    )


def test_the_name_outlives_a_renamed_class() -> None:
    @register_type(name="order")
    @dataclasses.dataclass
    class Order:
        size: int

    data = Codec().encode(Order(3), where="value", types=TypeScope.of())
    assert data == b'{"$":["object","order",{"size":3}]}'


def test_a_name_belongs_to_one_class() -> None:
    @register_type(name="order")
    @dataclasses.dataclass
    class Order:
        size: int

    with pytest.raises(KitaruUsageError, match=r"the name 'order' is taken by .*Order; give"):
        register_type(Fraction, name="order", encode=str, decode=Fraction)
    assert recoded(Order(1)) == Order(1)


def test_a_module_that_is_loaded_again_may_register_again() -> None:
    def load() -> type:
        @register_type
        @dataclasses.dataclass
        class Order:
            size: int

        return Order

    load()
    again = load()
    assert type(recoded(again(1))) is again


def test_an_annotated_class_gives_way_to_a_registered_one_of_its_name() -> None:
    annotated = dataclasses.make_dataclass("Order", [("size", int)])
    annotated.__module__ = "elsewhere"
    register_type(dataclasses.make_dataclass("Order", [("size", int)]))
    scope = TypeScope.of(annotated)
    data = Codec().encode(annotated(1), where="value", types=scope)
    assert type(Codec().decode(data, scope)) is annotated


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Decimal, {}, "Decimal needs no registration"),
        (dict, {}, "dict needs no registration"),
        (Fraction, {}, "its fields are not known"),
        (Fraction, {"encode": str}, "give both encode and decode"),
        ("Fraction", {}, "takes a class"),
    ],
)
def test_what_cannot_be_registered_is_told_why(cls: Any, options: Any, message: str) -> None:
    with pytest.raises(KitaruUsageError, match=message):
        register_type(cls, **options)


def test_an_encode_function_that_raises_is_an_error_with_its_path() -> None:
    def fail(value: Any) -> Any:
        raise LookupError("no")

    register_type(Fraction, encode=fail, decode=Fraction)
    with pytest.raises(
        KitaruSerializationError, match=r"result\.a: fractions\.Fraction cannot be taken apart"
    ):
        Codec().encode({"a": Fraction(1, 2)}, where="result", types=TypeScope.of())
