"""A value as a tree that JSON can say: what JSON cannot is ``{"$": [tag, ...]}``."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kitaru.engine.codec.arrays import ARRAY_TAG, numpy_tag, write_array, write_scalar
from kitaru.engine.codec.leaves import LEAVES, NEEDS_TAG, Leaf, Tree, has_surrogates
from kitaru.engine.codec.plain import MAX_DEPTH, TAG_KEY
from kitaru.engine.codec.recorded import RecordedObject
from kitaru.engine.codec.refusal import RefusedError, key_step
from kitaru.engine.codec.registry import KnownType, shown_name
from kitaru.engine.codec.scope import TypeScope
from kitaru.engine.codec.shapes import shape_of


def to_tree(value: Any, types: TypeScope) -> Tree:
    """The tree of a value; raises ``RefusedError``."""
    return _Walk(types).tree(value)


class _Walk:
    """One way through one value; knows the containers that it is in."""

    def __init__(self, types: TypeScope) -> None:
        self._types = types
        self._ancestors: set[int] = set()

    def tree(self, value: Any) -> Tree:
        kind = type(value)
        write = _WRITERS.get(kind)
        if write is not None:
            return write(self, value)
        known = self._types.by_class(kind)
        if known is not None:
            return self._object(value, known)
        return _write_numpy(value, kind)

    def _object(self, value: Any, known: KnownType) -> Tree:
        self.enter(value)
        try:
            parts = known.shape.apart(value)
        except Exception as error:
            raise RefusedError(
                f"{shown_name(known.cls)} cannot be taken apart: {type(error).__name__}: {error}"
            ) from error
        body: list[Tree] = [known.shape.tag, known.name]
        for (
            part
        ) in parts:  # no comprehension: in 3.11 each one takes a frame, and values may be deep
            tree = self.mapping(part) if type(part) is dict else self.tree(part)
            body.append(tree)
        self.leave(value)
        return {TAG_KEY: body}

    def enter(self, container: object) -> None:
        if id(container) in self._ancestors:
            raise RefusedError("it contains itself; the journal keeps trees only")
        if len(self._ancestors) >= MAX_DEPTH:
            raise RefusedError(f"it lies more than {MAX_DEPTH} levels deep; make it flatter")
        self._ancestors.add(id(container))

    def leave(self, container: object) -> None:
        self._ancestors.discard(id(container))

    def sequence(self, items: Iterable[Any]) -> list[Tree]:
        trees: list[Tree] = []
        try:
            for item in items:
                trees.append(self.tree(item))  # noqa: PERF401 - its length is the place of a refusal
        except RefusedError as refusal:
            raise refusal.at(f"[{len(trees)}]") from refusal.__cause__
        return trees

    def mapping(self, value: dict[Any, Any]) -> Tree:
        if TAG_KEY in value or not all(map(_is_plain_key, value)):
            return self._pairs(value)
        tree: dict[str, Tree] = {}
        key = ""
        try:
            for key, item in value.items():
                tree[key] = self.tree(item)
        except RefusedError as refusal:
            raise refusal.at(key_step(key)) from refusal.__cause__
        return tree

    def _pairs(self, value: dict[Any, Any]) -> Tree:
        pairs: list[list[Tree]] = []
        step = ""
        try:
            for key, item in value.items():
                step = f".keys()[{len(pairs)}]"
                tree = self.tree(key)
                step = key_step(key)
                pairs.append([tree, self.tree(item)])
        except RefusedError as refusal:
            raise refusal.at(step) from refusal.__cause__
        return {TAG_KEY: ["dict", *pairs]}

    def members(self, members: Iterable[Any]) -> list[Tree]:
        """A set's members in the order of their bytes, which is the same in every process."""
        try:
            written = [msgspec.json.encode(self.tree(member)) for member in members]
        except RefusedError as refusal:
            raise refusal.at("{member}") from refusal.__cause__
        return [msgspec.Raw(member) for member in sorted(written)]


def _is_plain_key(key: Any) -> bool:
    return type(key) is str and not has_surrogates(key)


Write = Callable[[_Walk, Any], Tree]


def _write_itself(walk: _Walk, value: Any) -> Tree:
    return value


def _write_list(walk: _Walk, value: Any) -> Tree:
    walk.enter(value)
    trees = walk.sequence(value)
    walk.leave(value)
    return trees


def _write_dict(walk: _Walk, value: Any) -> Tree:
    walk.enter(value)
    tree = walk.mapping(value)
    walk.leave(value)
    return tree


def _write_tuple(walk: _Walk, value: Any) -> Tree:
    return {TAG_KEY: ["tuple", *_write_list(walk, value)]}


def _set_writer(tag: str) -> Write:
    def write(walk: _Walk, value: Any) -> Tree:
        walk.enter(value)
        members = walk.members(value)
        walk.leave(value)
        return {TAG_KEY: [tag, *members]}

    return write


def _leaf_writer(leaf: Leaf) -> Write:
    tag, write_parts = leaf.tag, leaf.write

    def write(walk: _Walk, value: Any) -> Tree:
        return {TAG_KEY: [tag, *write_parts(value, walk.tree)]}

    return write


def _scalar_writer(leaf: Leaf) -> Write:
    tagged = _leaf_writer(leaf)
    needs_tag = NEEDS_TAG[leaf.kind]

    def write(walk: _Walk, value: Any) -> Tree:
        return tagged(walk, value) if needs_tag(value) else value

    return write


def _write_numpy(value: Any, kind: type) -> Tree:
    tag = numpy_tag(kind)
    if tag is None:
        raise RefusedError(_advice(value, kind))
    parts = write_array(value) if tag == ARRAY_TAG else write_scalar(value)
    return {TAG_KEY: [tag, *parts]}


def _advice(value: Any, kind: type) -> str:
    if kind is RecordedObject:
        return (
            f"the class {value.type_name} of this recorded object is not known here; annotate the "
            "function with it, or kitaru.register_type it"
        )
    name = kind.__qualname__
    remedy = (
        f"kitaru.register_type({name}, encode=..., decode=...)"
        if shape_of(kind) is None
        else f"annotate the function with {name}, or kitaru.register_type({name})"
    )
    return f"{shown_name(kind)} cannot be kept in the journal; {remedy}, or return plain data"


_WRITERS: dict[type, Write] = {
    **{leaf.kind: _leaf_writer(leaf) for leaf in LEAVES},
    **{leaf.kind: _scalar_writer(leaf) for leaf in LEAVES if leaf.kind in NEEDS_TAG},
    bool: _write_itself,
    type(None): _write_itself,
    list: _write_list,
    dict: _write_dict,
    tuple: _write_tuple,
    set: _set_writer("set"),
    frozenset: _set_writer("frozenset"),
}
