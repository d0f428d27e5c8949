"""One source file, as far as the lint needs to know it: imports, functions, values, flows."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from kitaru.engine.lint.codes import CHANGING_METHODS

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_IGNORE = re.compile(r"#\s*kitaru:\s*ignore\[([^\]]*)\]")
_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MUTABLE_CALLS = frozenset(
    {
        "list",
        "dict",
        "set",
        "bytearray",
        "collections.defaultdict",
        "collections.deque",
        "collections.Counter",
        "collections.OrderedDict",
    }
)


class Module:
    """A parsed file. Raises SyntaxError, OSError or UnicodeDecodeError when it cannot be read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with tokenize.open(file) as opened:
            text = opened.read()
        try:
            self.tree = ast.parse(text, filename=str(file))
        except ValueError as error:
            # Null bytes, before Python 3.12.
            raise SyntaxError(str(error)) from error
        self.package, self.root = _package_of(file)
        self.ignored = _ignored(text)
        """The codes that a comment silences, by line."""
        self.imports = dict(imports_in(self.tree.body, self))
        """What a name stands for: ``np`` → ``numpy``."""
        self.functions = {
            node.name: node
            for node in _statements(self.tree.body)
            if isinstance(node, FunctionNode)
        }
        self.values = dict(self._module_values())
        """The names that hold a list, dict or set."""
        self.names = {*self.functions, *self.values, *_bound_names(self.tree.body)}
        self.changed = set(self._changed_values())
        """Those that a function of the module changes."""
        self.aliases: dict[str, str] = {}
        """Names of the decorators: ``durable = flow(retries=2)``."""
        self._find_aliases()
        self.flows = dict(self._flows())
        """The bodies of flows, by name."""

    def dotted(self, node: ast.expr, imports: dict[str, str] | None = None) -> str | None:
        """What an expression names, with imports followed: ``datetime.datetime.now``."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        known = self.imports if imports is None else imports
        return ".".join([known.get(node.id, node.id), *parts])

    def decorates(self, node: ast.expr, what: str) -> bool:
        """Whether an expression is kitaru's decorator of that name, perhaps with options."""
        while isinstance(node, ast.Call):
            node = node.func
        if isinstance(node, ast.Name) and node.id in self.aliases:
            return self.aliases[node.id] == what
        return self.dotted(node) in (f"kitaru.{what}", f"kitaru.sdk.{what}.{what}")

    def is_own(self, function: FunctionNode) -> bool:
        """Whether it is neither a checkpoint nor a flow: its code runs where it is called."""
        return not any(
            self.decorates(decorator, what)
            for decorator in function.decorator_list
            for what in ("checkpoint", "flow")
        )

    def _find_aliases(self) -> None:
        for node in _statements(self.tree.body):
            if not isinstance(node, ast.Assign) or len(node.targets) != 1:
                continue
            target, value = node.targets[0], node.value
            if not isinstance(target, ast.Name) or _has_positional(value):
                continue
            for what in ("flow", "checkpoint"):
                if self.decorates(value, what):
                    self.aliases[target.id] = what

    def _flows(self) -> Iterator[tuple[str, FunctionNode]]:
        for node in ast.walk(self.tree):
            if isinstance(node, FunctionNode):
                if any(self.decorates(each, "flow") for each in node.decorator_list):
                    yield node.name, node
            elif isinstance(node, ast.Call) and len(node.args) == 1:
                # nightly = flow(run_report)
                given = node.args[0]
                if isinstance(given, ast.Name) and self.decorates(node.func, "flow"):
                    function = self.functions.get(given.id)
                    if function is not None:
                        yield given.id, function

    def _module_values(self) -> Iterator[tuple[str, ast.expr]]:
        for node in _statements(self.tree.body):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            value: ast.expr | None = getattr(node, "value", None)
            for target in targets:
                if isinstance(target, ast.Name) and value is not None and self._is_mutable(value):
                    yield target.id, value

    def _is_mutable(self, value: ast.expr) -> bool:
        if isinstance(value, ast.Call):
            return self.dotted(value.func) in _MUTABLE_CALLS
        return isinstance(value, _MUTABLE)

    def _changed_values(self) -> Iterator[str]:
        for function in ast.walk(self.tree):
            if isinstance(function, FunctionNode):
                for node in ast.walk(function):
                    yield from (name for name, _ in changes_in(node) if name in self.values)


def changes_in(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names whose value a statement or call changes in place, with the expression."""
    changed: list[ast.expr] = []
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name() as name, attr=attr)):
            if attr in CHANGING_METHODS:
                yield name.id, name
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            changed = targets
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            changed = [target]
        case _:
            pass
    for each in changed:
        holder: ast.expr = each
        while isinstance(holder, ast.Subscript):
            holder = holder.value
        if holder is not each and isinstance(holder, ast.Name):
            yield holder.id, holder


def imports_in(body: list[ast.stmt], module: Module) -> Iterator[tuple[str, str]]:
    """The names that the imports among these statements bind."""
    for node in _statements(body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name
                else:
                    top = alias.name.partition(".")[0]
                    yield top, top
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module.package)
            for alias in node.names:
                yield alias.asname or alias.name, f"{base}.{alias.name}" if base else alias.name


def _absolute(node: ast.ImportFrom, package: list[str]) -> str:
    if not node.level:
        return node.module or ""
    parts = package[: len(package) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, and those within ``if``, ``try`` and ``with``; not those of functions."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(node, FunctionNode | ast.ClassDef):
                yield from _statements(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


def _bound_names(body: list[ast.stmt]) -> Iterator[str]:
    for node in _statements(body):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (it.id for target in targets for it in ast.walk(target) if _is_name(it))


def _is_name(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _has_positional(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and bool(node.args)


def _package_of(file: Path) -> tuple[list[str], Path]:
    """The package that a file is in, as names, and the folder from which it is imported."""
    folder = file.resolve().parent
    parts: list[str] = []
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return parts, folder


def _ignored(text: str) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    if "kitaru:" not in text:
        return found
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and (match := _IGNORE.search(token.string)):
            codes = {code.strip() for code in match[1].split(",")}
            found.setdefault(token.start[0], set()).update(codes)
    return found
