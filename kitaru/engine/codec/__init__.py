"""Which values the journal keeps, and their one exact form in bytes."""

from kitaru.engine.codec.codec import CODEC_VERSION, Codec, digest
from kitaru.engine.codec.leaves import MAX_INT_DIGITS
from kitaru.engine.codec.plain import MAX_DEPTH
from kitaru.engine.codec.recorded import RecordedObject
from kitaru.engine.codec.registry import TypeRegistry, register_type
from kitaru.engine.codec.scope import TypeScope

__all__ = [
    "CODEC_VERSION",
    "MAX_DEPTH",
    "MAX_INT_DIGITS",
    "Codec",
    "RecordedObject",
    "TypeRegistry",
    "TypeScope",
    "digest",
    "register_type",
]
