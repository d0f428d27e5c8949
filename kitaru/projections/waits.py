"""An execution's open waits, folded from events."""

from datetime import datetime

import msgspec
from msgspec.structs import replace

from kitaru.domain.execution.events import (
    ExecutionEvent,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.wait_ids import early_answer, wait_id
from kitaru.projections.instants import instant
from kitaru.projections.metadata import metadata_of
from kitaru.projections.views import PendingWait


class WaitFold:
    """Collects what is asked and not answered."""

    def __init__(self) -> None:
        self._asked: dict[str, PendingWait] = {}
        self._open: dict[str, None] = {}
        self._early: set[str] = set()

    def add(self, event: ExecutionEvent, at: datetime) -> None:
        """Takes in an event; most do not concern waits."""
        match event:
            case WaitRequested(path=path, name=name):
                self._asked[path] = _pending(event, at)
                given = early_answer(self._early, path, name)
                if given is None:
                    self._open[path] = None
                else:
                    self._early.discard(given)
            case InputGiven(path=path):
                if path in self._open:
                    del self._open[path]
                else:
                    self._early.add(path)
            case WaitAborted(path=path) | WaitExpired(path=path):
                self._open.pop(path, None)
            case InputRejected(path=path, problem=problem):
                self._asked[path] = replace(self._asked[path], rejected=problem)
                self._open[path] = None
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                self._open.clear()
            case _:
                pass

    def waits(self) -> tuple[PendingWait, ...]:
        """The open ones, oldest first."""
        return tuple(self._asked[path] for path in self._open)


def _pending(event: WaitRequested, at: datetime) -> PendingWait:
    schema = bytes(event.schema)
    return PendingWait(
        wait_id=wait_id(event.path, event.name),
        name=event.name,
        question=event.question or None,
        schema=msgspec.json.decode(schema) if schema else None,
        metadata=metadata_of(event.metadata) if bytes(event.metadata) else {},
        entered_waiting_at=at,
        deadline_at=None if event.deadline_at is None else instant(event.deadline_at),
        site=event.site,
    )
