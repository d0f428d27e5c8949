"""The value of a tree: only what the closed set and the scope name is ever made."""

import sys
from collections.abc import Callable
from typing import Any

from kitaru.engine.codec.arrays import ARRAY_TAG, SCALAR_TAG, read_array, read_scalar
from kitaru.engine.codec.leaves import LEAVES, Tree
from kitaru.engine.codec.plain import TAG_KEY
from kitaru.engine.codec.recorded import RecordedObject
from kitaru.engine.codec.scope import TypeScope

CLASS_TAGS = frozenset({"object", "enum", "derived", "custom"})


class UnfitClassError(Exception):
    """A recorded object's class is not known here, or is not what it was when it was recorded."""


def to_value(tree: Tree, types: TypeScope, *, known_only: bool = False) -> Any:
    """The value of a tree, which is used up; raises anything when the tree is malformed.

    Raises UnfitClassError for an object that its class cannot be given any more, and for one of an
    unknown class where `known_only` says so.
    """
    root = [tree]
    # Innermost first, and without recursion: whatever could be written can be read on any stack.
    for holder, place, body in reversed(_tagged(root)):
        value = holder[place] = _value(body, types)
        if known_only and type(value) is RecordedObject:
            raise UnfitClassError(_not_known(value.type_name))
    return root[0]


def _tagged(root: list[Tree]) -> list[tuple[Any, Any, list[Tree]]]:
    """What has tags: where it is, and what the tag says; each before those inside it."""
    found: list[tuple[Any, Any, list[Tree]]] = []
    pending: list[Any] = [root]
    while pending:
        holder = pending.pop()
        for place, item in enumerate(holder) if type(holder) is list else holder.items():
            if type(item) is list:
                pending.append(item)
            elif type(item) is dict:
                if TAG_KEY in item:
                    (body,) = item.values()
                    found.append((holder, place, body))
                    pending.append(_checked(body))
                else:
                    pending.append(item)
    return found


def _checked(body: Any) -> list[Tree]:
    if type(body) is not list or not body or type(body[0]) is not str:
        raise ValueError("not a tag")
    return body


def _value(body: list[Any], types: TypeScope) -> Any:
    tag = body[0]
    read = READERS.get(tag)
    if read is not None:
        return read(body[1:])
    if tag not in CLASS_TAGS:
        raise ValueError(f"the tag {tag!r} is not known")
    _, name, *parts = body
    if type(name) is not str:
        raise ValueError("not the name of a class")
    return _object(tag, name, parts, types)


def _object(tag: str, name: str, parts: list[Any], types: TypeScope) -> Any:
    known = types.by_name(name)
    if known is None:
        return RecordedObject(name, _recorded_fields(tag, parts))
    if known.shape.tag != tag:
        raise UnfitClassError(f"{name!r} was recorded as another kind of class ({tag})")
    try:
        return known.shape.together(parts)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise UnfitClassError(f"{name!r} cannot be made of what is recorded: {why}") from error


def _recorded_fields(tag: str, parts: list[Any]) -> dict[str, Any]:
    if tag == "object":
        return dict(parts[0])
    return {"name" if tag == "enum" else "value": parts[0]}


def _not_known(name: str) -> str:
    if name in (ARRAY_TAG, SCALAR_TAG):
        return "it holds a numpy array or scalar, and numpy is not imported here"
    return f"its class {name!r} is not known here"


Read = Callable[[list[Any]], Any]


def _read_array(parts: list[Any]) -> Any:
    if "numpy" in sys.modules:
        return read_array(parts)
    dtype, shape, data = parts
    return RecordedObject(ARRAY_TAG, {"dtype": dtype, "shape": shape, "base64": data})


def _read_scalar(parts: list[Any]) -> Any:
    if "numpy" in sys.modules:
        return read_scalar(parts)
    dtype, data = parts
    return RecordedObject(SCALAR_TAG, {"dtype": dtype, "base64": data})


READERS: dict[str, Read] = {
    **{leaf.tag: leaf.read for leaf in LEAVES},
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    ARRAY_TAG: _read_array,
    SCALAR_TAG: _read_scalar,
}
