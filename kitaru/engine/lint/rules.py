"""What one body does that a replay cannot repeat."""

import ast
from collections.abc import Iterator

from kitaru.engine.lint.codes import PATH_METHODS, READS, code_of_call
from kitaru.engine.lint.modules import FunctionNode, Module, changes_in, imports_in

Place = tuple[str, ast.expr | ast.stmt, str]
"""A code, where, and what stands there."""

_UNORDERED = frozenset(
    {
        "all",
        "any",
        "bool",
        "frozenset",
        "len",
        "max",
        "min",
        "set",
        "sorted",
        "sum",
    }
)
"""What takes a set, or what is made of one, and gives the same whatever its order."""
_ORDERED = frozenset(
    {
        "dict",
        "enumerate",
        "iter",
        "list",
        "map",
        "filter",
        "reversed",
        "tuple",
        "zip",
        "next",
    }
)
_SET_METHODS = frozenset(
    {
        "copy",
        "difference",
        "intersection",
        "symmetric_difference",
        "union",
    }
)
_SET_TYPES = frozenset(
    {
        "set",
        "frozenset",
        "typing.Set",
        "typing.FrozenSet",
    }
)
_PATH = "pathlib.Path"


class Body:
    """The body of a flow, or of a function that one calls."""

    def __init__(self, module: Module, function: FunctionNode) -> None:
        self.module = module
        self.function = function
        self._nodes = list(_within(module, function))
        self.imports = {**module.imports, **self._own_imports()}
        self._locals = self._bound() - set(self._own_imports())
        self._harmless = self._find_harmless()
        self._kinds: dict[str, str] = {}
        """The names that are always a set, or always a path."""
        self._find_kinds()

    def _own_imports(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in self._nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.update(imports_in([node], self.module))
        return found

    def _bound(self) -> set[str]:
        """The names that are the body's own."""
        declared = {
            name for node in self._nodes if isinstance(node, ast.Global) for name in node.names
        }
        found: set[str] = set()
        for node in [self.function, *self._nodes]:
            if isinstance(node, FunctionNode | ast.Lambda):
                found |= {argument.arg for argument in _arguments(node.args)}
            if isinstance(node, FunctionNode | ast.ClassDef) and node is not self.function:
                found.add(node.name)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                found.add(node.id)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                found.add(node.name)
        return found - declared

    def places(self) -> Iterator[Place]:
        """All that the rules find, in the order of the source."""
        found = [place for node in self._nodes for place in self._of(node)]
        yield from sorted(found, key=lambda it: (it[1].lineno, it[1].col_offset, it[0]))

    def references(self) -> Iterator[tuple[ast.expr, str]]:
        """The functions that the body names: the expression, and the dotted name."""
        for node in self._nodes:
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                name = self._name(node)
                if name is not None:
                    yield node, name

    def _name(self, node: ast.expr) -> str | None:
        """A dotted name, unless it begins with a name of the body's own."""
        first: ast.expr = node
        while isinstance(first, ast.Attribute):
            first = first.value
        if not isinstance(first, ast.Name) or first.id in self._locals:
            return None
        return self.module.dotted(node, self.imports)

    def _is_builtin(self, name: str) -> bool:
        return name not in self.module.names and name not in self.imports

    def _of(self, node: ast.AST) -> Iterator[Place]:
        match node:
            case ast.Global():
                yield "KIT111", node, f"global {', '.join(node.names)}"
            case ast.Call():
                yield from self._call(node)
            case ast.Attribute() | ast.Name() if isinstance(node.ctx, ast.Load):
                yield from self._read(node)
            case _:
                pass
        for iterated in self._iterated(node):
            if self._is_set(iterated):
                yield "KIT109", iterated, ast.unparse(iterated)
        for name, where in changes_in(node):
            if name in self.module.values and name not in self._locals:
                yield "KIT110", where, f"{name} is changed"

    def _call(self, node: ast.Call) -> Iterator[Place]:
        name = self._name(node.func)
        if name is not None and ("." in name or self._is_builtin(name)):
            code = code_of_call(name)
            if code is not None and not (name == "random.Random" and (node.args or node.keywords)):
                yield code, node, f"{name}()"
                return
        method = node.func
        if not isinstance(method, ast.Attribute):
            return
        if method.attr in PATH_METHODS and self._is_path(method.value):
            yield "KIT105", node, f"Path.{method.attr}()"
        elif method.attr == "pop" and not node.args and self._is_set(method.value):
            yield "KIT109", node, f"{ast.unparse(method.value)}.pop()"
        elif method.attr == "run_in_executor":
            yield "KIT108", node, "run_in_executor()"

    def _read(self, node: ast.Attribute | ast.Name) -> Iterator[Place]:
        name = self._name(node)
        if name is None:
            return
        if name in READS:
            yield READS[name], node, name
        elif name in self.module.changed and isinstance(node, ast.Name):
            yield "KIT110", node, f"{name} is read, and changed elsewhere"

    # sets and paths, as far as they can be told

    def _iterated(self, node: ast.AST) -> Iterator[ast.expr]:
        """What is gone through in an order that matters."""
        match node:
            case ast.For(iter=iterated):
                yield iterated
            case ast.ListComp() | ast.DictComp():
                yield from (generator.iter for generator in node.generators)
            case ast.GeneratorExp() if id(node) not in self._harmless:
                yield from (generator.iter for generator in node.generators)
            case ast.Call(func=ast.Name(id=name), args=args) if name in _ORDERED:
                if name not in self._locals and self._is_builtin(name):
                    yield from args
            case ast.Call(func=ast.Attribute(attr="join" | "extend" | "fromkeys"), args=args):
                yield from args
            case ast.Starred(value=iterated):
                yield iterated
            case ast.Assign(targets=[ast.Tuple() | ast.List()], value=iterated):
                yield iterated
            case _:
                pass

    def _find_harmless(self) -> set[int]:
        """Generators that go where no order counts."""
        return {
            id(argument)
            for node in self._nodes
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _UNORDERED
            for argument in node.args
        }

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return self._kinds.get(name) == "set"
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                return self._is_set(node.left) or self._is_set(node.right)
            case ast.Call(func=ast.Name(id="set" | "frozenset" as name)):
                return name not in self._locals and self._is_builtin(name)
            case ast.Call(func=ast.Attribute(value=value, attr=attr)):
                return attr in _SET_METHODS and self._is_set(value)
            case ast.IfExp(body=body, orelse=orelse):
                return self._is_set(body) or self._is_set(orelse)
            case _:
                return False

    def _is_path(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return self._kinds.get(name) == "path"
            case ast.BinOp(op=ast.Div()):
                return self._is_path(node.left)
            case ast.Call(func=function):
                return self._name(function) == _PATH
            case ast.Attribute(value=value, attr="parent"):
                return self._is_path(value)
            case _:
                return False

    def _find_kinds(self) -> None:
        for argument in _arguments(self.function.args):
            kind = self._annotated(argument.annotation)
            if kind is not None:
                self._kinds[argument.arg] = kind
        assigned: dict[str, set[str | None]] = {}
        for node in self._nodes:
            for name, value in _assigned(node):
                assigned.setdefault(name, set()).add(self._kind(value))
                (kind, *others) = assigned[name]
                if kind is None or others:
                    self._kinds.pop(name, None)
                else:
                    self._kinds[name] = kind

    def _kind(self, value: ast.expr | None) -> str | None:
        if value is None:
            return None
        if self._is_set(value):
            return "set"
        return "path" if self._is_path(value) else None

    def _annotated(self, annotation: ast.expr | None) -> str | None:
        if isinstance(annotation, ast.Subscript):
            annotation = annotation.value
        if annotation is None:
            return None
        name = self.module.dotted(annotation, self.imports)
        if name in _SET_TYPES:
            return "set"
        return "path" if name == _PATH else None


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, value
                else:
                    yield from _unknown(target)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as given):
            yield name, given
        case ast.NamedExpr(target=ast.Name(id=name), value=value):
            yield name, value
        case ast.For(target=target) | ast.AsyncFor(target=target):
            yield from _unknown(target)
        case _:
            pass


def _unknown(target: ast.expr) -> Iterator[tuple[str, None]]:
    yield from ((node.id, None) for node in ast.walk(target) if isinstance(node, ast.Name))


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    several = [arguments.vararg, arguments.kwarg]
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return named + [argument for argument in several if argument is not None]


def _within(module: Module, function: FunctionNode) -> Iterator[ast.AST]:
    """All nodes of a body, those of functions in it too; but not of checkpoints and flows."""
    left: list[ast.AST] = list(reversed(function.body))
    while left:
        node = left.pop()
        if isinstance(node, FunctionNode) and not module.is_own(node):
            continue
        yield node
        left += reversed(list(ast.iter_child_nodes(node)))
