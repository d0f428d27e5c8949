"""Drawn inputs and faults: sound flows pass, and what breaks a flow is found, shrunk and kept."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from kitaru.errors import KitaruUsageError
from kitaru.testing import (
    ClockJump,
    Crash,
    FlowBroken,
    LostNews,
    Outcome,
    Reorder,
    ReproductionUnusable,
    TakeOver,
    Twice,
    check_flow,
    faults,
    reproduce,
)
from kitaru.testing.bodies import Bodies
from kitaru.testing.checking import Reproduction, _Checking, _Failed
from kitaru.testing.fault import AnyFault
from kitaru.testing.rehearsal import Rehearsal, run_apart
from kitaru.testing.sweep import Scene
from tests.kitaru.testing import flows


@pytest.fixture(autouse=True)
def _new_world() -> Iterator[None]:
    flows.new_world()
    yield
    flows.new_world()


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    """An example of an earlier run that was not shrunk to its end would be begun with again."""
    before = settings.get_current_profile_name()
    settings.register_profile("nothing is kept", settings(), database=None)
    settings.load_profile("nothing is kept")
    yield
    settings.load_profile(before)


def charged_once(outcome: Outcome) -> None:
    assert len(flows.WORLD) == 1, flows.WORLD


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


# what passes


@pytest.mark.parametrize("flow", [flows.everything, flows.everything_async])
def test_sound_flows_survive_every_kind_of_fault(flow: Any, tmp_path: Path) -> None:
    report = check_flow(
        flow,
        inputs=st.integers(),
        answers={"approve": True},
        setup=flows.new_world,
        max_examples=60,
        failures=tmp_path,
    )
    assert report.runs >= 30
    assert {"Crash", "TakeOver"} <= set(report.faults)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flow", [flows.everything, flows.everything_async])
@pytest.mark.parametrize(
    "kind", [Crash, TakeOver, LostNews, Twice, Reorder, ClockJump], ids=lambda kind: kind.__name__
)
def test_each_kind_of_fault_comes_to_pass_and_changes_nothing(kind: Any, flow: Any) -> None:
    # What happens is counted only when it does: a kind that never does would prove nothing.
    report = check_flow(
        flow,
        inputs=st.just(1),
        faults=faults(kind, most=8, events=15),
        answers={"approve": True},
        setup=flows.new_world,
        # What a client writes is one event of fifteen: of 40 examples none hit it, once in 60 runs.
        max_examples=160 if kind is LostNews else 40,
    )
    assert report.faults[kind.__name__] > 0
    assert set(report.faults) == {kind.__name__}


def test_inputs_are_a_tuple_a_dict_or_the_only_argument() -> None:
    for inputs in (st.just((3,)), st.just({"number": 3}), st.just(3)):

        def check(outcome: Outcome) -> None:
            assert outcome.value == 12

        check_flow(flows.two_steps, inputs=inputs, check=check, max_examples=3)


# what is found


def test_a_race_shrinks_to_the_one_order_that_breaks_it(tmp_path: Path) -> None:
    with pytest.raises(FlowBroken) as broken:
        check_flow(
            flows.depends_on_the_order, inputs=st.integers(), failures=tmp_path, max_examples=200
        )
    text = str(broken.value)
    assert "the flow returned" in text
    assert "arguments: number=0" in text
    kept = msgspec.json.decode(only_file(tmp_path).read_bytes(), type=Reproduction)
    assert kept.faults == (Reorder(picks=(1,)),)
    assert f"kitaru.testing.reproduce({str(only_file(tmp_path))!r})" in text
    with pytest.raises(FlowBroken, match=r"returned \[2, 0, 4\]"):
        reproduce(only_file(tmp_path))


def test_a_double_charge_shrinks_to_one_crash(tmp_path: Path) -> None:
    given: dict[str, Any] = {"setup": flows.new_world, "check": charged_once}
    with pytest.raises(FlowBroken, match="check failed"):
        check_flow(
            flows.charges_twice,
            inputs=st.text(),
            faults=faults(Crash, LostNews, ClockJump),
            failures=tmp_path,
            max_examples=2_000,
            **given,
        )
    kept = msgspec.json.decode(only_file(tmp_path).read_bytes(), type=Reproduction)
    assert kept.faults == (Crash(2, late=True),)
    assert json.loads(bytes(kept.arguments)) == {"order": ""}
    with pytest.raises(KitaruUsageError, match="setup=, check="):
        reproduce(only_file(tmp_path))
    with pytest.raises(FlowBroken, match="check failed"):
        reproduce(only_file(tmp_path), **given)
    # Mended: the same faults, and another flow.
    run = reproduce(only_file(tmp_path), flow=flows.charges_once, **given)
    assert run.happened == kept.faults


def test_a_fault_whose_only_part_is_to_make_the_journal_longer_is_left_out() -> None:
    scene = Scene(flows.charges_twice, ("",), {}, {}, Bodies(), flows.new_world, charged_once, 5.0)
    checking = _Checking(scene, None, None, same_outcome=True)
    two = (Crash(1), Crash(3, late=True))
    with pytest.raises(_Failed) as failed:
        checking._try(scene, two, checking._reference(scene))
    assert failed.value.faults == two
    assert checking.smaller(failed.value).faults == (Crash(2, late=True),)


def test_what_is_left_out_takes_its_choice_of_an_order_along() -> None:
    """A crash before calls that run at once took a choice: the next one is the first then."""
    scene = Scene(flows.depends_on_the_order, (2,), {}, {}, Bodies(), None, None, 5.0)
    checking = _Checking(scene, None, None, same_outcome=True)
    two = (Crash(1, late=True), Reorder((0, 1)))
    with pytest.raises(_Failed) as failed:
        checking._try(scene, two, checking._reference(scene))
    assert failed.value.faults == two
    assert checking.smaller(failed.value).faults == (Reorder((1,)),)


def test_an_input_that_fails_without_any_fault_is_told_so(tmp_path: Path) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.value < 40

    with pytest.raises(FlowBroken) as broken:
        check_flow(
            flows.two_steps,
            inputs=st.integers(0, 1000),
            check=check,
            failures=tmp_path,
            max_examples=200,
        )
    assert "without any fault" in str(broken.value)
    assert "arguments: number=10" in str(broken.value)


def test_an_invariant_may_stand_for_the_same_outcome(tmp_path: Path) -> None:
    def check(outcome: Outcome) -> None:
        assert sorted(outcome.value) == [0, 2, 4]

    check_flow(
        flows.depends_on_the_order,
        inputs=st.just(0),
        faults=faults(Reorder),
        same_outcome=False,
        check=check,
        failures=tmp_path,
        max_examples=30,
    )


def test_a_flow_that_waits_in_vain_is_broken(tmp_path: Path) -> None:
    with pytest.raises(FlowBroken, match="gives no answer"):
        check_flow(flows.waits_for_somebody, inputs=st.just(1), failures=tmp_path)


# what is kept


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    with pytest.raises(ReproductionUnusable, match="cannot be read"):
        reproduce(file)
    file.write_bytes(b"[1, 2]")
    with pytest.raises(ReproductionUnusable, match="is no saved failure"):
        reproduce(file)


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowBroken):
        check_flow(
            flows.depends_on_the_order,
            inputs=st.just(1),
            faults=st.just([Reorder((1,))]),
            failures=tmp_path,
            max_examples=1,
        )
    file = only_file(tmp_path)
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ReproductionUnusable, match="reads format 1"):
        reproduce(file)


# what is refused


def test_only_flows_are_checked() -> None:
    with pytest.raises(KitaruUsageError, match="needs a @flow"):
        check_flow(flows.double)  # type: ignore[arg-type]


def test_only_faults_are_drawn() -> None:
    with pytest.raises(KitaruUsageError, match="these are: Crash, TakeOver"):
        faults(int)  # type: ignore[arg-type]
    with pytest.raises(KitaruUsageError, match="the smaller one"):
        faults(clock_jumps=(1, -1))


def test_the_extra_is_named_where_hypothesis_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hypothesis", "hypothesis.strategies"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(KitaruUsageError, match=r"pip install 'kitaru\[testing\]'"):
        check_flow(flows.two_steps, inputs=None)
    with pytest.raises(KitaruUsageError, match=r"pip install 'kitaru\[testing\]'"):
        faults()


def test_it_can_be_used_in_async_tests_too() -> None:
    async def test() -> None:
        check_flow(flows.two_steps_async, inputs=st.integers(), max_examples=3)

    asyncio.run(test())


def test_a_clock_that_is_set_back_does_not_keep_the_next_owner_away() -> None:
    # Found by hypothesis: a lease that had run out had not, by the clock that was set back.
    for seconds in (-43_200.0, -86_400.0, -1.0):
        befallen: list[AnyFault] = [TakeOver(1), ClockJump(1, seconds)]
        run = run_apart(Rehearsal(flows.two_steps, (3,), {}, faults=befallen).run)
        assert run.outcome.value == 12
        assert run.happened == tuple(befallen)
