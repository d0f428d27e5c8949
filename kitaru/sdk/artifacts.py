"""Named values saved from inside checkpoints, and read back from any process."""

from collections.abc import Sequence
from typing import Any

from kitaru.bootstrap import blocking, current_runtime
from kitaru.domain.execution.events import ArtifactSaved, CheckpointCompleted, EventOffered
from kitaru.domain.ids import checked_id
from kitaru.domain.values import StoredValue
from kitaru.engine.codec import Codec, TypeScope
from kitaru.engine.context import CheckpointScope, scope
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event, offered_event
from kitaru.engine.values import stored
from kitaru.errors import KitaruContextError, KitaruRuntimeError, KitaruUsageError
from kitaru.operations.backend import backend_errors
from kitaru.operations.executions import find_id
from kitaru.sdk.blocking import refuse_on_event_loop

TYPES = ("prompt", "response", "context", "input", "output", "blob")
_codec = Codec()
_types = TypeScope.of()


def save(
    name: str,
    value: Any,
    *,
    type: str = "output",  # noqa: A002 - the seed's name
    tags: Sequence[str] | None = None,
) -> None:
    """Saves a named value with the running checkpoint; durable with the checkpoint's outcome.

    `type` is one of prompt, response, context, input, output, blob. Raises KitaruContextError
    outside a checkpoint, KitaruUsageError for a bad name or type, and KitaruSerializationError for
    a value that cannot be kept.
    """
    here = scope.get()
    if not isinstance(here, CheckpointScope):
        raise KitaruContextError("kitaru.save() can only be called inside a @checkpoint.")
    kind = type.lower() if isinstance(type, str) else type
    if kind not in TYPES:
        raise KitaruUsageError(f"kitaru.save(type={type!r}): one of {', '.join(TYPES)} is needed.")
    data = _codec.encode(value, where=f"save({name!r})", types=_types)
    stored_value, blobs = stored(data)
    event = ArtifactSaved(
        path=here.path,
        name=checked_id(name, "An artifact's name"),
        type=kind,
        value=stored_value,
        tags=tuple(checked_id(tag, "A tag") for tag in tags or ()),
    )
    here.runner.note(event, blobs)


def load(exec_id: str, name: str) -> Any:
    """The value that an execution saved under a name, or the result of its checkpoint of that path.

    Blocks for as long as reading takes. Raises KitaruStateError when there is no such execution,
    KitaruRuntimeError when it has no such value, or several; the message lists what there is.
    """
    refuse_on_event_loop("kitaru.load()", "call it inside a sync checkpoint")
    with backend_errors():
        return blocking(current_runtime(), lambda: _load(exec_id, name))


async def _load(exec_id: str, name: str) -> Any:
    runtime = current_runtime()
    full_id = await find_id(runtime, exec_id)
    recorded = await runtime.journal.read_stream(stream_of(full_id))
    saved: dict[str, dict[str, StoredValue]] = {}
    for fact in recorded:
        event = decode_event(fact)
        if isinstance(event, EventOffered):
            # What a fork has taken over of its source counts as its own.
            event = offered_event(event)
        if isinstance(event, ArtifactSaved):
            saved.setdefault(event.name, {})[event.path] = event.value
        elif isinstance(event, CheckpointCompleted):
            saved.setdefault(event.path, {})[event.path] = event.result
    found = saved.get(name)
    if not found:
        there = ", ".join(sorted(saved)) or "nothing yet"
        raise KitaruRuntimeError(f"Execution {full_id} has no value {name!r}; it has: {there}.")
    if len(found) > 1:
        calls = ", ".join(sorted(found))
        raise KitaruRuntimeError(
            f"Execution {full_id} has several values {name!r}, saved by: {calls}. Save them under "
            "different names."
        )
    (value,) = found.values()
    data: Any = value.json
    if value.blob is not None:
        data = await runtime.journal.get_blob(value.blob)
    return runtime.codec.decode(data, _types)
