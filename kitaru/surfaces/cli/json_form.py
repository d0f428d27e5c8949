"""The JSON of what is shown: recorded values stay in the codec's form."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from kitaru.domain.values import StoredValue
from kitaru.image import ImageSettings
from kitaru.projections.views import Timed


def json_text(value: object) -> str:
    """The value as one line of JSON."""
    return msgspec.json.encode(_plain(value)).decode()


def json_value(value: StoredValue) -> Raw | dict[str, Any]:
    """A recorded value; one that is kept beside the events is named by its digest and size."""
    if value.blob is not None:
        return {"$": ["blob", value.blob, value.size]}
    return value.json if bytes(value.json) else Raw(b"null")


def _plain(value: object) -> Any:
    match value:
        case StoredValue():
            return json_value(value)
        case Struct():
            return _struct(value)
        case ImageSettings():
            return _plain(value.masked())
        case Mapping():
            return {_text(str(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case str():
            return _text(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case None | bool() | int() | float() | Raw():
            return value
        case _:
            return _coded(value)


def _struct(value: Struct) -> dict[str, Any]:
    given = {name: getattr(value, name) for name in value.__struct_fields__}
    fields = {name: _plain(field) for name, field in given.items() if field is not UNSET}
    if isinstance(value, Timed):
        fields["duration_seconds"] = _plain(value.duration)
    return fields


def _text(value: str) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _coded(value: object) -> Raw | str:
    """A value that JSON has no word for, in the codec's form."""
    from kitaru.engine.codec import Codec, TypeScope
    from kitaru.errors import KitaruSerializationError

    try:
        return Raw(Codec().encode(value, where="value", types=TypeScope.of()))
    except KitaruSerializationError:
        return _text(repr(value))
