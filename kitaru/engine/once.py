"""Checkpoints that may run only once: what is asked when an attempt is lost."""

from typing import Any

from msgspec import Raw

from kitaru.domain.execution.events import ReviewRequested
from kitaru.domain.values import NO_JSON
from kitaru.engine.calls import Call
from kitaru.engine.schema import schema_of
from kitaru.engine.values import Blobs, kept_arguments
from kitaru.errors import KitaruUsageError
from kitaru.telemetry import LogEvent, report


def review_of(call: Call, attempt: int) -> tuple[ReviewRequested, Blobs]:
    """That somebody has to say what came of a call's attempt."""
    arguments, blobs = kept_arguments(call.encoded, call.definition.record_inputs)
    event = ReviewRequested(
        path=call.path,
        name=call.definition.name,
        attempt=attempt,
        site=call.site,
        arguments_digest=call.digest,
        arguments=arguments,
        schema=_schema(call.definition.result_hint),
    )
    return event, blobs


def tell_review(exec_id: str, call: Call) -> None:
    """Says in the log what somebody has to do, or the execution goes no further."""
    report(LogEvent.CHECKPOINT_NEEDS_REVIEW, exec_id=exec_id, path=call.path, site=call.site or "")


def _schema(hint: Any) -> Raw:
    if hint is Any:
        return NO_JSON
    try:
        return Raw(schema_of(hint, "result"))
    except KitaruUsageError:
        # A result of a kind that JSON has no schema for is taken as it is given.
        return NO_JSON
