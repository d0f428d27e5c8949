"""What a checkpoint's code means, with all of its project that it refers to."""

import enum
import functools
import hashlib
import importlib
import importlib.util
import operator
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dis import get_instructions
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from kitaru.engine.codec import Codec, TypeScope
from kitaru.errors import KitaruSerializationError

_codec = Codec()
_ABSENT = object()
_EMPTY_CELL = object()
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type(...), range})
_CONTAINERS = (dict, list, tuple, set, frozenset)
_WRITTEN_BY_PYTHON = frozenset(
    f"__{name}__"
    for name in (
        *("annotate", "annotate_func", "annotations", "dict", "doc", "firstlineno", "hash"),
        *("module", "qualname", "static_attributes", "weakref"),
    )
)
_INSTALLED = ("site-packages", "dist-packages")
_OF_THIS_PROCESS = re.compile(r" at 0x[0-9a-fA-F]+|\b(?:__main__|__mp_main__|kitaru_script_\w+)\.")
"""What a repr says that another process would say otherwise."""
CHANGES_ALLOWED = 3
"""How often a constant may be changed in place before it counts as state."""


class Fingerprint:
    """The fingerprint of one function, which follows what it refers to as that changes.

    It covers the function's compiled code, its defaults and closure, the classes that its
    annotations reach, and the functions, classes and constants of the project that it names, and
    what those name in turn. Of what is installed or belongs to Python only the name counts.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._digest = ""
        self._walk: _Walk | None = None
        self._changes = 0

    def current(self) -> str | None:
        """The hexadecimal SHA-256 of it all as it is now.

        None when the function refers to something that is changed in place again and again: its
        results may depend on more than its arguments and its code.
        """
        walk = self._walk
        if walk is not None and walk.names_hold():
            if self._changes > CHANGES_ALLOWED:
                return None
            if walk.values_hold():
                return self._digest
            self._changes += 1
            if self._changes > CHANGES_ALLOWED:
                return None
        walk = _Walk()
        described = walk.describe(self._function)
        text = repr((sys.implementation.cache_tag, described, walk.found))
        self._digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        self._walk = walk
        return self._digest


class _Walk:
    """One walk through what a function refers to. Functions and classes are described once."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        """The functions and classes of the project, in the order in which they were met."""
        self._places: dict[int, int] = {}
        """By id, where in `found` something is described."""
        self._open: set[int] = set()
        """The containers that are being described: one may hold itself."""
        self._kept: list[Any] = []
        """An id is only good while its object lives."""
        self._names: list[tuple[Mapping[str, Any], str, object]] = []
        self._cells: list[tuple[CellType, object]] = []
        self._contents: list[tuple[Any, list[Any]]] = []
        """Containers that can be changed, and what was in them."""
        self._changeable: list[tuple[Any, bytes]] = []
        """Other values that can be changed, and their bytes."""

    def names_hold(self) -> bool:
        """Whether every name still stands for the same thing."""
        return all(ns.get(name, _ABSENT) is value for ns, name, value in self._names) and all(
            _content(cell) is value for cell, value in self._cells
        )

    def values_hold(self) -> bool:
        """Whether nothing was changed in place."""
        for container, contents in self._contents:
            now = _contents(container)
            if len(now) != len(contents) or any(map(operator.is_not, now, contents)):
                return False
        return all(_encoded(value) == data for value, data in self._changeable)

    def describe(self, value: Any) -> Any:
        """Whatever a name stands for, as nested lists of texts, bytes and numbers."""
        if type(value) in _PLAIN:
            return [type(value).__name__, repr(value)]
        if type(value) in _CONTAINERS:
            return self._container(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        if isinstance(value, re.Pattern):
            return ["pattern", repr(value.pattern), value.flags]
        if isinstance(value, _NAMED_ONLY):
            return ["name", _name_of(value)]
        inner = _unwrapped(value)
        if inner is not None:
            return [_name_of(type(value)), *map(self.describe, inner)]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """A value of the kinds that the journal keeps; of any other object the class alone."""
        data = _encoded(value)
        if data is None:
            return ["object", self._class(type(value))]
        if not isinstance(value, enum.Enum):
            self._changeable.append((value, data))
        return [self._class(type(value)), data]

    def _container(self, value: Any) -> Any:
        if id(value) in self._open:
            return ["itself"]
        self._open.add(id(value))
        contents = _contents(value)
        if not isinstance(value, tuple | frozenset):
            self._contents.append((value, contents))
        if isinstance(value, set | frozenset):
            # In an order that is the same in every process.
            contents = sorted(contents, key=lambda item: repr(_Walk().describe(item)))
        described = [self.describe(item) for item in contents]
        self._open.discard(id(value))
        return [type(value).__name__, *described]

    def _function(self, function: FunctionType) -> Any:
        if not _is_of_project(function.__globals__):
            inner = _wrapped_by(function)
            return ["name", _name_of(function), *([] if inner is None else [self.describe(inner)])]
        return ["function", self._described_once(function, self._function_facts)]

    def _class(self, cls: type) -> Any:
        module = sys.modules.get(str(cls.__module__))
        if module is not None and not _is_of_project(vars(module)):
            return ["name", _name_of(cls)]
        return ["class", self._described_once(cls, self._class_facts)]

    def _described_once(self, value: Any, facts: Callable[[Any], Iterator[Any]]) -> int:
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self.found)
            self._kept.append(value)
            self.found.append(None)
            self.found[place] = list(facts(value))
        return place

    def _function_facts(self, function: FunctionType) -> Iterator[Any]:
        code = function.__code__
        yield function.__qualname__
        yield code_facts(code)
        yield self.describe(function.__defaults__)
        yield self.describe(function.__kwdefaults__)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            content = _content(cell)
            self._cells.append((cell, content))
            if content is not _EMPTY_CELL:
                yield [name, self.describe(content)]
        names = sorted(set(_names(code)))
        yield from self._named(function.__globals__, names, set())
        for module in _imported(function):
            yield [module.__name__, *self._named(vars(module), names, {id(module)})]
        for cls in TypeScope.of_function(function).classes:
            yield self._class(cls)
        if (inner := _wrapped_by(function)) is not None:
            yield self.describe(inner)

    def _named(
        self, namespace: Mapping[str, Any], names: Iterable[str], modules: set[int]
    ) -> Iterator[Any]:
        """What these names stand for in a module, and in the project's modules among that.

        A name may be that of an attribute of something else: then a little too much is covered.
        """
        for name in names:
            value = namespace.get(name, _ABSENT)
            self._names.append((namespace, name, value))
            if value is _ABSENT:
                continue
            if not isinstance(value, ModuleType):
                yield [name, self.describe(value)]
            elif _is_of_project(vars(value)) and id(value) not in modules:
                modules.add(id(value))
                yield [name, *self._named(vars(value), names, modules)]

    def _class_facts(self, cls: type) -> Iterator[Any]:
        yield cls.__qualname__
        yield [self._class(base) for base in cls.__bases__]
        yield _annotations(cls)
        for name, value in sorted(vars(cls).items()):
            if name in _WRITTEN_BY_PYTHON:
                continue
            is_own = not (name.startswith("__") and name.endswith("__"))
            if is_own or isinstance(value, FunctionType) or _unwrapped(value) is not None:
                self._names.append((vars(cls), name, value))
                yield [name, self.describe(value)]


def code_facts(code: CodeType) -> list[Any]:
    """What compiled code does: neither where it stands nor its docstring.

    Compiled, and not the source: a file that was edited after it had been loaded says something
    else than what runs.
    """
    instructions = [[each.opname, _constant(each.argval)] for each in get_instructions(code)]
    return [code.co_varnames, code.co_argcount, code.co_exceptiontable, instructions]


def _constant(constant: object) -> Any:
    if isinstance(constant, CodeType):
        return code_facts(constant)
    if isinstance(constant, tuple):
        return ["tuple", *map(_constant, constant)]
    if isinstance(constant, frozenset):
        return ["frozenset", *sorted(repr(_constant(item)) for item in constant)]
    return [type(constant).__name__, repr(constant)]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _imported(function: FunctionType) -> list[ModuleType]:
    """The project's modules that a function's body imports."""
    package = str(function.__globals__.get("__package__") or "")
    modules = {}
    for level, name in _imports(function.__code__):
        try:
            full = importlib.util.resolve_name("." * level + name, package)
            # Only what the body itself would load the next moment.
            found = sys.modules.get(full) or _project_module(full)
        except (ImportError, ValueError):
            continue  # the body's own import says what is wrong, if it comes to that
        if found is not None and _is_of_project(vars(found)):
            modules[full] = found
    return [modules[name] for name in sorted(modules)]


def _imports(code: CodeType) -> Iterator[tuple[int, str]]:
    before: list[Any] = []
    for instruction in get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level = before[-2] if len(before) > 1 and isinstance(before[-2], int) else 0
            yield level, str(instruction.argval)
            fromlist = before[-1] if before else None
            if isinstance(fromlist, tuple):  # perhaps submodules
                for name in fromlist:
                    joined = f"{instruction.argval}.{name}" if instruction.argval else name
                    yield level, joined
        before = [*before[-1:], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant)


def _project_module(name: str) -> ModuleType | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not _is_project_file(spec.origin):
        return None
    return importlib.import_module(name)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _EMPTY_CELL


_NAMED_ONLY = (
    types.BuiltinFunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)


def _unwrapped(value: Any) -> list[Any] | None:
    """The parts of what stands in front of a function; None for anything else."""
    match value:
        case functools.partial():
            return [value.func, value.args, value.keywords]
        case MethodType():
            return [value.__func__, value.__self__]
        case staticmethod() | classmethod():
            return [value.__func__]
        case property():
            return [f for f in (value.fget, value.fset, value.fdel) if f is not None]
        case functools.cached_property():
            return [value.func]
        case _:
            inner = _wrapped_by(value)
            return None if inner is None else [inner]


def _wrapped_by(value: Any) -> FunctionType | None:
    """The function that a decorator has left behind, also one of Kitaru's own."""
    # Not getattr: an object may answer every name, or do something when it is asked.
    try:
        inner = object.__getattribute__(value, "__wrapped__")
    except (AttributeError, TypeError):
        return None
    return inner if isinstance(inner, FunctionType) else None


def _contents(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


def _encoded(value: Any) -> bytes | None:
    try:
        return _codec.encode(value, where="constant", types=TypeScope.of(type(value)))
    except KitaruSerializationError:
        return None


def _annotations(cls: type) -> list[list[str]]:
    try:
        found = dict(getattr(cls, "__annotations__", {}))
    except Exception:  # evaluated when it is read, from Python 3.14 on: it may name anything
        return []
    return [
        [name, _OF_THIS_PROCESS.sub("", repr(annotation))] for name, annotation in found.items()
    ]


def _name_of(value: Any) -> str:
    module = getattr(value, "__module__", None) or ""
    return f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _is_of_project(namespace: Mapping[str, Any]) -> bool:
    """Whether a module is the user's own: neither Python's, nor installed, nor Kitaru's."""
    name = str(namespace.get("__name__", ""))
    if name.partition(".")[0] in ("kitaru", "builtins"):
        return False
    file = namespace.get("__file__")
    if not isinstance(file, str):
        # A notebook or a prompt has no file; built-in modules have a loader that says so.
        return name == "__main__" or "__loader__" not in namespace
    return _is_project_file(file)


@functools.cache
def _is_project_file(file: str) -> bool:
    path = os.path.realpath(file)
    if any(part in _INSTALLED for part in path.split(os.sep)):
        return False
    return not any(path.startswith(folder + os.sep) for folder in _python_folders())


@functools.cache
def _python_folders() -> tuple[str, ...]:
    import sysconfig  # slow to import, and only needed once something runs

    paths = sysconfig.get_paths()
    return tuple(os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib"))
