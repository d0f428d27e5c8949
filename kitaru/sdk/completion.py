"""Which of several submitted checkpoints is done first: in sync flows, the same in each replay."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from kitaru.engine.sync_futures import CallFuture, FutureLike
from kitaru.errors import KitaruUsageError
from kitaru.sdk.checkpoint import CheckpointFuture

R = TypeVar("R")


def as_completed(futures: Iterable[CheckpointFuture[R]]) -> Iterator[CheckpointFuture[R]]:
    """The futures in the order in which their outcomes were recorded, each when it is there.

    Raises KitaruUsageError for anything but futures from ``.submit()`` or ``.map()``.
    """
    left = _checked(futures, "as_completed")

    def in_order() -> Iterator[CheckpointFuture[R]]:
        while left:
            first = _first(left)
            left.remove(first)
            yield first

    return in_order()


def wait_any(futures: Iterable[CheckpointFuture[R]]) -> CheckpointFuture[R]:
    """Blocks until one of the futures has its outcome, and returns it: the first in the journal.

    Raises KitaruUsageError for anything but at least one future from ``.submit()`` or ``.map()``.
    """
    given = _checked(futures, "wait_any")
    if not given:
        raise KitaruUsageError("kitaru.wait_any() needs at least one future.")
    return _first(given)


def wait_all(futures: Iterable[CheckpointFuture[R]]) -> list[CheckpointFuture[R]]:
    """Blocks until every future has its outcome, whichever it is; returns them as they were given.

    Raises KitaruUsageError for anything but futures from ``.submit()`` or ``.map()``.
    """
    given = _checked(futures, "wait_all")
    for future in given:
        future.wait()
    return given


def _checked(futures: Iterable[Any], what: str) -> list[Any]:
    given: list[Any] = []
    for future in futures:
        if not isinstance(future, FutureLike):
            raise KitaruUsageError(
                f"kitaru.{what}() needs futures from .submit() or .map(), not {future!r}. In an "
                "async flow use asyncio's own functions."
            )
        if all(future is not known for known in given):
            given.append(future)
    return given


def _first(futures: list[CheckpointFuture[R]]) -> CheckpointFuture[R]:
    by_call: dict[int, CheckpointFuture[R]] = {id(each.call_future): each for each in futures}
    calls: list[CallFuture] = [each.call_future for each in futures]
    return by_call[id(calls[0].runner.first_of(calls))]
