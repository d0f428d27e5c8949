"""Where a flow's code and its journal part: what the runners note, and the report made of it."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from journal import Journal
from kitaru.divergence import DivergedCall, Divergence, DivergenceStory
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointStarted,
    EventOffered,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
    OffersTaken,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.values import StoredValue
from kitaru.engine.code_reading import Code
from kitaru.engine.differences import differences
from kitaru.engine.divergence_story import KnownCall, Parting, Told, tell
from kitaru.engine.divergence_text import report
from kitaru.engine.executions import exec_id_of
from kitaru.engine.history import Outcome
from kitaru.engine.upcasts import decode_event, offered_event

SHOWN_CALLS = 20
"""How many calls that the code waits for a report names."""


class Asked(Struct, frozen=True):
    """What the code asks for now."""

    path: str
    name: str
    site: str
    arguments: bytes = b""
    """The codec's JSON, where it may be kept; empty for what takes no arguments."""
    arguments_digest: str = ""
    kind: str = "checkpoint"


class Mismatch(Struct, frozen=True):
    """What a runner knows when the body and its journal part."""

    path: str
    """Of the recorded call that does not fit."""
    kind: str
    """``arguments``, ``kind`` or ``value`` of the call of that path, ``passed_over``, ``ended``."""
    asked: Asked | None = None
    """What the body asks for instead."""
    ended: str = ""
    """How the body ended."""
    problem: str = ""
    """Why what is recorded cannot be given to it."""


class Seen(Struct, frozen=True):
    """What the body has done in this pass."""

    requested: Collection[str]
    """The paths of all it has asked for."""
    waiting: Sequence[Asked]
    """What it waits for, in the order in which it was asked for."""
    code: Code


def changed_arguments(outcome: Outcome, asked: Asked) -> Mismatch:
    """The same call, with other arguments."""
    return Mismatch(outcome.event.path, "arguments", asked)


def changed_kind(outcome: Outcome, asked: Asked) -> Mismatch:
    """A call of another kind under the same path."""
    return Mismatch(outcome.event.path, "kind", asked)


def unreadable(asked: Asked, problem: str) -> Mismatch:
    """The same call, whose recorded value the code cannot be given any more."""
    return Mismatch(asked.path, "value", asked, problem=problem)


def not_asked_for(path: str, asked: Sequence[Asked]) -> Mismatch:
    """The body waits for something else than what is recorded next, or what is recorded as open."""
    return Mismatch(path, "passed_over", asked[0] if asked else None)


def never_asked_for(path: str, error: BaseException | None) -> Mismatch:
    """The body has ended without asking for a recorded call."""
    return Mismatch(path, "ended", ended=_ended(error))


def _ended(error: BaseException | None) -> str:
    return "returned" if error is None else f"{type(error).__name__}: {error}".rstrip(": ")


async def divergence_event(
    journal: Journal, stream: str, mismatch: Mismatch, seen: Seen
) -> ExecutionDiverged:
    """The fact for the journal, with its report. Raises what reading the journal raises."""
    events = [(fact.version, decode_event(fact)) for fact in await journal.read_stream(stream)]
    known = known_calls(events)
    recorded = known.get(mismatch.path) or KnownCall(DivergedCall(path=mismatch.path))
    if recorded.blob is not None:
        content = msgspec.json.decode(await journal.get_blob(recorded.blob))
        recorded = replace(recorded, call=replace(recorded.call, arguments=content))
    divergence = explained(mismatch, recorded, known.values(), seen)
    return ExecutionDiverged(
        report=report(exec_id_of(stream), divergence), facts=Raw(msgspec.json.encode(divergence))
    )


def explained(
    mismatch: Mismatch, recorded: KnownCall, known: Iterable[KnownCall], seen: Seen
) -> Divergence:
    """The divergence with its likeliest story."""
    asked = None if mismatch.asked is None else call_of(mismatch.asked)
    waiting = [call_of(each) for each in seen.waiting if each is not mismatch.asked]
    before, now = recorded.call.arguments, UNSET if asked is None else asked.arguments
    comparable = mismatch.kind == "arguments" and before is not UNSET and now is not UNSET
    parting = Parting(
        kind=mismatch.kind,
        recorded=recorded,
        asked=asked,
        ended=mismatch.ended,
        problem=mismatch.problem,
        known=tuple(known),
        requested=frozenset(seen.requested),
        waiting=tuple(waiting),
        code=seen.code,
        differences=differences(before, now) if comparable else (),
    )
    told = _told(parting)
    return Divergence(
        story=told.story,
        summary=told.summary,
        recorded=recorded.call,
        asked=(() if asked is None else (asked,)) + parting.waiting[:SHOWN_CALLS],
        differences=parting.differences if told.compares else (),
        hints=told.hints,
        ended=mismatch.ended,
    )


def _told(parting: Parting) -> Told:
    try:
        told = tell(parting)
    except Exception as error:
        # A divergence is recorded with its facts, whatever is wrong with its story.
        path = parting.recorded.call.path
        fault = f"its story could not be told: {error!r}"
        return Told(DivergenceStory.NOT_ASKED_FOR, f"{path} does not fit", (fault,), compares=True)
    if parting.code.fault:
        fault = f"the source could not be made sense of: {parting.code.fault}"
        return replace(told, hints=(*told.hints, fault))
    return told


def call_of(asked: Asked) -> DivergedCall:
    """The call as it is told."""
    return DivergedCall(
        path=asked.path,
        name=asked.name,
        kind=asked.kind,
        site=asked.site,
        arguments=msgspec.json.decode(asked.arguments) if asked.arguments else UNSET,
        arguments_digest=asked.arguments_digest,
    )


def known_calls(events: Iterable[tuple[int, ExecutionEvent]]) -> dict[str, KnownCall]:
    """The calls of the current flow attempt by path, in the order in which they ended.

    Those that have begun and not ended come last.
    """
    calls: dict[str, KnownCall] = {}
    offers: dict[str, list[tuple[int, ExecutionEvent]]] = {}
    for version, event in events:
        match event:
            case EventOffered(path=path):
                offers.setdefault(path, []).append((version, offered_event(event)))
            case OffersTaken(paths=paths):
                for offer in (each for path in paths for each in offers.get(path, ())):
                    _take_in(calls, *offer)
            case _:
                _take_in(calls, version, event)
    return dict(sorted(calls.items(), key=lambda item: _order(item[1])))


def _take_in(calls: dict[str, KnownCall], version: int, event: ExecutionEvent) -> None:
    match event:
        case CheckpointStarted() | CheckpointFailed(retry_at=int()):
            calls.setdefault(event.path, _checkpoint(event, None))
        case CheckpointCompleted() | CheckpointFailed():
            calls[event.path] = _checkpoint(event, version)
        case TimerStarted(path=path, site=site):
            calls[path] = _call(path, "sleep", "sleep", site)
        case WaitRequested(path=path, name=name, site=site):
            calls[path] = _call(path, name, "wait", site)
        case TimerFired(path=path):
            known = calls.get(path) or _call(path, "sleep", "sleep", "")
            calls[path] = _ended_at(known, version)
        case InputGiven(path=path) | WaitAborted(path=path) | WaitExpired(path=path):
            # An answer may come before its wait: then it is none of the body's yet.
            if path in calls:
                calls[path] = _ended_at(calls[path], version)
        case InputRejected(path=path):
            calls[path] = _ended_at(calls[path], None)
        case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
            calls.clear()
        case _:
            pass


def _order(known: KnownCall) -> float:
    return float("inf") if known.call.version is None else known.call.version


def _call(path: str, name: str, kind: str, site: str) -> KnownCall:
    return KnownCall(DivergedCall(path=path, name=name, kind=kind, site=site))


def _ended_at(known: KnownCall, version: int | None) -> KnownCall:
    return replace(known, call=replace(known.call, version=version))


def _checkpoint(event: CheckpointEvent, version: int | None) -> KnownCall:
    call = DivergedCall(
        path=event.path,
        name=event.name,
        site=event.site,
        version=version,
        arguments=_kept(event.arguments),
        arguments_digest=event.arguments_digest,
    )
    return KnownCall(call, None if event.arguments is None else event.arguments.blob)


def _kept(arguments: StoredValue | None) -> Any:
    if arguments is None or arguments.blob is not None:
        return UNSET
    return msgspec.json.decode(arguments.json)
