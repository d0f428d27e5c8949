"""A recorded object whose class is not known here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class RecordedObject:
    """A value of a class that this process does not know, as the journal has it.

    Its fields are attributes: ``order.total``. A field that is called ``type_name`` or ``fields``
    is reached through ``fields["type_name"]``.
    """

    __slots__ = ("fields", "type_name")

    type_name: str
    """The name under which its class was recorded."""
    fields: Mapping[str, Any]
    """What was recorded of it, by field name."""

    def __init__(self, type_name: str, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "type_name", type_name)
        object.__setattr__(self, "fields", MappingProxyType(dict(fields)))

    def __getattr__(self, name: str) -> Any:
        # The slots themselves are missing while a copy is being made.
        if name.startswith("__") or name in RecordedObject.__slots__:
            raise AttributeError(name)
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"{self.type_name} was recorded without {name!r}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a recorded object cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a recorded object cannot be changed")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordedObject):
            return NotImplemented
        return self.type_name == other.type_name and self.fields == other.fields

    def __hash__(self) -> int:
        return hash((self.type_name, *self.fields))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"{self.type_name}({fields})"

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordedObject, (self.type_name, dict(self.fields))
