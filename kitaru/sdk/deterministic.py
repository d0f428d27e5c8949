"""Times and chance for a flow's body that are the same in every replay, and durable sleep."""

import asyncio
import math
import uuid
from datetime import datetime, timedelta
from typing import Any

from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import call_site
from kitaru.engine.context import FlowScope, scope
from kitaru.engine.derived import instant_of, random_of, uuid4_of
from kitaru.engine.sync_runner import SyncRunner
from kitaru.errors import KitaruContextError, KitaruUsageError

Runner = AsyncRunner | SyncRunner


def now() -> datetime:
    """The time in the flow, in UTC: that of the last outcome it was given, or of its start.

    A replay gets the same. It does not move while the body only computes. Raises
    KitaruContextError outside a flow's body.
    """
    return instant_of(_runner("now", "datetime.now(UTC)").time())


def random() -> float:
    """A random number from 0 up to 1, 1 excluded; a replay gets the same.

    Not for secrets: it follows from what the journal holds. Raises KitaruContextError outside a
    flow's body.
    """
    runner = _runner("random", "random.random()")
    return random_of(*runner.draw())


def uuid4() -> uuid.UUID:
    """A random UUID; a replay gets the same. Raises KitaruContextError outside a flow's body."""
    runner = _runner("uuid4", "uuid.uuid4()")
    return uuid4_of(*runner.draw())


def sleep(seconds: float | timedelta) -> Any:
    """Sleeps for a time that goes on while the process is down: a month costs nothing.

    In a sync flow it blocks, in an async flow it is to be awaited. Raises KitaruUsageError for what
    is no time from 0 on, KitaruContextError outside a flow's body.
    """
    runner = _runner("sleep", "time.sleep()")
    duration = _duration(seconds)
    if isinstance(runner, AsyncRunner):
        return asyncio.sleep(duration)
    runner.sleep(runner.new_path("sleep", None), duration, call_site(1))
    return None


def _duration(seconds: object) -> float:
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < 0
    ):
        raise KitaruUsageError(
            f"kitaru.sleep({seconds!r}): a number of seconds >= 0, or a timedelta, is needed."
        )
    if value > LONGEST_SECONDS:
        raise KitaruUsageError(f"kitaru.sleep({seconds!r}): that is longer than a century.")
    return float(value)


LONGEST_SECONDS = 100 * 366 * 86_400.0


def _runner(name: str, instead: str) -> Runner:
    here = scope.get()
    if not isinstance(here, FlowScope):
        raise KitaruContextError(
            f"kitaru.{name}() is for a flow's body; elsewhere, and in a @checkpoint, use {instead}."
        )
    runner: Runner = here.runner
    return runner
