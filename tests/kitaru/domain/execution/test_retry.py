"""How often and when a failed attempt is tried again."""

import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.domain.execution.retry import Retry, class_name, retry_policy
from kitaru.errors import KitaruError, KitaruUsageError

CENTURY_US = 100 * 365 * 86_400 * 1_000_000
SECONDS = st.floats(min_value=0, max_value=1e308, allow_nan=False)
FACTORS = st.floats(min_value=1, max_value=1e308) | st.integers(min_value=1, max_value=10**30)
TRIED = st.integers(min_value=1, max_value=100_000)
FRACTIONS = st.floats(min_value=0, max_value=1)


class OwnError(ValueError):
    class Inner(KitaruError):
        pass


def bases_of(kind: type[BaseException]) -> tuple[str, ...]:
    return tuple(class_name(base) for base in kind.__mro__)


@given(first=SECONDS, most=SECONDS, factor=FACTORS, jitter=FRACTIONS, tried=TRIED, draw=FRACTIONS)
def test_a_delay_is_never_negative_longer_than_allowed_or_too_long_to_write_down(
    first: float, most: float, factor: float, jitter: float, tried: int, draw: float
) -> None:
    policy = Retry(first_delay=first, max_delay=most, factor=factor, jitter=jitter)
    delay = policy.delay_us(tried, draw)
    assert 0 <= delay <= most * 1_000_000 + 1
    assert delay <= CENTURY_US
    whole = Retry(first_delay=first, max_delay=most, factor=factor).delay_us(tried, draw)
    assert whole * (1 - jitter) - 1 <= delay <= whole


@given(first=SECONDS, most=SECONDS, factor=FACTORS, tried=TRIED)
def test_without_jitter_delays_do_not_shrink(
    first: float, most: float, factor: float, tried: int
) -> None:
    policy = Retry(first_delay=first, max_delay=most, factor=factor)
    assert policy.delay_us(tried, 0.5) <= policy.delay_us(tried + 1, 0.1)


def test_delays_grow_by_the_factor_up_to_the_longest() -> None:
    policy = Retry(first_delay=0.5, factor=3, max_delay=10)
    assert [policy.delay_us(tried, 0) for tried in range(1, 6)] == [
        500_000,
        1_500_000,
        4_500_000,
        10_000_000,
        10_000_000,
    ]
    assert Retry(first_delay=0, factor=1e300).delay_us(1_000, 1) == 0
    assert Retry(first_delay=1, factor=1e300).delay_us(1_000, 1) == 300_000_000
    assert Retry(first_delay=8, jitter=0.25).delay_us(1, 1.0) == 6_000_000
    assert Retry(first_delay=8, jitter=1).delay_us(1, 1.0) == 0


def test_the_longest_delay_is_a_century() -> None:
    policy = Retry(first_delay=1e300, max_delay=sys.float_info.max)
    assert policy.delay_us(1, 0) == CENTURY_US


@pytest.mark.parametrize(
    ("raised", "retry_on", "give_up_on", "again"),
    [
        (OwnError, (Exception,), (), True),
        (OwnError, (ValueError,), (), True),
        (OwnError, (OwnError,), (), True),
        (OwnError, (KeyError,), (), False),
        (OwnError, (KeyError, OwnError), (), True),
        (OwnError, (), (), False),
        (OwnError, (Exception,), (ValueError,), False),
        (ValueError, (Exception,), (OwnError,), True),
        (OwnError.Inner, (KitaruError,), (), True),
        (OwnError.Inner, (OwnError,), (), False),
        (SystemExit, (Exception,), (), False),
        (SystemExit, (BaseException,), (), True),
        (SystemExit, (BaseException,), (SystemExit,), False),
    ],
)
def test_classes_are_known_by_their_names_and_those_of_their_bases(
    raised: type[BaseException], retry_on: Any, give_up_on: Any, again: bool
) -> None:
    policy = Retry(retry_on=retry_on, give_up_on=give_up_on)
    assert policy.covers(bases_of(raised)) is again


def test_a_class_of_the_same_name_in_another_module_is_another_class() -> None:
    other = type("OwnError", (Exception,), {"__module__": "somewhere.else"})
    assert not Retry(retry_on=(OwnError,)).covers(bases_of(other))
    assert class_name(ValueError) == "ValueError"
    assert class_name(OwnError.Inner).endswith(".OwnError.Inner")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 2.0},
        {"first_delay": -0.1},
        {"first_delay": math.nan},
        {"max_delay": math.inf},
        {"max_delay": "1"},
        {"max_delay": 10**400},
        {"factor": 0.99},
        {"factor": 10**400},
        {"jitter": 1.01},
        {"jitter": -0.1},
        {"jitter": True},
        {"retry_on": [ValueError]},
        {"retry_on": (3,)},
        {"give_up_on": ValueError},
        {"give_up_on": (int,)},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_policy_that_makes_no_sense_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(KitaruUsageError, match=next(iter(wrong))):
        Retry(**wrong)


def test_a_number_of_retries_is_a_policy_without_delays() -> None:
    assert retry_policy(0, whose="Checkpoint").max_attempts == 1
    assert retry_policy(4, whose="Checkpoint") == Retry(max_attempts=5)
    own = Retry(max_attempts=2)
    assert retry_policy(own, whose="Checkpoint") is own
    for wrong in (-1, True, 1.0, "1", None):
        with pytest.raises(KitaruUsageError, match="Checkpoint retries"):
            retry_policy(wrong, whose="Checkpoint")  # type: ignore[arg-type]
