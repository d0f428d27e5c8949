"""Where the pass of a sync flow's body stands: what all parts of its runner share."""

import threading
from typing import TYPE_CHECKING, Protocol

from kitaru.domain.execution.events import ExecutionEvent
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.divergence import Mismatch
from kitaru.engine.executions import ThreadedExecution
from kitaru.engine.history import History, Outcome
from kitaru.engine.runner import Host, Loaded, Runner, clock_of

if TYPE_CHECKING:
    from kitaru.engine.sync_futures import CallFuture


class Driver(Runner, Protocol):
    """What the parts of a runner need of the runner itself."""

    def diverge(self, mismatch: Mismatch) -> ExecutionSuspended:
        """Records the divergence at once: whatever the body does with what it is raised here."""
        ...

    def tell_end(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        """Tells the host, once: of the execution's last event; or, without one, of why it ends."""
        ...


class PassState:
    """What is known of the execution, and of what its body has asked for in this pass."""

    def __init__(self, driver: Driver, host: Host, loaded: Loaded) -> None:
        self.driver = driver
        self.host = host
        assert isinstance(loaded.execution, ThreadedExecution)
        self.execution: ThreadedExecution = loaded.execution
        self.exec_id = loaded.execution.exec_id
        self.history = History(loaded.facts)
        self.changed = threading.Condition(threading.RLock())
        """The lock of all that several threads may change; told of what others wait for."""
        self.stopped = False
        """Whether nothing that the body does has an effect any more."""
        self.fatal: Exception | None = None
        """Why the store let this runner down; nothing that the body catches hides it."""
        self.thread = 0
        """The body's own."""
        self.bodies = 0
        """How many checkpoints' bodies run, of an earlier pass too; guarded by `changed`."""
        self.committing = 0
        """How many calls commit writes and record their outcome now; guarded by `changed`."""
        self.pass_number = 0
        self._started_at = clock_of(loaded)
        self.next_pass()

    def next_pass(self) -> None:
        """Nothing has been asked for yet."""
        self.requested: set[str] = set()
        """The paths that the body has asked for."""
        self.execution.preface = self.history.note_taken
        self.submitted: list[CallFuture] = []
        self.withheld: dict[CallFuture, None] = {}
        """Those that were submitted after a cancel request, before the body was given it: they
        run only if the body looks at them nevertheless. Guarded by `changed`."""
        self.reviews: dict[str, CallFuture] = {}
        """The submitted calls that somebody has to review."""
        self.run_again: set[str] = set()
        """The calls of which somebody has said, in this pass, that they are to run again."""
        self.clock = self._started_at
        """The instant of the last outcome that the body was given, in microseconds."""
        self.ended = False
        self.divergence: Mismatch | None = None
        self.misfit: Mismatch | None = None
        """A submitted call that does not fit: told once the body needs a value."""
        self.cancel_delivered = False
        self.pass_number += 1

    @property
    def cancel_pending(self) -> bool:
        """Whether there is a cancel request that the body has not been given yet."""
        return self.history.cancelled_at is not None and not self.cancel_delivered

    def check_pass(self, pass_number: int) -> None:
        """Ends what was begun for a pass of the body that is over."""
        if self.stopped or self.ended or pass_number != self.pass_number:
            raise ExecutionSuspended

    def advance_clock(self, outcome: Outcome) -> None:
        """The body has been given an outcome."""
        self.clock = max(self.clock, outcome.recorded_at)

    def is_idle(self) -> bool:
        """Whether nothing runs for the body: all that it has submitted waits, or has ended."""
        return not any(self.has_thread(future) for future in self.submitted)

    def has_thread(self, future: "CallFuture") -> bool:
        """Whether a thread is at work for a submitted call."""
        return not (
            future.settled
            or future in self.withheld
            or future.call.path in self.reviews
            or any(not needed.settled for needed in future.needs)
        )
