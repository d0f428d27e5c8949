"""When a call may block its thread."""

import asyncio
import sys

from kitaru.errors import KitaruUsageError


def refuse_on_event_loop(what: str, instead: str, depth: int = 2) -> None:
    """Raises KitaruUsageError where blocking would stop the event loop that runs on this thread.

    At the top level of a notebook's cell a loop runs too, but nothing else needs it: it blocks.
    """
    if asyncio._get_running_loop() is None:
        return
    if sys._getframe(depth).f_code.co_name.startswith("<"):
        return
    raise KitaruUsageError(
        f"{what} would block the event loop that runs on this thread; {instead} instead."
    )
