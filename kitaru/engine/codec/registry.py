"""The classes that the user has named for the journal."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

from kitaru.engine.codec.leaves import LEAVES
from kitaru.engine.codec.shapes import CustomShape, Shape, shape_of
from kitaru.errors import KitaruUsageError

C = TypeVar("C", bound=type)

BUILT_IN = frozenset(
    {leaf.kind for leaf in LEAVES}
    | {bool, type(None), list, tuple, set, frozenset, dict, object, type}
)
"""What the codec writes by itself."""


class KnownType(NamedTuple):
    """A class, the name it has in the journal, and how it is taken apart."""

    cls: type
    name: str
    shape: Shape


def full_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def shown_name(cls: type) -> str:
    """The class as a message names it."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


class TypeRegistry:
    """Registered classes, by class and by name."""

    def __init__(self) -> None:
        self._by_class: dict[type, KnownType] = {}
        self._by_name: dict[str, KnownType] = {}

    def by_class(self, cls: type) -> KnownType | None:
        return self._by_class.get(cls)

    def by_name(self, name: str) -> KnownType | None:
        return self._by_name.get(name)

    def register(
        self,
        cls: type,
        *,
        name: str | None = None,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(cls, type):
            raise KitaruUsageError(f"register_type takes a class, not {cls!r}")
        known = KnownType(cls, name or cls.__qualname__, _shape(cls, encode, decode))
        earlier = self._by_name.get(known.name)
        # A module that is loaded again brings the same class anew.
        if earlier is not None and full_name(earlier.cls) != full_name(cls):
            raise KitaruUsageError(
                f"the name {known.name!r} is taken by {shown_name(earlier.cls)}; "
                f"give {shown_name(cls)} another one: register_type(..., name=...)"
            )
        self._forget(self._by_class.get(cls))
        self._forget(earlier)
        self._by_class[cls] = self._by_name[known.name] = known

    def _forget(self, known: KnownType | None) -> None:
        if known is not None:
            self._by_class.pop(known.cls, None)
            self._by_name.pop(known.name, None)


def _shape(
    cls: type, encode: Callable[[Any], Any] | None, decode: Callable[[Any], Any] | None
) -> Shape:
    if cls in BUILT_IN:
        raise KitaruUsageError(f"{shown_name(cls)} needs no registration")
    if (encode is None) != (decode is None):
        raise KitaruUsageError(f"{shown_name(cls)}: give both encode and decode, or neither")
    shape = CustomShape(encode, decode) if encode and decode else shape_of(cls)
    if shape is None:
        raise KitaruUsageError(
            f"{shown_name(cls)}: its fields are not known; give register_type an encode function "
            "that returns plain data and a decode function that takes it"
        )
    return shape


REGISTRY = TypeRegistry()
"""The classes of this process."""


@overload
def register_type(
    cls: C,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> C: ...


@overload
def register_type(
    cls: None = None,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> Callable[[C], C]: ...


def register_type(
    cls: C | None = None,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> C | Callable[[C], C]:
    """Lets the journal keep objects of a class that no annotation names. Also a decorator.

    Dataclasses, ``msgspec.Struct``, pydantic, attrs, named tuples, enums and subclasses of builtins
    need nothing else. For any other class, ``encode`` turns an object into data that the journal
    keeps, and ``decode`` makes an equal object of that data. ``name`` is what the journal calls the
    class, by default its qualified name; keep it when the class is renamed.

    Raises ``KitaruUsageError`` when the name is taken or the class cannot be taken apart.
    """

    def register(cls: C) -> C:
        REGISTRY.register(cls, name=name, encode=encode, decode=decode)
        return cls

    return register if cls is None else register(cls)
