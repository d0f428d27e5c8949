"""Faults as hypothesis draws them: few, early and simple ones when it shrinks."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruUsageError
from kitaru.testing.extra import needed
from kitaru.testing.fault import (
    AnyFault,
    ClockJump,
    Crash,
    Fault,
    LostNews,
    Reorder,
    TakeOver,
    Twice,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

KINDS: tuple[type[Fault], ...] = (Crash, TakeOver, LostNews, Twice, Reorder, ClockJump)
MOST_PICKS = 8
WIDEST_PICK = 5
MOST_ANSWERS = 4
reached: ContextVar[int] = ContextVar("kitaru_testing_reached", default=20)
"""How far faults are drawn that say nothing of it: as far as the journal at hand goes."""


def faults(
    *kinds: type[Fault],
    most: int = 4,
    events: int | None = None,
    clock_jumps: tuple[int, int] = (-86_400, -1),
) -> "SearchStrategy[list[AnyFault]]":
    """Lists of up to `most` faults of these kinds (all of them, when none is named).

    They happen at one of the first `events` events of a journal; unless that is said, `check_flow`
    takes as many as the flow at hand records without faults. What comes after its end happens
    never. `clock_jumps` are the shortest and the longest jump in seconds; backwards, unless it is
    said otherwise, as deadlines pass when a clock jumps forwards. Raises KitaruUsageError for what
    is no kind of fault, or without hypothesis.
    """
    st: Any = needed("hypothesis.strategies", "kitaru.testing.faults()")
    for kind in kinds:
        if kind not in KINDS:
            names = ", ".join(each.__name__ for each in KINDS)
            raise KitaruUsageError(f"{kind!r} is no kind of fault; these are: {names}.")
    least, longest = clock_jumps
    if least > longest:
        raise KitaruUsageError(f"clock_jumps={clock_jumps}: the first is the smaller one.")
    at = st.composite(_within)(st.integers, events)
    made: dict[type[Fault], Callable[[], Any]] = {
        Crash: lambda: st.builds(Crash, at=at, late=st.booleans()),
        TakeOver: lambda: st.builds(TakeOver, at=at),
        LostNews: lambda: st.builds(LostNews, at=at),
        Twice: lambda: st.builds(Twice, nth=st.integers(0, MOST_ANSWERS)),
        Reorder: lambda: st.builds(
            Reorder,
            picks=st.lists(st.integers(0, WIDEST_PICK), min_size=1, max_size=MOST_PICKS).map(tuple),
        ),
        ClockJump: lambda: st.builds(
            ClockJump, at=at, seconds=st.integers(least, longest).map(float)
        ),
    }
    drawn = st.one_of(*[made[kind]() for kind in kinds or KINDS])
    lists: SearchStrategy[list[AnyFault]] = st.lists(drawn, max_size=most)
    return lists


def _within(draw: Any, integers: Any, events: int | None) -> int:
    # Looked up when it is drawn: the strategy is made before the flow is known.
    most: int = reached.get() if events is None else events
    at: int = draw(integers(1, max(1, most)))
    return at
