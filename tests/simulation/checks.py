"""What must hold of a simulated world: after every commit, and when everything has come to rest.

The numbers are those of the invariants in docs/reference/reliability.md.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from journal import Append, Appended, Lease, RecordedEvent, verify_stream
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    EventOffered,
    ExecutionCancelled,
    ExecutionEvent,
    ExecutionParked,
    ExecutionRecovered,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    ForkedFrom,
    InputGiven,
    OffersTaken,
    ReviewRequested,
    TimerFired,
    WaitAborted,
    WaitExpired,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.engine.executions import exec_id_of, head_of, state_of, stream_of
from kitaru.engine.upcasts import decode_event, offered_event
from tests.simulation.core import (
    Finished,
    called,
    check_attempts,
    check_marks,
    check_reference,
    ending_text,
    replay_trace,
    twice_ended,
)
from tests.simulation.databases import check_written
from tests.simulation.programs import FLOWS
from tests.simulation.store import at_once
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World


class Checks:
    """What is known of the truth, and what was told to clients."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.states: dict[str, ExecutionState] = {}
        self.events: defaultdict[str, list[ExecutionEvent]] = defaultdict(list)
        self.outcomes: defaultdict[str, set[str]] = defaultdict(set)
        """The calls that have ended in the current flow attempt, by stream."""
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self.newest: defaultdict[str, int] = defaultdict(int)
        """The epoch of the last claim, by stream."""
        self.owners: dict[tuple[str, int], str] = {}
        self.failed: dict[tuple[str, str], int] = {}
        """The epoch in which an attempt failed that is to be repeated, by stream and path."""
        self.started: set[str] = set()
        self.answered: list[tuple[str, str, str]] = []
        """(execution, wait, value) of each answer that a client was told is durable."""
        self.cancelled: set[str] = set()
        self.told: dict[str, str] = {}
        """How an execution ended, as a client was told."""
        self.position = 0
        """Of the event that is looked at."""
        self.began_at: dict[str, int] = {}
        """The position of a stream's first event."""
        self.completed_at: dict[tuple[str, str], int] = {}
        """The position of a call's result, by stream and path."""
        self.offered: dict[tuple[str, str], EventOffered] = {}
        """What a fork was offered, by stream and path."""
        self.reused: set[tuple[str, str]] = set()
        """(stream, path) of each call that was given a result of an earlier execution."""
        self.bodies: set[tuple[str, str, int, int]] = set()
        """(execution, path, attempt, runner) of each body that has begun."""
        self.began: defaultdict[tuple[str, str, int], int] = defaultdict(int)

    # after every commit

    def claimed(self, lease: Lease) -> None:
        """I3: an epoch has one owner."""
        key = (lease.stream, lease.epoch)
        if self.owners.setdefault(key, lease.owner) != lease.owner:
            raise Violation(f"I3: epoch {lease.epoch} of {lease.stream} has two owners")
        self.newest[lease.stream] = max(self.newest[lease.stream], lease.epoch)

    def appended(self, append: Append, appended: Appended) -> None:
        """An append is durable."""
        stream = append.stream
        if append.lease is not None and append.lease.epoch < self.newest[stream]:
            raise Violation(
                f"I3: owner {append.lease.epoch} of {stream} wrote when it was already owner "
                f"{self.newest[stream]}'s"
            )
        if appended.lease is not None:
            self.claimed(appended.lease)
        for fact in appended.events:
            event = decode_event(fact)
            if fact.epoch:
                if fact.epoch < self.epochs[stream]:
                    raise Violation(f"I3: an older owner of {stream} wrote {event!r}")
                self.epochs[stream] = fact.epoch
            self.position = fact.position
            self._event(stream, event)
            self._situation(stream, fact, event)
        # I4: the head is the fold of the events.
        head = self.world.inner.head_blocking(stream)
        assert head is not None
        change = head_of(self.states[stream])
        kept = (head.state, head.name, head.due_at, head.summary)
        if kept != (change.state, change.name, change.due_at, change.summary):
            raise Violation(f"I4: the head of {stream} is {kept}, its events say {change}")

    def _situation(self, stream: str, fact: RecordedEvent, event: ExecutionEvent) -> None:
        match event:
            case CheckpointFailed(path=path, retry_at=int()):
                self.failed[stream, path] = fact.epoch
            case CheckpointCompleted(path=path) if self.failed.get((stream, path), fact.epoch) != (
                fact.epoch
            ):
                self.world.hit("checkpoint retried after a crash")
            case CheckpointCompleted(name=name, result=result) if name.startswith("keep"):
                self.world.hit("transaction committed")
                mark = "~" + bytes(result.json).decode().strip('"').partition("~")[2]
                if self.world.ledger.begun_by.get(mark, fact.epoch) != fact.epoch:
                    self.world.hit("transaction committed before its owner died")
            case CheckpointFailed():
                self.world.hit("failure delivered")
            case TimerFired(due_at=due_at) if fact.recorded_at - due_at > 1_000_000:
                self.world.hit("timer due while nobody ran it")
            case _:
                pass

    def _event(self, stream: str, event: ExecutionEvent) -> None:
        before = self.states.get(stream, ABSENT)
        if before.is_finished and not isinstance(event, ExecutionReopened):
            raise Violation(f"I5: {event!r} was written to {stream}, which was {before.status}")
        state = self.states[stream] = evolve(before, event)
        self.began_at.setdefault(stream, self.position)
        self.events[stream].append(event)
        ended, hit = self.outcomes[stream], self.world.hit
        match event:
            case CheckpointCompleted(path=path) | CheckpointFailed(path=path, retry_at=None):
                if path in ended:
                    raise Violation(f"I1: a second outcome of {path} in {stream}")
                ended.add(path)
            case TimerFired(path=path):
                if path in ended:
                    raise Violation(f"I1: a second outcome of {path} in {stream}")
                ended.add(path)
                hit("timer fired")
            case ExecutionStarted(forked_from=ForkedFrom(exec_id=source)):
                self.world.forked(stream, source)
            case OffersTaken(paths=paths):
                # What a fork was given of its source is as good as recorded here.
                ended.update(paths)
                hit("offer taken")
                if any(self.offered[stream, path].overridden for path in paths):
                    hit("override taken")
            case EventOffered(path=path):
                self.offered[stream, path] = event
            case FlowAttemptFailed():
                ended.clear()
                hit("flow attempt failed")
            case ExecutionReopened(reason="retry"):
                ended.clear()
            case ExecutionParked(due_at=due_at):
                hit("parked")
                # I8: something will wake it.
                if due_at is None and not state.waits:
                    raise Violation(f"I8: {stream} is parked, and nothing will wake it")
            case WaitExpired():
                hit("wait expired")
            case WaitAborted(reason="never mind"):
                hit("wait aborted")
            case ReviewRequested():
                hit("review requested")
            case ExecutionRecovered(recoveries=recoveries):
                hit("take-over")
                if self.world.plans[exec_id_of(stream)].source:
                    hit("fork taken over")
                if any(it == stream for it, _ in self.reused):
                    hit("reused result handed over in a replay")
                if recoveries > 1:
                    hit("recovery of a recovery")
            case CancelRequested() if before.waits:
                hit("cancelled while it waited")
            case _:
                pass
        if state.is_finished and state.status is not None:
            hit(state.status.value)
            if self.world.plans[exec_id_of(stream)].source:
                hit("fork ended")
        if isinstance(event, CheckpointCompleted):
            self._completed(stream, event)

    def _completed(self, stream: str, event: CheckpointCompleted) -> None:
        self.completed_at[stream, event.path] = self.position
        if event.cached_from is not None:
            self._reused(stream, event)
        offer = self.offered.get((stream, event.path))
        if offer is not None:
            # I15: a fork takes what it is offered, where the arguments are still the same.
            offered = offered_event(offer)
            if (
                isinstance(offered, CheckpointCompleted)
                and offered.name == event.name
                and (offer.overridden or offered.arguments_digest == event.arguments_digest)
            ):
                raise Violation(f"I15: {stream} ran {event!r}, and was offered {offered!r}")

    def _reused(self, stream: str, event: CheckpointCompleted) -> None:
        """I14: what is reused is what the execution that it is said to be from has recorded."""
        self.world.hit("result of an earlier execution reused")
        self.reused.add((stream, event.path))
        assert event.cached_from is not None
        source = stream_of(event.cached_from)
        if source == stream:
            raise Violation(f"I14: {stream} reused a result of its own: {event!r}")
        if self.world.plans[exec_id_of(stream)].cache is False:
            raise Violation(f"I14: {stream} reused {event!r}, and was not to")
        for known in self.events[source]:
            if (
                isinstance(known, CheckpointCompleted)
                and known.path == event.cached_path
                and known.result == event.result
                and known.arguments_digest == event.arguments_digest
                and known.cached_from is None
                and self.completed_at[source, known.path] < self.began_at[stream]
            ):
                return
        raise Violation(f"I14: {stream} reused {event!r}, which {source} has not recorded")

    def body_begins(self, runner: Any, path: str, attempt: int) -> None:
        """P1, I10, I11: what is recorded is never run again, and what has ended runs nothing."""
        stream = stream_of(runner.exec_id)
        current = self.world.inner.head_blocking(stream)
        assert current is not None
        is_owner = current.epoch == runner.execution.lease.epoch
        strict = not (self.world.weather.moves_clocks or self.world.weather.stops_processes)
        if is_owner or strict:
            if path in self.outcomes[stream]:
                raise Violation(f"P1: {path} of {stream} ran again after it was recorded")
            if self.states[stream].is_finished:
                raise Violation(f"I11: {path} of {stream} began after the end")
        if strict and not is_owner:
            raise Violation(f"I10: {path} of {stream} began after its lease was somebody else's")
        key = (stream, path, attempt, id(runner))
        if key in self.bodies:
            raise Violation(f"I10: one runner began attempt {attempt} of {path} twice")
        self.bodies.add(key)
        self.world.keep.append(runner)
        if self.began[stream, path, attempt]:
            self.world.hit("body run twice")
        self.began[stream, path, attempt] += 1

    # when everything has come to rest

    def at_rest(self) -> None:
        """Everything that only the whole can tell."""
        self._acknowledged()
        for exec_id, plan in self.world.plans.items():
            stream = stream_of(exec_id)
            if stream not in self.states:
                continue
            facts = at_once(self.world.inner.read_stream(stream))
            head = self.world.inner.head_blocking(stream)
            problems = verify_stream(facts, head=head)
            if problems:
                raise Violation(f"I2: {stream}: {problems}")
            if head_of(state_of(facts)).summary != head.summary:
                raise Violation(f"I4: the head of {stream} is not the fold of its events")
            events = self.events[stream]
            twice = twice_ended(events)
            if twice:
                raise Violation(f"I1: two outcomes of {twice} in {stream}")
            passes = self.world.ledger.passes.get(exec_id, [])
            check_attempts(events)
            check_marks(events, [it.trace for it in passes])
            check_written(exec_id, events)
            if not plan.source and self._is_plain(plan.kind, plan.retries, events):
                check_reference(plan.program, events)
            flow = FLOWS[plan.flow]
            whole = Finished(facts, events, self.states[stream], self.world.inner._blobs, passes)
            replayed = replay_trace(flow, plan.program, exec_id, whole)
            for one in passes:
                # I7: every pass, of whichever owner, saw the beginning of the same.
                last = replayed.get(one.attempt)
                if last is not None and last[: len(one.trace)] != one.trace:
                    raise Violation(f"I7: {exec_id}: a pass saw\n{one.trace}\na replay\n{last}")

    def _is_plain(self, kind: str, retries: int, events: list[ExecutionEvent]) -> bool:
        # The reference interpreter knows of no second flow attempt and of no cancellation.
        others = (FlowAttemptFailed, ExecutionReopened, CancelRequested, ExecutionCancelled)
        runtime = any(getattr(event, "origin", None) == "runtime" for event in events)
        return (
            kind == "plain"
            and not retries
            and not runtime
            and not any(isinstance(event, others) for event in events)
        )

    def _acknowledged(self) -> None:
        """I6: what a client was told is durable is there; I12: and was given to the right wait."""
        for exec_id in self.started:
            if stream_of(exec_id) not in self.states:
                raise Violation(f"I6: the start of {exec_id} was acknowledged, and is not there")
        for exec_id, wait, value in self.answered:
            events = self.events[stream_of(exec_id)]
            asked = called(events)
            given = [
                bytes(event.value.json).decode()
                for event in events
                # What came early is recorded by the id or name that it was given to.
                if isinstance(event, InputGiven)
                and wait in (event.path, *asked.get(event.path, ()))
            ]
            if f'"{value}"' not in given:
                raise Violation(f"I6: answer {value!r} to {wait} of {exec_id} is lost: {given}")
        for exec_id in self.cancelled:
            events = self.events[stream_of(exec_id)]
            if not any(isinstance(it, CancelRequested | ExecutionCancelled) for it in events):
                raise Violation(f"I6: the cancel request for {exec_id} is lost")
        for exec_id, text in self.told.items():
            ends = [ending_text([event]) for event in self.events[stream_of(exec_id)]]
            if text not in ends:
                raise Violation(f"P5: a client was told that {exec_id} {text}; it never did")
