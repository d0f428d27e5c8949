"""What is no case is refused: one that asserts nothing or says what nobody reads shows nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.case import CaseError, Dies, Repeat, Until, cases_in, load_cases, source_of

GOOD: dict[str, Any] = {
    "id": "one",
    "law": "Whatever happens to this flow, it returns what its body has returned.",
    "program": "@flow\nasync def body():\n    return 1\n",
    "steps": ["start"],
    "journal": "execution_started body {}\nexecution_completed 1\n",
    "status": "completed",
    "bodies": {},
}


def load(folder: Path, *cases: Any) -> Any:
    file = folder / "cases.yaml"
    file.write_text(yaml.safe_dump(list(cases)), encoding="utf-8")
    return cases_in(file)


def test_a_case_that_says_all_is_taken(tmp_path: Path) -> None:
    (case,) = load(tmp_path, GOOD)
    assert case.programs == {"first": GOOD["program"]}
    assert case.colours == ("async", "sync")
    assert not case.is_interrupted


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"jornal": "x"}, "unknown field `jornal`"),
        ({"journal": " \n"}, "expects nothing"),
        ({"law": "It works."}, "law"),
        ({"colours": []}, "colours"),
        ({"colours": ["red"]}, "red"),
        ({"steps": []}, "no steps"),
        ({"steps": ["start", "fly"]}, "no step 'fly'"),
        ({"steps": [{"start": {}, "down": {}}]}, "one step has one name"),
        ({"steps": [{"start": {"argumnets": [1]}}]}, "unknown field `argumnets`"),
        ({"steps": ["start", {"dies": {"before": "x", "after": "y"}}]}, "before or after"),
        ({"steps": ["start", {"dies": {"nth": 2}}]}, "before or after"),
        ({"steps": ["start", {"until": {"count": 2}}]}, "an event or a status"),
        ({"steps": ["start", {"answer": "approve"}]}, "takes a mapping"),
        ({"steps": ["start", {"restart": "second"}]}, "second"),
        ({"steps": ["start", {"repeat": {"times": 2, "steps": ["fly"]}}]}, "no step 'fly'"),
        ({"steps": [{"cancel": "enough"}, "start"]}, "before 'main' is there"),
        ({"steps": ["start", {"start": {"name": "other"}}]}, "other"),
        ({"programs": {"second": "x"}}, "second"),
        ({"others": {"fork": {"journal": "x", "status": "completed"}}}, "fork"),
    ],
)
def test_what_is_no_case_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(CaseError, match=problem):
        load(tmp_path, {**GOOD, **change})


@pytest.mark.parametrize("field", list(GOOD))
def test_nothing_of_a_case_may_be_left_out(tmp_path: Path, field: str) -> None:
    with pytest.raises(CaseError, match=field):
        load(tmp_path, {name: value for name, value in GOOD.items() if name != field})


def test_two_cases_with_one_id_are_refused(tmp_path: Path) -> None:
    load(tmp_path, GOOD, GOOD)
    with pytest.raises(CaseError, match="two cases 'one'"):
        load_cases(tmp_path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text("- id: one\n  id: two\n", encoding="utf-8")
    with pytest.raises(CaseError, match="'id' stands twice"):
        cases_in(file)


def test_a_step_may_be_written_as_one_value(tmp_path: Path) -> None:
    steps = ["start", {"until": "wait_requested"}, {"dies": {"after": "input_given"}}, "restart"]
    (case,) = load(tmp_path, {**GOOD, "steps": steps})
    assert case.steps[1] == Until(event="wait_requested")
    assert case.steps[2] == Dies(after="input_given")
    assert case.is_interrupted


def test_a_crash_in_a_repeated_step_is_an_interruption(tmp_path: Path) -> None:
    steps = ["start", {"repeat": {"times": 2, "steps": ["restart"]}}]
    (case,) = load(tmp_path, {**GOOD, "steps": steps})
    assert isinstance(case.steps[1], Repeat)
    assert case.is_interrupted


def test_the_sync_form_is_the_async_one_without_its_words() -> None:
    program = "async def body():\n    return await fetch(1)\n"
    assert source_of(program, "async") == program
    assert source_of(program, "sync") == "def body():\n    return fetch(1)\n"
