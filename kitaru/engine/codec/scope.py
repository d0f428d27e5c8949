"""Which classes a function's annotations reach: the only ones that its values may be of."""

import builtins
import enum
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from kitaru.engine.codec.registry import BUILT_IN, REGISTRY, KnownType, TypeRegistry, full_name
from kitaru.engine.codec.shapes import is_pydantic_model, shape_of


class TypeScope:
    """A closed set of classes, by class and by the name they have in the journal."""

    __slots__ = ("_by_class", "_by_name", "_registered")

    def __init__(self, classes: Iterable[type], registered: TypeRegistry) -> None:
        self._registered = registered
        self._by_class: dict[type, KnownType] = {}
        self._by_name: dict[str, KnownType | None] = {}
        for cls in classes:
            self._add(cls)

    @classmethod
    def of(cls, *annotations: Any, registered: TypeRegistry = REGISTRY) -> "TypeScope":
        """The classes that these annotations reach, and the registered ones."""
        reached = _Reached()
        for annotation in annotations:
            reached.visit(annotation)
        return cls(reached.classes, registered)

    @classmethod
    def of_function(
        cls, function: Callable[..., Any], *, registered: TypeRegistry = REGISTRY
    ) -> "TypeScope":
        """The classes that a function's parameters and result reach, and the registered ones.

        An annotation that cannot be resolved, such as one imported for type checkers only, counts
        for nothing.
        """
        function = _undecorated(function)
        is_cached = registered is REGISTRY and isinstance(function, types.FunctionType)
        scope = _SCOPES.get(function) if is_cached else None
        if scope is None:
            scope = cls.of(*function_hints(function).values(), registered=registered)
            if is_cached:
                _SCOPES[function] = scope
        return scope

    @property
    def classes(self) -> tuple[type, ...]:
        """The classes that the annotations reach, in order; without the registered ones."""
        return tuple(self._by_class)

    def by_class(self, cls: type) -> KnownType | None:
        """What is known of a class, for writing."""
        registered = self._registered.by_class(cls)
        if registered is not None:
            return registered
        known = self._by_class.get(cls)
        if known is not None and self._is_ambiguous(known):
            return known._replace(name=full_name(cls))
        return known

    def by_name(self, name: str) -> KnownType | None:
        """What is known of a recorded name; raises ``ValueError`` when it fits two classes."""
        registered = self._registered.by_name(name)
        if registered is not None:
            return registered
        known = self._by_name.get(name)
        if known is None and name in self._by_name:
            raise ValueError(f"{name!r} can be more than one class; register_type(..., name=...)")
        return known

    def _add(self, cls: type) -> None:
        shape = shape_of(cls)
        if shape is None or cls in self._by_class:
            return
        known = KnownType(cls, cls.__qualname__, shape)
        self._by_class[cls] = known
        self._by_name[full_name(cls)] = known
        self._by_name[known.name] = None if known.name in self._by_name else known

    def _is_ambiguous(self, known: KnownType) -> bool:
        return self._by_name[known.name] is None or self._registered.by_name(known.name) is not None


_SCOPES: "WeakKeyDictionary[Callable[..., Any], TypeScope]" = WeakKeyDictionary()


class _Reached:
    """The classes that annotations reach, through fields, unions and generics, in order."""

    def __init__(self) -> None:
        self.classes: dict[type, None] = {}
        self._seen: set[int] = set()
        self._kept: list[Any] = []

    def visit(self, annotation: Any) -> None:
        pending = [annotation]
        while pending:
            annotation = pending.pop()
            if id(annotation) in self._seen:
                continue
            self._seen.add(id(annotation))
            self._kept.append(annotation)  # an id is only good while its object lives
            if _is_class(annotation) and annotation not in BUILT_IN:
                self.classes[annotation] = None
            pending.extend(_next(annotation))


def _is_class(annotation: Any) -> bool:
    # Until 3.11, list[int] says that it is an instance of type.
    return isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)


def _next(annotation: Any) -> Iterable[Any]:
    """The annotations that one annotation is made of."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return [type(value) for value in typing.get_args(annotation)]
    if origin is typing.Annotated:
        return [annotation.__origin__]
    if origin is not None:
        return [origin, *typing.get_args(annotation)]
    if isinstance(annotation, list | tuple):  # the parameters of a Callable
        return annotation
    if _is_class(annotation):
        return _parts_of_class(annotation)
    return _parts_of_name(annotation)


def _parts_of_name(annotation: Any) -> Iterable[Any]:
    """What a type variable, a new type or a type alias stands for."""
    parts = [
        _attribute(annotation, name)
        for name in ("__bound__", "__constraints__", "__default__", "__supertype__", "__value__")
    ]
    return [part for part in parts if part is not None]


def _attribute(annotation: Any, name: str) -> Any:
    try:
        return getattr(annotation, name, None)
    except Exception:  # the value of a `type` statement is evaluated here, and may name anything
        return None


def _parts_of_class(cls: type) -> Iterable[Any]:
    if cls in BUILT_IN or not _has_fields(cls):
        return []
    pydantic_fields = getattr(cls, "model_fields", {}) if is_pydantic_model(cls) else {}
    return [
        *_class_hints(cls),
        *getattr(cls, "__orig_bases__", ()),
        *(field.annotation for field in pydantic_fields.values()),
        *(field.type for field in getattr(cls, "__attrs_attrs__", ()) if field.type is not None),
    ]


def _has_fields(cls: type) -> bool:
    return typing.is_typeddict(cls) or (
        not issubclass(cls, enum.Enum) and shape_of(cls) is not None
    )


def _class_hints(cls: type) -> Iterable[Any]:
    try:
        return list(typing.get_type_hints(cls, include_extras=True).values())
    except Exception:
        return [
            hint
            for klass in cls.__mro__
            for hint in _resolved(
                inspect.get_annotations(klass),
                getattr(sys.modules.get(klass.__module__), "__dict__", {}),
                dict(vars(klass)),
            ).values()
        ]


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial | types.MethodType):
        inner = function.func if isinstance(function, functools.partial) else function.__func__
        function = inspect.unwrap(inner)
    if not isinstance(function, types.FunctionType) and not isinstance(function, type):
        function = getattr(type(function), "__call__", function)  # noqa: B004
    return function


def function_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations; a part that cannot be resolved is ``Any`` or left out."""
    function = _undecorated(function)
    names = _closure(function)
    try:
        return typing.get_type_hints(function, localns=names or None, include_extras=True)
    except Exception:
        return _resolved(
            getattr(function, "__annotations__", {}), getattr(function, "__globals__", {}), names
        )


def _closure(function: Any) -> dict[str, Any]:
    """The variables of enclosing functions, where classes defined in a function are found."""
    cells = getattr(function, "__closure__", None) or ()
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _resolved(
    annotations: Mapping[str, Any], module: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, Any]:
    """Each annotation by itself, names that do not exist standing for ``Any``."""
    namespace = _Forgiving({**vars(builtins), **module, **names})
    resolved = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            resolved.update(typing.get_type_hints(holder, {}, namespace, include_extras=True))
        except Exception:  # noqa: S112 - an annotation may be anything; this one names no class
            continue
    return resolved


class _Forgiving(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return Any
