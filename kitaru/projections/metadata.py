"""What `log()` calls add up to."""

from typing import Any

from msgspec import Raw

from kitaru.errors import KitaruSerializationError


def metadata_of(recorded: Raw) -> dict[str, Any]:
    """The metadata of one event. Raises KitaruSerializationError when it is no object."""
    # Imported here: a list of executions starts without it.
    from kitaru.engine.codec import Codec, TypeScope

    metadata = Codec().decode(recorded, TypeScope.of())
    if not isinstance(metadata, dict):
        raise KitaruSerializationError("metadata is not an object", path="metadata")
    return metadata


def merged(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Both together: dicts under the same key are merged, of anything else the later one counts."""
    result = dict(earlier)
    for key, value in later.items():
        before: Any = result.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        result[key] = merged(before, value) if both else value
    return result
