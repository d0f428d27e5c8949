"""What can befall an execution: as data, so that it can be drawn, shrunk, saved and done again."""

from msgspec import Struct

from kitaru.errors import KitaruUsageError


class Fault(Struct, frozen=True, tag=True):
    """The root of all faults. `at` is how many events the journal has when it happens."""


class Crash(Fault, frozen=True, tag="crash"):
    """The process dies once the journal has `at` events, and another one takes over.

    At once, in the commit of that event; or `late`: just before the next event is written, when
    what leads to that event (such as a checkpoint's body) has been done and is not recorded.
    """

    at: int
    late: bool = False

    def __str__(self) -> str:
        when = "before the event after" if self.late else "right after"
        return f"the process dies {when} event {self.at}"


class TakeOver(Fault, frozen=True, tag="take_over"):
    """The process stalls, another one takes the execution over, and then the first goes on."""

    at: int

    def __str__(self) -> str:
        return f"another process takes over after event {self.at}, while the first still runs"


class LostNews(Fault, frozen=True, tag="lost_news"):
    """Nobody is told of event `at`, if a client has written it; the next regular look finds it."""

    at: int

    def __str__(self) -> str:
        return f"nobody is told of event {self.at}"


class Twice(Fault, frozen=True, tag="twice"):
    """What reaches the execution from outside arrives twice: `nth` 0 is its start, then answers."""

    nth: int

    def __str__(self) -> str:
        what = "the start" if self.nth == 0 else f"answer {self.nth}"
        return f"{what} arrives twice"


class Reorder(Fault, frozen=True, tag="reorder"):
    """Checkpoints that run at the same time end in another order.

    Whenever all of them have ended but for being told, the next number says which of them, in the
    order of their paths, is told first. When there are no numbers left, it is the first.
    """

    picks: tuple[int, ...]

    def __str__(self) -> str:
        return f"what runs at the same time ends in another order: {list(self.picks)}"


class ClockJump(Fault, frozen=True, tag="clock_jump"):
    """The journal's clock jumps by so many seconds, forwards or backwards."""

    at: int
    seconds: float

    def __str__(self) -> str:
        return f"the clock jumps by {self.seconds:+g} s after event {self.at}"


AnyFault = Crash | TakeOver | LostNews | Twice | Reorder | ClockJump

_LAST_EVENT = 10_000


def check_faults(faults: tuple[AnyFault, ...]) -> None:
    """Raises KitaruUsageError for what is no fault, or can never happen."""
    for fault in faults:
        if not isinstance(fault, AnyFault):
            raise KitaruUsageError(f"{fault!r} is no fault; kitaru.testing has those there are.")
        at = getattr(fault, "at", 1)
        if isinstance(at, bool) or not isinstance(at, int) or not 1 <= at <= _LAST_EVENT:
            raise KitaruUsageError(f"{fault!r}: `at` is a number of events, from 1 on.")


def code_of(fault: AnyFault) -> str:
    """The fault as Python writes it."""
    fields = ", ".join(
        f"{name}={getattr(fault, name)!r}"
        for name, default in zip(fault.__struct_fields__, _defaults(type(fault)), strict=True)
        if default is _NONE or getattr(fault, name) != default
    )
    return f"{type(fault).__name__}({fields})"


_NONE = object()


def _defaults(kind: type[Fault]) -> list[object]:
    given = kind.__struct_defaults__
    return [_NONE] * (len(kind.__struct_fields__) - len(given)) + list(given)
