"""A stack's rules: given its events, when it is asked for something, then these events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kitaru.domain.stack.commands import Create, Delete
from kitaru.domain.stack.decide import TYPES, checked_name, decide
from kitaru.domain.stack.events import StackCreated, StackDeleted
from kitaru.domain.stack.state import ABSENT, evolve
from kitaru.errors import KitaruError, KitaruStateError, KitaruUsageError

ISO = StackCreated(name="iso", stack_id="stack_1", type="process", labels={"a": "b"})
EXISTING = evolve(ABSENT, ISO)
DELETED = evolve(EXISTING, StackDeleted())


@pytest.mark.parametrize("state", [ABSENT, DELETED])
@pytest.mark.parametrize("kind", TYPES)
def test_a_stack_that_does_not_exist_can_be_created(state: object, kind: str) -> None:
    facts = replace(ISO, type=kind, stack_id="stack_2")
    assert decide(state, Create(facts)) == (facts,)  # type: ignore[arg-type]


def test_a_stack_that_exists_cannot_be_created_again() -> None:
    with pytest.raises(KitaruStateError, match="'iso' exists already; it is of type process"):
        decide(EXISTING, Create(ISO))


def test_a_type_that_does_not_exist_is_refused_and_the_types_are_listed() -> None:
    with pytest.raises(KitaruUsageError, match="'kubernetes'; the types are: local, process"):
        decide(ABSENT, Create(replace(ISO, type="kubernetes")))


def test_the_local_stack_is_built_in() -> None:
    with pytest.raises(KitaruStateError, match="built in"):
        decide(ABSENT, Create(replace(ISO, name="local")))


def test_only_a_stack_that_exists_can_be_deleted() -> None:
    assert decide(EXISTING, Delete()) == (StackDeleted(),)
    for state in (ABSENT, DELETED):
        with pytest.raises(KitaruStateError, match="no such stack"):
            decide(state, Delete())


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "-a", ".a", "a/b", "a" * 101, "a\n", "é", "../a", None, 3]
)
def test_a_name_that_no_stack_can_have_is_refused(name: object) -> None:
    with pytest.raises(KitaruUsageError, match="cannot be the name of a stack"):
        checked_name(name)
    with pytest.raises(KitaruUsageError, match="cannot be the name of a stack"):
        decide(ABSENT, Create(replace(ISO, name=name)))


@pytest.mark.parametrize("name", ["a", "A.b-c_d", "1", "a" * 100])
def test_other_names_are_fine(name: str) -> None:
    assert checked_name(name) == name


@given(st.lists(st.sampled_from(["create", "delete"]), max_size=8))
def test_whatever_is_asked_a_stack_is_there_or_not(commands: list[str]) -> None:
    state, exists = ABSENT, False
    for command in commands:
        asked = Create(ISO) if command == "create" else Delete()
        try:
            events = decide(state, asked)
        except KitaruError:
            assert exists is (command == "create")
            continue
        for event in events:
            state = evolve(state, event)
        exists = command == "create"
        assert state.exists is exists
