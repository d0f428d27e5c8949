"""What a name or an id can be."""

from typing import Any

import pytest

from kitaru.domain.ids import LONGEST_ID, checked_id
from kitaru.errors import KitaruUsageError


@pytest.mark.parametrize("given", ["a", "../x", "é", "x" * LONGEST_ID, " a "])
def test_a_printable_text_is_an_id(given: str) -> None:
    assert checked_id(given, "An id") == given


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("", "not empty"),
        (" \t", "not empty"),
        (None, "not empty, not None"),
        (b"a", r"not empty, not b'a'\.$"),
        (b"x" * (LONGEST_ID - 3), r"x'\.$"),
        (b"x" * (LONGEST_ID - 2), r"x…\.$"),
        (["x"] * 10_000, "not empty"),
        ("a\0", r"control characters: 'a\\x00'"),
        ("\ud800", "control characters"),
        ("x" * (LONGEST_ID + 1), "longer than 500 characters; this has 501"),
        ("\0" * 1_000_000, "this has 1,000,000"),
    ],
)
def test_what_is_none_is_refused_in_few_words(given: Any, problem: str) -> None:
    with pytest.raises(KitaruUsageError, match=problem) as refused:
        checked_id(given, "An id")
    assert len(str(refused.value)) < 2 * LONGEST_ID
