"""How an object of a user's class is taken apart and put together, its ``__init__`` left alone.

The fields' values went through the class's own checks when they were made, so putting them
together sets what was recorded, exactly, and does not run ``__init__``, ``__new__``,
``__post_init__`` or validators again. The one exception is a ``msgspec.Struct`` with a
``__post_init__``: Structs cannot be made without it, so it runs, and the recorded values are set
after it.
"""

import dataclasses
import enum
import functools
import sys
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any, Literal, Protocol

import msgspec

Tag = Literal["object", "enum", "derived", "custom"]
Fields = dict[str, Any]

_HEAP_TYPE = 1 << 9
_IMMUTABLE_TYPE = 1 << 8
_ATTRS_HASH = "_attrs_cached_hash"


class Shape(Protocol):
    """What the codec knows of one class."""

    @property
    def tag(self) -> Tag: ...

    def apart(self, value: Any) -> list[Any]:
        """The parts of an object of exactly this class: values that are written in turn."""
        ...

    def together(self, parts: list[Any]) -> Any:
        """The object of these parts; raises anything when they are malformed."""
        ...


def shape_of(cls: type) -> Shape | None:
    """How the codec handles a class once it is in scope; None when it has no way to."""
    if issubclass(cls, enum.Enum):
        return EnumShape(cls)
    if issubclass(cls, msgspec.Struct):
        return StructShape(cls)
    if is_pydantic_model(cls):
        return PydanticShape(cls)
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__"):
        return AttributesShape(cls) if _builtin_base(cls) is object else None
    if issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple):
        return NamedTupleShape(cls)
    base = _builtin_base(cls)
    return DerivedShape(cls, base) if base is not None and base in _DERIVED_FROM else None


def _builtin_base(cls: type) -> type | None:
    """The one builtin type that the class extends, perhaps ``object``; None when there are more."""
    bases = [base for base in cls.__mro__ if not _is_made_in_python(base)]
    return bases[0] if bases[1:] in ([], [object]) else None


def _is_made_in_python(cls: type) -> bool:
    return bool(cls.__flags__ & _HEAP_TYPE) and not cls.__flags__ & _IMMUTABLE_TYPE


def is_pydantic_model(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


class _Missing:
    """No default."""


_MISSING = _Missing()


def _complete(cls: type, recorded: Fields, defaults: dict[str, Callable[[], Any]]) -> Fields:
    """Adds the fields that the class has gained since."""
    for name, default in defaults.items():
        if name not in recorded:
            recorded[name] = default()
    return recorded


def _no_default(cls: type, name: str) -> Callable[[], Any]:
    def fail() -> Any:
        raise ValueError(f"{cls.__qualname__} was recorded without its field {name!r}")

    return fail


class CustomShape:
    """A class with functions of its own."""

    tag: Tag = "custom"

    def __init__(self, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        self._encode = encode
        self._decode = decode

    def apart(self, value: Any) -> list[Any]:
        return [self._encode(value)]

    def together(self, parts: list[Any]) -> Any:
        (data,) = parts
        return self._decode(data)


class EnumShape:
    """A member by its name; a combination of flags by its number."""

    tag: Tag = "enum"

    def __init__(self, cls: type[enum.Enum]) -> None:
        self._class = cls

    def apart(self, value: Any) -> list[Any]:
        name = value._name_
        if self._class._member_map_.get(name) is value:
            return [name]
        return [value._value_]

    def together(self, parts: list[Any]) -> Any:
        (part,) = parts
        if type(part) is str:
            return self._class._member_map_[part]
        if not issubclass(self._class, enum.Flag) or type(part) is not int:
            raise ValueError(f"{part!r} is not a member of {self._class.__qualname__}")
        return self._class(part)


class AttributesShape:
    """Dataclasses and attrs classes: fields, and whatever else the object's ``__dict__`` holds."""

    tag: Tag = "object"

    def __init__(self, cls: type) -> None:
        self._class = cls
        self._state = _State(cls, tuple(_field_defaults(cls)))
        self._defaults = {
            name: default
            for name, default in _field_defaults(cls).items()
            if not isinstance(default, _Missing)
        }
        code = getattr(cls.__hash__, "__code__", None)
        self._caches_hash = _ATTRS_HASH in getattr(code, "co_names", ())

    def apart(self, value: Any) -> list[Any]:
        return [self._state.of(value)]

    def together(self, parts: list[Any]) -> Any:
        (fields,) = parts
        value: Any = object.__new__(self._class)
        self._state.put(value, _complete(self._class, dict(fields), self._defaults))
        if self._caches_hash:
            object.__setattr__(value, _ATTRS_HASH, None)
        return value


class DerivedShape:
    """A subclass of a builtin: the builtin value and the object's own attributes."""

    tag: Tag = "derived"

    def __init__(self, cls: type, base: type) -> None:
        self._class = cls
        self._base = base
        self._state = _State(cls, ())

    def apart(self, value: Any) -> list[Any]:
        attributes = self._state.of(value)
        plain = _DERIVED_FROM[self._base](value)
        return [plain, attributes] if attributes else [plain]

    def together(self, parts: list[Any]) -> Any:
        plain, attributes = [*parts, {}][:2]
        if type(plain) is not self._base:
            raise ValueError(f"not a {self._base.__name__}")
        value = _derived(self._class, self._base, plain)
        self._state.put(value, attributes)
        return value


_DERIVED_FROM: dict[type | None, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: b"".join([value, b""]),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}


def _derived(cls: type, base: Any, plain: Any) -> Any:
    if base in (list, set, dict):
        value = base.__new__(cls)
        (base.extend if base is list else base.update)(value, plain)
        return value
    return base.__new__(cls, plain)


class NamedTupleShape:
    """Named tuples, ``typing.NamedTuple`` or ``collections.namedtuple``."""

    tag: Tag = "object"

    def __init__(self, cls: Any) -> None:
        self._class = cls
        self._state = _State(cls, ())
        given = cls._field_defaults
        self._defaults = {
            name: functools.partial(_same, given[name]) if name in given else _no_default(cls, name)
            for name in cls._fields
        }

    def apart(self, value: Any) -> list[Any]:
        fields = dict(zip(self._class._fields, tuple.__iter__(value), strict=True))
        attributes = self._state.of(value)
        return [fields, attributes] if attributes else [fields]

    def together(self, parts: list[Any]) -> Any:
        fields, attributes = [*parts, {}][:2]
        fields = _complete(self._class, dict(fields), self._defaults)
        value = tuple.__new__(self._class, [fields[name] for name in self._class._fields])
        self._state.put(value, attributes)
        return value


class StructShape:
    """A ``msgspec.Struct``."""

    tag: Tag = "object"

    def __init__(self, cls: type[msgspec.Struct]) -> None:
        self._class = cls
        self._names = frozenset(cls.__struct_fields__)
        self._state = _State(cls, cls.__struct_fields__)
        self._has_post_init = hasattr(cls, "__post_init__")

    def apart(self, value: Any) -> list[Any]:
        return [self._state.of(value)]

    def together(self, parts: list[Any]) -> Any:
        (recorded,) = parts
        fields = {name: item for name, item in recorded.items() if name in self._names}
        value = self._class(**fields)
        if self._has_post_init:
            for name, item in fields.items():
                msgspec.structs.force_setattr(value, name, item)
        return value


class PydanticShape:
    """A pydantic model: its fields, and which of them were set, extra and private ones."""

    tag: Tag = "object"

    def __init__(self, cls: Any) -> None:
        self._class = cls

    def apart(self, value: Any) -> list[Any]:
        fields = self._class.model_fields
        state = value.__dict__
        aside: Fields = {}
        if value.__pydantic_extra__ is not None:
            aside["extra"] = dict(value.__pydantic_extra__)
        if value.__pydantic_private__ is not None:
            aside["private"] = _without_undefined(value.__pydantic_private__)
        if value.__pydantic_fields_set__ != fields.keys():
            aside["set"] = sorted(value.__pydantic_fields_set__)
        recorded = {name: state[name] for name in fields if name in state}
        return [recorded, aside] if aside else [recorded]

    def together(self, parts: list[Any]) -> Any:
        fields, aside = [*parts, {}][:2]
        known = self._class.model_fields
        state = {name: item for name, item in fields.items() if name in known}
        for name, field in known.items():
            if name not in state:
                state[name] = self._default(name, field)
        value = self._class.__new__(self._class)
        put = object.__setattr__
        put(value, "__dict__", state)
        put(value, "__pydantic_fields_set__", set(aside.get("set", fields)))
        # A root model's own attributes are on its class; set here, they would become fields.
        if not self._class.__pydantic_root_model__:
            put(value, "__pydantic_extra__", aside.get("extra"))
        if not self._class.__pydantic_root_model__ or "private" in aside:
            put(value, "__pydantic_private__", aside.get("private"))
        return value

    def _default(self, name: str, field: Any) -> Any:
        if field.is_required():
            raise ValueError(f"{self._class.__qualname__} was recorded without its field {name!r}")
        return field.get_default(call_default_factory=True)


def _without_undefined(private: Fields) -> Fields:
    undefined = sys.modules["pydantic_core"].PydanticUndefined
    return {name: item for name, item in private.items() if item is not undefined}


class _State:
    """Where the objects of a class keep their attributes: ``__dict__``, slots, or both."""

    def __init__(self, cls: type, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self._slots = _slots(cls)
        self._ignored = _cached_properties(cls) | {_ATTRS_HASH}
        if hasattr(cls, "__attrs_attrs__"):
            # attrs keeps cached properties in slots of their own.
            self._slots = {name: slot for name, slot in self._slots.items() if name in fields}

    def of(self, value: Any) -> Fields:
        """The attributes: fields in their order, then the others by name."""
        found = dict(getattr(value, "__dict__", ()))
        for name, slot in self._slots.items():
            item = _slot_value(slot, value)
            if item is not _MISSING:
                found[name] = item
        state = {}
        for name in self._fields:
            # A field that was never set is read from the class, where its default is.
            item = found.pop(name, _MISSING) if name in found else getattr(value, name, _MISSING)
            if item is not _MISSING:
                state[name] = item
        for name in sorted(found):
            if name not in self._ignored and not _is_dunder(name):
                state[name] = found[name]
        return state

    def put(self, value: Any, state: Fields) -> None:
        """Sets attributes as they are, also on frozen objects and past properties of that name."""
        for name, item in state.items():
            slot = self._slots.get(name)
            if slot is not None:
                slot.__set__(value, item)
            else:
                value.__dict__[name] = item


def _slots(cls: type) -> dict[str, Any]:
    return {
        name: member
        for klass in reversed(cls.__mro__)
        if _is_made_in_python(klass)
        for name, member in klass.__dict__.items()
        if isinstance(member, MemberDescriptorType)
    }


def _slot_value(slot: Any, value: Any) -> Any:
    try:
        return slot.__get__(value)
    except AttributeError:
        return _MISSING


def _cached_properties(cls: type) -> frozenset[str]:
    return frozenset(
        name
        for klass in cls.__mro__
        for name, member in klass.__dict__.items()
        if isinstance(member, functools.cached_property)
    )


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _same(value: Any) -> Any:
    return value


def _field_defaults(cls: Any) -> dict[str, Callable[[], Any] | _Missing]:
    """The fields of a dataclass or attrs class, in order, with what they are when not recorded."""
    if dataclasses.is_dataclass(cls):
        return {field.name: _dataclass_default(cls, field) for field in dataclasses.fields(cls)}
    return {field.name: _attrs_default(cls, field) for field in cls.__attrs_attrs__}


def _dataclass_default(cls: Any, field: Any) -> Callable[[], Any] | _Missing:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory  # type: ignore[no-any-return]
    if field.default is not dataclasses.MISSING:
        return functools.partial(_same, field.default)
    return _no_default(cls, field.name) if field.init else _MISSING


def _attrs_default(cls: Any, field: Any) -> Callable[[], Any] | _Missing:
    attr: Any = sys.modules["attr"]
    if field.default is attr.NOTHING or getattr(field.default, "takes_self", False):
        return _no_default(cls, field.name) if field.init else _MISSING
    if isinstance(field.default, attr.Factory):
        return field.default.factory  # type: ignore[no-any-return]
    return functools.partial(_same, field.default)
