"""The page of reliability names a test for each bug of another engine, and each of them exists."""

import ast
import re
from pathlib import Path

from tests.conformance.case import load_cases

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "reliability.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Bugs of other engines, as tests")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| (\d+) \| (.*?) \| (.*) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CASES = {f"`{case.file.removesuffix('.yaml')}/{case.id}`" for case in load_cases()}


def test_the_bugs_are_numbered_and_none_is_left_out() -> None:
    numbers = [int(number) for number, _, _ in ROW.findall(SECTION)]
    assert numbers == sorted(set(numbers))
    assert set(range(19, 58)) <= set(numbers)


def test_every_test_that_is_named_exists() -> None:
    for number, bug, found_by in ROW.findall(SECTION):
        assert bug
        for name in found_by.split(", "):
            test = TEST.fullmatch(name)
            assert test or name in CASES, f"{number}: {name}"
            if test:
                tree = ast.parse((ROOT / test[1]).read_text(encoding="utf-8"))
                there = {getattr(node, "name", "") for node in ast.walk(tree)}
                assert test[2] in there, f"{number}: {name}"
