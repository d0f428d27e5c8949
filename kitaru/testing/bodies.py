"""What checkpoints run in a test: their own functions or stand-ins, and which of them have run."""

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from kitaru.engine.calls import Call
from kitaru.engine.codec import Codec

StandIn = Callable[..., Any]
NOT_GIVEN: Any = object()


class BodyRun(Struct, frozen=True):
    """One time that a checkpoint's body, or its stand-in, has begun."""

    exec_id: str
    path: str
    """The call: ``fetch``, ``fetch#2``."""
    name: str
    attempt: int
    arguments: dict[str, Any]
    """By parameter name, as the body was given them."""
    process: int
    """The number of the process that it ran in, from 1."""


class Ended(Struct, frozen=True):
    """What a body has come to."""

    run: BodyRun
    value: Any = None
    error: BaseException | None = None


class Scripted:
    """What stands in for a checkpoint: outcomes that a test has written down."""

    def __init__(self, name: str, outcomes: Sequence[StandIn]) -> None:
        self._name = name
        self._outcomes = list(outcomes)
        self._given: dict[object, int] = {}
        self._lock = threading.Lock()

    def outcome_for(self, attempt: object) -> StandIn:
        """The next outcome; for an attempt that was lost, and is made again, the same as before."""
        with self._lock:
            number = self._given.setdefault(attempt, len(self._given))
        if number >= len(self._outcomes):
            raise AssertionError(
                f"{self._name!r} was run once more than there are scripted results: "
                f"{len(self._outcomes)}."
            )
        return self._outcomes[number]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The next outcome, for a call of its own."""
        return self.outcome_for(object())(*args, **kwargs)

    def from_the_beginning(self) -> "Scripted":
        """The same outcomes, none of them used."""
        return Scripted(self._name, self._outcomes)


def never(*_args: Any, **_kwargs: Any) -> NoReturn:
    """A stand-in for a checkpoint that hangs: it ends when it is cancelled, or its process dies."""
    raise AssertionError("never() stands in for a checkpoint; it is not to be called.")


def always(value: Any) -> StandIn:
    """A stand-in that returns a value."""

    def stand_in(*_args: Any, **_kwargs: Any) -> Any:
        return value

    return stand_in


def raising(error: BaseException | type[BaseException]) -> StandIn:
    """A stand-in that raises."""

    def stand_in(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise error

    return stand_in


def outcome_of(item: Any) -> StandIn:
    """One item of a scripted sequence: an exception is raised, anything else returned."""
    is_error = isinstance(item, BaseException) or (
        isinstance(item, type) and issubclass(item, BaseException)
    )
    return raising(item) if is_error else always(item)


class Bodies:
    """The stand-ins of a test, and every body that has begun, over all its processes."""

    def __init__(self) -> None:
        self.stand_ins: dict[str, StandIn] = {}
        """By path or name; a path goes before a name."""
        self.begun: list[BodyRun] = []
        self.ended: list[Ended] = []
        self._lock = threading.Lock()

    def from_the_beginning(self) -> "Bodies":
        """The same stand-ins for another run: sequences begin anew, and nothing has run."""
        other = Bodies()
        other.stand_ins = {
            name: it.from_the_beginning() if isinstance(it, Scripted) else it
            for name, it in self.stand_ins.items()
        }
        return other

    def note(self, run: BodyRun) -> None:
        """A body begins; from any thread."""
        with self._lock:
            self.begun.append(run)

    def note_end(self, ended: Ended) -> None:
        """A body has ended; from any thread."""
        with self._lock:
            self.ended.append(ended)

    def stand_in_for(self, call: Call) -> StandIn | None:
        """What runs in the place of a call's own function."""
        by_path = self.stand_ins.get(call.path)
        return self.stand_ins.get(call.definition.name) if by_path is None else by_path

    def result_of(self, exec_id: str, call: Call, codec: Codec) -> Any:
        """Runs the call's function or what stands in for it; for an async one, a coroutine."""
        stand_in = self.stand_in_for(call)
        if stand_in is None:
            return call.run(codec)
        if isinstance(stand_in, Scripted):
            stand_in = stand_in.outcome_for((exec_id, call.path, call.attempt))
        definition = call.definition
        own = codec.own_copy(call.arguments, call.encoded, definition.types)
        args, kwargs = definition.binder.spread(own)
        if definition.asynchronous:
            return _awaited(stand_in, args, kwargs)
        return stand_in(*args, **kwargs)


async def _awaited(stand_in: StandIn, args: list[Any], kwargs: dict[str, Any]) -> Any:
    result = stand_in(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result
