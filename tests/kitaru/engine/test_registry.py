"""Which code runs an execution: the flow from the same place, the one defined last."""

from typing import Any

import pytest

from kitaru.domain.execution.events import SourceReference
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.registry import Registry
from kitaru.errors import KitaruUsageError


def work(number: int) -> int:
    return number


def definition() -> FlowDefinition:
    return FlowDefinition(work, asynchronous=False)


def place(module: str = "m", qualname: str = "work", file: str = "/a/m.py") -> SourceReference:
    return SourceReference(module=module, qualname=qualname, file=file)


@pytest.fixture
def loads() -> list[SourceReference]:
    return []


@pytest.fixture
def registry(loads: list[SourceReference]) -> Registry:
    def load(reference: SourceReference) -> FlowDefinition:
        loads.append(reference)
        raise KitaruUsageError("there is no such flow")

    return Registry(load)


def test_a_flow_that_is_served_is_not_loaded(registry: Registry, loads: list[Any]) -> None:
    served = definition()
    registry.serve(place(), served)
    assert registry.find(place()) is served
    assert (registry.names, loads) == (["work"], [])


def test_the_flow_that_was_defined_last_replaces_the_one_from_the_same_place(
    registry: Registry,
) -> None:
    first, second = definition(), definition()
    for each in (first, second, first):
        registry.serve(place(), each)
    assert registry.find(place()) is second
    assert registry.names == ["work"]


@pytest.mark.parametrize(
    "other",
    [place(qualname="Class.work"), place(file="/b/m.py"), place(file=""), place("n", file="")],
)
def test_a_flow_of_the_same_name_from_another_place_is_another_flow(
    registry: Registry, loads: list[Any], other: SourceReference
) -> None:
    registry.serve(place(), definition())
    with pytest.raises(KitaruUsageError, match="no such flow"):
        registry.find(other)
    assert loads == [other]


def test_one_file_under_two_module_names_is_one_place(registry: Registry) -> None:
    served = definition()
    registry.serve(place("__main__"), served)
    assert registry.find(place("package.m")) is served


def test_without_a_file_the_module_tells_where_a_flow_is(registry: Registry) -> None:
    served, other = definition(), definition()
    registry.serve(place("m", file=""), served)
    registry.serve(place("n", file=""), other)
    assert registry.find(place("m", file="")) is served
    assert registry.find(place("n", file="")) is other
