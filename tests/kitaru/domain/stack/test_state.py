"""Where a stack stands after its events."""

from kitaru.domain.stack.events import StackCreated, StackDeleted
from kitaru.domain.stack.state import ABSENT, evolve


def test_a_stack_is_what_it_was_last_created_as() -> None:
    first = StackCreated(name="iso", stack_id="stack_1", type="local", labels={"a": "b"})
    second = StackCreated(name="iso", stack_id="stack_2", type="process")
    state = evolve(ABSENT, first)
    assert (state.exists, state.type, state.labels) == (True, "local", {"a": "b"})
    state = evolve(state, StackDeleted())
    assert (state.exists, state.type, state.labels) == (False, "", {})
    assert (state.name, state.stack_id) == ("iso", "stack_1")
    state = evolve(state, second)
    assert (state.exists, state.stack_id, state.type, state.labels) == (
        True,
        "stack_2",
        "process",
        {},
    )
