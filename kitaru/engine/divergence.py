"""What to tell people when a flow's code no longer asks for what its journal has recorded."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionDiverged,
    WaitRequested,
)
from kitaru.engine.history import Outcome

SHOWN_DIFFERENCES = 12


class Asked(Struct, frozen=True):
    """What the code asks for now."""

    path: str
    name: str
    site: str
    arguments: bytes = b""
    """The codec's JSON; empty for what takes no arguments."""
    arguments_digest: str = ""


class Divergence(Struct, frozen=True):
    """A replay that does not fit: the facts, and the text made of them."""

    story: str
    """``changed_arguments``, ``changed_kind``, ``not_asked_for``,
    ``wait_not_asked_for`` or ``fewer_calls``."""
    recorded_path: str
    recorded_version: int
    recorded_site: str
    asked: tuple[Asked, ...] = ()
    differences: tuple[str, ...] = ()

    def event(self, exec_id: str) -> ExecutionDiverged:
        """The fact for the journal."""
        return ExecutionDiverged(
            report=self.text(exec_id), facts=msgspec.Raw(msgspec.json.encode(self.facts()))
        )

    def facts(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "story": self.story,
            "recorded": {
                "path": self.recorded_path,
                "version": self.recorded_version,
                "site": self.recorded_site,
            },
            "asked": [{"path": call.path, "site": call.site} for call in self.asked],
            "differences": list(self.differences),
        }

    def text(self, exec_id: str) -> str:
        """The report for people."""
        lines = [
            f"The flow's code no longer fits the journal of execution {exec_id}.",
            (
                f"  recorded: {self.recorded_path} (event {self.recorded_version}, called at "
                f"{self.recorded_site or 'an unknown place'})"
            ),
            *self._asked_lines(),
            *(f"    {difference}" for difference in self.differences),
            f"  likely: {_STORIES[self.story]}",
            (
                "  Nothing is lost and nothing was run. Put the old code back and resume it with "
                f"`kitaru executions resume {exec_id}`, or start a new execution with the new code."
            ),
        ]
        return "\n".join(lines)

    def _asked_lines(self) -> list[str]:
        if not self.asked:
            return ["  the code now: returns without asking for it"]
        return [f"  the code now: {call.path} (at {call.site})" for call in self.asked[:3]]


_STORIES = {
    "changed_arguments": "an argument of the call was changed, or depends on something that is "
    "different now (the time, randomness, the environment, the order of a set).",
    "changed_kind": "another kind of call now stands in this place.",
    "not_asked_for": "the recorded call was removed, renamed or moved behind another one, or a new "
    "call was put in front of it.",
    "wait_not_asked_for": "the recorded wait was removed, renamed or moved behind another call, "
    "while somebody was asked for an answer.",
    "fewer_calls": "the recorded call was removed or renamed, or a condition now takes another "
    "branch.",
}


def changed_arguments(outcome: Outcome, asked: Asked) -> Divergence:
    """The same call, with other arguments."""
    event = outcome.event
    before = b""
    if isinstance(event, CheckpointCompleted | CheckpointFailed) and event.arguments is not None:
        before = bytes(event.arguments.json)
    return Divergence(
        story="changed_arguments",
        recorded_path=event.path,
        recorded_version=outcome.version,
        recorded_site=site_of(outcome),
        asked=(asked,),
        differences=tuple(_differences(before, asked.arguments)),
    )


def changed_kind(outcome: Outcome, asked: Asked) -> Divergence:
    """A call of another kind under the same path."""
    return Divergence(
        story="changed_kind",
        recorded_path=outcome.event.path,
        recorded_version=outcome.version,
        recorded_site=site_of(outcome),
        asked=(asked,),
    )


def not_asked_for(outcome: Outcome, asked: Sequence[Asked]) -> Divergence:
    """The body waits for something else than what is recorded next."""
    return Divergence(
        story="not_asked_for",
        recorded_path=outcome.event.path,
        recorded_version=outcome.version,
        recorded_site=site_of(outcome),
        asked=tuple(asked),
    )


def fewer_calls(outcome: Outcome) -> Divergence:
    """The body has ended without asking for a recorded call."""
    return Divergence(
        story="fewer_calls",
        recorded_path=outcome.event.path,
        recorded_version=outcome.version,
        recorded_site=site_of(outcome),
    )


def wait_not_asked_for(wait: WaitRequested, version: int, asked: Sequence[Asked]) -> Divergence:
    """The body is not at a wait that is recorded as open."""
    return Divergence(
        story="wait_not_asked_for",
        recorded_path=wait.path,
        recorded_version=version,
        recorded_site=wait.site,
        asked=tuple(asked),
    )


def site_of(outcome: Outcome) -> str:
    """Where the recorded call was made."""
    event = outcome.event
    return event.site if isinstance(event, CheckpointCompleted | CheckpointFailed) else ""


def _differences(before: bytes, now: bytes) -> list[str]:
    if not before:
        return ["the recorded arguments were too large to keep; only their digest differs"]
    return differences("arguments", msgspec.json.decode(before), msgspec.json.decode(now))


def differences(path: str, before: Any, now: Any) -> list[str]:
    """Where two JSON values differ, by path; of many, the first."""
    found: list[str] = []
    _compare(path, before, now, found)
    if len(found) > SHOWN_DIFFERENCES:
        left_out = len(found) - SHOWN_DIFFERENCES
        return [*found[:SHOWN_DIFFERENCES], f"and {left_out} more"]
    return found


def _compare(path: str, before: Any, now: Any, found: list[str]) -> None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            _compare(f"{path}.{key}", before.get(key, _ABSENT), now.get(key, _ABSENT), found)
    elif isinstance(before, list) and isinstance(now, list):
        for index in range(max(len(before), len(now))):
            _compare(f"{path}[{index}]", _item(before, index), _item(now, index), found)
    elif type(before) is not type(now) or before != now:
        found.append(f"{path}: {_shown(before)} was recorded, now {_shown(now)}")


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
