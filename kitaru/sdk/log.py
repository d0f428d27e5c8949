"""Attaching structured data to an execution or to a checkpoint."""

from typing import Any

from msgspec import Raw

from kitaru.domain.execution.events import MetadataLogged
from kitaru.engine.codec import Codec, TypeScope
from kitaru.engine.context import CheckpointScope, scope
from kitaru.errors import KitaruContextError

_codec = Codec()
_types = TypeScope.of()


def log(**metadata: Any) -> None:
    """Attaches metadata: in a checkpoint to that call, in a flow's body to the execution.

    A repeated key merges when both values are dicts, and else takes the later value. It becomes
    durable with the next thing that the execution records. A replay of a flow's body logs nothing
    again; where the body is tried again (``retries``), what it says then counts, too. Raises
    KitaruContextError outside a flow and KitaruSerializationError for a value that cannot be kept.
    """
    here = scope.get()
    if here is None:
        raise KitaruContextError("kitaru.log() can only be called inside a @flow.")
    data = Raw(_codec.encode(metadata, where="log", types=_types))
    if isinstance(here, CheckpointScope):
        here.runner.note(MetadataLogged(metadata=data, path=here.path))
        return
    here.runner.log(data)
