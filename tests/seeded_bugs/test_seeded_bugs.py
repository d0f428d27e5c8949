"""Every seeded bug still goes into today's code; whether it is noticed is for the campaign.

``python -m tests.seeded_bugs`` tries ten of them, ``--all`` every one.
"""

import ast
from pathlib import Path

import pytest

from tests.seeded_bugs.__main__ import chosen
from tests.seeded_bugs.bug import SIMULATOR, Bug, StaleBug, load_bugs

ROOT = Path(__file__).parents[2]
BUGS = load_bugs()


@pytest.mark.parametrize("bug", BUGS, ids=[bug.id for bug in BUGS])
def test_the_bug_goes_into_the_code(bug: Bug) -> None:
    source = (ROOT / bug.file).read_text(encoding="utf-8")
    ast.parse(changed := bug.put_into(source))
    assert changed != source
    assert bug.tests
    for tests in bug.tests:
        assert tests == SIMULATOR or (ROOT / tests).exists(), tests


def test_there_are_enough_bugs_and_each_has_its_own_name() -> None:
    assert len({bug.id for bug in BUGS}) == len(BUGS) >= 40


def test_a_bug_whose_place_is_gone_says_so() -> None:
    bug = Bug(id="b", story="s", file="f", old="a = 1\nb = 2", new="a = 2", tests=["t"])
    assert bug.put_into("if x:\n    a = 1\n    b = 2\nc = 3") == "if x:\n    a = 2\nc = 3"
    with pytest.raises(StaleBug, match="0 places"):
        bug.put_into("a = 1\nb = 3")
    with pytest.raises(StaleBug, match="2 places"):
        bug.put_into("a = 1\nb = 2\na = 1\nb = 2")


def test_ten_are_chosen_and_all_have_their_turn() -> None:
    seen = set()
    for number in range(len(BUGS)):
        ten = chosen(BUGS, number)
        assert len({bug.id for bug in ten}) == 10
        seen |= {bug.id for bug in ten}
    assert len(seen) == len(BUGS)
