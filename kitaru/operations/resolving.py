"""Saying what came of a checkpoint's attempt that was lost and may not be repeated unasked."""

from typing import Any

import msgspec

from kitaru.bootstrap import Runtime
from kitaru.domain.execution.commands import Command, Resolve
from kitaru.domain.execution.events import ExecutionEvent, ReviewRequested
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.ids import checked_id
from kitaru.domain.values import ErrorData
from kitaru.engine.codec import TypeScope
from kitaru.engine.executions import fold
from kitaru.engine.schema import plain_json, problem_with
from kitaru.engine.values import stored
from kitaru.errors import KitaruUsageError
from kitaru.operations.executions import append_decided

_plain = TypeScope.of()


async def give_result(runtime: Runtime, exec_id: str, call: str, result: Any) -> None:
    """The lost attempt has done its work, and this is its result, as plain JSON.

    Raises KitaruUsageError for a result that does not fit the checkpoint's annotation, and
    KitaruStateError when the call needs no review.
    """
    checked_id(call, "A call's path")
    plain = plain_json(result)
    value, blobs = stored(runtime.codec.encode(plain, where="result", types=_plain))

    def command(events: list[ExecutionEvent]) -> Command:
        review = _review(events, call)
        if review is not None:
            _check(review, plain)
        return Resolve(call, review, result=value)

    await append_decided(runtime, exec_id, command, blobs)
    runtime.worker.look_now()


async def give_failure(runtime: Runtime, exec_id: str, call: str, message: str) -> None:
    """The lost attempt has come to nothing: the flow's body is given KitaruRuntimeError there.

    Raises KitaruUsageError for a message that is none, and KitaruStateError when the call needs no
    review.
    """
    checked_id(call, "A call's path")
    if not isinstance(message, str) or not message.strip():
        raise KitaruUsageError(f"What has failed must be said in a text, not by {message!r}.")
    error = ErrorData(
        type="kitaru.errors.KitaruRuntimeError",
        module="kitaru.errors",
        qualname="KitaruRuntimeError",
        bases=(("builtins", "RuntimeError"), ("builtins", "Exception")),
        message=message,
    )

    def command(events: list[ExecutionEvent]) -> Command:
        return Resolve(call, _review(events, call), error=error)

    await append_decided(runtime, exec_id, command)
    runtime.worker.look_now()


async def let_run_again(runtime: Runtime, exec_id: str, call: str) -> None:
    """The lost attempt did no harm: the call is to be tried again.

    Raises KitaruStateError when the call needs no review.
    """
    checked_id(call, "A call's path")
    await append_decided(runtime, exec_id, lambda events: Resolve(call, _review(events, call)))
    runtime.worker.look_now()


def _review(events: list[ExecutionEvent], call: str) -> ReviewRequested | None:
    """What is asked of a call now."""
    waiting = {wait.path for wait in fold(ABSENT, events).waits if wait.is_review}
    asked = [e for e in events if isinstance(e, ReviewRequested) and e.path == call]
    return asked[-1] if asked and call in waiting else None


def _check(review: ReviewRequested, value: Any) -> None:
    schema = bytes(review.schema)
    problem = problem_with(value, msgspec.json.decode(schema), "result") if schema else None
    if problem is not None:
        raise KitaruUsageError(
            f"That cannot be the result of {review.path!r}: {problem}. It needs review still."
        )
