"""Every small change of a source file: one operator, constant, condition, call or clause each."""

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tests.mutation import sql

ROOT = Path(__file__).parents[2]
SWAPS: dict[type[Any], type[Any]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
WORD = re.compile(r"[\w.:/-]+")
"""A text that the code compares or looks up, rather than one for people."""
LONGEST = 120
"""Characters of a piece of code in a mutant's name."""


class Mutant(Struct, frozen=True):
    """One small change."""

    file: str
    what: str
    """Before and after, for people."""
    node: int
    """Which node of the file is changed, in the order of `ast.walk`."""
    change: int
    """Which of its changes."""
    lines: tuple[int, int]
    """The statement that it is in, as its first and last line."""
    function: str
    """The function that it is in; empty: it is made while the module is imported."""
    time: int = 1
    """The first, second, … change of this kind in this function."""

    @property
    def name(self) -> str:
        """How `survivors.txt` calls it: without the line, which moves."""
        where = f"{self.file}:{self.function}" if self.function else self.file
        return f"{where}: {self.what}" + (f" #{self.time}" if self.time > 1 else "")

    @property
    def tree(self) -> ast.Module:
        """The whole file, with the change in it and with the lines of before."""
        tree = _parsed(self.file)
        _change(list(ast.walk(tree))[self.node], self.change)
        return tree


def mutants_of(file: str) -> Iterator[Mutant]:
    """Every small change of a file."""
    tree = _parsed(file)
    places = dict(_places(tree))
    times = Counter[str]()
    for number, node in enumerate(ast.walk(tree)):
        place = places.get(node)
        if place is None:
            continue
        for change in range(_changes(node)):
            changed = copy.deepcopy(node)
            _change(changed, change)
            if ast.unparse(node) != ast.unparse(changed):
                lines, function = place
                what = _what(node, changed, change)
                mutant = Mutant(file, what, number, change, lines, function)
                times[mutant.name] += 1
                yield replace(mutant, time=times[mutant.name])


def _parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


Place = tuple[tuple[int, int], str]


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, Place]]:
    """Where each node that may be changed stands: all but docstrings, annotations and names."""
    yield from _below(tree, ((1, 1), ""), "", is_called=False)


def _below(
    node: ast.AST, place: Place, scope: str, *, is_called: bool
) -> Iterator[tuple[ast.AST, Place]]:
    if isinstance(node, ast.stmt | ast.match_case | ast.ExceptHandler):
        place = _lines(node), place[1]
    yield node, place
    for name, child in _children(node):
        inner, called, here = scope, is_called, place
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if name == "body":
                inner = f"{scope}.{node.name}" if scope else node.name
                called = is_called or not isinstance(node, ast.ClassDef)
        elif isinstance(node, ast.Lambda) and name == "body":
            called = True
        if called and not here[1]:
            here = here[0], inner or "lambda"
        yield from _below(child, here, inner, is_called=called)


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (isinstance(node, ast.ClassDef) and name != "body"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_not_run(child):
                yield name, child


def _is_not_run(node: ast.AST) -> bool:
    """A docstring, the text of a message, or something for tools only."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("TypeVar", "ParamSpec"):
        return True
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) in ("__all__", "__slots__")
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.JoinedStr)


def _lines(node: Any) -> tuple[int, int]:
    """The lines that are run for a statement itself, without what is inside it."""
    if isinstance(node, ast.match_case):
        return node.pattern.lineno, max(node.pattern.lineno, node.body[0].lineno - 1)
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return node.lineno, node.end_lineno
    first = body[0].pattern.lineno if isinstance(body[0], ast.match_case) else body[0].lineno
    return node.lineno, max(node.lineno, first - 1)


def _what(before: Any, after: ast.AST, change: int) -> str:
    """The change in one short line."""
    match before:
        case ast.Call():
            return f"{_text(before.func)}(...) without {_text(before.keywords[change])}"
        case ast.ClassDef():
            return f"class {before.name} without {_text(_own(before)[change])}"
        case ast.If() | ast.While():
            return f"if {_text(before.test)} -> if not {_text(before.test)}"
        case ast.IfExp():
            chosen = before.orelse if change else before.body
            return f"{_text(before)} -> {_text(chosen)}"
        case _:
            return f"{_text(before)} -> {_text(after)}"


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _changes(node: ast.AST) -> int:
    """In how many ways a node can be changed."""
    match node:
        case ast.Compare():
            return len(node.ops)
        case ast.BoolOp():
            return 1 + len(node.values)
        case ast.BinOp() | ast.AugAssign():
            return int(type(node.op) in SWAPS)
        case ast.Return(value=ast.Constant()):
            return 0  # the constant is changed itself
        case ast.Constant(value=str(text)):
            return sql.changes(text) if sql.is_statement(text) else int(bool(WORD.fullmatch(text)))
        case ast.If(test=test) | ast.While(test=test):
            return int(isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return 1
        case ast.IfExp():
            return 2
        case ast.Call() if node.keywords:
            return len(node.keywords)
        case ast.ClassDef():
            return len(_own(node))
        case (
            ast.UnaryOp(op=ast.Not())
            | ast.Constant(value=bool() | int() | float())
            | ast.match_case(guard=ast.expr())
            | ast.Return(value=ast.expr())
            | ast.Expr(value=ast.Call() | ast.Await())
            | ast.Continue()
            | ast.Break()
            | ast.Delete()
        ):
            return 1
        case _:
            return 0


def _change(node: Any, change: int) -> None:
    match node:
        case ast.Compare():
            node.ops[change] = SWAPS[type(node.ops[change])]()
        case ast.BoolOp():
            if change == 0:
                node.op = SWAPS[type(node.op)]()
            else:
                del node.values[change - 1]
                if len(node.values) == 1:
                    node.values.append(node.values[0])
        case ast.BinOp() | ast.AugAssign():
            node.op = SWAPS[type(node.op)]()
        case ast.UnaryOp():
            node.op = ast.Not()
            node.operand = _not(node.operand)
        case ast.Constant(value=str(text)):
            node.value = sql.changed(text, change) if sql.is_statement(text) else f"{text}X"
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.If() | ast.While():
            node.test = _not(node.test)
        case ast.IfExp():
            node.test = ast.copy_location(ast.Constant(change == 0), node.test)
        case ast.match_case():
            node.guard = None
        case ast.Return():
            node.value = ast.copy_location(ast.Constant(None), node)
        case ast.Call():
            del node.keywords[change]
        case ast.ClassDef():
            node.keywords.remove(_own(node)[change])
        case ast.Assign() | ast.Expr() | ast.Continue() | ast.Break() | ast.Delete():
            _become(node, ast.Pass() if not isinstance(node, ast.Continue) else ast.Break())


def _own(node: ast.ClassDef) -> list[ast.keyword]:
    """What a class says of itself, and does not inherit from a struct that says it already."""
    is_first = any(isinstance(base, ast.Name) and base.id == "Struct" for base in node.bases)
    return [it for it in node.keywords if is_first or it.arg not in ("frozen", "gc")]


def _not(test: Any) -> ast.expr:
    return ast.copy_location(ast.UnaryOp(ast.Not(), test), test)


def _become(node: Any, other: ast.stmt) -> None:
    node.__class__ = type(other)
