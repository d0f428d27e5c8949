"""What a person expects of asyncio in a flow's body, live and in a replay."""

import asyncio
import contextlib
import contextvars
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionEvent,
    FlowAttemptFailed,
    TimerFired,
)
from tests.determinism.rehearsal import Run, Stage, ended, rehearse, run_on_memory

YEAR_SECONDS = 365 * 86_400
traces: dict[str, list[str]] = {}
bodies: dict[str, list[str]] = {}
held: dict[str, asyncio.Event] = {}


@checkpoint
async def step(value: str) -> str:
    await asyncio.sleep(0)
    return value


@checkpoint
async def fails(value: str) -> str:
    raise ValueError(value)


@checkpoint
async def endless(name: str) -> str:
    held.setdefault(name, asyncio.Event()).set()
    await asyncio.get_running_loop().create_future()
    return name


def said(text: str) -> None:
    exec_id = kitaru.current_execution_id()
    assert exec_id is not None
    traces.setdefault(exec_id, []).append(text)


def played(body: Any, *, cancel_at: int | None = None) -> Run:
    """Runs a flow live, from every prefix of its journal, and again; returns the first run."""

    async def scene() -> Run:
        return (await rehearse(Stage(body, traces, bodies), "key", cancel_at=cancel_at))[0]

    run: Run = run_on_memory(scene)
    return run


def events(run: Run, kind: type[ExecutionEvent]) -> list[Any]:
    return [event for event in run.events if isinstance(event, kind)]


# groups, cancellation


@flow
async def failing_group(key: str) -> list[str]:
    found: list[str] = []

    async def branch(name: str) -> None:
        try:
            await endless(name)
        except asyncio.CancelledError:
            found.append(await step(f"{name} was cancelled"))
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a"))
            group.create_task(branch("b"))
            await fails("group")
    except* ValueError as errors:
        found += [str(error) for error in errors.exceptions]
    return found


def test_a_group_cancels_its_tasks_and_their_handlers_may_call_checkpoints() -> None:
    run = played(failing_group)
    assert ended(run.events) == 'completed: ["a was cancelled","b was cancelled","group"]'


@flow
async def timed(key: str) -> list[Any]:
    found: list[Any] = []
    for how in ("timeout", "timeout_at", "wait_for", "wait"):
        try:
            match how:
                case "timeout":
                    async with asyncio.timeout(0.001):
                        await endless(how)
                case "timeout_at":
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + 0.001):
                        await endless(how)
                case "wait_for":
                    await asyncio.wait_for(endless(how), 0.001)
                case "wait":
                    task = asyncio.create_task(endless(how))
                    done, pending = await asyncio.wait([task], timeout=0.001)
                    found.append([len(done), len(pending)])
        except TimeoutError:
            found.append(how)
        task_now = asyncio.current_task()
        assert task_now is not None
        assert task_now.cancelling() == 0
    return found


def test_time_limits_end_what_takes_too_long() -> None:
    run = played(timed)
    assert ended(run.events) == 'completed: ["timeout","timeout_at","wait_for",[0,1]]'
    assert [event.path for event in events(run, TimerFired)] == [
        "timeout",
        "timeout#2",
        "timeout#3",
        "timeout#4",
    ]


@flow
async def uncancelled(key: str) -> list[str]:
    found = []
    task = asyncio.current_task()
    assert task is not None
    try:
        await endless("uncancelled")
    except asyncio.CancelledError:
        found.append(f"cancelling {task.cancelling()}")
        task.uncancel()
    async with asyncio.timeout(60):
        found.append(await step("after"))
    async with asyncio.TaskGroup() as group:
        group.create_task(step("in a group"))
    return found


async def test_a_body_may_handle_a_cancel_request_and_go_on() -> None:
    async with kitaru.runtime(journal="memory://"):
        stage = Stage(uncancelled, traces, bodies)
        handle = await uncancelled.aio.run("key")
        await held.setdefault("uncancelled", asyncio.Event()).wait()
        client = kitaru.AsyncKitaruClient()
        await client.executions.cancel(handle.exec_id)
        # A second request changes nothing, while the first is being handled or after.
        await client.executions.cancel(handle.exec_id)
        run = await stage.ended(handle.exec_id)
        paths = [event.path for event in events(run, CheckpointCompleted)]
        assert paths == ["step", "step#2"]
        again = await stage.replanted(run.history[:-1], seed=run.exec_id)
        assert again.bodies == ()
        assert ended(again.events) == ended(run.events)


@flow
async def gathered(key: str) -> list[str]:
    held_task = asyncio.create_task(endless("gathered"))
    try:
        await fails("first")
    except ValueError:
        held_task.cancel("not needed")
        results = await asyncio.gather(held_task, step("x"), return_exceptions=True)
        return [type(it).__name__ for it in results]
    return []


def test_cancelling_one_task_leaves_the_others_alone() -> None:
    assert ended(played(gathered).events) == 'completed: ["CancelledError","str"]'


# what nobody looks at, and what is left behind


@flow
async def careless(key: str) -> str:
    asyncio.create_task(fails("nobody looks"))  # noqa: RUF006
    return await step("done")


def test_an_error_that_nobody_looks_at_is_told_and_the_flow_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def scene() -> Run:
        handle = await careless.aio.run("key")
        return await Stage(careless, traces, bodies).ended(handle.exec_id)

    for _ in range(20):
        run: Run = run_on_memory(scene)
        assert ended(run.events) == 'completed: "done"'
        if len(events(run, CheckpointFailed)) == 1:
            break
    assert capsys.readouterr().err.count("flow_error_not_looked_at") == 1
    played(careless)


@flow
async def leaving(key: str) -> str:
    async def poll() -> None:
        try:
            await endless("poll")
        finally:
            await step("cleaned up")

    asyncio.create_task(poll())  # noqa: RUF006
    return await step("done")


def test_tasks_that_are_left_behind_are_cancelled_and_may_clean_up() -> None:
    run = played(leaving)
    assert ended(run.events) == 'completed: "done"'
    paths = [event.path for event in events(run, CheckpointCompleted)]
    assert paths == ["step", "task[1]/step"]


@flow
async def stuck(key: str) -> None:
    await step("before")
    async with asyncio.TaskGroup() as group:
        event = asyncio.Event()
        group.create_task(event.wait())


def test_a_flow_that_nothing_can_wake_fails_and_says_where_it_stands() -> None:
    run = played(stuck)
    text = ended(run.events)
    assert "waits for something that can never come" in text
    assert "flow stands at" in text
    assert "task[1] stands at" in text
    assert "put into a @checkpoint" in text
    assert "test_asyncio_in_bodies.py" in text


# attempts


attempts: list[int] = []


@flow(retries=1)
async def limited(key: str) -> str:
    attempts.append(1)
    async with asyncio.timeout(0.05 if len(attempts) == 1 else 600):
        return await (endless("limited") if len(attempts) == 1 else step("in time"))


async def test_a_time_limit_begins_anew_when_the_flow_is_tried_again() -> None:
    attempts.clear()
    async with kitaru.runtime(journal="memory://"):
        handle = await limited.aio.run("key")
        assert await handle.wait(timeout=30) == "in time"
        run = await Stage(limited, traces, bodies).ended(handle.exec_id)
        assert len(events(run, FlowAttemptFailed)) == 1


@flow
async def two_sleepers(key: str) -> list[str]:
    found: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        found.append(name)

    await step("before")
    await asyncio.gather(sleeper("late", 0.02), sleeper("early", 0.01))
    return found


async def test_times_that_went_by_while_nobody_ran_the_flow_come_in_their_order() -> None:
    async with kitaru.runtime(journal="memory://"):
        stage = Stage(two_sleepers, traces, bodies)
        run = await stage.live("key")
        assert ended(run.events) == 'completed: ["early","late"]'
        behind_step = next(
            fact.version
            for fact, event in zip(run.history, run.events, strict=True)
            if isinstance(event, CheckpointCompleted)
        )
        await asyncio.sleep(0.03)
        # What the replanted execution began with is over: both times are past.
        state = await stage.replanted(run.history[:behind_step], seed=run.exec_id)
        assert ended(state.events) == 'completed: ["early","late"]'


@flow
async def year_long(key: str) -> float:
    loop = asyncio.get_running_loop()
    await step("before")
    began = loop.time()
    await asyncio.sleep(YEAR_SECONDS)
    return loop.time() - began


async def test_a_sleep_of_a_year_is_recorded_and_replayed() -> None:
    async with kitaru.runtime(journal="memory://"):
        stage = Stage(year_long, traces, bodies)
        first = await stage.prefix("key", 1)
        started = first[-1].recorded_at
        fired = TimerFired(path="sleep", due_at=started + YEAR_SECONDS * 1_000_000)
        run = await stage.replanted(first, fired, seed="year")
        assert float(ended(run.events).removeprefix("completed: ")) >= YEAR_SECONDS - 1


retry_runs: list[int] = []


@checkpoint(retries=3)
async def fails_often(key: str) -> str:
    retry_runs.append(1)
    raise ValueError("again")


@flow
async def abandoning(key: str) -> str:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fails_often(key))
        await step("meanwhile")
        task.cancel()
    return "abandoned"


def test_a_call_that_nobody_waits_for_is_not_tried_again() -> None:
    for _ in range(10):
        retry_runs.clear()
        run = played(abandoning)
        assert ended(run.events) == 'completed: "abandoned"'
        cancelled_at = next(
            number
            for number, event in enumerate(run.events)
            if isinstance(event, CheckpointCompleted) and event.name == "step"
        )
        later = [getattr(event, "path", "") for event in run.events[cancelled_at + 1 :]]
        assert later.count("task[1]/fails_often") <= 1


# contexts


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@checkpoint
async def reads() -> str:
    found = variable.get()
    variable.set("changed in the checkpoint")
    return found


@contextlib.asynccontextmanager
async def resource(name: str) -> AsyncIterator[str]:
    yield await step(f"open {name}")
    said(await step(f"close {name}"))


@contextlib.contextmanager
def renamed(name: str) -> Iterator[None]:
    token = variable.set(name)
    try:
        yield
    finally:
        variable.reset(token)


@flow
async def contextual(key: str) -> list[Any]:
    async def branch(name: str) -> list[str]:
        with renamed(name):
            return [await reads(), await reads()]

    found: list[Any] = [*await asyncio.gather(branch("a"), branch("b")), await reads()]
    async with contextlib.AsyncExitStack() as stack:
        for name in "xy":
            found.append(await stack.enter_async_context(resource(name)))
    with contextlib.suppress(ValueError):
        async with resource("z"):
            await fails("inside")
    return found


def test_contexts_are_each_tasks_own_and_their_managers_work() -> None:
    run = played(contextual)
    assert ended(run.events) == ('completed: [["a","a"],["b","b"],"unset","open x","open y"]')
    assert run.trace == ("close y", "close x")


# other things of asyncio's


@flow
async def with_anyio(key: str) -> list[Any]:
    found: list[Any] = []
    send, receive = anyio.create_memory_object_stream[str](1)

    async def produce() -> None:
        async with send:
            for name in ("a", "b", "c"):
                await send.send(await step(name))

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            async for item in receive:
                found.append(item)
    with anyio.move_on_after(0.001) as moved:
        await endless("anyio")
    found.append(moved.cancelled_caught)
    try:
        with anyio.fail_after(0.001):
            await anyio.Event().wait()
    except TimeoutError:
        found.append("late")
    return found


def test_anyio_works_in_bodies() -> None:
    assert ended(played(with_anyio).events) == 'completed: ["a","b","c",true,"late"]'


@flow
async def at_a_barrier(key: str) -> list[str]:
    barrier = asyncio.Barrier(3)
    found: list[str] = []

    async def one(name: str) -> None:
        await step(name)
        await barrier.wait()
        found.append(name)

    await asyncio.gather(one("a"), one("b"), one("c"))
    return sorted(found)


def test_barriers_work_in_bodies() -> None:
    assert ended(played(at_a_barrier).events) == 'completed: ["a","b","c"]'


# refusals


REFUSED: dict[str, Callable[[], Any]] = {
    "to_thread": lambda: asyncio.to_thread(time.sleep, 0),
    "executor": lambda: asyncio.get_running_loop().run_in_executor(None, time.sleep, 0),
    "connection": lambda: asyncio.open_connection("localhost", 1),
    "subprocess": lambda: asyncio.create_subprocess_exec(sys.executable, stdout=subprocess.PIPE),
    "lookup": lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
    "socket": lambda: asyncio.get_running_loop().sock_connect(socket.socket, ("localhost", 1)),  # type: ignore[arg-type]
}


@flow
async def refused(key: str) -> None:
    await REFUSED[key]()


@pytest.mark.parametrize("what", REFUSED)
async def test_real_input_and_output_is_refused_with_a_way_out(what: str) -> None:
    async with kitaru.runtime(journal="memory://"):
        handle = await refused.aio.run(what)
        with pytest.raises(kitaru.KitaruUserCodeError, match=r"into a @checkpoint"):
            await handle.wait(timeout=30)


@flow
async def nested_loop(key: str) -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


async def test_a_loop_inside_a_body_is_refused_with_a_way_out() -> None:
    async with kitaru.runtime(journal="memory://"):
        handle = await nested_loop.aio.run("key")
        with pytest.raises(kitaru.KitaruUserCodeError) as caught:
            await handle.wait(timeout=30)
    cause = caught.value.__cause__
    assert "put it into a @checkpoint" in "".join(getattr(cause, "__notes__", []))


thread_errors: list[BaseException] = []


@flow
async def threading_body(key: str) -> str:
    context = contextvars.copy_context()
    made = step("made in the body")

    def in_thread() -> None:
        for attempt in (
            lambda: asyncio.run(_call()),
            lambda: step.submit("submitted"),
            lambda: asyncio.run(_await(made)),
            lambda: kitaru.log(thread=True),
            kitaru.random,
        ):
            try:
                attempt()
            except BaseException as error:
                thread_errors.append(error)

    thread = threading.Thread(target=context.run, args=(in_thread,))
    thread.start()
    thread.join()
    return await step("after")


async def _call() -> str:
    return await step("called in a thread")


async def _await(coroutine: Any) -> Any:
    return await coroutine


async def test_threads_of_a_body_cannot_call_checkpoints() -> None:
    thread_errors.clear()
    async with kitaru.runtime(journal="memory://"):
        handle = await threading_body.aio.run("key")
        assert await handle.wait(timeout=30) == "after"
        run = await Stage(threading_body, traces, bodies).ended(handle.exec_id)
    assert [type(error) for error in thread_errors] == [kitaru.KitaruContextError] * 5
    assert [event.path for event in events(run, CheckpointCompleted)] == ["step#2"]


# dropping


@flow
async def hugging(key: str) -> str:
    while True:
        try:
            with contextlib.suppress(BaseException):
                return await endless("hugging")
        finally:
            await asyncio.sleep(0)


async def _submits() -> None:
    await endless.submit("hugging")


async def _maps() -> None:
    await asyncio.gather(*endless.map(["hugging"]))


async def _logs() -> None:
    kitaru.log(again=True)
    await endless("hugging")


async def _draws() -> None:
    await endless(str(kitaru.uuid4()) and "hugging")


async def _reads_the_clock() -> None:
    await asyncio.sleep(kitaru.now().year * 0)
    await endless("hugging")


async def _asks() -> None:
    with contextlib.suppress(BaseException):
        await endless("hugging")
    await kitaru.wait(schema=str)


CLINGING = {
    "submits": _submits,
    "maps": _maps,
    "logs": _logs,
    "draws": _draws,
    "asks": _asks,
    "reads the clock": _reads_the_clock,
}


@flow
async def clinging(how: str) -> None:
    while True:
        with contextlib.suppress(BaseException):
            await CLINGING[how]()


@pytest.mark.parametrize(
    ("body", "argument"), [(hugging, "key"), *((clinging, how) for how in CLINGING)]
)
async def test_a_body_that_catches_everything_does_not_hold_up_its_process(
    body: Any, argument: str
) -> None:
    """RELIABILITY: bare excepts around calls, again and again."""
    held.clear()
    async with kitaru.runtime(journal="memory://"):
        handle = await body.aio.run(argument)
        await held.setdefault("hugging", asyncio.Event()).wait()
        current_runtime().worker.runners[handle.exec_id].stop()
        other = await careless.aio.run("key")
        assert await other.wait(timeout=30) == "done"


@flow
async def once_each(key: str) -> list[str]:
    async def one() -> str:
        return await step.with_options(id="the same")("x")

    later = asyncio.create_task(step("argument"))

    async def two() -> str:
        # Its path is taken while it waits for its argument.
        return await step.with_options(id="the same")(later)  # type: ignore[arg-type]

    found = await asyncio.gather(two(), two(), one(), return_exceptions=True)
    return sorted(type(it).__name__ for it in found)


def test_an_id_is_used_once_even_while_arguments_are_awaited() -> None:
    assert ended(played(once_each).events) == (
        'completed: ["KitaruUsageError","KitaruUsageError","str"]'
    )
