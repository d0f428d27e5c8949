"""``python -m tests.mutation``: changes the code in small ways, and sees who notices.

``python -m tests.mutation [--only FILE …] [--jobs N] [--every N] [--minutes M]``

A mutant that no test notices is a survivor: a test is missing, or the change means nothing, and
then `survivors.txt` says why. Each mutant runs in a process of its own that has the test tools
loaded already. Returns 1 when there is a survivor that `survivors.txt` does not name.
"""

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import io
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).parent / "survivors.txt"
SECONDS = 120
"""A mutant that takes longer is taken for noticed: it hangs."""
DOMAIN = ("tests/kitaru/domain",)
TARGETS: dict[str, tuple[str, ...]] = {
    "kitaru/domain/execution/decide.py": DOMAIN,
    "kitaru/domain/execution/state.py": DOMAIN,
    "kitaru/domain/execution/retry.py": DOMAIN,
    "kitaru/domain/values.py": DOMAIN,
    "journal/backends/in_memory.py": ("tests/journal/test_backends.py",),
    "journal/backends/sqlite/transaction.py": ("tests/journal/test_backends.py",),
    "journal/backends/sqlite/committer.py": ("tests/journal",),
}
"""The file that is changed → the tests that must notice."""
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
}


class Mutant(Struct, frozen=True):
    """One small change."""

    file: str
    line: int
    what: str
    source: str

    @property
    def name(self) -> str:
        """How `survivors.txt` calls it: without the line, which moves."""
        return f"{self.file}: {self.what}"


def mutants_of(file: str) -> Iterator[Mutant]:
    """Every small change of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    for number, node in enumerate(nodes):
        for change in range(_changes(node)):
            changed = copy.deepcopy(tree)
            twin = list(ast.walk(changed))[number]
            before = _text(twin)
            _change(twin, change)
            after = _text(twin)
            if before != after:
                what = f"{before} -> {after}"
                yield Mutant(file, getattr(node, "lineno", 0), what, ast.unparse(changed))


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:160]


def _changes(node: ast.AST) -> int:
    """In how many ways a node can be changed."""
    match node:
        case ast.Compare():
            return len(node.ops)
        case ast.BoolOp():
            return 1 + len(node.values)
        case ast.BinOp() if type(node.op) in SWAPS:
            return 1
        case ast.UnaryOp(op=ast.Not()):
            return 1
        case ast.Constant(value=bool() | int()):
            return 1
        case ast.IfExp():
            return 2
        case ast.match_case(guard=ast.expr()):
            return 1
        case ast.Return(value=ast.expr()):
            return 1
        case ast.Call() if node.keywords:
            return len(node.keywords)
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
        case ast.BinOp():
            node.op = SWAPS[type(node.op)]()
        case ast.UnaryOp():
            node.op = ast.UAdd()
            node.operand = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case ast.IfExp():
            node.test = ast.Constant(change == 0)
        case ast.match_case():
            node.guard = None
        case ast.Return():
            node.value = ast.Constant(None)
        case ast.Call():
            del node.keywords[change]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from other source than its file's."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        file = ROOT / self._mutant.file
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def create_module(self, spec: Any) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._mutant.source, str(ROOT / self._mutant.file), "exec"), module.__dict__)


def run_child(mutant: Mutant | None, tests: Sequence[str]) -> int:
    """In a process of its own: 0 when nothing is noticed."""
    import pytest

    if mutant is not None:
        sys.meta_path.insert(0, Changed(mutant))
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb", "no", "--no-header"]
    # The tools are loaded before pytest could rewrite their assertions: it need not.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return int(pytest.main([*options, *tests]))


class Running(Struct):
    """A mutant whose tests run."""

    mutant: Mutant
    began: float


def survivors_among(mutants: Sequence[Mutant], jobs: int, end: float) -> tuple[list[Mutant], int]:
    """Those that nobody notices, and how many were tried."""
    left = list(reversed(mutants))
    running: dict[int, Running] = {}
    survivors: list[Mutant] = []
    tried = 0
    while left or running:
        while left and len(running) < jobs and time.monotonic() < end:
            mutant = left.pop()
            pid = os.fork()
            if pid == 0:
                os.setpgid(0, 0)
                status = 2
                try:
                    status = run_child(mutant, TARGETS[mutant.file])
                finally:
                    os._exit(status)
            running[pid] = Running(mutant, time.monotonic())
        if not running:
            break
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            for late, one in running.items():
                if time.monotonic() - one.began > SECONDS:
                    os.kill(late, signal.SIGKILL)
            time.sleep(0.02)
            continue
        mutant = running.pop(pid).mutant
        tried += 1
        if os.waitstatus_to_exitcode(status) == 0:
            survivors.append(mutant)
            print(f"SURVIVED {mutant.file}:{mutant.line}: {mutant.what}", flush=True)
    return survivors, tried


def check_unchanged(files: Sequence[str]) -> None:
    """What passes on no mutant at all would notice every one. Raises RuntimeError."""
    for tests in {TARGETS[file] for file in files}:
        pid = os.fork()
        if pid == 0:
            status = 2
            try:
                status = run_child(None, tests)
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise RuntimeError(f"{' '.join(tests)} fails on the code as it is")


def known_survivors() -> dict[str, str]:
    """Those that mean nothing, and why: ``file: before -> after  # why``."""
    known = {}
    if SURVIVORS.exists():
        for line in SURVIVORS.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                name, _, why = line.partition("  # ")
                known[name] = why
    return known


def main(arguments: list[str]) -> int:
    """Returns 1 when there is a survivor that is not known."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(TARGETS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--every", type=int, default=1, help="only each N-th mutant")
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    _load_tools()
    check_unchanged(given.only)
    known = known_survivors()
    mutants = [mutant for file in given.only for mutant in mutants_of(file)][:: given.every]
    end = time.monotonic() + given.minutes * 60
    survivors, tried = survivors_among(mutants, given.jobs, end)
    new = [mutant for mutant in survivors if mutant.name not in known]
    killed = tried - len(survivors)
    print(f"{tried} of {len(mutants)} mutants tried, {killed} noticed, {len(survivors)} survived,")
    print(f"of which {len(new)} are not explained in {SURVIVORS.name}")
    return int(bool(new))


def _load_tools() -> None:
    """What every child needs, and no mutant changes."""
    import hypothesis
    import hypothesis.strategies
    import msgspec
    import pytest
    import pytest_asyncio

    assert all((hypothesis, msgspec, pytest, pytest_asyncio))
    changed = [name for name in sys.modules if name.split(".")[0] in ("kitaru", "journal")]
    assert not changed, "the modules that are changed must not be loaded yet"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
