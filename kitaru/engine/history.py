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
    InputGiven,
    InputRejected,
    MetadataLogged,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)

RecordedFact = tuple[int, int, ExecutionEvent]
"""(version, recorded at, event)."""


OutcomeEvent = (
    CheckpointCompleted | CheckpointFailed | TimerFired | InputGiven | WaitAborted | WaitExpired
)
"""How a call can end."""


class Outcome(Struct, frozen=True, gc=False):
    """How one call ended, as recorded."""

    version: int
    recorded_at: int
    event: OutcomeEvent

    def is_of(self, name: str, arguments_digest: str | None = None) -> bool:
        """Whether a checkpoint of this name, with these arguments, has had it."""
        event = self.event
        return (
            isinstance(event, CheckpointCompleted | CheckpointFailed)
            and event.name == name
            and arguments_digest in (None, event.arguments_digest)
        )

    @property
    def blob(self) -> str | None:
        """Where its value is, when it is not in the event itself."""
        match self.event:
            case CheckpointCompleted(result=value) | InputGiven(value=value):
                return value.blob
            case _:
                return None


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
        self.waits: dict[str, WaitRequested] = {}
        """The open waits, by path: the body must ask for each of them, too."""
        self.asked: dict[str, WaitRequested] = {}
        """Every wait of the current flow attempt, as it was recorded."""
        self.early: dict[str, InputGiven] = {}
        """Answers to waits that the body has not asked for."""
        self.timers: dict[str, int] = {}
        """When the timers that were written down are due."""
        self.logged: dict[str, None] = {}
        """The flow-scope `log()` calls that are recorded already."""
        self.cancelled_at: int | None = None
        """The version of the cancel request, if there is one since the last reopening."""
        self.cancel_reason = ""
        self.version = 0
        for fact in facts:
            self.add(*fact)

    def add(self, version: int, recorded_at: int, event: ExecutionEvent) -> None:
        """Takes in the next event; one that is known already changes nothing."""
        if version <= self.version:
            return
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
            case WaitRequested(path=path):
                self.asked[path] = event
                answer = self.early.pop(path, None)
                if answer is None:
                    self.waits[path] = event
                else:
                    self._outcome(Outcome(version, recorded_at, answer))
            case InputGiven(path=path):
                if self.waits.pop(path, None) is not None:
                    self._outcome(Outcome(version, recorded_at, event))
                elif path not in self.log and path not in self.kept:
                    self.early.setdefault(path, event)
            case WaitAborted(path=path) | WaitExpired(path=path):
                if self.waits.pop(path, None) is not None:
                    self._outcome(Outcome(version, recorded_at, event))
            case TimerStarted(path=path, due_at=due_at):
                self.timers[path] = due_at
            case InputRejected():
                self._reject(event)
            case CancelRequested(reason=reason):
                self.cancelled_at = version
                self.cancel_reason = reason
            case FlowAttemptFailed():
                # A cancel request that came just before it is for the next attempt's body.
                self._next_flow_attempt()
            case ExecutionReopened(reason="retry"):
                self._next_flow_attempt()
                self.cancelled_at = None
                self.cancel_reason = ""
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

    def _reject(self, event: InputRejected) -> None:
        rejected = self.log.pop(event.path, None)
        if rejected is not None and rejected in self.order:
            self.order.remove(rejected)
        self.waits[event.path] = self.asked[event.path]

    def _next_flow_attempt(self) -> None:
        for path, outcome in self.log.items():
            if isinstance(outcome.event, CheckpointCompleted | TimerFired | InputGiven):
                self.kept[path] = outcome
        self.log.clear()
        self.order.clear()
        self.waits.clear()
        self.asked.clear()
        self.timers.clear()
        for tried in self.tried.values():
            tried.this_pass = 0
            tried.retry_at = None

    def attempts_of(self, path: str) -> Tried:
        """What is known of the attempts of a call."""
        return self.tried.get(path) or Tried()
