"""What an execution's journal holds for its next pass: recorded outcomes, by call and in order."""

from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionEvent,
    ExecutionReopened,
    FlowAttemptFailed,
    MetadataLogged,
    TimerFired,
)

RecordedFact = tuple[int, int, ExecutionEvent]
"""(version, recorded at, event)."""


class Outcome(Struct, frozen=True, gc=False):
    """How one call ended, as recorded."""

    version: int
    recorded_at: int
    event: CheckpointCompleted | CheckpointFailed | TimerFired


class Tried(Struct):
    """What is known of a call's attempts."""

    last_attempt: int = 0
    """The number of the last attempt, over all flow attempts."""
    this_pass: int = 0
    """Failed attempts in the current flow attempt: what the retry policy counts."""
    retry_at: int | None = None
    name: str = ""
    site: str = ""
    arguments_digest: str = ""


class History:
    """The recorded outcomes that a pass of the body is to be given.

    `kept` are the completed calls of earlier flow attempts: they are handed over when they are
    asked for again, and need not be. `log` are the outcomes of the current flow attempt: the body
    must ask for each of them.
    """

    def __init__(self, facts: Iterable[RecordedFact]) -> None:
        self.kept: dict[str, Outcome] = {}
        self.log: dict[str, Outcome] = {}
        self.order: deque[Outcome] = deque()
        self.tried: dict[str, Tried] = {}
        self.logged: dict[str, None] = {}
        """The flow-scope `log()` calls that are recorded already."""
        self.cancelled_at: int | None = None
        """The version of the cancel request of the current flow attempt."""
        self.version = 0
        for fact in facts:
            self._add(*fact)

    def _add(self, version: int, recorded_at: int, event: ExecutionEvent) -> None:
        self.version = version
        match event:
            case CheckpointCompleted() | TimerFired():
                self._outcome(Outcome(version, recorded_at, event))
            case CheckpointFailed(retry_at=None):
                self._attempt(event).retry_at = None
                self._outcome(Outcome(version, recorded_at, event))
            case CheckpointFailed():
                tried = self._attempt(event)
                tried.this_pass += 1
                tried.retry_at = event.retry_at
            case CheckpointStarted():
                self._attempt(event)
            case MetadataLogged(entry=entry) if entry:
                self.logged[entry] = None
            case CancelRequested():
                self.cancelled_at = version
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                self._next_flow_attempt()
            case _:
                pass

    def _attempt(self, event: CheckpointEvent) -> Tried:
        tried = self.tried.setdefault(event.path, Tried())
        tried.last_attempt = max(tried.last_attempt, event.attempt)
        tried.name, tried.site = event.name, event.site
        tried.arguments_digest = event.arguments_digest
        return tried

    def _outcome(self, outcome: Outcome) -> None:
        path = outcome.event.path
        if path in self.log:
            # A call has one recorded outcome: the first. The rules write no second one.
            return
        self.log[path] = outcome
        self.order.append(outcome)

    def _next_flow_attempt(self) -> None:
        for path, outcome in self.log.items():
            if not isinstance(outcome.event, CheckpointFailed):
                self.kept[path] = outcome
        self.log.clear()
        self.order.clear()
        self.cancelled_at = None
        for tried in self.tried.values():
            tried.this_pass = 0
            tried.retry_at = None

    def attempts_of(self, path: str) -> Tried:
        """What is known of the attempts of a call."""
        return self.tried.get(path) or Tried()
