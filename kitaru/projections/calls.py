"""An execution's checkpoint calls, folded from events: one per path, each with its attempts."""

from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from kitaru.domain.execution.events import (
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointStarted,
    EventOffered,
    ExecutionEvent,
    ReviewRequested,
)
from kitaru.projections.failures import failure_of
from kitaru.projections.instants import instant
from kitaru.projections.metadata import merged
from kitaru.projections.views import CheckpointAttempt, CheckpointCall, FailureInfo
from kitaru.status import ExecutionStatus, FailureOrigin

CheckpointFact = CheckpointStarted | CheckpointCompleted | CheckpointFailed | CheckpointCancelled

INTERRUPTED = FailureInfo(
    message="Interrupted: its process ended before an outcome was recorded.",
    exception_type="",
    origin=FailureOrigin.RUNTIME,
)


class CallFold:
    """Collects the calls of one execution, in the order in which they first appear."""

    def __init__(self) -> None:
        self._calls: dict[str, CheckpointCall] = {}
        self._metadata: dict[str, dict[str, Any]] = {}

    def add_reused(self, offer: EventOffered, event: ExecutionEvent) -> None:
        """Takes in an outcome that a fork was given."""
        if isinstance(event, CheckpointFact):
            self.add(event, instant(offer.recorded_at))
            self._calls[offer.path] = replace(
                self._calls[offer.path],
                original_exec_id=offer.exec_id,
                original_call_id=offer.path,
                is_overridden=offer.overridden,
            )

    def add(self, event: CheckpointFact, at: datetime) -> None:
        """Takes in what happened to a call."""
        call = self._calls.get(event.path)
        if call is None or call.original_exec_id is not None:
            # What was reused and runs after all, in a later attempt of the flow, begins anew.
            call = _new_call(event, at)
        if isinstance(event, CheckpointCompleted) and event.cached_from is not None:
            self._calls[event.path] = _reused(call, event, at)
            return
        attempts = _attempts_after(call.attempts, _attempt_of(event, at))
        call = replace(
            call,
            name=event.name,
            attempts=attempts,
            started_at=min(attempt.started_at for attempt in attempts),
            site=event.site or call.site,
            arguments=event.arguments or call.arguments,
        )
        self._calls[event.path] = _with_outcome(call, event)

    def review(self, event: ReviewRequested, at: datetime) -> None:
        """Takes in that somebody has to say what came of a call."""
        call = self._calls.get(event.path) or _new_call(event, at)
        attempts = call.attempts
        if attempts and attempts[-1].ended_at is None:
            attempts = (*attempts[:-1], _interrupted(attempts[-1]))
        self._calls[event.path] = replace(
            call, status=ExecutionStatus.WAITING, attempts=attempts, needs_review=True
        )

    def hasten(self, path: str, at: datetime) -> None:
        """Takes in that a call's next attempt is due at once."""
        call = self._calls[path]
        *earlier, last = call.attempts
        if last.retry_at is not None:
            self._calls[path] = replace(call, attempts=(*earlier, replace(last, retry_at=at)))

    def resolve(self, path: str) -> None:
        """Takes in that somebody has said it; what they said follows."""
        call = self._calls[path]
        self._calls[path] = replace(call, status=ExecutionStatus.RUNNING, needs_review=False)

    def add_metadata(self, path: str, metadata: dict[str, Any]) -> None:
        """Takes in what a call logged; it may do so before any event of its own is written."""
        self._metadata[path] = merged(self._metadata.get(path, {}), metadata)

    def calls(self, *, ended: bool) -> tuple[CheckpointCall, ...]:
        """The calls; `ended` says that the execution is over, so that none of them still runs."""
        return tuple(
            replace(
                _settled(call) if ended else call, metadata=self._metadata.get(call.call_id, {})
            )
            for call in self._calls.values()
        )


def _new_call(event: CheckpointEvent, at: datetime) -> CheckpointCall:
    return CheckpointCall(
        call_id=event.path, name=event.name, status=ExecutionStatus.RUNNING, started_at=at
    )


def _reused(call: CheckpointCall, event: CheckpointCompleted, at: datetime) -> CheckpointCall:
    """The call after another execution's result was taken for it."""
    attempts = call.attempts
    if attempts and attempts[-1].ended_at is None:
        attempts = (*attempts[:-1], _interrupted(attempts[-1]))
    return replace(
        call,
        status=ExecutionStatus.COMPLETED,
        attempts=attempts,
        ended_at=at,
        failure=None,
        site=event.site,
        arguments=event.arguments,
        checkpoint_type=event.type,
        result=event.result,
        cached_from=event.cached_from,
        cached_call_id=event.cached_path,
    )


def _attempt_of(event: CheckpointFact, at: datetime) -> CheckpointAttempt:
    attempt = CheckpointAttempt(
        attempt_id=f"{event.path}:{event.attempt}",
        number=event.attempt,
        status=ExecutionStatus.RUNNING,
        started_at=at,
    )
    match event:
        case CheckpointStarted():
            return attempt
        case CheckpointCompleted(duration_us=duration):
            return replace(
                attempt,
                status=ExecutionStatus.COMPLETED,
                started_at=_before(at, duration),
                ended_at=at,
            )
        case CheckpointFailed(duration_us=duration, error=error, retry_at=retry_at):
            return replace(
                attempt,
                status=ExecutionStatus.FAILED,
                started_at=_before(at, duration),
                ended_at=at,
                failure=failure_of(error, FailureOrigin.USER_CODE, call_id=event.path),
                retry_at=None if retry_at is None else instant(retry_at),
            )
        case CheckpointCancelled():
            return replace(attempt, status=ExecutionStatus.CANCELLED, ended_at=at)


def _attempts_after(
    attempts: tuple[CheckpointAttempt, ...], latest: CheckpointAttempt
) -> tuple[CheckpointAttempt, ...]:
    if not attempts or attempts[-1].ended_at is not None:
        return (*attempts, latest)
    *earlier, last = attempts
    if last.number != latest.number:
        return (*earlier, _interrupted(last), latest)
    return (*earlier, replace(latest, started_at=min(last.started_at, latest.started_at)))


def _interrupted(attempt: CheckpointAttempt) -> CheckpointAttempt:
    return replace(attempt, status=ExecutionStatus.FAILED, failure=INTERRUPTED)


def _with_outcome(call: CheckpointCall, event: CheckpointFact) -> CheckpointCall:
    last = call.attempts[-1]
    waits = last.retry_at is not None
    call = replace(
        call,
        status=ExecutionStatus.WAITING if waits else last.status,
        ended_at=None if waits else last.ended_at,
        failure=last.failure if last.failure or last.ended_at else call.failure,
    )
    match event:
        case CheckpointCompleted(result=result, type=label):
            return replace(call, result=result, checkpoint_type=label)
        case CheckpointFailed(type=label):
            return replace(call, checkpoint_type=label)
        case _:
            return call


def _settled(call: CheckpointCall) -> CheckpointCall:
    if call.status is ExecutionStatus.WAITING:
        return replace(call, status=ExecutionStatus.FAILED, ended_at=call.attempts[-1].ended_at)
    if call.status is not ExecutionStatus.RUNNING:
        return call
    *earlier, last = call.attempts
    cancelled = replace(last, status=ExecutionStatus.CANCELLED)
    return replace(call, status=ExecutionStatus.CANCELLED, attempts=(*earlier, cancelled))


def _before(at: datetime, duration_us: int) -> datetime:
    try:
        return at - timedelta(microseconds=duration_us)
    except OverflowError:
        return at
