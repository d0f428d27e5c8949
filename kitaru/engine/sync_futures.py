"""Submitted calls of a sync flow: their outcomes, to be."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kitaru.engine.calls import Call
from kitaru.engine.history import Outcome
from kitaru.engine.sync_pass import PassState


class FutureReader(Protocol):
    """What the runner of a submitted call offers to who holds its future."""

    @property
    def state(self) -> PassState:
        """Where the pass stands."""
        ...

    def result_of(self, future: "CallFuture") -> Any:
        """Blocks until the submitted call has its outcome, and gives it."""
        ...

    def first_of(self, futures: "list[CallFuture]") -> "CallFuture":
        """Blocks until one of the submitted calls has its outcome; the earliest in the journal."""
        ...

    def wait_for(self, future: "CallFuture") -> None:
        """Blocks until the submitted call has its outcome, whichever it is."""
        ...


class CallFuture:
    """The outcome of one submitted call, to be: filled by any thread, read by the flow's."""

    def __init__(self, runner: FutureReader, call: Call) -> None:
        self.runner = runner
        self.call = call
        self.outcome: Outcome | None = None
        self.seen = False
        """Whether the body, or a call that depends on it, has looked at the outcome."""
        self.failure: BaseException | None = None
        """Set when the call never began, because a call it depends on failed."""
        self.pass_number = runner.state.pass_number
        self.failed_at = 0
        """Then, the version of the outcome that it failed with."""
        self.follows = 0
        """How many calls stand between it and the one whose outcome settled it, too."""
        self.needs: Sequence[CallFuture] = ()
        """The calls that it begins after."""
        self._changed = runner.state.changed
        self._followers: list[Callable[[], None]] = []

    @property
    def settled(self) -> bool:
        """Whether its outcome is known; guarded by the runner's lock."""
        return self.outcome is not None or self.failure is not None

    @property
    def settled_at(self) -> int:
        """The version of the event that settled it: outcomes are seen in this order."""
        return self.failed_at if self.outcome is None else self.outcome.version

    def follow(self, follower: Callable[[], None]) -> bool:
        """Calls `follower` once settled; False when it is settled already."""
        with self._changed:
            if self.settled:
                return False
            self._followers.append(follower)
            return True

    def settle(
        self, outcome: Outcome | None, failure: BaseException | None = None, failed_at: int = 0
    ) -> None:
        """Sets the outcome and wakes who waits for it."""
        with self._changed:
            self.outcome, self.failure, self.failed_at = outcome, failure, failed_at
            followers, self._followers = self._followers, []
            self._changed.notify_all()
        for follower in followers:
            follower()


class FutureLike:
    """What the flow's body holds of a submitted call: the SDK's future derives from it."""

    __slots__ = ("call_future",)

    def __init__(self, call_future: CallFuture) -> None:
        self.call_future = call_future


def futures_in(arguments: dict[str, Any]) -> list[CallFuture]:
    """The futures among the arguments, alone or in a list."""
    found: list[CallFuture] = []
    for value in arguments.values():
        if isinstance(value, FutureLike):
            found.append(value.call_future)
        elif type(value) in (list, tuple):
            found.extend(item.call_future for item in value if isinstance(item, FutureLike))
    return found


def resolve(value: Any, taken: Callable[[CallFuture], Any]) -> Any:
    """An argument as the checkpoint is given it: with what is taken of the futures in it."""
    if isinstance(value, FutureLike):
        return taken(value.call_future)
    if type(value) in (list, tuple):
        return type(value)(
            [taken(v.call_future) if isinstance(v, FutureLike) else v for v in value]
        )
    return value
