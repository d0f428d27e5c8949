"""The codec: values to canonical bytes and back."""

import hashlib
from typing import Any

import msgspec

from kitaru.engine.codec.decoding import UnfitClassError, to_value
from kitaru.engine.codec.encoding import to_tree
from kitaru.engine.codec.leaves import LEAVES
from kitaru.engine.codec.plain import is_plain
from kitaru.engine.codec.refusal import RefusedError
from kitaru.engine.codec.scope import TypeScope
from kitaru.errors import KitaruSerializationError

CODEC_VERSION = 1
"""Goes up when the same value gets other bytes than before."""
LONGEST_REASON = 300
"""Characters of what a class says of bytes that it cannot be made of."""

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode

_UNCHANGEABLE = frozenset({bool, type(None), range}) | {
    leaf.kind for leaf in LEAVES if leaf.kind is not bytearray
}


def digest(data: bytes) -> str:
    """The hexadecimal SHA-256 of encoded bytes."""
    return hashlib.sha256(data).hexdigest()


class Codec:
    """Keeps values of a closed set of types exactly: the same value and the same types come back.

    The bytes are JSON, and the same for the same value in every process; a dict's order counts, a
    set's does not. Decoding never imports anything and makes objects of known classes only.
    """

    __slots__ = ()

    digest = staticmethod(digest)

    def encode(self, value: Any, *, where: str, types: TypeScope) -> bytes:
        """The value's canonical JSON.

        ``where`` names the value in errors: ``result``, ``arguments.url``. Raises
        ``KitaruSerializationError`` with the path of what cannot be kept: an object of a class
        that is not in ``types``, a value that contains itself, one that lies too deep.
        """
        try:
            if is_plain(value):
                try:
                    return _to_json(value)
                except UnicodeEncodeError:  # lone surrogates, which need tags
                    pass
            return _to_json(to_tree(value, types))
        except RefusedError as refusal:
            raise refusal.as_error(where) from refusal.__cause__
        except RecursionError as error:
            raise RefusedError("it lies too deep for this stack").as_error(where) from error
        except RuntimeError as error:
            raise RefusedError(f"it was changed while it was read: {error}").as_error(
                where
            ) from error

    def decode(
        self, data: bytes | msgspec.Raw, types: TypeScope, *, known_only: bool = False
    ) -> Any:
        """The value of ``encode``'s bytes.

        An object whose class is not in ``types`` comes as a ``RecordedObject``, or is refused where
        ``known_only`` says so: code that was written for the class must not be given anything else.
        Raises ``KitaruSerializationError`` then, and when the bytes are not the codec's.
        """
        data = bytes(data)
        try:
            tree = _from_json(data)
            return to_value(tree, types, known_only=known_only) if b'"$"' in data else tree
        except UnfitClassError as error:
            raise KitaruSerializationError(
                str(error)[:LONGEST_REASON], path="value"
            ) from error.__cause__
        except Exception as error:
            raise KitaruSerializationError(
                f"the journal's bytes are not a value: {str(error)[:LONGEST_REASON]}", path="value"
            ) from error

    def roundtrip(self, value: Any, *, where: str, types: TypeScope) -> tuple[bytes, Any]:
        """The value's bytes, and the value as a replay will give it: a copy, shared with nobody."""
        data = self.encode(value, where=where, types=types)
        return data, value if type(value) in _UNCHANGEABLE else self.decode(data, types)

    def own_copy(self, named: dict[str, Any], data: bytes, types: TypeScope) -> dict[str, Any]:
        """Named values whose bytes are at hand, shared with nobody who could change them."""
        if all(type(value) in _UNCHANGEABLE for value in named.values()):
            return named
        copy: dict[str, Any] = self.decode(data, types)
        return copy
