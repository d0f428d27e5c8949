"""What an execution's journal holds for its next pass: recorded outcomes, by call and in order."""

import heapq
from collections import deque
from collections.abc import Container, Iterable

from msgspec import Raw, Struct, structs

from kitaru.domain.execution.events import (
    ArgumentsChanged,
    CancelRequested,
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointResolved,
    CheckpointStarted,
    EventOffered,
    ExecutionEvent,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    MetadataLogged,
    OffersTaken,
    RetryHastened,
    ReviewRequested,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.wait_ids import early_answer
from kitaru.engine.upcasts import offered_event

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
    is_offered: bool = False
    """Whether it was recorded by the execution that this one is a fork of."""
    is_overridden: bool = False
    """Whether it is a fork's override, which holds whatever the arguments are."""

    def is_of(self, name: str, arguments_digest: str | None = None) -> bool:
        """Whether a checkpoint of this name, with these arguments, has had it."""
        event = self.event
        return (
            isinstance(event, CheckpointCompleted | CheckpointFailed)
            and event.name == name
            and (self.is_overridden or arguments_digest in (None, event.arguments_digest))
        )

    @property
    def is_timer(self) -> bool:
        """Whether it is a timer's."""
        return isinstance(self.event, TimerFired)

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
    """The number of the last attempt that did not complete, over all flow attempts."""
    this_pass: int = 0
    """Failed attempts in the current flow attempt: what the retry policy counts."""
    retry_at: int | None = None
    failed_version: int = 0
    """The event of the last failed attempt that is to be followed by another."""
    hastened_version: int = 0
    """The event with which somebody asked for the next attempt at once."""
    in_doubt: bool = False
    """Whether an attempt that may run only once has begun, and nobody knows what came of it."""
    name: str = ""
    site: str = ""
    arguments_digest: str = ""


class History:
    """The recorded outcomes that a pass of the body is to be given.

    `kept` are the completed calls of earlier flow attempts, and what a fork was offered: they are
    handed over when they are asked for again, and need not be. `log` are the outcomes of the
    current flow attempt: the body must ask for each of them.
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
        """Answers to waits that the body has not asked for, by the id or name that was given."""
        self.reviews: dict[str, ReviewRequested] = {}
        """The calls that somebody has to review, by path."""
        self.given_up: set[str] = set()
        """The calls that somebody has said to have failed: only a person's retry runs them."""
        self.timers: dict[str, int] = {}
        """When the timers that were written down are due."""
        self.logged: dict[str, bytes] = {}
        """What the body's `log()` calls of the current flow attempt are recorded to have said."""
        self.logged_before: dict[str, bytes] = {}
        """The same of earlier flow attempts."""
        self.changed: set[str] = set()
        """The calls that are recorded to have been made with other arguments."""
        self.cancelled_at: int | None = None
        """The version of the cancel request, if there is one since the last reopening."""
        self.cancel_reason = ""
        self.taken: dict[str, int] = {}
        """The offers that a body was given, and the version of the event that says so."""
        self.owed: dict[str, None] = {}
        """Those that were given in the current flow attempt: its next pass must ask for them."""
        self._untold: deque[str] = deque()
        self.began_at = 0
        """When the current flow attempt began."""
        self.version = 0
        for fact in facts:
            self.add(*fact)

    def add(self, version: int, recorded_at: int, event: ExecutionEvent) -> None:
        """Takes in the next event; one that is known already changes nothing."""
        if version <= self.version:
            return
        self.version = version
        self.began_at = self.began_at or recorded_at
        match event:
            case CheckpointCompleted(path=path):
                if path in self.tried:
                    self.tried[path].in_doubt = False
                self._outcome(Outcome(version, recorded_at, event))
            case TimerFired():
                self._outcome(Outcome(version, recorded_at, event))
            case CheckpointFailed(retry_at=None):
                tried = self._attempt(event)
                tried.retry_at, tried.in_doubt = None, False
                self._outcome(Outcome(version, recorded_at, event))
            case CheckpointFailed():
                tried = self._attempt(event)
                tried.this_pass += 1
                tried.retry_at, tried.in_doubt = event.retry_at, False
                tried.failed_version = version
            case RetryHastened(path=path):
                self.tried.setdefault(path, Tried()).hastened_version = version
            case CheckpointStarted():
                self._attempt(event).in_doubt = event.once
            case ReviewRequested(path=path):
                self.reviews[path] = event
            case CheckpointResolved(path=path, decision=decision):
                self.reviews.pop(path, None)
                self.tried[path].in_doubt = False
                if decision == "failed":
                    self.given_up.add(path)
            case EventOffered():
                self._offer(version, event)
            case OffersTaken(paths=paths):
                for path in paths:
                    self.taken.setdefault(path, version)
                    self.owed[path] = None
            case MetadataLogged(entry=entry, metadata=metadata) if entry:
                self.logged[entry] = bytes(metadata)
            case WaitRequested(path=path, again=True):
                self.asked[path] = event
                if path in self.waits:
                    self.waits[path] = event
            case WaitRequested(path=path, name=name):
                self.asked[path] = event
                given = early_answer(self.early, path, name)
                if given is None:
                    self.waits[path] = event
                else:
                    answer = structs.replace(self.early.pop(given), path=path)
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
            case ArgumentsChanged(path=path):
                self.changed.add(path)
            case CancelRequested(reason=reason):
                self.cancelled_at = version
                self.cancel_reason = reason
            case FlowAttemptFailed(retry_at=retry_at):
                # A cancel request that came just before it is for the next attempt's body.
                self._next_flow_attempt(max(recorded_at, retry_at))
            case ExecutionReopened(reason="retry"):
                self.given_up.clear()
                self._next_flow_attempt(recorded_at)
                self.cancelled_at = None
                self.cancel_reason = ""
            case _:
                pass

    def answers_another(self, answer: Outcome, schema: Raw, requested: Container[str]) -> bool:
        """Whether an answer that does not do was given to other code than today's.

        What was asked had another schema then; or a body was given the answer, and went on to what
        this pass has not come to: an answer that does not do is refused before that.
        """
        path = answer.event.path
        if self.kept.get(path) is answer:
            return False
        asked = self.asked.get(path)
        if asked is not None and bytes(asked.schema) != bytes(schema):
            return True
        after = [each.event.path for each in self.order if each.version > answer.version]
        return any(path not in requested for path in (*after, *self.waits, *self.timers))

    def has_answer(self, path: str, name: str) -> bool:
        """Whether a wait has its outcome, or has it as soon as it is recorded that it is asked."""
        return path in self.log or early_answer(self.early, path, name) is not None

    def is_logged(self, entry: str, metadata: bytes) -> bool:
        """Whether a `log()` of the body's is recorded: a later flow attempt's, with what it says.

        Within one flow attempt it counts once, whatever a replay says.
        """
        return entry in self.logged or self.logged_before.get(entry) == metadata

    def take(self, path: str) -> None:
        """The body is given a kept outcome; an offer's taking is told with the next events."""
        if self.kept[path].is_offered and path not in self.taken:
            self.taken[path] = 0
            self._untold.append(path)

    def refuse(self, path: str) -> bool:
        """The body could not be given a kept outcome: from now on there is none; False: there was
        none before."""
        refused = self.kept.pop(path, None)
        if refused is not None and path in self._untold:
            self._untold.remove(path)
            self.taken.pop(path, None)
        return refused is not None

    def note_taken(self) -> OffersTaken | None:
        """What is to be told of the offers that were taken since."""
        paths = []
        while self._untold:
            paths.append(self._untold.popleft())
        return OffersTaken(paths=tuple(paths)) if paths else None

    def unasked(self, requested: Container[str]) -> str | None:
        """The path of an offer that was taken before, and that this pass has not asked for."""
        return next((path for path in self.owed if path not in requested), None)

    def _offer(self, version: int, offer: EventOffered) -> None:
        event = offered_event(offer)
        if isinstance(event, OutcomeEvent):
            self.kept[offer.path] = Outcome(
                version, offer.recorded_at, event, is_offered=True, is_overridden=offer.overridden
            )

    def due_at(self, path: str) -> int | None:
        """When the next attempt of a call that has failed is due; None: at once."""
        tried = self.attempts_of(path)
        return None if self.is_hastened(path, tried.failed_version) else tried.retry_at

    def is_hastened(self, path: str, failed_version: int) -> bool:
        """Whether somebody has asked, after this failure, for the next attempt at once."""
        return self.attempts_of(path).hastened_version > failed_version

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

    def knows(self, path: str) -> bool:
        """Whether there has been anything at a path before this flow attempt, or in it."""
        return path in self.tried or path in self.kept

    def last_attempt_of(self, path: str) -> int:
        """The number of the last attempt of a path, over all flow attempts; 0: there was none.

        One that completed is among them: the body may call the path again with other arguments.
        """
        return max(self.completed_attempt_of(path), self.attempts_of(path).last_attempt)

    def completed_attempt_of(self, path: str) -> int:
        """The number of the attempt that completed in an earlier flow attempt; 0: none did."""
        kept = self.kept.get(path)
        event = None if kept is None or kept.is_offered else kept.event
        return event.attempt if isinstance(event, CheckpointCompleted) else 0

    def _reject(self, event: InputRejected) -> None:
        rejected = self.log.pop(event.path, None)
        if rejected is not None and rejected in self.order:
            self.order.remove(rejected)
        self.waits[event.path] = self.asked[event.path]

    def _next_flow_attempt(self, began_at: int) -> None:
        self.began_at = max(self.began_at, began_at)
        # What failed, in a fork's source too, is tried again.
        self.kept = {
            path: outcome
            for path, outcome in (self.kept | self.log).items()
            if path in self.given_up or _is_success(outcome.event)
        }
        self.owed.clear()
        self.logged_before |= self.logged
        self.logged.clear()
        self.log.clear()
        self.order.clear()
        self.waits.clear()
        self.reviews.clear()
        self.asked.clear()
        self.timers.clear()
        for tried in self.tried.values():
            tried.this_pass = 0
            tried.retry_at = None

    def attempts_of(self, path: str) -> Tried:
        """What is known of the attempts of a call."""
        return self.tried.get(path) or Tried()


def _is_success(event: OutcomeEvent) -> bool:
    is_one = isinstance(event, CheckpointCompleted | TimerFired | InputGiven)
    return is_one and not _is_time_limit(event)


class KeptReady:
    """The kept outcomes that the body has asked for, in the order in which they were recorded.

    In that order the body got them when they were recorded, so that it takes the same branches.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._waiting: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __getitem__(self, index: int) -> str:
        return self._waiting[index][1]

    def append(self, path: str) -> None:
        """The body has asked for a call that has a kept outcome."""
        heapq.heappush(self._waiting, (self._history.kept[path].version, path))

    def popleft(self) -> str:
        """The path of the next one, which is given to the body now."""
        _, path = heapq.heappop(self._waiting)
        self._history.take(path)
        return path


def _is_time_limit(event: OutcomeEvent) -> bool:
    """Whether it is a time limit that has run out: a flow that is tried again has it anew."""
    name = event.path.rpartition("/")[2].partition("#")[0]
    return isinstance(event, TimerFired) and name == "timeout"
