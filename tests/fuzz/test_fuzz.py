"""No input, whatever it is, breaks what reads it: a short run, the same each time.

``python -m tests.fuzz 600`` runs for longer, and differently each time.
"""

import random
import tracemalloc

import pytest

from kitaru.domain.deployment import events as deployment
from kitaru.domain.execution import events as execution
from kitaru.domain.stack import events as stack
from tests.fuzz.mutation import LONGEST, mutated
from tests.fuzz.targets import TARGETS, Types, seeds

INPUTS = 1_000
MOST_MEMORY = 64 << 20


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_what_reads_it(name: str) -> None:
    pool = list(seeds(name))
    chance = random.Random(name)
    inputs = [*pool, *(mutated(chance, pool) for _ in range(INPUTS))]
    for data in inputs:
        try:
            TARGETS[name](data)
        except Exception as error:
            pytest.fail(f"{data!r}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_to_begin_with_are_some_that_can_be_read(name: str) -> None:
    """Else only what refuses them would be tried."""
    assert any(TARGETS[name](data) for data in seeds(name))


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("event", execution.EVENT_TYPES),
        ("deployment_event", deployment.EVENT_TYPES),
        ("stack_event", stack.EVENT_TYPES),
    ],
)
def test_events_of_each_type_are_among_them(name: str, types: Types) -> None:
    read = {data[0] for data in seeds(name) if TARGETS[name](data)}
    assert [tag for number, tag in enumerate(sorted(types)) if number not in read] == []


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_much_memory(name: str) -> None:
    pool = list(seeds(name))
    chance = random.Random(f"memory of {name}")
    tracemalloc.start()
    try:
        for data in [*pool, *(mutated(chance, pool) for _ in range(200))]:
            TARGETS[name](data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_inputs_are_of_one_kind_and_bounded() -> None:
    chance = random.Random(1)
    made = [mutated(chance, [b"", b"a" * LONGEST]) for _ in range(500)]
    assert max(map(len, made)) <= LONGEST
    assert len(set(made)) > 300
