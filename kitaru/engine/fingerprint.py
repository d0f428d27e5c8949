"""What a checkpoint's code means, with all of its project that it refers to."""

import collections
import contextlib
import enum
import fractions
import functools
import hashlib
import importlib
import importlib.util
import operator
import os
import re
import string
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dis import get_instructions
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import msgspec

from kitaru.engine.codec import Codec, TypeScope
from kitaru.errors import KitaruSerializationError

_codec = Codec()
_ABSENT = object()
_EMPTY_CELL = object()
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type(...), range})
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.ChainMap)
_MAPPINGS += (types.MappingProxyType,)  # type: ignore[assignment]
_CONTAINERS = frozenset({*_MAPPINGS, list, tuple, set, frozenset, collections.deque})
_TOLD_BY_ATTRIBUTES = frozenset({types.SimpleNamespace, string.Template})
_UNCHANGING = frozenset({tuple, frozenset})
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
LARGEST_OBJECTS = 2_000
"""How many attributes and items of objects are looked at, for one function. Whatever comes behind
them counts by its class: an object may reach all that a program has loaded."""


class Fingerprint:
    """The fingerprint of one function, which follows what it refers to as that changes.

    It covers the function's compiled code, its defaults and closure, the classes that its
    annotations reach, and the functions, classes and constants of the project that it names, and
    what those name in turn. Of what is installed or belongs to Python only the name counts. An
    object of a class of the project counts with what it held when this process first looked at it:
    what changes in it later is its state.
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
        try:
            described = walk.describe(self._function)
        except RecursionError:
            # Data that is nested so deeply is no constant that anybody wrote down.
            return None
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
        self._look: _FirstLook | None = None
        """At the object of the project that holds what is described."""
        self._left = LARGEST_OBJECTS

    def names_hold(self) -> bool:
        """Whether every name still stands for the same thing."""
        return all(ns.get(name, _ABSENT) is value for ns, name, value in self._names) and all(
            _content(cell) is value for cell, value in self._cells
        )

    def values_hold(self) -> bool:
        """Whether nothing was changed in place, but for what objects of the project hold."""
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
        if type(value) in _TOLD_BY_REDUCTION:
            return [_name_of(type(value)), *map(self.describe, value.__reduce__()[1:])]
        if (origin := typing.get_origin(value)) is not None:
            return ["alias", *map(self.describe, (origin, *typing.get_args(value)))]
        if isinstance(value, _NAMED_ONLY):
            return ["name", _name_of(value)]
        inner = _unwrapped(value)
        if inner is not None:
            return [_name_of(type(value)), *map(self.describe, inner)]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """A value of the kinds that the journal keeps, or what an object of the project holds.

        Of any other object the class alone.
        """
        cls = type(value)
        look = self._look
        data = _encoded(value) if look is None else look.read(value, _encoded)
        if data is not None:
            if look is None and not isinstance(value, enum.Enum):
                self._changeable.append((value, data))
            return [self._class(cls), data]
        if cls in _TOLD_BY_ATTRIBUTES or _is_class_of_project(cls):
            with self._looking(_first_look(value)):
                return ["object", self._class(cls), self._items(value, _attributes)]
        return ["object", self._class(cls)]

    def _container(self, value: Any) -> Any:
        described = [type(value).__name__, self._items(value, _contents)]
        if isinstance(value, collections.defaultdict):
            described.append(self.describe(value.default_factory))
        return described

    def _items(self, value: Any, read: Callable[[Any], list[Any]]) -> Any:
        if id(value) in self._open:
            return "itself"
        items = read(value) if self._look is None else self._look.read(value, read)
        if self._look is not None:
            if len(items) > self._left:
                return "too much"
            self._left -= len(items)
        elif type(value) not in _UNCHANGING:
            self._contents.append((value, items))
        if isinstance(value, set | frozenset):
            # In an order that is the same in every process.
            items = sorted(items, key=lambda item: repr(_Walk().describe(item)))
        self._open.add(id(value))
        described = [self.describe(item) for item in items]
        self._open.discard(id(value))
        return described

    @contextlib.contextmanager
    def _looking(self, look: "_FirstLook | None") -> Iterator[None]:
        before, self._look = self._look, look
        yield
        self._look = before

    def _function(self, function: FunctionType) -> Any:
        if not _is_of_project(function.__globals__):
            inner = [each for each in (_wrapped_by(function), _registered(function)) if each]
            return ["name", _name_of(function), *map(self.describe, inner)]
        return ["function", self._described_once(function, self._function_facts)]

    def _class(self, cls: type) -> Any:
        if not _is_class_of_project(cls):
            return ["name", _name_of(cls)]
        return ["class", self._described_once(cls, self._class_facts)]

    def _described_once(self, value: Any, facts: Callable[[Any], Iterator[Any]]) -> int:
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self.found)
            self._kept.append(value)
            self.found.append(None)
            with self._looking(None):
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
        yield [self._class(base) for base in (type(cls), *cls.__bases__)]
        yield _annotations(cls)
        yield [self.describe(value) for value in _defaults(cls)]
        for name, value in sorted(vars(cls).items()):
            if name in _WRITTEN_BY_PYTHON:
                continue
            is_own = not (name.startswith("__") and name.endswith("__"))
            is_code = isinstance(value, FunctionType) or _unwrapped(value) is not None
            if is_own or is_code or name == "__slots__" or type(value) in _PLAIN:
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


_TOLD_BY_REDUCTION = frozenset(
    {
        fractions.Fraction,
        operator.attrgetter,
        operator.itemgetter,
        operator.methodcaller,
        slice,
    }
)
"""Types of Python's own whose values say all about themselves when they are to be copied."""


def _unwrapped(value: Any) -> list[Any] | None:
    """The parts of what stands in front of a function; None for anything else."""
    match value:
        case functools.partial() | functools.partialmethod():
            return [value.func, value.args, value.keywords]
        case functools.singledispatchmethod():
            return [value.dispatcher]
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


def _registered(function: FunctionType) -> Mapping[type, Any] | None:
    """The implementations of a function that `functools.singledispatch` has made, by type."""
    registry = vars(function).get("registry")
    is_one = function.__module__ == "functools" or hasattr(function, "dispatch")
    return registry if is_one and isinstance(registry, types.MappingProxyType) else None


class _FirstLook:
    """What an object of the project, and the containers and values in it, held at first."""

    def __init__(self, owner: object) -> None:
        id_ = id(owner)
        self._owner: Callable[[], object]
        try:
            self._owner = weakref.ref(owner, lambda _: _first_looks.pop(id_, None))
        except TypeError:  # of a class with slots
            self._owner = lambda: owner
        self._held: dict[tuple[int, object], tuple[Any, Any]] = {}

    def is_at(self, owner: object) -> bool:
        """Whether the object that had this id then is the one that has it now."""
        return self._owner() is owner

    def read(self, value: Any, read: Callable[[Any], Any]) -> Any:
        """What was read of the object or of something in it when that was first looked at."""
        key = (id(value), read)
        if key not in self._held:
            # An id is good while its object lives; but the owner, kept by itself, would never go.
            kept = None if value is self._owner() else value
            self._held[key] = (kept, read(value))
        return self._held[key][1]


_first_looks: dict[int, _FirstLook] = {}
"""By the ids of the objects; for all checkpoints, so that what the first one changes in an object
that they share does not count for the next."""


def _first_look(value: object) -> _FirstLook:
    look = _first_looks.get(id(value))
    if look is None or not look.is_at(value):
        look = _first_looks[id(value)] = _FirstLook(value)
    return look


def _attributes(value: object) -> list[Any]:
    """An object's attributes by name, read without asking the object."""
    try:
        held = dict(object.__getattribute__(value, "__dict__"))
    except AttributeError:
        held = {}
    for cls in type(value).__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # not assigned
                    held[name] = slot.__get__(value)
    return [each for name in sorted(held, key=str) for each in (name, held[name])]


def _contents(container: Any) -> list[Any]:
    if isinstance(container, _MAPPINGS):
        return [*container.keys(), *container.values()]
    return list(container)


def _defaults(cls: type) -> list[Any]:
    """What a class of msgspec's or pydantic's says of its fields, which no attribute of it does."""
    if issubclass(cls, msgspec.Struct):
        config = cls.__struct_config__
        flags = [getattr(config, name) for name in sorted(dir(config)) if name[0] != "_"]
        defaults = [_told_default(default) for default in cls.__struct_defaults__]
        return [cls.__struct_encode_fields__, defaults, flags]
    fields = vars(cls).get("__pydantic_fields__")
    if not isinstance(fields, dict):
        return []
    # Annotations are compared as those of the class.
    return [
        [name, *(getattr(field, key, None) for key in _said_of_a_field(type(field)))]
        for name, field in fields.items()
    ]


def _said_of_a_field(cls: type) -> list[str]:
    return [key for key in cls.__slots__ if key[0] != "_" and key != "annotation"]  # type: ignore[attr-defined]


def _told_default(default: Any) -> Any:
    is_factory = type(default).__module__.partition(".")[0] == "msgspec"
    return ["factory", default.factory] if is_factory and hasattr(default, "factory") else default


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


def _is_class_of_project(cls: type) -> bool:
    module = sys.modules.get(str(cls.__module__))
    return module is None or _is_of_project(vars(module))


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
