"""Derived chance: the same for the same draw, and evenly spread over different ones."""

from hypothesis import given
from hypothesis import strategies as st

from kitaru.engine.derived import instant_of, random_of, uuid4_of


@given(seed=st.text(), draw=st.text())
def test_a_draw_is_always_the_same(seed: str, draw: str) -> None:
    assert random_of(seed, draw) == random_of(seed, draw)
    assert uuid4_of(seed, draw) == uuid4_of(seed, draw)
    assert 0 <= random_of(seed, draw) < 1
    assert uuid4_of(seed, draw).version == 4


def test_draws_are_evenly_spread_and_differ() -> None:
    numbers = [random_of("seed", str(number)) for number in range(10_000)]
    assert len(set(numbers)) == len(numbers)
    assert abs(sum(numbers) / len(numbers) - 0.5) < 0.02
    assert all(sum(n // 0.1 == tenth for n in numbers) > 800 for tenth in range(10))
    assert random_of("other", "0") != numbers[0]
    assert len({uuid4_of("seed", str(number)) for number in range(1000)}) == 1000


def test_an_instant_is_exact_to_the_microsecond() -> None:
    assert instant_of(1_700_000_000_123_457).isoformat() == "2023-11-14T22:13:20.123457+00:00"
