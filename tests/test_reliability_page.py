"""The page on reliability names tests that exist, in order, and the places that there are."""

import ast
import re
from pathlib import Path

from tests.conformance.case import load_cases
from tests.crash import failpoints

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "reliability.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CASES = {f"`{case.file.removesuffix('.yaml')}/{case.id}`" for case in load_cases()}
ROW = re.compile(r"^\| (\d+) \| (.*) \| (.*) \|$", re.MULTILINE)
PLACE = re.compile(r"^\| `([\w-]+)` \| (.*) \|$", re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    named = TEST.findall(PAGE)
    assert named
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        there = {node.name for node in ast.walk(tree) if isinstance(node, functions)}
        assert name in there, f"{file}::{name}"


def test_each_bug_has_one_row_and_a_test_in_it() -> None:
    rows = ROW.findall(PAGE)
    numbers = [int(number) for number, _, _ in rows]
    assert numbers == sorted(set(numbers))
    assert {*range(1, 6), *range(7, 18), *range(19, 66)} <= set(numbers)
    for number, bug, tests in rows:
        assert bug
        for each in tests.split(", "):
            assert TEST.fullmatch(each) or each in CASES, f"{number}: {each}"


def test_the_places_are_those_that_there_are() -> None:
    there = {name: place.meaning for name, place in failpoints.PLACES.items()}
    assert dict(PLACE.findall(PAGE)) == there
