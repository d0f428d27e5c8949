"""What code inside a flow can ask about itself."""

import uuid

from kitaru.engine.context import CheckpointScope, scope
from kitaru.errors import KitaruContextError

KEY_NAMESPACE = uuid.UUID("6b697461-7275-5000-8000-63616c6c0000")


def current_execution_id() -> str | None:
    """The id of the execution in which this code runs; None outside a flow.

    The result of a checkpoint that asks is not offered to other executions.
    """
    here = scope.get()
    if isinstance(here, CheckpointScope):
        here.runner.unshared.add(here.path)
    return None if here is None else str(here.runner.exec_id)


def idempotency_key() -> str:
    """A text that is the same for every attempt of this checkpoint call, and for no other call.

    Give it to services that drop repeated requests: a checkpoint's body may run again when its
    process dies before the result is recorded. Where a flow that is tried again makes another call
    in the place of one that has completed, with other arguments, that call has a text of its own.
    Raises KitaruContextError outside a checkpoint.
    """
    here = scope.get()
    if not isinstance(here, CheckpointScope):
        raise KitaruContextError(
            "kitaru.idempotency_key() can only be called inside a @checkpoint: it names one call."
        )
    here.runner.unshared.add(here.path)
    return str(uuid.uuid5(KEY_NAMESPACE, f"{here.runner.exec_id}\0{here.identity}"))
