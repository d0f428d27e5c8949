"""The public names of `kitaru.testing`: all there, all in the reference."""

from pathlib import Path

import pytest

import kitaru.testing

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "testing.md"


def test_every_public_name_is_there() -> None:
    for name in kitaru.testing.__all__:
        assert getattr(kitaru.testing, name) is not None
    assert sorted(kitaru.testing.__all__) == dir(kitaru.testing)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kitaru.testing.nothing


def test_every_public_name_is_in_the_reference() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in kitaru.testing.__all__ if f"{name}" not in page] == []
