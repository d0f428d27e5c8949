"""Where the pass of an async flow's body stands: what all parts of its runner share."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from journal import RecordedEvent
from kitaru.domain.execution.events import ExecutionEvent
from kitaru.engine.calls import Call
from kitaru.engine.divergence import Mismatch
from kitaru.engine.history import History, KeptReady
from kitaru.engine.runner import Host, Loaded
from kitaru.engine.waits import Wait
from kitaru.errors import KitaruUsageError

if TYPE_CHECKING:
    from kitaru.engine.async_waits import Timer


class Driver(Protocol):
    """What the parts of a runner need of the runner itself."""

    def advance(self) -> None:
        """Gives the body what is recorded, one outcome at a time, then lets it go on live."""
        ...

    def consider_suspending(self) -> None:
        """Looks whether the body only waits for people and times from now on."""
        ...

    def drop_body(self) -> None:
        """Ends the body where it stands, and all that runs for it."""
        ...

    def begin_again(self, history: History) -> None:
        """Starts the next attempt of the flow, with what is recorded by now."""
        ...

    def finish(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        """Stops, and tells the host: of the execution's last event; or, without one, of why."""
        ...

    def give_up(self, error: BaseException | None) -> None:
        """The lease is lost, or the store fails: this process can do nothing more here."""
        ...


class Gone:
    """Stands for a runner that has stopped: nothing comes of what its parts tell it.

    It is what lets a finished execution go without the garbage collector.
    """

    def advance(self) -> None:
        pass

    def consider_suspending(self) -> None:
        pass

    def drop_body(self) -> None:
        pass

    def begin_again(self, history: History) -> None:
        pass

    def finish(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        pass

    def give_up(self, error: BaseException | None) -> None:
        pass


GONE = Gone()


class PassState:
    """What is known of the execution, and of what its body has asked for in this pass."""

    __slots__ = (
        "cancel_delivered",
        "divergence",
        "driver",
        "ending",
        "exec_id",
        "execution",
        "history",
        "host",
        "kept_ready",
        "requested",
        "stopped",
        "unstarted",
    )

    def __init__(self, driver: Driver, host: Host, loaded: Loaded) -> None:
        self.driver: Driver = driver
        self.host = host
        self.execution = loaded.execution
        self.exec_id = loaded.execution.exec_id
        self.history = History(loaded.facts)
        self.stopped = False
        """Whether nothing that the body does has an effect any more."""
        self.next_pass()

    def next_pass(self) -> None:
        """Nothing has been asked for yet."""
        self.requested: dict[str, Call | Timer | Wait | None] = {}
        """What the body has asked for, by path; None once it has been given the outcome."""
        self.kept_ready = KeptReady(self.history)
        self.execution.preface = self.history.note_taken
        self.unstarted: list[Call | Timer | Wait] = []
        """What is not recorded, and begins once the replay has come to its end."""
        self.divergence: Mismatch | None = None
        self.ending = False
        """Whether the end of the pass is on its way into the journal."""
        self.cancel_delivered = False

    def check_unused(self, path: str) -> None:
        """Raises KitaruUsageError for a path that the body has used already."""
        if path in self.requested:
            raise KitaruUsageError(
                f"Two calls have the id {path!r} in this execution: give each its own id=."
            )

    def is_waited_for(self, call: Call) -> bool:
        """Whether the pass that has made the call goes on, and it has no outcome yet."""
        return not (self.stopped or self.ending) and self.requested.get(call.path) is call

    def noted(self, event: ExecutionEvent) -> Callable[[RecordedEvent], None]:
        """Takes in an event of our own that the history keeps account of."""
        return lambda fact: self.history.add(fact.version, fact.recorded_at, event)


class _Part(Protocol):
    @property
    def state(self) -> PassState: ...


def guarded(step: Callable[..., None]) -> Callable[..., None]:
    """A step that, should the engine itself fail in it, ends the runner and tells its host."""

    @functools.wraps(step)
    def guard(self: _Part, *arguments: object) -> None:
        try:
            step(self, *arguments)
        except Exception as error:
            self.state.driver.give_up(error)

    return guard
