"""Which events a command leads to. All of an execution's rules are here."""

from collections.abc import Iterable
from typing import Any

from kitaru.domain.execution.commands import (
    AbortWait,
    Cancel,
    Command,
    Complete,
    ConfirmCancel,
    FailAttempt,
    FailCheckpoint,
    GiveInput,
    Move,
    Recover,
    Reopen,
    ReportNotLoaded,
    Resolve,
    RetryNow,
    Start,
)
from kitaru.domain.execution.events import (
    RUN_AGAIN,
    CancelRequested,
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointResolved,
    CodeNotLoaded,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionMoved,
    ExecutionParked,
    ExecutionRecovered,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    RetryHastened,
    WaitAborted,
    WaitExpired,
)
from kitaru.domain.execution.state import ExecutionState, OpenWait
from kitaru.domain.execution.wait_ids import meant
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.errors import KitaruStateError
from kitaru.status import ExecutionStatus, FailureOrigin

Events = tuple[ExecutionEvent, ...]
LOAD_DELAYS_S = (1, 8, 60, 600, 3_600)
"""How long code that could not be loaded is left alone, after the first time, the second, …"""


def decide(state: ExecutionState, command: Command) -> Events:
    """The events that the command leads to in this state.

    Raises KitaruStateError when the state forbids it.
    """
    match command:
        case Start(facts):
            if state.status is not None:
                raise KitaruStateError("The execution exists already.")
            return (facts,)
        case Move():
            return _move(_open(state), command)
        case ReportNotLoaded(problem=problem, now=now):
            failures = _open(state).load_failures + 1
            retry_at = now + load_delay_us(failures)
            return (CodeNotLoaded(problem=problem, failures=failures, retry_at=retry_at),)
        case Recover():
            return _recover(_open(state), command)
        case FailCheckpoint():
            _open(state)
            return (_fail_checkpoint(command),)
        case Complete(result, cancel_given):
            completed = ExecutionCompleted(result=result, in_spite_of_cancel=cancel_given)
            return (as_it_ends(_open(state), completed),)
        case FailAttempt():
            return _fail_attempt(_open(state), command)
        case Cancel(reason):
            return _cancel(state, reason)
        case ConfirmCancel():
            return (ExecutionCancelled(reason=_open(state).cancel_reason),)
        case GiveInput():
            return _give_input(state, command)
        case AbortWait(wait=wait, reason=reason):
            return (WaitAborted(path=_open_wait(_open(state), wait), reason=reason),)
        case Resolve():
            return _resolve(_open(state), command)
        case RetryNow():
            return _retry_now(_open(state), command)
        case Reopen():
            return _reopen(state, command)


def still_holds(state: ExecutionState, event: ExecutionEvent) -> bool:
    """Whether an event that an owner was about to write may follow what clients wrote before it.

    A wait that has been answered meanwhile has not expired, and an execution to which something
    has happened has something to do.
    """
    match event:
        case ExecutionParked():
            return False
        case WaitExpired(path=path) | WaitAborted(path=path):
            return any(wait.path == path for wait in state.waits)
        case InputRejected(path=path):
            return all(wait.path != path for wait in state.waits)
        case _:
            return True


def as_it_ends(state: ExecutionState, event: ExecutionEvent) -> ExecutionEvent:
    """The event with which a body ends, in this state; any other event as it is.

    A cancel request that came before the end, and that the body could not be given any more, ends
    the execution: whoever asked was told that it will.
    """
    if not state.cancel_requested:
        return event
    match event:
        case ExecutionCompleted(in_spite_of_cancel=False) | ExecutionFailed():
            return ExecutionCancelled(reason=state.cancel_reason)
        case _:
            return event


def _open(state: ExecutionState) -> ExecutionState:
    if state.status is None:
        raise KitaruStateError("There is no such execution.")
    if state.is_finished:
        raise KitaruStateError(f"The execution is already {state.status}.")
    return state


def load_delay_us(failures: int) -> int:
    """How long code is left alone that could not be loaded so often in a row."""
    return LOAD_DELAYS_S[min(failures, len(LOAD_DELAYS_S)) - 1] * 1_000_000


def _move(state: ExecutionState, command: Move) -> Events:
    if state.deployment is None:
        raise KitaruStateError(
            "The execution runs no deployed version of its flow: it was started with run()."
        )
    moved = ExecutionMoved(
        deployment=command.deployment, source=command.source, fingerprint=command.fingerprint
    )
    if state.status is ExecutionStatus.DIVERGED:
        return (moved, ExecutionReopened(reason="resume"))
    return (moved,)


def _recover(state: ExecutionState, command: Recover) -> Events:
    recoveries = state.recoveries + 1
    taken_over = ExecutionRecovered(previous_owner=command.previous_owner, recoveries=recoveries)
    if recoveries <= command.limit:
        return (taken_over,)
    error = ErrorData(
        type="kitaru.errors.KitaruRuntimeError",
        module="kitaru.errors",
        qualname="KitaruRuntimeError",
        bases=(("builtins", "RuntimeError"), ("builtins", "Exception")),
        message=f"Given up: the process died {recoveries} times in a row while it ran this "
        "execution, without recording any progress in between. Look at what runs after its last "
        "recorded checkpoint, then `kitaru executions retry` it.",
    )
    return (taken_over, ExecutionFailed(error=error, origin=FailureOrigin.RUNTIME))


def _fail_checkpoint(command: FailCheckpoint) -> CheckpointFailed:
    call, policy = command.call, command.policy
    again = (
        command.retryable and command.tried < policy.max_attempts and policy.covers(command.bases)
    )
    retry_at = command.now + policy.delay_us(command.tried, command.jitter) if again else None
    return CheckpointFailed(
        path=call.path,
        name=call.name,
        attempt=call.attempt,
        site=call.site,
        arguments_digest=call.arguments_digest,
        arguments=call.arguments,
        error=command.error,
        duration_us=command.duration_us,
        retry_at=retry_at,
        type=command.type,
    )


def _fail_attempt(state: ExecutionState, command: FailAttempt) -> Events:
    if state.cancel_requested:
        return (ExecutionCancelled(reason=state.cancel_reason),)
    if command.retryable and state.failed_attempts < state.retries:
        return (
            FlowAttemptFailed(attempt=state.attempt, error=command.error, retry_at=command.now),
        )
    return (ExecutionFailed(error=command.error, origin=command.origin),)


def _cancel(state: ExecutionState, reason: str) -> Events:
    if state.status is ExecutionStatus.CANCELLED:
        return ()
    _open(state)
    asked = state.cancel_requested
    requested = () if asked else (CancelRequested(reason=reason),)
    if state.status is ExecutionStatus.DIVERGED:
        # No runner has it, so nobody else would end it.
        return (*requested, ExecutionCancelled(reason=state.cancel_reason if asked else reason))
    return requested


def _give_input(state: ExecutionState, command: GiveInput) -> Events:
    if command.answered is None:
        _open(state)
    if meant(command.wait, state.questions):
        return (InputGiven(path=_open_wait(state, command.wait), value=command.value),)
    if command.answered is not None:
        if same(command.answered, command.value):
            return ()
        raise KitaruStateError(
            f"Wait {command.wait!r} has been answered already, with another value: the first "
            "answer counts." + (f" The execution is {state.status}." if state.is_finished else "")
        )
    if command.ended:
        there = _ids(state.questions)
        raise KitaruStateError(
            f"Wait {command.wait!r} has ended without an answer, and the flow has gone on: it is "
            "no open wait any more" + (f"; it waits for: {there}." if there else ".")
        )
    if any(review.is_review and review.path == command.wait for review in state.waits):
        raise KitaruStateError(
            f"{command.wait!r} is no wait but a call that needs review: resolve it."
        )
    if state.questions:
        _open_wait(state, command.wait)
    return (InputGiven(path=command.wait, value=command.value),)


def same(one: StoredValue, other: StoredValue) -> bool:
    """Whether two answers are the same, to the byte."""
    return (bytes(one.json), one.blob) == (bytes(other.json), other.blob)


def _open_wait(state: ExecutionState, wait: str) -> str:
    """The path of the open wait that has this id, or alone has this name."""
    found = meant(wait, state.questions)
    if len(found) == 1:
        return found[0]
    if found:
        ids = _ids(known for known in state.questions if known.path in found)
        raise KitaruStateError(f"Several waits are called {wait!r}; name one by its id: {ids}.")
    there = _ids(state.questions)
    if not there:
        raise KitaruStateError("The execution does not wait for an input now.")
    raise KitaruStateError(f"The execution has no open wait {wait!r}; it waits for: {there}.")


def _ids(waits: Iterable[OpenWait]) -> str:
    return ", ".join(wait.id for wait in waits)


def _resolve(state: ExecutionState, command: Resolve) -> Events:
    path, review = command.call, command.review
    if state.status is ExecutionStatus.DIVERGED:
        raise KitaruStateError("The execution has diverged; put its code right and resume it.")
    if review is None or not any(w.is_review and w.path == path for w in state.waits):
        there = ", ".join(wait.path for wait in state.waits if wait.is_review)
        others = f"those that do: {there}" if there else "nor does any other call"
        raise KitaruStateError(f"Call {path!r} needs no review now; {others}.")
    if command.result is not None:
        completed = CheckpointCompleted(**_of_call(review), result=command.result, resolved=True)
        return (CheckpointResolved(path=path, decision="result"), completed)
    if command.error is not None:
        failed = CheckpointFailed(**_of_call(review), error=command.error)
        return (CheckpointResolved(path=path, decision="failed"), failed)
    return (CheckpointResolved(path=path, decision=RUN_AGAIN),)


def _of_call(call: CheckpointEvent) -> dict[str, Any]:
    return {
        "path": call.path,
        "name": call.name,
        "attempt": call.attempt,
        "site": call.site,
        "arguments_digest": call.arguments_digest,
        "arguments": call.arguments,
    }


def _retry_now(state: ExecutionState, command: RetryNow) -> Events:
    if state.status is ExecutionStatus.DIVERGED:
        raise KitaruStateError("The execution has diverged; put its code right and resume it.")
    waiting = (*command.calls, *command.hastened)
    wanted = waiting if command.call is None else (command.call,)
    if not waiting or not set(wanted) <= set(waiting):
        which = "No call of it" if command.call is None else f"Call {command.call!r} does not"
        verb = "waits" if command.call is None else "wait"
        there = f"; those that do: {', '.join(waiting)}" if waiting else ""
        raise KitaruStateError(f"{which} {verb} for its next attempt{there}.")
    return tuple(RetryHastened(path=path) for path in wanted if path in command.calls)


def _reopen(state: ExecutionState, command: Reopen) -> Events:
    if command.reason == "load":
        if not _open(state).load_failures:
            raise KitaruStateError("The execution's code can be loaded, as far as is known.")
        return (ExecutionReopened(reason="load"),)
    needed = {"retry": ExecutionStatus.FAILED, "resume": ExecutionStatus.DIVERGED}[command.reason]
    if state.status is not needed:
        hint = (
            "Only failed executions can be retried (a call that waits for its next attempt: --now)"
            if command.reason == "retry"
            else "Only diverged executions need to be resumed"
        )
        raise KitaruStateError(f"{hint}; this one is {state.status or 'absent'}.")
    return (ExecutionReopened(reason=command.reason),)
