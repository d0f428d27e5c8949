"""Watchers hear on the loop, in order, and do not harm each other."""

import asyncio
import threading
from typing import Any

import pytest

from journal import RecordedEvent
from journal.records import GENESIS
from journal.watchers import Watchers


def event(stream: str, position: int) -> RecordedEvent:
    return RecordedEvent(stream, 1, position, "Happened", 1, 0, 0, b"", GENESIS, GENESIS)


async def test_what_was_published_by_threads_is_told_on_the_loop() -> None:
    watchers = Watchers(asyncio.get_running_loop())
    told: list[int] = []
    threads: set[int] = set()

    def watcher(events: Any) -> None:
        threads.add(threading.get_ident())
        told.extend(each.position for each in events)

    watchers.add(None, watcher)
    for position in range(100):
        await asyncio.to_thread(watchers.publish, [event("ex-1", position)])
    await asyncio.sleep(0.01)
    assert told == list(range(100))
    assert threads == {threading.get_ident()}


async def test_what_comes_in_one_pass_is_told_at_once() -> None:
    watchers = Watchers(asyncio.get_running_loop())
    calls: list[list[int]] = []
    watchers.add("ex-1", lambda events: calls.append([each.position for each in events]))
    for position in range(4):
        watchers.publish([event(f"ex-{position % 2}", position)])
    watchers.publish(())
    await asyncio.sleep(0.01)
    assert calls == [[1, 3], []]


async def test_a_watcher_that_fails_does_not_silence_the_others() -> None:
    loop = asyncio.get_running_loop()
    watchers = Watchers(loop)
    told: list[Any] = []
    failures: list[Exception] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail(_: Any) -> None:
        raise RuntimeError("deliberate")

    watchers.add(None, fail)
    watchers.add(None, told.append)
    watchers.publish([event("ex-1", 1)])
    await asyncio.sleep(0.01)
    assert len(told) == 1
    assert [str(failure) for failure in failures] == ["deliberate"]


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    loop = asyncio.new_event_loop()
    watchers = Watchers(loop)
    watchers.add(None, lambda _: pytest.fail("nobody is there"))
    loop.close()
    watchers.publish([event("ex-1", 1)])
    watchers.publish([event("ex-1", 2)])
