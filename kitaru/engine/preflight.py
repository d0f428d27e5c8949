"""Whether a flow's code fits a recorded execution, found out by replaying it without effects."""

from collections.abc import Sequence

from msgspec import Struct

from journal import RecordedEvent
from kitaru.divergence import DivergedCall, Divergence, divergence_of
from kitaru.domain.execution.events import (
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    OffersTaken,
    TimerFired,
    TimerStarted,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.codec import Codec
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.divergence import Asked
from kitaru.engine.executions import exec_id_of, fold
from kitaru.engine.history import RecordedFact
from kitaru.engine.rehearsal import (
    AsksForMore,
    Conclusion,
    End,
    Ends,
    Parts,
    ReadBlob,
    Rehearsal,
    Stops,
)
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_event
from kitaru.status import FailureOrigin
from kitaru.verdicts import Judgement, Verdict

SECONDS = 10.0
"""How long a body may take to its next call, or to its end."""
_ENDS = ExecutionCompleted | ExecutionFailed | ExecutionCancelled


def judge(
    events: Sequence[RecordedEvent],
    read_blob: ReadBlob,
    definition: FlowDefinition,
    codec: Codec,
    *,
    seconds: float = SECONDS,
) -> Verdict:
    """What this code makes of an execution's events, given from version 1 on.

    Blocks for at most so many seconds. The body's own code runs, in a thread; no checkpoint's does,
    and nothing is written. Only what a runner would replay is compared: of a flow that was tried
    again, the last attempt.
    """
    decoded = _decoded(events)
    if not decoded.facts:
        return _unknown(0, decoded.problem or "there are no events", is_finished=False)
    record = _record_of(decoded.facts)
    rehearsal = Rehearsal(record.facts, events, read_blob, definition, codec)
    conclusion = rehearsal.run(seconds)
    verdict = _Judge(record, exec_id_of(events[0].stream)).verdict(conclusion)
    if decoded.problem and verdict.judgement is not Judgement.DIVERGES:
        last = decoded.facts[-1][0]
        return _unknown(min(last, verdict.version), decoded.problem, is_finished=False)
    return verdict


class _Decoded(Struct, frozen=True):
    """The events up to the first that cannot be read, and what is wrong with that one."""

    facts: list[RecordedFact]
    problem: str = ""


def _decoded(events: Sequence[RecordedEvent]) -> _Decoded:
    facts: list[RecordedFact] = []
    for event in events:
        try:
            facts.append((event.version, event.recorded_at, decode_event(event)))
        except (DamagedEvent, UnknownEvent) as problem:
            return _Decoded(facts, str(problem))
    if facts and not isinstance(facts[0][2], ExecutionStarted):
        return _Decoded([], "the first event does not start an execution")
    return _Decoded(facts)


class _Record(Struct, frozen=True):
    """What a body is given of an execution, and how that had ended."""

    facts: Sequence[RecordedFact]
    ended_at: int | None = None
    end: ExecutionEvent | None = None

    @property
    def last(self) -> int:
        """The version of the last event."""
        return self.facts[-1][0] if self.ended_at is None else self.ended_at

    @property
    def was_ended_from_outside(self) -> bool:
        """Whether the body had no part in the end: its process had died too often."""
        return (
            isinstance(self.end, ExecutionFailed)
            and self.end.origin == FailureOrigin.RUNTIME
            and isinstance(self.facts[-1][2], ExecutionRecovered)
        )


def _record_of(facts: list[RecordedFact]) -> _Record:
    if not fold(ABSENT, [event for _, _, event in facts]).is_finished:
        while isinstance(facts[-1][2], ExecutionDiverged):
            facts = facts[:-1]
        return _Record(facts)
    # Nothing may follow an end; should it, the first one counts, as in the execution's state.
    reopened = [i for i, (_, _, event) in enumerate(facts) if isinstance(event, ExecutionReopened)]
    start = reopened[-1] if reopened else 0
    place = next(i for i in range(start, len(facts)) if isinstance(facts[i][2], _ENDS))
    return _Record(facts[:place], facts[place][0], facts[place][2])


class _Judge:
    """Makes a verdict of what a replay has come to."""

    def __init__(self, record: _Record, exec_id: str) -> None:
        self._record = record
        self._exec_id = exec_id

    def verdict(self, conclusion: Conclusion) -> Verdict:
        """The verdict."""
        match conclusion:
            case Parts():
                return self._parted(conclusion)
            case Stops():
                return self._stopped(conclusion)
            case AsksForMore():
                return self._asks(conclusion)
            case Ends():
                return self._ends(conclusion)

    def _parted(self, parting: Parts) -> Verdict:
        facts: Divergence | None = None
        if parting.event is not None:
            facts = divergence_of(parting.event.facts)
        recorded = DivergedCall(path=parting.mismatch.path) if facts is None else facts.recorded
        asked = parting.mismatch.asked
        summary = f"{recorded.path} is recorded, and the code does not ask for it"
        return Verdict(
            judgement=Judgement.DIVERGES,
            version=recorded.version or self._version_of(recorded.path),
            summary=summary if facts is None else facts.summary,
            path=recorded.path,
            recorded_site=recorded.site,
            site="" if asked is None else asked.site,
            story="" if facts is None else facts.story,
            report="" if parting.event is None else parting.event.report,
            is_finished=self._is_finished,
        )

    def _stopped(self, stop: Stops) -> Verdict:
        version = 0 if stop.version is None else stop.version - 1
        return _unknown(
            version, stop.why, path=stop.path, site=stop.site, is_finished=self._is_finished
        )

    def _asks(self, asks: AsksForMore) -> Verdict:
        what = _listed(asks.asked)
        site = asks.asked[0].site if asks.asked else ""
        record = self._record
        if record.end is not None and not record.was_ended_from_outside:
            return self._ends_otherwise(f"the code asks for {what}", site)
        return self._unasked(asks.requested, asks.changed) or self._safe(f"next comes {what}")

    def _ends(self, ends: Ends) -> Verdict:
        record, event = self._record, ends.event
        if record.end is None or record.was_ended_from_outside:
            return self._unasked(ends.requested) or self._safe(f"then the body {_now(event)}")
        if _same_end(record.end, event):
            return self._safe("it ends as recorded")
        if type(record.end) is type(event) is ExecutionCompleted:
            return self._ends_otherwise("the code returns something else")
        return self._ends_otherwise(f"the body {_now(event)}")

    def _ends_otherwise(self, now: str, site: str = "") -> Verdict:
        """A finished execution whose end is another one with this code."""
        record = self._record
        assert record.ended_at is not None
        assert record.end is not None
        then = _told(record.end)
        summary = f"the execution {then} at event {record.ended_at}, and now {now}"
        return Verdict(
            judgement=Judgement.DIVERGES,
            version=record.ended_at,
            summary=summary,
            site=site,
            report=f"The code no longer fits the journal of {self._exec_id}: {summary}.",
            is_finished=True,
        )

    def _unasked(
        self, requested: frozenset[str], changed: frozenset[str] = frozenset()
    ) -> Verdict | None:
        """A call in flight that the code does not ask for, or asks for with other arguments."""
        for path, (version, event) in _in_flight(self._record.facts).items():
            if path in requested and path not in changed:
                continue
            now = "gives it other arguments" if path in requested else "does not ask for it"
            return _unknown(
                version - 1,
                f"{path} has begun and has no outcome, and this code {now}",
                path=path,
                recorded_site=getattr(event, "site", ""),
                is_finished=self._is_finished,
            )
        return None

    def _safe(self, what: str) -> Verdict:
        return Verdict(
            judgement=Judgement.SAFE,
            version=self._record.last,
            summary=what,
            is_finished=self._is_finished,
        )

    @property
    def _is_finished(self) -> bool:
        return self._record.end is not None

    def _version_of(self, path: str) -> int:
        """The last event that names an open call."""
        found = [v for v, _, event in self._record.facts if path in _paths_of(event)]
        return found[-1] if found else self._record.last


def _unknown(
    version: int,
    why: str,
    *,
    is_finished: bool,
    path: str = "",
    site: str = "",
    recorded_site: str = "",
) -> Verdict:
    return Verdict(
        judgement=Judgement.UNKNOWN,
        version=version,
        summary=why,
        path=path,
        site=site,
        recorded_site=recorded_site,
        is_finished=is_finished,
    )


def _paths_of(event: ExecutionEvent) -> Sequence[str]:
    if isinstance(event, OffersTaken):
        return event.paths
    path = getattr(event, "path", None)
    return () if path is None else (path,)


def _in_flight(facts: Sequence[RecordedFact]) -> dict[str, tuple[int, ExecutionEvent]]:
    """What has begun in the current flow attempt and has not ended, with the event of its start."""
    begun: dict[str, tuple[int, ExecutionEvent]] = {}
    for version, _, event in facts:
        match event:
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                begun.clear()
            case (
                CheckpointStarted(path=path)
                | CheckpointFailed(path=path, retry_at=int())
                | TimerStarted(path=path)
            ):
                begun.setdefault(path, (version, event))
            case (
                CheckpointCompleted(path=path)
                | CheckpointFailed(path=path)
                | CheckpointCancelled(path=path)
                | TimerFired(path=path)
            ):
                begun.pop(path, None)
            case _:
                pass
    return begun


def _same_end(recorded: ExecutionEvent, now: End) -> bool:
    """Whether an execution ends alike: the same result, or an error of the same class."""
    match recorded, now:
        case ExecutionCompleted(result=before), ExecutionCompleted(result=after):
            return (bytes(before.json), before.blob) == (bytes(after.json), after.blob)
        case ExecutionFailed(error=before), (
            ExecutionFailed(error=after) | FlowAttemptFailed(error=after)
        ):
            return before.type == after.type
        case _:
            return type(recorded) is type(now)


def _told(end: ExecutionEvent) -> str:
    match end:
        case ExecutionCompleted():
            return "completed"
        case ExecutionFailed(error=error):
            return f"failed with {error.type}: {error.message}".rstrip(": ")
        case _:
            return "was cancelled"


def _now(end: End) -> str:
    match end:
        case ExecutionCompleted():
            return "returns"
        case ExecutionFailed(error=error) | FlowAttemptFailed(error=error):
            return f"raises {error.type}: {error.message}".rstrip(": ")
        case ExecutionCancelled():
            return "is cancelled"


def _listed(asked: Sequence[Asked]) -> str:
    if not asked:
        return "something new"
    first, more = asked[0], len(asked) - 1
    kind = "" if first.kind == "checkpoint" or first.kind == first.path else f"{first.kind} "
    place = f" at {first.site}" if first.site else ""
    return f"{kind}{first.path}{place}" + (f", and {more} more" if more else "")
