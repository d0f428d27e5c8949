"""Waits and timers of an async flow's body: how they open, fall due, expire, and are given up."""

import asyncio

from journal import RecordedEvent
from kitaru.domain.execution.events import (
    InputRejected,
    TimerFired,
    TimerStarted,
    WaitAborted,
    WaitExpired,
)
from kitaru.engine.async_pass import PassState, guarded
from kitaru.engine.async_recording import Recording
from kitaru.engine.calls import Delivery
from kitaru.engine.divergence import Asked, changed_kind, unreadable
from kitaru.engine.executions import Outgoing
from kitaru.engine.history import Outcome
from kitaru.engine.waits import Wait, WaitOutcome
from kitaru.errors import KitaruError, KitaruWaitValidationError

RECHECK_SECONDS = 60.0
"""How long a time is waited for by the process's clock alone: the store's may jump."""


class Timer:
    """One durable timer of the body."""

    __slots__ = ("due_at", "handle", "noted", "path", "timers", "waiting")

    def __init__(
        self, timers: "Timers", path: str, due_at: int, handle: asyncio.TimerHandle
    ) -> None:
        self.timers = timers
        self.path = path
        self.due_at = due_at
        self.handle = handle
        self.waiting: asyncio.TimerHandle | None = None
        self.noted = False

    @property
    def asked(self) -> Asked:
        """The timer, for a divergence report."""
        return Asked(self.path, "sleep", "", kind="sleep")

    def note_started(self) -> None:
        """Writes down that the body waits for a time, so that people see it."""
        if self.waiting is not None and not self.noted and not self.handle.cancelled():
            self.noted = True
            self.timers.note_started(self)


class Timers:
    """Those of one execution's body: they are the flow loop's, too."""

    __slots__ = ("_host", "_recording", "open", "state")

    def __init__(self, state: PassState, recording: Recording) -> None:
        self.state = state
        self._recording = recording
        self._host = state.host
        self.next_pass()

    def next_pass(self) -> None:
        """None is set in the pass that begins."""
        self.open: dict[int, Timer] = {}
        """Those that the body waits for, by the identity of the loop's handle."""

    def timer_set(self, path: str, due_at: int, handle: asyncio.TimerHandle) -> None:
        """The body sleeps, or has set a time limit."""
        state = self.state
        state.check_unused(path)
        timer = Timer(self, path, due_at, handle)
        state.requested[path] = timer
        self.open[id(handle)] = timer
        history = state.history
        recorded = history.log.get(path)
        if recorded is not None:
            if not isinstance(recorded.event, TimerFired):
                state.divergence = state.divergence or changed_kind(recorded, timer.asked)
        elif path in history.kept and history.kept[path].is_timer:
            state.kept_ready.append(path)
        else:
            state.unstarted.append(timer)

    def timer_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The body no longer waits for the time."""
        timer = self.open.pop(id(handle), None)
        if timer is not None and timer.waiting is not None:
            timer.waiting.cancel()
            timer.waiting = None

    def note_started(self, timer: Timer) -> None:
        """Writes down that the body waits for a time, unless that is recorded."""
        if self.state.history.timers.get(timer.path) != timer.due_at:
            self._recording.note_later(TimerStarted(path=timer.path, due_at=timer.due_at))

    def fire_due(self) -> bool:
        """Fires the new timers that are due already, in the order of their times."""
        now = self._host.journal.now()
        unstarted = self.state.unstarted
        due = [it for it in unstarted if isinstance(it, Timer) and it.due_at <= now]
        if not due:
            return False
        self.state.unstarted = [it for it in unstarted if it not in due]
        for timer in sorted(due, key=lambda timer: timer.due_at):
            self.start(timer)
        # Not by what is in the outbox: it may have been flushed already.
        return any(timer.waiting is None and not timer.handle.cancelled() for timer in due)

    @guarded
    def start(self, timer: Timer) -> None:
        """Fires a timer, or looks again when it is due."""
        if timer.handle.cancelled() or self.state.stopped:
            return
        left = (timer.due_at - self._host.journal.now()) / 1_000_000
        if left > 0:
            # Looked at again when it is due: the process's clock and the store's may differ.
            delay = min(left, RECHECK_SECONDS)
            timer.waiting = self._host.loop.call_later(delay, self.start, timer)
            self._host.watch_duration(timer)
            return
        timer.waiting = None
        event = TimerFired(path=timer.path, due_at=timer.due_at)
        self._recording.put_outcome(event)
        self._recording.flush()

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now fires now."""
        for timer in sorted(self.open.values(), key=lambda timer: timer.due_at):
            if timer.waiting is not None:
                timer.waiting.cancel()
                self.start(timer)


class Waits:
    """Those of one execution's body."""

    __slots__ = ("_host", "_recording", "open", "state")

    def __init__(self, state: PassState, recording: Recording) -> None:
        self.state = state
        self._recording = recording
        self._host = state.host
        self.next_pass()

    def next_pass(self) -> None:
        """None is open in the pass that begins."""
        self.open: dict[str, Wait] = {}
        """Those that are open, by path."""

    def start(self, wait: Wait) -> None:
        """Opens a wait, or goes on with one that is open already."""
        state = self.state
        known = state.history.waits.get(wait.path)
        if wait.abandoned:
            if known is not None:
                self._end_abandoned(wait)
            return
        if wait.path in self.open:
            # Its answer came in the replay, and is being rejected: that opens it again.
            return
        self.open[wait.path] = wait
        if known is not None:
            wait.deadline_at = known.deadline_at
            again = wait.requested_again(known, self._host.journal.now())
            if again is not None:
                noted, seen = state.noted(again), state.history.version
                state.execution.put(Outgoing(again, recorded=noted, seen=seen))
            self._watch_deadline(wait)
            return
        event = wait.requested(self._host.journal.now())
        note = state.noted(event)

        def recorded(fact: RecordedEvent) -> None:
            note(fact)
            self._watch_deadline(wait)

        state.execution.put(Outgoing(event, recorded=recorded))

    @guarded
    def _watch_deadline(self, wait: Wait) -> None:
        if wait.expiry is not None:
            # A wait that goes on after a rejected answer is watched already.
            wait.expiry.cancel()
            wait.expiry = None
        state = self.state
        if wait.deadline_at is None or wait.path not in state.history.waits or state.stopped:
            return
        left = (wait.deadline_at - self._host.journal.now()) / 1_000_000
        if left > 0:
            delay = min(left, RECHECK_SECONDS)
            wait.expiry = self._host.loop.call_later(delay, self._watch_deadline, wait)
            return
        event = WaitExpired(path=wait.path)
        wait.expiring = True
        seen = state.history.version
        state.execution.put(Outgoing(event, recorded=state.noted(event), seen=seen))
        self._recording.flush()

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is over now expires now."""
        for wait in list(self.open.values()):
            if wait.expiry is not None:
                wait.expiry.cancel()
                self._watch_deadline(wait)

    def answer(self, wait: Wait, outcome: Outcome, blob: bytes | None) -> Delivery | None:
        """What an outcome gives to the body; None when it cannot be given that."""
        assert isinstance(outcome.event, WaitOutcome)
        state = self.state
        try:
            delivery = wait.delivery(outcome.event, blob, self._host.codec)
        except KitaruError as problem:
            is_refused = isinstance(problem, KitaruWaitValidationError)
            schema = wait.terms.json_schema
            if is_refused and not state.history.answers_another(outcome, schema, state.requested):
                self.reject(wait, str(problem))
            else:
                state.divergence = state.divergence or unreadable(wait.asked, str(problem))
            return None
        self.open.pop(wait.path, None)
        if wait.expiry is not None:
            wait.expiry.cancel()
        return delivery

    def reject(self, wait: Wait, problem: str) -> None:
        """Opens a wait again whose answer does not do."""
        state = self.state
        state.requested[wait.path] = wait
        wait.expiring = False
        if state.history.refuse(wait.path):
            state.unstarted.append(wait)
            return
        self.open[wait.path] = wait
        wait.deadline_at = state.history.asked[wait.path].deadline_at
        event = InputRejected(path=wait.path, name=wait.terms.name, problem=problem)
        note = state.noted(event)

        def recorded(fact: RecordedEvent) -> None:
            note(fact)
            if not wait.abandoned:
                self._watch_deadline(wait)

        state.execution.put(Outgoing(event, recorded=recorded, seen=state.history.version))

    def abandon(self, wait: Wait) -> None:
        """The body no longer waits."""
        wait.abandoned = True
        if wait.path in self.open:
            self._end_abandoned(wait)

    def _end_abandoned(self, wait: Wait) -> None:
        """Nobody is to be asked any longer for what the body does not wait for."""
        self.open.pop(wait.path, None)
        if wait.expiry is not None:
            wait.expiry.cancel()
        state = self.state
        if wait.expiring or state.history.has_answer(wait.path, wait.terms.name):
            # It has its outcome, or is about to: the body is gone before it was given that.
            return
        if not state.stopped and not state.ending:
            event = WaitAborted(path=wait.path, reason="the flow no longer waits")
            seen = state.history.version
            state.execution.put(Outgoing(event, recorded=state.noted(event), seen=seen))
