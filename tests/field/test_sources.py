"""Bugs of other engines that can be seen in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    file for package in ("kitaru", "journal") for file in (ROOT / package).rglob("*.py")
)
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def names_of(source: Path) -> str:
    return str(source.relative_to(ROOT))


@pytest.mark.parametrize("source", SOURCES, ids=names_of)
def test_nothing_that_makes_code_of_data_is_used(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module)):
                modules = {module.partition(".")[0]}
            case ast.Call(func=ast.Name(id=name)):
                assert name not in FORBIDDEN_CALLS, f"{names_of(source)}:{node.lineno}: {name}()"
                continue
            case _:
                continue
        assert not modules & FORBIDDEN_MODULES, f"{names_of(source)}:{node.lineno}: {modules}"


def captured(handler: ast.ExceptHandler) -> Iterator[ast.AST]:
    """The functions in an ``except ... as name`` that use the name: it is gone when they run."""
    for node in ast.walk(handler):
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
            used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            given = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
            if handler.name in used - given:
                yield node


@pytest.mark.parametrize("source", SOURCES, ids=names_of)
def test_no_function_keeps_the_name_of_a_caught_error(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler) and node.name:
            assert not list(captured(node)), f"{names_of(source)}:{node.lineno}"


def test_these_tests_see_what_they_are_to_see() -> None:
    text = "try: pass\nexcept ValueError as error:\n    later = lambda: print(error)\n"
    (handler,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ExceptHandler)]
    assert list(captured(handler))
