"""Waits and sleeps of a sync flow's body, which blocks for each."""

from typing import Any

from journal import RecordedEvent
from kitaru.domain.execution.events import InputRejected, TimerFired, TimerStarted, WaitExpired
from kitaru.engine.calls import Delivery
from kitaru.engine.divergence import Asked, changed_kind, unreadable
from kitaru.engine.executions import Outgoing
from kitaru.engine.history import Outcome
from kitaru.engine.sync_deliveries import Deliveries
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_recording import Recording
from kitaru.engine.sync_replay import Replay
from kitaru.engine.sync_resting import Resting, never
from kitaru.engine.sync_submissions import Submissions
from kitaru.engine.waits import Wait, WaitOutcome
from kitaru.errors import KitaruError, KitaruWaitValidationError


class Waits:
    """Those of one execution's body, for people and times; on the body's thread."""

    def __init__(
        self,
        state: PassState,
        recording: Recording,
        replay: Replay,
        deliveries: Deliveries,
        resting: Resting,
        submissions: Submissions,
    ) -> None:
        self.state = state
        self._recording = recording
        self._replay = replay
        self._deliveries = deliveries
        self._resting = resting
        self._submissions = submissions
        self._host = state.host

    def wait(self, wait: Wait) -> Any:
        """Blocks until somebody has answered; gives the answer."""
        self._replay.check_fits()
        self.state.requested.add(wait.path)
        while True:
            outcome = self._recorded_outcome(wait.path, wait.asked, WaitOutcome)
            if outcome is None:
                outcome = self._await_answer(wait)
            self._replay.deliver_cancel_before(outcome.version)
            self._replay.check_passed_over(outcome.version, wait.asked)
            delivery = self._answer(wait, outcome)
            if delivery is not None:
                self.state.advance_clock(outcome)
                if delivery.error is not None:
                    raise delivery.error
                return delivery.value

    def _recorded_outcome(self, path: str, asked: Asked, kinds: Any) -> Outcome | None:
        recorded = self.state.history.log.get(path)
        if recorded is not None:
            if not isinstance(recorded.event, kinds):
                raise self.state.driver.diverge(changed_kind(recorded, asked))
            return recorded
        kept = self.state.history.kept.get(path)
        return kept if kept is not None and isinstance(kept.event, kinds) else None

    def _answer(self, wait: Wait, outcome: Outcome) -> Delivery | None:
        """What the body is given; None for an answer that does not do, which is told."""
        assert isinstance(outcome.event, WaitOutcome)
        state = self.state
        blob = self._deliveries.blob_of(outcome)
        try:
            delivery = wait.delivery(outcome.event, blob, self._host.codec)
        except KitaruError as problem:
            is_refused = isinstance(problem, KitaruWaitValidationError)
            with state.changed:
                is_of_another = state.history.answers_another(
                    outcome, wait.terms.json_schema, state.requested
                )
            if is_of_another or not is_refused:
                mismatch = unreadable(wait.asked, str(problem))
                raise state.driver.diverge(mismatch) from problem
            if wait.path not in state.history.log and state.history.refuse(wait.path):
                return None
            rejected = InputRejected(path=wait.path, name=wait.terms.name, problem=str(problem))
            self._recording.put_noted(rejected, seen=state.history.version)
            self._recording.flush()
            return None
        with state.changed:
            if state.history.log.pop(wait.path, None) is None and wait.path in state.history.kept:
                state.history.take(wait.path)
        return delivery

    def _await_answer(self, wait: Wait) -> Outcome:
        state, recording = self.state, self._recording
        self._submissions.before_live(wait.asked)
        self._replay.deliver_cancel_before(None)
        self._resting.wait_for_lease()
        with state.changed:
            # An answer may have come since the body asked: then the wait is not open any more.
            outcome = state.history.log.get(wait.path)
            known, seen = state.history.waits.get(wait.path), state.history.version
        if outcome is not None:
            return outcome
        if known is None:
            recording.put_noted(wait.requested(self._host.journal.now()))
            recording.flush()
        else:
            wait.deadline_at = known.deadline_at
            again = wait.requested_again(known, self._host.journal.now())
            if again is not None:
                recording.put_noted(again, seen=seen)
                recording.flush()
        self._resting.block(
            lambda: wait.path in state.history.log, wait.deadline_at, wait.terms.patience
        )
        with state.changed:
            outcome, seen = state.history.log.get(wait.path), state.history.version
        if outcome is None:
            recording.put_noted(WaitExpired(path=wait.path), seen=seen)
            # Somebody's answer may have come before it: then the answer counts.
            recording.flush()
            outcome = state.history.log[wait.path]
        return outcome

    def sleep(self, path: str, seconds: float, site: str) -> None:
        """Blocks for a time that goes on while the process is down."""
        state = self.state
        self._replay.check_fits()
        state.requested.add(path)
        asked = Asked(path, "sleep", site, kind="sleep")
        outcome = self._recorded_outcome(path, asked, TimerFired)
        if outcome is None:
            outcome = self._await_time(asked, seconds)
        self._replay.deliver_cancel_before(outcome.version)
        self._replay.check_passed_over(outcome.version, asked)
        with state.changed:
            if outcome is state.history.kept.get(path):
                state.history.take(path)
            state.history.log.pop(path, None)
        state.advance_clock(outcome)
        assert isinstance(outcome.event, TimerFired)
        state.clock = max(state.clock, outcome.event.due_at)

    def _await_time(self, asked: Asked, seconds: float) -> Outcome:
        path, state, recording = asked.path, self.state, self._recording
        self._submissions.before_live(asked)
        self._replay.deliver_cancel_before(None)
        self._resting.wait_for_lease()
        now = max(state.clock, state.history.began_at)
        due_at = state.history.timers.get(path, now + round(seconds * 1_000_000))
        if due_at > self._host.journal.now():
            if path not in state.history.timers:
                recording.put_noted(TimerStarted(path=path, due_at=due_at, site=asked.site))
                recording.flush()
            self._resting.block(never, due_at)
        outcomes: list[Outcome] = []
        event = TimerFired(path=path, due_at=due_at)

        def fired(fact: RecordedEvent) -> None:
            outcomes.append(Outcome(fact.version, fact.recorded_at, event))

        state.execution.put(Outgoing(event, recorded=fired))
        recording.flush()
        return outcomes[0]
