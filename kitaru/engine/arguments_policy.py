"""What a checkpoint says about a recorded call that is made with other arguments."""

from typing import Any, Literal

import msgspec

from kitaru.domain.execution.events import (
    ArgumentsChanged,
    CheckpointCompleted,
    CheckpointFailed,
)
from kitaru.engine.calls import Call
from kitaru.engine.differences import differences
from kitaru.engine.divergence import Mismatch, changed_arguments, changed_kind
from kitaru.engine.history import History, Outcome
from kitaru.errors import KitaruUsageError
from kitaru.telemetry import LogEvent, report

OnChangedArguments = Literal["diverge", "warn", "ignore"]
_KNOWN = ("diverge", "warn", "ignore")


def checked_policy(given: Any) -> OnChangedArguments:
    """The policy, when it is one. Raises KitaruUsageError."""
    if given not in _KNOWN:
        known = ", ".join(f'"{each}"' for each in _KNOWN)
        raise KitaruUsageError(
            f"Checkpoint on_changed_arguments must be one of {known}, not {given!r}."
        )
    policy: OnChangedArguments = given
    return policy


def misfit_of(recorded: Outcome, call: Call) -> Mismatch | None:
    """Why a recorded outcome is not the call's; None when it is given all the same."""
    if not recorded.is_of(call.definition.name):
        return changed_kind(recorded, call.asked)
    if call.definition.on_changed_arguments == "diverge":
        return changed_arguments(recorded, call.asked)
    return None


def may_be_given(kept: Outcome, call: Call, history: History) -> bool:
    """Whether the outcome of an earlier flow attempt, or of a fork's source, stands for the call.

    What a fork is offered for other arguments it runs anew, unless it has taken it before.
    """
    lenient = call.definition.on_changed_arguments != "diverge" and (
        not kept.is_offered or call.path in history.owed
    )
    return kept.is_of(call.definition.name, None if lenient else call.digest)


def changed_and_kept(
    exec_id: str, recorded: Outcome, call: Call, history: History
) -> ArgumentsChanged | None:
    """The fact that a call was given its outcome in spite of other arguments, and the warning.

    None where that is to be ignored, is recorded already, or is not so.
    """
    event = recorded.event
    if (
        call.definition.on_changed_arguments != "warn"
        or call.path in history.changed
        or not isinstance(event, CheckpointCompleted | CheckpointFailed)
        or event.arguments_digest == call.digest
    ):
        return None
    history.changed.add(call.path)
    found = _differences(event, call)
    report(
        LogEvent.ARGUMENTS_CHANGED,
        exec_id=exec_id,
        path=call.path,
        site=call.site,
        differences=", ".join(found) or "not kept",
    )
    return ArgumentsChanged(
        path=call.path,
        name=call.definition.name,
        site=call.site,
        arguments_digest=call.digest,
        differences=found,
    )


def _differences(event: CheckpointCompleted | CheckpointFailed, call: Call) -> tuple[str, ...]:
    """The paths at which the arguments differ, where both were kept in the events."""
    before, now = event.arguments, call.asked.arguments
    if before is None or before.blob is not None or not now:
        return ()
    compared = differences(msgspec.json.decode(before.json), msgspec.json.decode(now))
    return tuple(difference.path for difference in compared)
