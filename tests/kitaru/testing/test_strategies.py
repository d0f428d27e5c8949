"""Which lists of faults are drawn."""

from typing import Any

import pytest
from hypothesis import given

from kitaru.errors import KitaruUsageError
from kitaru.testing.errors import FlowBroken, NothingHappens, ReproductionUnusable
from kitaru.testing.extra import needed
from kitaru.testing.fault import ClockJump, Crash, LostNews, check_faults
from kitaru.testing.strategies import faults


@given(drawn=faults(most=3, events=7))
def test_what_is_drawn_can_happen(drawn: list[Any]) -> None:
    check_faults(tuple(drawn))
    assert len(drawn) <= 3
    assert all(1 <= getattr(fault, "at", 1) <= 7 for fault in drawn)


@given(drawn=faults(Crash, LostNews))
def test_only_what_is_wanted_is_drawn(drawn: list[Any]) -> None:
    assert all(isinstance(fault, Crash | LostNews) for fault in drawn)


@given(drawn=faults(ClockJump))
def test_clocks_jump_backwards_by_default(drawn: list[Any]) -> None:
    assert all(fault.seconds < 0 for fault in drawn)


def test_what_is_missing_of_something_else_is_not_taken_for_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "needs_another.py").write_text("import there_is_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        needed("needs_another", "this test")
    with pytest.raises(KitaruUsageError, match="this test needs there_is_none"):
        needed("there_is_none", "this test")


def test_broken_flows_are_failures_of_the_test_and_bad_files_are_not() -> None:
    assert issubclass(FlowBroken, AssertionError)
    assert issubclass(NothingHappens, AssertionError)
    assert not issubclass(ReproductionUnusable, AssertionError)
