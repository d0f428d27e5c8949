"""The page of guarantees names what there is: each test, each case, and each of the latter."""

import ast
import re
from pathlib import Path

from tests.conformance.case import load_cases

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "guarantees.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
TOPICS = {case.file.removesuffix(".yaml") for case in load_cases()}
CASE = re.compile(rf"`((?:{'|'.join(sorted(TOPICS))})/[\w-]+)`")
ROW = re.compile(r"^\| (?!\[|what holds|promise|-)(.*?) \| (.*) \|$", re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    named = TEST.findall(PAGE)
    assert named
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in there, f"{file}::{name}"


def test_every_case_is_named_by_one_promise_and_nothing_else_is() -> None:
    there = sorted(f"{case.file.removesuffix('.yaml')}/{case.id}" for case in load_cases())
    named = CASE.findall(PAGE)
    introduced = ["waits/an-answer-goes-on"]
    assert sorted(named) == sorted([*there, *introduced])


def test_the_page_says_how_many_cases_there_are() -> None:
    cases = load_cases()
    interrupted = sum(case.is_interrupted for case in cases)
    said = re.search(r"There are (\d+) cases, (\d+) of them with\s+a process that dies", PAGE)
    assert said is not None
    assert (int(said[1]), int(said[2])) == (len(cases), interrupted)


def test_every_promise_has_something_that_holds_it() -> None:
    rows = ROW.findall(PAGE)
    assert rows
    for what, shown_by in rows:
        assert TEST.search(shown_by) or CASE.search(shown_by), what


def test_nothing_but_tests_and_cases_is_said_to_hold_a_promise() -> None:
    for what, shown_by in ROW.findall(PAGE):
        for name in shown_by.split(", "):
            assert TEST.fullmatch(name) or CASE.fullmatch(name), f"{what}: {name}"
