"""Answering the waits of executions, from any process."""

from typing import Any

import msgspec

from kitaru.bootstrap import Runtime
from kitaru.domain.execution.commands import AbortWait, Command, GiveInput
from kitaru.domain.execution.decide import same
from kitaru.domain.execution.events import (
    EventOffered,
    ExecutionEvent,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.execution.wait_ids import early_answer, meant
from kitaru.domain.ids import LONGEST_PATH, checked_id
from kitaru.domain.values import StoredValue
from kitaru.engine.codec import TypeScope
from kitaru.engine.executions import fold
from kitaru.engine.schema import plain_json, problem_with
from kitaru.engine.upcasts import offered_event
from kitaru.engine.values import stored
from kitaru.errors import KitaruUsageError, KitaruWaitValidationError
from kitaru.operations.executions import append_decided

_plain = TypeScope.of()


async def give_input(runtime: Runtime, exec_id: str, wait: str, value: Any) -> None:
    """Answers a wait, named by its id or, when only one open wait has it, by its name.

    An answer to a wait that the flow has not come to yet is kept for it, unless other waits are
    open. The same answer twice is fine. Raises KitaruWaitValidationError for a value that does not
    fit (the wait goes on), KitaruStateError when there is no such wait, when it was answered
    otherwise or has ended without an answer, or when the execution has ended.
    """
    checked_id(wait, "A wait's id or name", LONGEST_PATH)
    plain = _as_json(wait, value)
    data = runtime.codec.encode(plain, where="input", types=_plain)
    kept, blobs = stored(data)

    def command(events: list[ExecutionEvent]) -> Command:
        asked = _asked(events, wait)
        if asked is not None:
            _check(asked, plain, exec_id)
        closed = Closed(events, wait)
        return GiveInput(wait, kept, closed.answer_like(kept), closed.has_ended)

    await append_decided(runtime, exec_id, command, blobs)
    runtime.worker.look_now()


async def abort_wait(runtime: Runtime, exec_id: str, wait: str, reason: str = "") -> None:
    """Ends an open wait without an answer: the flow is given KitaruWaitAborted there.

    Raises KitaruStateError when no such wait is open.
    """
    checked_id(wait, "A wait's id or name", LONGEST_PATH)
    await append_decided(runtime, exec_id, lambda _: AbortWait(wait, reason))
    runtime.worker.look_now()


def _as_json(wait: str, value: Any) -> Any:
    try:
        return plain_json(value)
    except KitaruUsageError as error:
        raise KitaruWaitValidationError(f"The answer to wait {wait!r}: {error}") from error


def _asked(events: list[ExecutionEvent], wait: str) -> WaitRequested | None:
    """The open wait that has this id or, alone, this name."""
    asked = {event.path: event for event in events if isinstance(event, WaitRequested)}
    found = meant(wait, fold(ABSENT, events).questions)
    return asked[found[0]] if len(found) == 1 else None


class Closed:
    """What came of the wait that has an id or, where none has it, of those that have the name."""

    def __init__(self, events: list[ExecutionEvent], wait: str) -> None:
        asked: dict[str, WaitRequested] = {}
        given: dict[str, StoredValue] = {}
        early: dict[str, StoredValue] = {}
        ended: set[str] = set()
        for event in events:
            if isinstance(event, EventOffered):
                # What a fork takes over was asked and answered before.
                event = offered_event(event)
            match event:
                case WaitRequested(path=path, again=True):
                    asked[path] = event
                case WaitRequested(path=path, name=name):
                    asked[path] = event
                    known = early_answer(early, path, name)
                    if known is not None:
                        given[path] = early.pop(known)
                case InputGiven(path=path, value=value):
                    (given if path in asked else early).setdefault(path, value)
                case InputRejected(path=path):
                    given.pop(path, None)
                case WaitAborted(path=path) | WaitExpired(path=path):
                    ended.add(path)
                case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                    # The next attempt asks again what was not answered.
                    ended.clear()
                case _:
                    pass
        paths = meant(wait, asked.values())
        self._given = [given[path] for path in paths if path in given]
        if wait in early:
            self._given = [early[wait]]
        self.has_ended = not self._given and any(path in ended for path in paths)

    def answer_like(self, value: StoredValue) -> StoredValue | None:
        """An answer that was given: the same one if there is one, else the last."""
        last = self._given[-1] if self._given else None
        return next((each for each in self._given if same(each, value)), last)


def _check(asked: WaitRequested, value: Any, exec_id: str) -> None:
    schema = bytes(asked.schema)
    if not schema:
        problem = None
        if value is not None:
            problem = "it asks only to go on and takes no value; a schema= would let it take one"
    else:
        problem = problem_with(value, msgspec.json.decode(schema), asked.path)
    if problem is not None:
        raise KitaruWaitValidationError(
            f"Wait input failed validation for {asked.path!r} on execution {exec_id}: {problem}. "
            "The execution goes on waiting."
        )
