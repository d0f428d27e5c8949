"""Lets go of an async flow whose body only waits for people and times."""

import asyncio

from kitaru.domain.execution.events import ExecutionParked
from kitaru.engine.async_attempts import Attempts
from kitaru.engine.async_lookups import LookUps
from kitaru.engine.async_pass import PassState, guarded
from kitaru.engine.async_recording import Recording
from kitaru.engine.async_waits import Timers, Waits
from kitaru.engine.executions import Outgoing
from kitaru.engine.runner import Rest, Runner

LONGEST_PATIENCE_SECONDS = 86_400.0
IDLE_SECONDS = 5.0
"""How long a body that only waits for a time is kept in memory."""


class Resting:
    """Knows what an execution waits for, and for how long this process holds it meanwhile."""

    __slots__ = (
        "_attempts",
        "_host",
        "_idle_version",
        "_lookups",
        "_park_at",
        "_recording",
        "_suspension",
        "_timers",
        "_waits",
        "state",
    )

    def __init__(
        self,
        state: PassState,
        recording: Recording,
        attempts: Attempts,
        lookups: LookUps,
        waits: Waits,
        timers: Timers,
    ) -> None:
        self.state = state
        self._recording = recording
        self._attempts = attempts
        self._lookups = lookups
        self._waits = waits
        self._timers = timers
        self._host = state.host
        self.next_pass()

    def next_pass(self) -> None:
        """The body does not wait yet."""
        self._suspension: asyncio.TimerHandle | None = None
        self._park_at = 0.0
        self._idle_version = 0
        """The execution's version since which its body only waits."""

    def consider_suspending(self, runner: Runner) -> bool:
        """When the body only waits for people and times, this process need not hold it for long.

        False when nothing can happen any more that the body could be waiting for.
        """
        if self._suspension is not None:
            self._suspension.cancel()
            self._suspension = None
            self._host.busy(runner)
        if self._is_busy():
            return True
        if not self._is_waiting:
            return False
        waits = self._waits.open
        patience = max((wait.terms.patience for wait in waits.values()), default=IDLE_SECONDS)
        due_at = self._due_at()
        if due_at is not None:
            left = (due_at - self._host.journal.now()) / 1_000_000
            if left <= IDLE_SECONDS:
                return True
        version = self.state.execution.version
        if self._idle_version != version:
            # Looking for news that there are not does not begin the patience anew.
            self._idle_version = version
            self._park_at = self._host.loop.time() + min(patience, LONGEST_PATIENCE_SECONDS)
        self._suspension = self._host.loop.call_at(self._park_at, self._suspend)
        self._host.idle(runner)
        return True

    def let_go(self) -> None:
        """Parks the execution at once if it only waits for people and times; from every thread."""
        self._host.loop.call_soon_threadsafe(self._suspend)

    def stop(self) -> None:
        """Does not park the execution any more."""
        if self._suspension is not None:
            self._suspension.cancel()

    @guarded
    def _suspend(self) -> None:
        if self._suspension is not None:
            self._suspension.cancel()
            self._suspension = None
        if self._is_busy() or not self._is_waiting:
            return
        state = self.state
        event = ExecutionParked(due_at=self._due_at())
        seen = state.history.version
        state.execution.put(
            Outgoing(event, recorded=lambda _: state.driver.finish(None, None), seen=seen)
        )
        self._recording.flush()

    def _is_busy(self) -> bool:
        return bool(self._attempts.running or self.state.execution.outbox) or self._has_work

    @property
    def _has_work(self) -> bool:
        """Whether the runner itself has something to do, whatever runs for the body."""
        state = self.state
        return bool(
            self._lookups.looking_up
            or self._recording.flushing
            or state.ending
            or state.stopped
            or state.unstarted
            or state.kept_ready
            or state.history.order
        )

    @property
    def _is_waiting(self) -> bool:
        attempts = self._attempts
        return bool(self._waits.open or self._timers.open or attempts.retrying or attempts.reviews)

    def rest(self) -> Rest | None:
        """What the runner waits for; None while there is something that it does."""
        if self._has_work or self.state.execution.is_about_to_write:
            return None
        due_at = self._due_at()
        if due_at is not None and due_at <= self._host.journal.now():
            return None
        return Rest(due_at, len(self._attempts.running))

    @guarded
    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now."""
        self._timers.look_at_clock()
        self._waits.look_at_clock()
        self._attempts.look_at_clock()

    def _due_at(self) -> int | None:
        """When the body goes on by itself."""
        deadlines = [wait.deadline_at for wait in self._waits.open.values()]
        instants = [instant for instant in deadlines if instant is not None]
        instants += [timer.due_at for timer in self._timers.open.values()]
        return min([*instants, *self._attempts.retrying.values()], default=None)
