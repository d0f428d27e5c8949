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
    failures: list[dict[str, Any]] = []
    raised = [RuntimeError("deliberate")]
    loop.set_exception_handler(lambda _, context: failures.append(context))

    def fail(_: Any) -> None:
        raise raised[0]

    watchers.add(None, fail)
    watchers.add(None, told.append)
    watchers.publish([event("ex-1", 1)])
    await asyncio.sleep(0.01)
    assert len(told) == 1
    assert failures == [{"message": "a journal's watcher failed", "exception": raised[0]}]


def test_one_pass_of_the_loop_is_woken_for_once() -> None:
    """On the loop itself without the system calls that wake it from another thread."""
    wakings: list[str] = []

    class Loop(asyncio.SelectorEventLoop):
        def call_soon(self, *arguments: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
            wakings.append("on it")
            return super().call_soon(*arguments, **options)

        def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
            wakings.append("from elsewhere")
            return super().call_soon_threadsafe(*arguments, **options)

    async def publish() -> list[str]:
        wakings.clear()
        for position in range(3):
            watchers.publish([event("ex-1", position)])
        return list(wakings)

    with asyncio.Runner(loop_factory=Loop) as runner:
        watchers = Watchers(runner.get_loop())
        assert runner.run(publish()) == []
        watchers.add(None, lambda _: None)
        assert runner.run(publish()) == ["on it"]
        wakings.clear()
        for position in range(3):
            watchers.publish([event("ex-1", position)])
        assert wakings == ["from elsewhere"]


@pytest.mark.parametrize("hints", [[0], [1], [0, 2], [0, 1, 2]])
async def test_a_hint_is_told_wherever_it_comes_in_a_pass(hints: list[int]) -> None:
    watchers = Watchers(asyncio.get_running_loop())
    calls: list[int] = []
    watchers.add("ex-1", lambda events: calls.append(len(events)))
    for place in range(3):
        watchers.publish(() if place in hints else [event("ex-1", place)])
    await asyncio.sleep(0.01)
    assert calls == [3 - len(hints), 0][len(hints) == 3 :]


def test_a_loop_that_has_ended_is_told_nothing_and_nothing_is_kept_for_it() -> None:
    """Also where it ended between a commit and the pass that would have told of it."""
    for is_awaited in (False, True):
        loop = asyncio.new_event_loop()
        watchers = Watchers(loop)
        watchers.add(None, lambda _: pytest.fail("nobody is there"))
        if is_awaited:
            watchers.publish([event("ex-1", 0)])
            assert watchers._untold
        loop.close()
        for position in range(1, 4):
            watchers.publish([event("ex-1", position)])
            assert not watchers._untold
        assert not watchers


def test_a_loop_that_is_closed_while_it_is_told_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.new_event_loop()
    watchers = Watchers(loop)
    watchers.add(None, lambda _: pytest.fail("nobody is there"))
    loop.close()
    monkeypatch.setattr(loop, "is_closed", lambda: False)
    watchers.publish([event("ex-1", 1)])
    assert not watchers
    assert not watchers._untold
