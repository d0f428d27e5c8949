"""Blocks the threads of a sync flow, and lets go of it where its body only waits."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

from kitaru.domain.execution.events import ExecutionParked
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.executions import Outgoing
from kitaru.engine.runner import Rest
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_recording import Recording
from kitaru.engine.sync_replay import Replay

RECHECK_SECONDS = 60.0
"""How long a time is waited for by the process's clock alone: the store's may jump."""
IDLE_SECONDS = 5.0
"""How long a body that only waits for a time keeps its thread."""
BODY = 0
"""Stands for the thread of the flow's body."""


class Resting:
    """Knows what each of an execution's threads waits for, and until when."""

    def __init__(self, state: PassState, recording: Recording, replay: Replay) -> None:
        self.state = state
        self._recording = recording
        self._replay = replay
        self._host = state.host
        self._let_go_at = 0.0
        """When the body, where it is blocked, has waited for long enough."""
        self.next_pass()

    def next_pass(self) -> None:
        """No thread waits in the pass that begins."""
        self._resting: dict[int, tuple[int | None, Callable[[], bool]]] = {}
        """The threads that wait, until when and for what; guarded by `changed`."""

    # the body's thread

    def block(
        self, ready: Callable[[], bool], due_at: int | None, patience: float | None = None
    ) -> None:
        """Returns when it is ready or due; lets go of the execution when its patience is over.

        Raises KitaruCancelled when a cancel request comes first.
        """
        self._let_go_at = time.monotonic() + (IDLE_SECONDS if patience is None else patience)
        self._host.idle(self.state.driver)
        try:
            self._block_idle(ready, due_at)
        finally:
            self._host.busy(self.state.driver)

    def let_go(self) -> None:
        """Parks the execution at once if its body is blocked by people or times."""
        with self.state.changed:
            self._let_go_at = 0.0
            self.state.changed.notify_all()

    def _block_idle(self, ready: Callable[[], bool], due_at: int | None) -> None:
        state = self.state
        while True:
            left = math.inf
            if due_at is not None:
                left = (due_at - self._host.journal.now()) / 1_000_000
            with state.changed:
                if state.stopped:
                    raise ExecutionSuspended
                if ready() or left <= 0:
                    return
                pending = state.cancel_pending
                if not pending:
                    idle = state.is_idle()
                    patient = self._let_go_at - time.monotonic()
                    if idle and patient <= 0 and (left > IDLE_SECONDS or not self._let_go_at):
                        seen = state.history.version
                        break
                    # Futures that settle wake it up; else it looks again in a while.
                    with self._rests(BODY, due_at, ready):
                        state.changed.wait(min(left, max(patient, 0.05), RECHECK_SECONDS))
            if pending:
                state.execution.wait_for_flush()
                if ready():
                    return
                self._replay.deliver_cancel_before(None)
        self._park(due_at, seen)
        # Something came first: there is no hurry to let go of it again.
        self._let_go_at = time.monotonic() + IDLE_SECONDS
        self._block_idle(ready, due_at)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Blocks until it is ready or a cancel request has come; meanwhile calls run."""
        state = self.state
        idle = True
        with state.changed:
            while not (ready() or state.stopped or state.cancel_pending or state.misfit):
                if state.reviews and state.is_idle():
                    break
                with self._rests(BODY, None, ready):
                    state.changed.wait()
            else:
                idle = False
        if idle:
            self.block(ready, None)
        if not state.stopped:
            # A call that is made only now that what it depends on has ended may not fit its record.
            self._replay.check_fits()

    def sleep_until(self, instant: int) -> None:
        """Blocks until the flow's next attempt is due."""
        while (left := instant - self._host.journal.now()) > 0:
            with self.state.changed:
                if self.state.stopped:
                    raise ExecutionSuspended
                with self._rests(BODY, instant, never):
                    self.state.changed.wait(min(left / 1_000_000, RECHECK_SECONDS))

    def _park(self, due_at: int | None, seen: int) -> None:
        """Lets go of the execution, unless a client's event came after this version."""
        parked: list[bool] = []
        event = ExecutionParked(due_at=due_at)
        self.state.execution.put(Outgoing(event, recorded=lambda _: parked.append(True), seen=seen))
        self._recording.flush()
        if parked:
            self.state.driver.stop()
            raise ExecutionSuspended

    # every thread

    def block_thread(self, ready: Callable[[], bool], due_at: int, pass_number: int) -> None:
        """Blocks the thread of a submitted call of this pass until it is ready or due."""
        state = self.state
        while (left := due_at - self._host.journal.now()) > 0:
            with state.changed:
                state.check_pass(pass_number)
                if ready():
                    return
                with self._rests(threading.get_ident(), due_at, ready):
                    state.changed.wait(min(left / 1_000_000, RECHECK_SECONDS))

    def wait_for_lease(self) -> None:
        """Blocks until something may begin: while the lease may be over, nothing does."""
        while not self._host.may_start(self.state.exec_id):
            if self.state.stopped:
                raise ExecutionSuspended
            time.sleep(0.05)
        if self.state.stopped:
            raise ExecutionSuspended

    @contextlib.contextmanager
    def _rests(self, whose: int, due_at: int | None, ready: Callable[[], bool]) -> Iterator[None]:
        """The thread waits: for a time, or for something that is ready then; with the lock held."""
        self._resting[whose] = (due_at, ready)
        try:
            yield
        finally:
            self._resting.pop(whose, None)

    # what others may know of it

    def rest(self) -> Rest | None:
        """What the runner waits for; None while there is something that it does."""
        state = self.state
        if state.execution.gate.locked():
            return None
        now = self._host.journal.now()
        with state.changed:
            if state.stopped or state.ended or state.cancel_pending:
                return None
            if state.execution.is_about_to_write:
                return None
            resting = self._resting.values()
            if any(ready() or (due is not None and due <= now) for due, ready in resting):
                return None
            at_work = [future for future in state.submitted if state.has_thread(future)]
            # Each has a thread, and so has the flow's body: all of them must rest, or run bodies.
            if len(at_work) + 1 != len(resting) + state.bodies:
                return None
            due_at = min((due for due, _ in resting if due is not None), default=None)
            return Rest(due_at, state.bodies)

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now."""
        with self.state.changed:
            self.state.changed.notify_all()


def never() -> bool:
    """Nothing but a time is waited for."""
    return False
