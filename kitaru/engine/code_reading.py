"""What the source around a call says: which calls come after it, and under which conditions.

Read only to tell the story of a divergence. Nothing of the user's is run: names are looked up, and
displays of constants and names are put together; whatever else an argument is made of stays open.
"""

import ast
import linecache
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Protocol

from msgspec import Struct

from kitaru.engine.codec import Codec, digest
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.errors import KitaruError

OWN_FOLDER = str(Path(__file__).parents[1])
LONGEST_CONDITION = 60
_WRAPPERS = ("submit", "map", "product", "sync", "aio")
_NEVER_SUBMITTED_ALONE = ("map", "product")

Place = tuple[float, float]
Namespace = dict[str, Any]


class Guard(Struct, frozen=True):
    """A branch that a call stands in."""

    branching: Place
    """Where the statement that branches stands."""
    arm: str
    text: str
    """The condition, such as ``if today.weekday() < 5``."""
    line: int
    made_of: str
    """The condition, and what its variables were set to."""


class Loop(Struct, frozen=True):
    """A loop that a call stands in."""

    text: str
    line: int
    over_set: bool
    """Whether what it goes through is, or was made as, a set."""


class CodeCall(Struct, frozen=True):
    """A call of a checkpoint, a wait or a sleep in the source."""

    name: str
    file: str
    begin: Place
    end: Place
    guards: tuple[Guard, ...] = ()
    loop: Loop | None = None
    digest: str = ""
    """Of its arguments, where they can be told without running anything."""

    @property
    def line(self) -> int:
        """The line on which it begins."""
        return int(self.begin[0])


class Code(Struct, frozen=True):
    """The source that a flow's body consists of, seen from one of its calls."""

    calls: tuple[CodeCall, ...] = ()
    """All in the files that the body was in."""
    here: CodeCall | None = None
    """The call that the body stands at."""
    ahead: tuple[CodeCall, ...] = ()
    """What comes after it."""
    was_read: bool = False
    """Whether there was a source to read."""
    fault: str = ""
    """Why it could not be made sense of, when the reading itself failed."""


def body_frames(innermost: FrameType | None, last: CodeType) -> list[FrameType]:
    """The user's frames of a stack, innermost first, up to the one that runs `last`."""
    frames: list[FrameType] = []
    frame = innermost
    while frame is not None and frame.f_code is not last:
        if not frame.f_code.co_filename.startswith(OWN_FOLDER):
            frames.append(frame)
        frame = frame.f_back
    # Without `last` it is no stack of the body: that has ended.
    return frames if frame is not None else []


def suspended_frames(coroutine: Any) -> list[FrameType]:
    """The user's frames of a coroutine that waits, innermost first."""
    frames: list[FrameType] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(OWN_FOLDER):
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return frames[::-1]


def chain_at(chains: Sequence[list[FrameType]], site: str) -> list[FrameType]:
    """The frames of the task in which a call was made; the first task's where that is open."""
    for chain in chains:
        if any(_holds(frame.f_code, site) for frame in chain):
            return chain
    return chains[0] if chains else []


def _holds(code: CodeType, site: str) -> bool:
    file, _, line = site.rpartition(":")
    lines = {number for _, _, number in code.co_lines() if number is not None}
    return line.isdecimal() and int(line) in lines and _is_file(code.co_filename, file)


def _is_file(whole: str, file: str) -> bool:
    """Whether a call site's file, which may be relative to the working directory, is this one."""
    return whole == file or Path(whole).as_posix().endswith("/" + Path(file).as_posix())


class Site(Protocol):
    """A call of the body: its name, and where it stands."""

    @property
    def name(self) -> str:
        """What is called."""
        ...

    @property
    def site(self) -> str:
        """``file:line``."""
        ...


def read_code(function: Any, frames: Sequence[FrameType], asked: Site | None, codec: Codec) -> Code:
    """What the source says around a call of the body; None: where it has ended. Never raises."""
    try:
        return _read(function, frames, asked, codec)
    except Exception as error:
        # A divergence is recorded with its facts, whatever is wrong with its story.
        return Code(fault=repr(error))


def _read(
    function: FunctionType, frames: Sequence[FrameType], asked: Site | None, codec: Codec
) -> Code:
    sources = {file: Source(file) for file in _files(function, frames)}
    space = {**function.__globals__, **_closure(function)}
    calls: list[CodeCall] = []
    for source in sources.values():
        if source.tree is not None:
            calls += calls_in(source, source.tree, space, None)
    here, ahead = None, list[CodeCall]()
    if asked is not None:
        here, ahead = _around(sources, frames, asked, codec)
        here = here or next((call for call in calls if _is_at(call, asked)), None)
    was_read = any(source.tree is not None for source in sources.values())
    return Code(tuple(calls), here, tuple(ahead), was_read)


def _files(function: FunctionType, frames: Sequence[FrameType]) -> list[str]:
    files = [function.__code__.co_filename, *(frame.f_code.co_filename for frame in frames)]
    return list(dict.fromkeys(files))


def _closure(function: FunctionType) -> Namespace:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found: Namespace = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not set yet
    return found


class Source:
    """One file, parsed."""

    def __init__(self, file: str) -> None:
        self.file = file

    @cached_property
    def tree(self) -> ast.Module | None:
        """None where there is no file, or no Python in it."""
        linecache.checkcache(self.file)
        text = "".join(linecache.getlines(self.file))
        try:
            return ast.parse(text) if text.strip() else None
        except (SyntaxError, ValueError, RecursionError):
            return None

    def function_at(self, code: CodeType) -> ast.AST | None:
        """The definition that a code object was compiled from."""
        if self.tree is None:
            return None
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if node.name == code.co_name and code.co_firstlineno in (first, node.lineno):
                return node
        return None


def _around(
    sources: dict[str, Source], frames: Sequence[FrameType], asked: Site, codec: Codec
) -> tuple[CodeCall | None, list[CodeCall]]:
    here: CodeCall | None = None
    ahead: list[CodeCall] = []
    for frame in frames:
        source = sources[frame.f_code.co_filename]
        function = source.function_at(frame.f_code)
        if function is None:
            continue
        space = {**frame.f_globals, **frame.f_locals}
        calls = calls_in(source, function, space, codec)
        end = _end_of_current(frame)
        current = [call for call in calls if call.begin[0] <= frame.f_lineno <= call.end[0]]
        if here is None and not ahead:
            named = [call for call in calls if _is_at(call, asked)]
            here = next((call for call in named if call.end == end), named[0] if named else None)
        stands = here.end if here is not None and here in calls else end
        ahead += [call for call in calls if call.end > stands and call is not here]
        loop = next((call.loop for call in current if call.loop is not None), None)
        if loop is not None:
            again = [call for call in calls if call.loop == loop and call.end <= stands]
            ahead += [_unsure(call) for call in again]
    return here, ahead


def _is_at(call: CodeCall, asked: Site) -> bool:
    file, _, line = asked.site.rpartition(":")
    return (call.name, str(call.line)) == (asked.name, line) and _is_file(call.file, file)


def _unsure(call: CodeCall) -> CodeCall:
    """The call in the loop's next round: with what, cannot be told."""
    return CodeCall(call.name, call.file, call.begin, call.end, call.guards, call.loop)


def _end_of_current(frame: FrameType) -> Place:
    positions = list(frame.f_code.co_positions())
    _, end_line, _, end_column = positions[frame.f_lasti // 2]
    if end_line is None or end_column is None:
        return (frame.f_lineno, math.inf)
    return (end_line, end_column)


def calls_in(
    source: Source, root: ast.AST, space: Namespace, codec: Codec | None
) -> list[CodeCall]:
    """The calls below a node, in the order in which Python makes them."""
    return list(_Reader(source, root, space, codec).calls(root, (), None))


class _Reader:
    """Goes through one function or module."""

    def __init__(
        self, source: Source, root: ast.AST, space: Namespace, codec: Codec | None
    ) -> None:
        self._source = source
        self._space = space
        self._codec = codec
        self._assigned = [node for node in ast.walk(root) if isinstance(node, ast.Assign)]

    def calls(
        self, node: ast.AST, guards: tuple[Guard, ...], loop: Loop | None
    ) -> Iterator[CodeCall]:
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                yield from self.calls(test, guards, loop)
                yield from self._arm(body, self._guard(node, test, "body"), guards, loop)
                yield from self._arm(orelse, self._guard(node, test, "orelse"), guards, loop)
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                yield from self.calls(test, guards, loop)
                yield from self._arm([then], self._guard(node, test, "body"), guards, loop)
                yield from self._arm([otherwise], self._guard(node, test, "orelse"), guards, loop)
            case ast.For(iter=items) | ast.AsyncFor(iter=items):
                yield from self.calls(items, guards, loop)
                inner = self._loop(node, items)
                yield from self._arm([*node.body, *node.orelse], None, guards, inner)
            case ast.While(test=test, body=body, orelse=orelse):
                inner = Loop(_short(f"while {ast.unparse(test)}"), node.lineno, False)
                yield from self._arm([test, *body, *orelse], None, guards, inner)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                items = node.generators[0].iter
                yield from self.calls(items, guards, loop)
                inner = self._loop(node, items)
                yield from self._arm(_made(node), None, guards, inner)
            case ast.ExceptHandler(type=kind, body=body):
                text = "except" if kind is None else f"except {ast.unparse(kind)}"
                place = (node.lineno, node.col_offset)
                guard = Guard(place, "handler", _short(text), node.lineno, text)
                yield from self._arm(body, guard, guards, loop)
            case ast.Match(subject=subject, cases=cases):
                yield from self.calls(subject, guards, loop)
                for number, case in enumerate(cases):
                    text = f"case {ast.unparse(case.pattern)}"
                    place = (node.lineno, node.col_offset)
                    line = case.pattern.lineno
                    guard = Guard(place, str(number), _short(text), line, ast.unparse(subject))
                    yield from self._arm(case.body, guard, guards, loop)
            case ast.Call():
                for child in ast.iter_child_nodes(node):
                    yield from self.calls(child, guards, loop)
                call = self._call(node, guards, loop)
                if call is not None:
                    yield call
            case _:
                for child in ast.iter_child_nodes(node):
                    yield from self.calls(child, guards, loop)

    def _arm(
        self,
        nodes: Sequence[ast.AST],
        guard: Guard | None,
        guards: tuple[Guard, ...],
        loop: Loop | None,
    ) -> Iterator[CodeCall]:
        inner = guards if guard is None else (*guards, guard)
        for node in nodes:
            yield from self.calls(node, inner, loop)

    def _guard(self, node: ast.If | ast.IfExp, test: ast.expr, arm: str) -> Guard:
        text = ast.unparse(test)
        shown = text if arm == "body" else f"not ({text})"
        place = (node.lineno, node.col_offset)
        return Guard(place, arm, _short(f"if {shown}"), test.lineno, self._made_of(test))

    def _loop(self, node: ast.AST, items: ast.expr) -> Loop:
        made_of = self._made_of(items)
        known, value = self._value(items)
        over_set = type(value) in (set, frozenset) if known else "set(" in made_of
        target = node.generators[0].target if hasattr(node, "generators") else node.target  # type: ignore[attr-defined]
        text = f"for {ast.unparse(target)} in {ast.unparse(items)}"
        return Loop(_short(text), items.lineno, over_set)

    def _made_of(self, expression: ast.expr) -> str:
        """The text of an expression, and of what its names were last set to before it."""
        names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
        texts = [ast.unparse(expression)]
        for assigned in self._assigned:
            targets = {node.id for node in assigned.targets if isinstance(node, ast.Name)}
            if targets & names and assigned.lineno <= expression.lineno:
                texts.append(ast.unparse(assigned.value))
        return " ".join(texts)

    def _call(
        self, node: ast.Call, guards: tuple[Guard, ...], loop: Loop | None
    ) -> CodeCall | None:
        function, how = node.func, ""
        while isinstance(function, ast.Attribute) and function.attr in _WRAPPERS:
            how = how or function.attr
            function = function.value
        called = self._called(function)
        name = _name_of(called, node)
        if name is None:
            return None
        begin = (node.lineno, node.col_offset)
        end = (node.end_lineno or node.lineno, node.end_col_offset or math.inf)
        known = self._digest(called, node) if how not in _NEVER_SUBMITTED_ALONE else ""
        return CodeCall(name, self._source.file, begin, end, guards, loop, known)

    def _called(self, function: ast.expr) -> Any:
        """The object that is called, where names and modules lead to it."""
        match function:
            case ast.Name(id=name):
                return self._space.get(name)
            case ast.Attribute(value=value, attr=attr):
                module = self._called(value)
                return (
                    vars(module).get(attr, getattr(module, attr, None))
                    if _is_module(module)
                    else None
                )
            case ast.Call(func=ast.Attribute(value=value, attr="with_options")):
                return self._called(value)
            case _:
                return None

    def _digest(self, called: Any, node: ast.Call) -> str:
        definition = getattr(called, "definition", None)
        if self._codec is None or not isinstance(definition, CheckpointDefinition):
            return ""
        if any(keyword.arg in (None, "id", "after") for keyword in node.keywords):
            return ""
        values = [self._value(argument) for argument in node.args]
        named = [(str(each.arg), self._value(each.value)) for each in node.keywords]
        if not all(known for known, _ in [*values, *(pair for _, pair in named)]):
            return ""
        try:
            arguments = definition.binder.name_all(
                tuple(value for _, value in values), {name: value for name, (_, value) in named}
            )
            return digest(self._codec.encode(arguments, where="arguments", types=definition.types))
        except KitaruError:
            return ""  # the code would be refused here; what it says first is told

    def _value(self, node: ast.expr) -> tuple[bool, Any]:
        """Whether an expression's value can be told without running anything, and the value."""
        match node:
            case ast.Constant(value=value):
                return True, value
            case ast.Name(id=name):
                return name in self._space, self._space.get(name)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                values = [self._value(item) for item in items]
                if not all(known for known, _ in values):
                    return False, None
                kind: Any = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
                try:
                    return True, kind(value for _, value in values)
                except TypeError:
                    return False, None  # a member of a set that cannot be hashed
            case ast.Subscript(value=holder, slice=index):
                return self._item(self._value(holder), self._value(index))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return True, -number
            case _:
                return False, None

    @staticmethod
    def _item(holder: tuple[bool, Any], index: tuple[bool, Any]) -> tuple[bool, Any]:
        if not (holder[0] and index[0]):
            return False, None
        plain = type(holder[1]) in (list, tuple, dict) and type(index[1]) in (int, str)
        try:
            return (True, holder[1][index[1]]) if plain else (False, None)
        except (LookupError, TypeError):
            return False, None


def _is_module(value: object) -> bool:
    return isinstance(value, ModuleType)


def _name_of(called: Any, node: ast.Call) -> str | None:
    if getattr(called, "__kitaru_checkpoint__", False):
        return str(called.name)
    where = getattr(called, "__module__", None)
    if where == "kitaru.sdk.wait":
        for keyword in node.keywords:
            if keyword.arg == "name":
                given = keyword.value
                return str(given.value) if isinstance(given, ast.Constant) else None
        return "wait"
    if getattr(called, "__name__", "") == "sleep" and where in (
        "kitaru.sdk.deterministic",
        "asyncio.tasks",
    ):
        return "sleep"
    return None


def _made(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.DictComp):
        return [node.key, node.value]
    return [node.elt] if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp) else []


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_CONDITION else text[: LONGEST_CONDITION - 1] + "…"
