"""What a fork takes over from its source: which call is meant, and what was recorded before it."""

import difflib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw, Struct

from kitaru.domain.execution.events import (
    TAGS,
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointEvent,
    EventOffered,
    ExecutionEvent,
    InputGiven,
    MetadataLogged,
    OffersTaken,
    TimerFired,
    TimerStarted,
    WaitRequested,
)
from kitaru.domain.execution.wait_ids import wait_id
from kitaru.domain.values import StoredValue
from kitaru.engine.history import History, Outcome, OutcomeEvent, RecordedFact
from kitaru.engine.upcasts import offered_event
from kitaru.errors import KitaruUsageError

CHECKPOINT, WAIT, TIMER = "checkpoint", "wait", "sleep"
SHOWN_CALLS = 12
Offerable = OutcomeEvent | ArtifactSaved | MetadataLogged | WaitRequested
_encode = msgspec.json.Encoder().encode


class PastCall(Struct):
    """A call that an execution has come to."""

    path: str
    name: str
    kind: str
    outcome: Outcome | None = None
    at: tuple[int, int] | None = None
    """When its outcome was there, as (version, place in that event); None: never."""
    request: CheckpointEvent | WaitRequested | None = None
    """What the call asked for, as recorded."""

    @property
    def key(self) -> str:
        """How an override names it."""
        return f"{self.kind}.{self.path}"


class Override(Struct, frozen=True):
    """A value that takes the place of a recorded outcome."""

    call: PastCall
    value: StoredValue


class Past:
    """The calls that an execution has come to, in the order in which they first appear."""

    def __init__(self, exec_id: str, facts: Sequence[RecordedFact]) -> None:
        self.exec_id = exec_id
        self._facts = facts
        self._history = History(facts)
        self._offers: dict[int, EventOffered] = {}
        self._taken: dict[str, tuple[int, int]] = {}
        self.calls: dict[str, PastCall] = {}
        for version, _, event in facts:
            self._add(version, event)
        for path, call in list(self.calls.items()):
            self._settle(path, call)

    def _add(self, version: int, event: ExecutionEvent) -> None:
        if isinstance(event, EventOffered):
            self._offers[version] = event
            event = offered_event(event)
        match event:
            case OffersTaken(paths=paths):
                for place, path in enumerate(paths):
                    self._taken.setdefault(path, (version, place))
            case CheckpointEvent(path=path, name=name):
                self._call(path, name, CHECKPOINT).request = event
            case WaitRequested(path=path, name=name):
                self._call(path, name, WAIT).request = event
            case TimerStarted(path=path) | TimerFired(path=path):
                self._call(path, TIMER, TIMER)
            case _:
                pass

    def _call(self, path: str, name: str, kind: str) -> PastCall:
        known = self.calls.get(path)
        if known is None or known.kind != kind:
            known = self.calls[path] = PastCall(path, name, kind)
        known.name = name
        return known

    def _settle(self, path: str, call: PastCall) -> None:
        history = self._history
        outcome = history.log.get(path) or history.kept.get(path)
        if outcome is None:
            return
        if outcome.is_offered and path not in self._taken:
            if path not in history.tried and path not in history.asked:
                # The body has not come to it in this execution, or not before it crashed.
                del self.calls[path]
            return
        call.outcome = outcome
        call.at = self._taken[path] if outcome.is_offered else (outcome.version, 0)

    # which call is meant

    def find(self, selector: str, kind: str | None = None) -> PastCall:
        """The call that a path, an id, or a name that only one call has, stands for.

        Raises KitaruUsageError that lists what there is.
        """
        calls = [call for call in self.calls.values() if kind in (None, call.kind)]
        exact = self.calls.get(selector) or self._wait_of(selector)
        if exact is not None and exact in calls:
            return exact
        named = [call for call in calls if call.name == selector]
        if len(named) == 1:
            return named[0]
        what = "call" if kind is None else kind
        if named:
            raise KitaruUsageError(
                f"Execution {self.exec_id} has {len(named)} {what}s named {selector!r}; name one "
                f"by its path: {listed(call.path for call in named)}."
            )
        raise KitaruUsageError(
            f"Execution {self.exec_id} has come to no {what} {selector!r}. {self._there(calls)}"
            f"{_meant(selector, calls)}"
        )

    def _wait_of(self, selector: str) -> PastCall | None:
        return next(
            (
                call
                for call in self.calls.values()
                if call.kind == WAIT and wait_id(call.path, call.name) == selector
            ),
            None,
        )

    def _there(self, calls: Sequence[PastCall]) -> str:
        if not calls:
            return "It has come to none at all."
        return f"It has come to: {listed(call.path for call in calls)}."

    def overridden(self, key: str) -> PastCall:
        """The call that an override's key stands for: ``checkpoint.fetch#2``, ``wait.approve``.

        Raises KitaruUsageError.
        """
        kind, dot, selector = key.partition(".")
        if not dot or kind not in (CHECKPOINT, WAIT) or not selector:
            calls = [call for call in self.calls.values() if call.kind != TIMER]
            close = [call.key for call in calls if key in (call.path, call.name)]
            close += difflib.get_close_matches(key, [call.key for call in calls], 1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise KitaruUsageError(
                f"The override {key!r} names nothing: write 'checkpoint.<path>' for a result or "
                f"'wait.<path>' for an answer.{meant}"
            )
        return self.find(selector, kind)

    # what a fork takes over

    def offers(self, anchor: PastCall, overrides: Sequence[Override]) -> list[EventOffered]:
        """What is offered to a fork from this call on, in the order of the body.

        All that was recorded before the body was given the anchor's outcome: it cannot depend on
        that. Overridden outcomes are offered wherever they are.
        """
        replaced = {override.call.path: override for override in overrides}
        before = {
            call.path: call.outcome
            for call in self.calls.values()
            if call.outcome is not None and call.path not in replaced and _is_before(call, anchor)
        }
        found = [
            (outcome.version, self._offer(outcome.version, outcome.recorded_at, outcome.event))
            for outcome in before.values()
        ]
        found += self._by_products(before, replaced)
        found += [self._replaced(override) for override in overrides]
        return [offer for _, offer in sorted(found, key=_version)]

    def _by_products(
        self, before: dict[str, Outcome], replaced: dict[str, Override]
    ) -> Iterable[tuple[int, EventOffered]]:
        """What the calls that are offered have saved, logged and asked."""
        for version, recorded_at, event in self._facts:
            offer = self._offers.get(version)
            known = event if offer is None else offered_event(offer)
            if not isinstance(known, ArtifactSaved | MetadataLogged | WaitRequested):
                continue
            outcome = before.get(known.path or "")
            is_of_outcome = outcome is not None and outcome.is_offered == (offer is not None)
            if is_of_outcome or (isinstance(known, WaitRequested) and known.path in replaced):
                yield version, self._offer(version, recorded_at, known)

    def _offer(self, version: int, recorded_at: int, event: Offerable) -> EventOffered:
        return self._offers.get(version) or _offered(self.exec_id, version, recorded_at, event)

    def _replaced(self, override: Override) -> tuple[int, EventOffered]:
        call = override.call
        event = _event_with(override)
        if call.outcome is None:
            last, now, _ = self._facts[-1]
            offer = _offered(self.exec_id, 0, now, event, overridden=True)
            return last + 1, offer
        version, recorded_at = call.outcome.version, call.outcome.recorded_at
        return version, _offered(self.exec_id, version, recorded_at, event, overridden=True)


def _meant(selector: str, calls: Sequence[PastCall]) -> str:
    # An override says the kind, too: whoever writes both may mix them up.
    close = [call.path for call in calls if selector == call.key]
    close += [call.path for call in calls if selector == f"{call.kind}.{call.name}"]
    close = close or difflib.get_close_matches(selector, [call.path for call in calls], 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _version(numbered: tuple[int, EventOffered]) -> int:
    return numbered[0]


def _is_before(call: PastCall, anchor: PastCall) -> bool:
    if call.path == anchor.path:
        return False
    return anchor.at is None or (call.at is not None and call.at < anchor.at)


def _event_with(override: Override) -> CheckpointCompleted | InputGiven:
    call = override.call
    if call.kind == WAIT:
        return InputGiven(path=call.path, value=override.value)
    request = call.request
    assert isinstance(request, CheckpointEvent)
    return CheckpointCompleted(
        path=call.path,
        name=call.name,
        attempt=request.attempt,
        site=request.site,
        arguments_digest=request.arguments_digest,
        arguments=request.arguments,
        result=override.value,
        type=getattr(call.outcome.event, "type", None) if call.outcome is not None else None,
    )


def _offered(
    exec_id: str, version: int, recorded_at: int, event: Offerable, *, overridden: bool = False
) -> EventOffered:
    tag, schema = TAGS[type(event)]
    return EventOffered(
        path=event.path or "",
        exec_id=exec_id,
        version=version,
        recorded_at=recorded_at,
        type=tag,
        schema=schema,
        event=Raw(_encode(event)),
        overridden=overridden,
    )


def listed(paths: Iterable[str]) -> str:
    """Some paths, for people."""
    every = list(paths)
    shown = ", ".join(every[:SHOWN_CALLS])
    left_out = len(every) - SHOWN_CALLS
    return shown if left_out <= 0 else f"{shown} and {left_out} more"
