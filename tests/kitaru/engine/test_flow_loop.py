"""The loop alone: no runner, no journal; timers are kept by the test."""

import asyncio
import contextvars
import gc
import math
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.flow_loop import SECOND, FlowFuture, FlowLoop, FlowTask, explained
from kitaru.errors import KitaruContextError, KitaruUsageError

START = 1_700_000_000 * SECOND
YEAR = 365 * 86_400


class Clock:
    """Keeps a loop's timers, and fires them when it is told to."""

    def __init__(self) -> None:
        self.set: dict[str, tuple[int, asyncio.TimerHandle]] = {}

    def timer_set(self, path: str, due_at: int, handle: asyncio.TimerHandle) -> None:
        self.set[path] = (due_at, handle)

    def timer_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.set = {path: it for path, it in self.set.items() if it[1] is not handle}

    def fire(self, loop: FlowLoop, path: str) -> None:
        due_at, handle = self.set.pop(path)
        loop.advance_clock(due_at)
        loop.fire(handle)
        loop.drive()


class Played:
    """A body on a loop of its own, driven until it waits."""

    def __init__(self, body: Callable[[], Coroutine[Any, Any, Any]], start: int = START) -> None:
        self.clock = Clock()
        self.loop = FlowLoop(self.clock, start)  # type: ignore[abstract]
        self.errors: list[dict[str, Any]] = []
        self.loop.unhandled = self.errors.append
        self.root: FlowTask = self.loop.run_flow(self._whole(body), contextvars.Context())
        self.loop.drive()

    async def _whole(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        try:
            return await body()
        finally:
            await self.loop.finish()

    def fire(self, path: str) -> None:
        self.clock.fire(self.loop, path)

    def set_result(self, future: "asyncio.Future[Any]", value: Any = None) -> None:
        future.set_result(value)
        self.loop.drive()

    def result(self) -> Any:
        assert self.root.done(), self.loop.places()
        return self.root.result()


# asyncio on it


async def test_asyncio_itself_is_not_disturbed() -> None:
    async def body() -> str:
        return "done"

    outer = asyncio.get_running_loop()
    hooks = sys.get_asyncgen_hooks()
    assert Played(body).result() == "done"
    assert asyncio.get_running_loop() is outer
    assert sys.get_asyncgen_hooks() == hooks
    gathering = asyncio.gather(asyncio.sleep(0))
    assert hash(gathering) == object.__hash__(gathering)
    await gathering


def test_tasks_are_named_by_their_place() -> None:
    async def leaf() -> str:
        task = asyncio.current_task()
        assert isinstance(task, FlowTask)
        return task.path_of("call")

    async def branch() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(leaf()) for _ in range(2)]
        return [await leaf(), *(task.result() for task in tasks), await leaf()]

    async def body() -> list[list[str]]:
        return [*await asyncio.gather(branch(), branch())]

    assert Played(body).result() == [
        [
            f"task[{n}]/call",
            f"task[{n}]/task[1]/call",
            f"task[{n}]/task[2]/call",
            f"task[{n}]/call#2",
        ]
        for n in (1, 2)
    ]


@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
def test_a_sleep_of_nothing_lets_others_go_first_and_sets_no_timer(seconds: float) -> None:
    order: list[str] = []

    async def other() -> None:
        order.append("other")

    async def body() -> None:
        task = asyncio.create_task(other())
        await asyncio.sleep(seconds)
        order.append("body")
        await task

    played = Played(body)
    played.result()
    assert order == ["other", "body"]
    assert played.clock.set == {}


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e300, 1e308, 400_000_000_000])
def test_a_sleep_without_an_end_is_refused(seconds: float) -> None:
    async def body() -> None:
        await asyncio.sleep(seconds)

    # asyncio itself refuses NaN from Python 3.13 on, with a ValueError.
    with pytest.raises(ValueError, match=r"sleep|NaN"):
        Played(body).result()


def test_a_sleep_of_a_year_is_over_a_year_later() -> None:
    async def body() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(YEAR)
        return loop.time() - began

    played = Played(body)
    assert played.clock.set["sleep"][0] == START + YEAR * SECOND
    played.fire("sleep")
    assert played.result() == pytest.approx(YEAR)


def test_sleeps_and_time_limits_have_names_of_their_own() -> None:
    async def body() -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(1)
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + 7):
            await asyncio.wait([asyncio.create_task(asyncio.sleep(1))], timeout=2)

    played = Played(body)
    assert sorted(played.clock.set) == ["sleep", "timeout"]
    played.fire("sleep")
    assert sorted(played.clock.set) == ["task[1]/sleep", "timeout#2", "timeout#3"]
    played.fire("timeout#3")
    assert played.clock.set == {}
    played.result()


@pytest.mark.parametrize("micros", range(1, 2_000, 37))
def test_a_fired_timer_finds_that_its_time_has_come(micros: int) -> None:
    async def body() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        when = loop.time() + micros / 999_983
        fired = loop.create_future()
        loop.call_at(when, fired.set_result, None)
        await fired
        return loop.time(), when

    played = Played(body, START + micros)
    played.fire("timeout")
    now, when = played.result()
    assert now >= when


def test_the_time_of_a_later_attempt_begins_with_it() -> None:
    async def body() -> None:
        await asyncio.sleep(1)

    clock = Clock()
    loop = FlowLoop(clock, START, START + 60 * SECOND)  # type: ignore[abstract]
    loop.run_flow(body(), contextvars.Context())
    loop.drive()
    assert clock.set["sleep"][0] == START + 61 * SECOND
    assert loop.now == START
    loop.drop()


def test_each_task_has_its_own_context() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def change(value: str) -> str:
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        return f"{before}, {variable.get()}"

    async def body() -> list[str]:
        variable.set("root")
        return [*(await asyncio.gather(change("a"), change("b"))), variable.get()]

    assert Played(body).result() == ["root, a", "root, b", "root"]
    assert variable.get() == "unset"


# order


def test_futures_and_gatherings_of_a_set_iterate_alike() -> None:
    """Thrice the same body, at other addresses: sets hold its futures in the same order."""
    kept: list[object] = []

    def order_now() -> list[int]:
        made: list[asyncio.Future[Any]] = []

        async def nothing() -> None:
            pass

        async def body() -> None:
            loop = asyncio.get_running_loop()
            for number in range(40):
                kept.append(bytearray(number * 97 % 1_000))
                made.append(loop.create_future())
                made.append(asyncio.gather(nothing()))
                made.append(asyncio.create_task(nothing()))
            await asyncio.wait({*made}, return_when=asyncio.FIRST_COMPLETED)
            places = {id(future): number for number, future in enumerate(made)}
            order.extend(places[id(future)] for future in {*made})

        order: list[int] = []
        played = Played(body)
        kept.append((played, made))
        played.result()
        return order

    first = order_now()
    assert sorted(first) == list(range(120))
    assert order_now() == first
    assert order_now() == first


def test_as_completed_starts_coroutines_in_the_order_given() -> None:
    started: list[int] = []

    async def one(number: int) -> int:
        started.append(number)
        return number

    async def body() -> list[int]:
        return [await future for future in asyncio.as_completed([one(n) for n in range(50)])]

    played = Played(body)
    assert started == list(range(50))
    assert sorted(played.result()) == started


def test_as_completed_takes_tasks_and_coroutines_together() -> None:
    async def one(number: int) -> str:
        task = asyncio.current_task()
        assert task is not None
        return f"{number} in {task.get_name()}"

    async def body() -> list[str]:
        task = asyncio.create_task(one(0))
        coroutine = one(1)
        futures = asyncio.as_completed([coroutine, task, one(2), coroutine])
        return sorted([await future for future in futures])

    assert Played(body).result() == ["0 in task[1]", "1 in task[2]", "2 in task[3]"]


def test_as_completed_refuses_what_has_no_order() -> None:
    async def one(number: int) -> int:
        return number

    async def body() -> None:
        coroutines = {one(1)}
        for future in asyncio.as_completed(coroutines):
            await future

    with pytest.raises(KitaruUsageError, match="give it a list"):
        Played(body).result()


def test_thousands_of_loops_do_not_slow_each_other_down() -> None:
    """asyncio keeps all tasks in one set: those of different flows must not collide there."""
    tasks: Any = asyncio.tasks
    known = tasks._all_tasks if sys.version_info < (3, 12) else tasks._scheduled_tasks

    async def body() -> None:
        await asyncio.get_running_loop().create_future()

    flows = [Played(body) for _ in range(300)]
    hashes = {hash(reference) for reference in known.data}
    assert len(hashes) > 290
    assert len(known) >= 300
    for flow in flows:
        flow.loop.drop()


# callbacks, errors, what is left


def test_callbacks_may_make_tasks_and_timers() -> None:
    seen: list[str] = []

    async def late() -> None:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(1)
        seen.append(task.get_name())

    async def body() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        task = asyncio.create_task(asyncio.sleep(0))

        def then(_: object) -> None:
            loop.call_later(5, done.set_result, None)
            made.append(asyncio.ensure_future(late()))

        made: list[asyncio.Future[None]] = []
        task.add_done_callback(then)
        await done
        await made[0]

    played = Played(body)
    assert sorted(played.clock.set) == ["task[2]/sleep", "timeout"]
    played.fire("timeout")
    played.fire("task[2]/sleep")
    played.result()
    assert seen == ["task[2]"]
    assert played.errors == []


def test_errors_that_nobody_looks_at_are_told_once_at_the_end() -> None:
    async def fails(text: str) -> None:
        raise ValueError(text)

    async def body() -> str:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        asyncio.create_task(fails("never looked at"))  # noqa: RUF006
        looked_at = asyncio.create_task(fails("looked at"))
        for _ in range(200):
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006 - so that done tasks are forgotten
        await asyncio.wait([looked_at])
        gc.collect()
        return str(looked_at.exception())

    played = Played(body)
    assert played.result() == "looked at"
    gc.collect()
    assert [repr(context["exception"]) for context in played.errors] == [
        "ZeroDivisionError('division by zero')",
        "ValueError('never looked at')",
    ]


def test_what_is_left_behind_is_cancelled_in_order_and_awaited() -> None:
    said: list[str] = []

    async def stays(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(1)
            said.append(name)

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            said.append("generator")

    async def body() -> str:
        for name in "abc":
            asyncio.create_task(stays(name))  # noqa: RUF006
        async for _ in items():
            break
        await asyncio.sleep(0)
        return "result"

    played = Played(body)
    for number in (2, 1, 3):
        played.fire(f"task[{number}]/sleep")
    played.fire("sleep")
    assert played.result() == "result"
    assert said == ["b", "a", "c", "generator"]


def test_generators_are_closed_in_the_order_of_their_making_whenever_they_are_collected() -> None:
    def closed(collect_after: int) -> list[int]:
        said: list[int] = []

        async def items(number: int) -> AsyncGenerator[int, None]:
            try:
                yield number
                await asyncio.sleep(1)
            finally:
                said.append(number)

        async def body() -> None:
            for number in range(20):
                generator = items(number)
                await anext(generator)
                # Only the cyclic collector finds it, whenever it comes.
                cycle: list[Any] = [generator]
                cycle.append(cycle)
                if number == collect_after:
                    gc.collect()

        gc.disable()
        try:
            Played(body).result()
        finally:
            gc.enable()
        return said

    assert closed(-1) == closed(7) == closed(19) == list(range(20))


def test_a_generator_that_raises_when_it_is_closed_does_not_keep_others_open() -> None:
    said: list[int] = []
    kept: list[AsyncGenerator[int, None]] = []

    async def items(number: int) -> AsyncGenerator[int, None]:
        try:
            yield number
        finally:
            said.append(number)
            raise ValueError(number)

    async def body() -> str:
        for number in range(3):
            kept.append(items(number))
            await anext(kept[-1])
        return "result"

    played = Played(body)
    assert played.result() == "result"
    assert said == [0, 1, 2]
    assert len(played.errors) == 3


# dropping


def test_a_dropped_body_is_closed_to_its_end() -> None:
    said: list[str] = []

    async def stubborn() -> None:
        for number in range(10):
            try:
                await asyncio.sleep(1_000)
            except BaseException:
                said.append(f"caught {number}")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(1_000))
                await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        finally:
            asyncio.create_task(asyncio.sleep(5))  # noqa: RUF006
            said.append("closed")

    async def body() -> None:
        await asyncio.create_task(stubborn())

    played = Played(body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played.loop.drop()
        gc.collect()
    assert said == [*(f"caught {number}" for number in range(10)), "closed"]
    assert played.loop._tasks == []


def test_a_body_that_cannot_be_closed_is_left_where_it_stands() -> None:
    tries = 0

    async def body() -> None:
        nonlocal tries
        while True:
            try:
                await asyncio.sleep(1_000)
            except BaseException:
                tries += 1

    played = Played(body)
    played.loop.drop()
    after = tries
    assert 10 <= after <= 1_000
    del played
    gc.collect()
    assert tries == after


def test_coroutines_that_a_dropped_body_was_yet_to_await_are_no_mistake() -> None:
    async def later(number: int) -> int:
        return number

    async def branch() -> None:
        alone = later(0)
        several = [later(1), (later(2), {"three": later(3)})]
        await asyncio.sleep(1_000)
        await alone
        await several[0]  # type: ignore[misc]

    async def body() -> None:
        await asyncio.gather(branch(), branch())

    played = Played(body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played.loop.drop()
        del played
        gc.collect()


def test_handlers_of_a_dropped_body_find_asyncio_as_it_was() -> None:
    # Else asyncio.timeout() refuses to begin, since there is no task, and what asyncio.wait_for()
    # was given is never awaited.
    found: list[str] = []

    async def tidy(what: str) -> None:
        found.append(what)

    async def branch(number: int) -> None:
        task = asyncio.current_task()
        try:
            await asyncio.sleep(1_000)
        finally:
            assert asyncio.current_task() is task
            async with asyncio.timeout(5):
                await tidy(f"in {number}")
            await asyncio.wait_for(tidy(f"out {number}"), 5)

    async def body() -> None:
        await asyncio.gather(branch(1), branch(2))

    played = Played(body)
    played.loop.drop()
    assert asyncio.current_task(played.loop) is None
    del played
    gc.collect()
    # On Python 3.11 wait_for() makes a task, which does not begin any more.
    assert [it for it in found if it.startswith("in")] == ["in 2", "in 1"]


def test_nothing_of_a_dropped_body_reaches_the_loop_that_drops_it() -> None:
    async def body() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006
            asyncio.get_running_loop().call_soon(print)
            asyncio.get_running_loop().call_later(1, print)

    async def host() -> int:
        played = Played(body)
        played.loop.drop()
        assert played.clock.set.keys() == {"sleep"} or not played.clock.set
        return len(asyncio.all_tasks())

    assert asyncio.run(host()) == 1


def test_async_generators_of_a_dropped_body_do_not_go_on() -> None:
    said: list[str] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            said.append("went on")

    async def body() -> None:
        generator = items()
        await anext(generator)
        await asyncio.sleep(1_000)

    played = Played(body)
    played.loop.drop()
    del played
    gc.collect()
    assert said == []


def test_nothing_is_left_of_a_dropped_generator_for_the_collector_to_run() -> None:
    said: list[str] = []
    unraisable: list[object] = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            said.append("tidied")

    async def items() -> AsyncGenerator[int, None]:
        try:
            await asyncio.sleep(1_000)
            yield 1
        finally:
            try:
                await tidy()
            finally:
                await tidy()

    async def body() -> None:
        async for _ in items():
            pass

    played = Played(body)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        played.loop.drop()
        until_dropped = list(said)
        del played
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraisable == []
    assert said == until_dropped


def test_a_suspension_that_is_caught_does_not_spread() -> None:
    async def body() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            raise ExecutionSuspended

    played = Played(body)
    played.loop.drop()
    assert not played.root.done()


# refusals


async def _nothing() -> None:
    pass


_socket: Any = object()
REFUSED: dict[str, Callable[[asyncio.AbstractEventLoop], Any]] = {
    "to_thread": lambda loop: asyncio.to_thread(time.sleep, 0).send(None),
    "run_in_executor": lambda loop: loop.run_in_executor(None, time.sleep, 0),
    "open_connection": lambda loop: asyncio.open_connection("localhost", 1).send(None),
    "start_server": lambda loop: asyncio.start_server(print, "localhost", 0).send(None),
    "subprocess": lambda loop: asyncio.create_subprocess_exec("true").send(None),
    "shell": lambda loop: asyncio.create_subprocess_shell("true").send(None),
    "getaddrinfo": lambda loop: loop.getaddrinfo("localhost", 1),
    "sock_recv": lambda loop: loop.sock_recv(_socket, 1),
    "add_reader": lambda loop: loop.add_reader(0, print),
    "signal": lambda loop: loop.add_signal_handler(2, print),
    "threadsafe": lambda loop: loop.call_soon_threadsafe(print),
    "factory": lambda loop: loop.set_task_factory(None),
    "handler": lambda loop: loop.set_exception_handler(None),
    "stop": lambda loop: loop.stop(),
    "run_forever": lambda loop: loop.run_forever(),
    "until_complete": lambda loop: loop.run_until_complete(loop.create_future()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_different_in_a_replay_is_refused(what: str) -> None:
    async def body() -> None:
        REFUSED[what](asyncio.get_running_loop())

    with pytest.raises(KitaruUsageError, match=r"Put the work into a @checkpoint"):
        Played(body).result()


def test_everything_that_asyncio_declares_is_there_or_refused() -> None:
    """A later Python's new method must not show as NotImplementedError."""
    abstract = {
        name
        for name, value in vars(asyncio.AbstractEventLoop).items()
        if callable(value) and not name.startswith("__")
    }
    missing = {name for name in abstract if name not in vars(FlowLoop)}
    assert missing == set()


@pytest.mark.parametrize(
    "run",
    [
        lambda coroutine: asyncio.run(coroutine),
        lambda coroutine: asyncio.Runner().run(coroutine),
    ],
    ids=["run", "Runner"],
)
def test_a_loop_inside_a_flow_is_refused_and_explained(run: Callable[[Any], Any]) -> None:
    async def body() -> None:
        coroutine = _nothing()
        try:
            run(coroutine)
        finally:
            coroutine.close()

    with pytest.raises(RuntimeError) as caught:
        Played(body).result()
    assert "put it into a @checkpoint" in "".join(explained(caught.value).__notes__)


def test_other_errors_are_not_explained() -> None:
    assert not hasattr(explained(RuntimeError("own")), "__notes__")


def test_eager_tasks_are_refused() -> None:
    async def body() -> None:
        loop: Any = asyncio.get_running_loop()
        await loop.create_task(_nothing(), eager_start=True)

    with pytest.raises(KitaruUsageError, match="eagerly"):
        Played(body).result()


def test_a_task_made_by_hand_has_no_place() -> None:
    async def call() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FlowLoop)
        return loop.current().path_of("call")

    async def body() -> str:
        return await asyncio.Task(call())

    with pytest.raises(KitaruUsageError, match=r"asyncio.create_task"):
        Played(body).result()


def test_another_thread_has_no_place_and_cannot_wake_the_body() -> None:
    errors: list[BaseException] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FlowLoop)
        future = loop.create_future()
        future.add_done_callback(lambda _: None)

        def meddle() -> None:
            for attempt in (
                loop.current,
                lambda: future.set_result(1),
                lambda: loop.call_soon(print),
            ):
                try:
                    attempt()
                except BaseException as error:
                    errors.append(error)

        thread = threading.Thread(target=meddle)
        thread.start()
        thread.join()

    Played(body).result()
    assert [type(error) for error in errors] == [KitaruContextError] * 3


def test_the_loops_futures_are_its_own() -> None:
    async def body() -> bool:
        return isinstance(asyncio.get_running_loop().create_future(), FlowFuture)

    assert Played(body).result()


def test_where_tasks_stand_is_told() -> None:
    async def branch() -> None:
        await asyncio.Event().wait()

    async def body() -> None:
        await asyncio.gather(branch(), branch())

    played = Played(body)
    first, *others = played.loop.places()
    assert first.startswith("flow stands at ")
    assert [place.partition(":")[0].partition(" ")[0] for place in others] == ["task[1]", "task[2]"]
    assert all("test_flow_loop.py" in place for place in [first, *others])
    played.loop.drop()


def test_a_chain_of_callers_is_closed_from_the_inside() -> None:
    said: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(1)
            said.append("inner")

    async def items() -> AsyncGenerator[int, None]:
        await inner()
        yield 1

    async def middle(through_generator: bool) -> None:
        try:
            if through_generator:
                async for _ in items():
                    pass
            else:
                await inner()
        finally:
            await asyncio.sleep(1)
            said.append("middle")

    async def body() -> None:
        await asyncio.gather(middle(False), middle(True))

    played = Played(body)
    played.loop.drop()
    del played
    gc.collect()
    # Closing runs to each next await and no further: what is after it is not reached.
    assert said == []
