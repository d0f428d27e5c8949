"""What type checkers are to see of flows, checkpoints, handles and clients.

The functions here are never called: `assert_type` and the ignored errors are checked by the type
checker, for which an ignore that is not needed is an error, too.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any, NoReturn, assert_type
from uuid import UUID

import kitaru
from kitaru import (
    AsyncCheckpoint,
    AsyncFlow,
    AsyncFlowHandle,
    AsyncKitaruClient,
    Checkpoint,
    CheckpointFuture,
    Execution,
    ExecutionStatus,
    Flow,
    FlowHandle,
    KitaruClient,
    PendingWait,
    checkpoint,
    flow,
)


@checkpoint
def fetch(url: str, /, *, depth: int = 1) -> bytes:
    return url.encode() * depth


@checkpoint(retries=2, type="tool_call")
def parse(page: bytes, /) -> list[int]:
    return list(page)


@checkpoint
async def ask(question: str, /) -> float:
    return float(question)


@checkpoint(cache=False)
async def tell(answer: float, to: str = "all") -> None:
    await asyncio.sleep(answer if to else 0)


@flow
def research(url: str, depth: int = 1) -> list[int]:
    return parse(fetch(url, depth=depth))


@flow(retries=1, cache=False)
def survey(urls: list[str], /) -> dict[str, int]:
    return dict.fromkeys(urls, 1)


@flow
async def agent(question: str, /) -> float:
    return await ask(question)


@flow(retries=1)
async def patient(question: str, *, limit: int) -> str | None:
    return question[:limit] or None


def keep(*things: object) -> None:
    """What a statement alone would be a coroutine that nobody awaits."""


def decorated() -> None:
    assert_type(parse, Checkpoint[[bytes], list[int]])
    assert_type(ask, AsyncCheckpoint[[str], float])
    assert_type(fetch("a", depth=2), bytes)
    assert_type(fetch.sync("a"), bytes)
    keep(assert_type(fetch.aio("a"), Coroutine[Any, Any, bytes]))
    assert_type(ask.sync("a"), float)
    keep(assert_type(ask("a"), Coroutine[Any, Any, float]))
    keep(assert_type(ask.aio("a"), Coroutine[Any, Any, float]))
    assert_type(fetch.with_options(id="x")("a"), bytes)
    keep(assert_type(tell.with_options(id="x")(1.5), Coroutine[Any, Any, None]))
    fetch(1)  # type: ignore[arg-type]
    fetch(url="a")  # type: ignore[call-arg]
    fetch("a", deep=2)  # type: ignore[call-arg]
    keep(ask(None))  # type: ignore[arg-type]
    ask.sync()  # type: ignore[call-arg]
    fetch.with_options(name="x")  # type: ignore[call-arg]


def submitted() -> None:
    assert_type(fetch.submit("a"), CheckpointFuture[bytes])
    assert_type(fetch.submit("a").result(), bytes)
    assert_type(fetch.map(["a", "b"]), list[CheckpointFuture[bytes]])
    assert_type(parse.product([b"a"]), list[CheckpointFuture[list[int]]])
    assert_type(ask.submit("a"), asyncio.Task[float])
    assert_type(ask.map(["a"]), list[asyncio.Task[float]])
    assert_type(ask.product(["a"]), list[asyncio.Task[float]])
    assert_type(ask.sync.submit("a"), CheckpointFuture[float])
    assert_type(fetch.aio.submit("a"), asyncio.Task[bytes])
    futures = fetch.map(["a", "b"])
    assert_type(kitaru.wait_any(futures), CheckpointFuture[bytes])
    assert_type(kitaru.wait_all(futures), list[CheckpointFuture[bytes]])
    assert_type(kitaru.as_completed(futures), Iterator[CheckpointFuture[bytes]])
    kitaru.wait_any([1, 2])  # type: ignore[arg-type]


def run() -> None:
    assert_type(survey, Flow[[list[str]], dict[str, int]])
    assert_type(agent, AsyncFlow[[str], float])
    assert_type(research.run("a", depth=2), FlowHandle[list[int]])
    assert_type(research.run(url="a").wait(timeout=3), list[int])
    assert_type(research.run("a").get(), list[int])
    assert_type(research.run("a").exec_id, str)
    assert_type(research.run("a").status, ExecutionStatus)
    assert_type(research.sync.run("a"), FlowHandle[list[int]])
    assert_type(research.aio.run("a"), AsyncFlowHandle[list[int]])
    assert_type(research.run("a").aio, AsyncFlowHandle[list[int]])
    assert_type(agent.run("a"), AsyncFlowHandle[float])
    assert_type(agent.run("a").sync.wait(), float)
    assert_type(agent.sync.run("a").wait(), float)
    assert_type(patient.run("a", limit=3), AsyncFlowHandle[str | None])
    assert_type(research.replay("id", from_="fetch"), FlowHandle[list[int]])
    assert_type(agent.replay("id", from_="ask"), AsyncFlowHandle[float])
    assert_type(
        research.with_options(retries=3, idempotency_key="a").run("a"), FlowHandle[list[int]]
    )
    assert_type(agent.with_options(cache=True).run("a"), AsyncFlowHandle[float])
    research.run(1)  # type: ignore[arg-type]
    research.run()  # type: ignore[call-arg]
    research.run("a", deep=2)  # type: ignore[call-arg]
    research.with_options(retries="3")  # type: ignore[arg-type]
    agent.run("a", "b")  # type: ignore[call-arg]
    patient.run("a")  # type: ignore[call-arg]
    research.replay("id")  # type: ignore[call-arg]
    flow(retries="3")  # type: ignore[call-overload]
    checkpoint(effect=1)  # type: ignore[call-overload]


async def awaited() -> None:
    handle = await agent.run("a")
    assert_type(handle, AsyncFlowHandle[float])
    assert_type(await handle.wait(), float)
    assert_type(await handle.get(), float)
    assert_type(await agent.run("a").wait(timeout=None), float)
    assert_type(await research.aio.run("a").wait(), list[int])
    assert_type(await research.run("a").aio.get(), list[int])
    assert_type(await ask("a"), float)
    assert_type(await fetch.aio("a"), bytes)
    assert_type(await ask.submit("a"), float)
    both = await asyncio.gather(ask("a"), ask("b"))
    assert_type(both, tuple[float, float])
    await fetch("a")  # type: ignore[misc]
    await research.run("a")  # type: ignore[misc]


def a_flow_is_not_called() -> NoReturn:
    research("a")


def an_async_flow_is_not_called() -> NoReturn:
    agent("a")


class Decision:
    """An answer."""


def waited() -> None:
    assert_type(kitaru.wait.sync(schema=Decision, name="approve"), Decision)
    keep(assert_type(kitaru.wait.aio(schema=Decision), Coroutine[Any, Any, Decision]))
    assert_type(kitaru.wait.sync(schema=bool), bool)
    assert_type(kitaru.wait.sync(schema=list[int]), list[int])
    assert_type(kitaru.wait.sync(schema=Decision, deadline=3), Decision)
    assert_type(kitaru.wait.sync(schema=Decision, deadline=3, default=None), Decision | None)
    assert_type(kitaru.wait.sync(schema=int, deadline=3, default=0), int)
    assert_type(kitaru.wait.sync(schema=int, deadline=3, default="none"), int | str)
    keep(assert_type(kitaru.wait.aio(schema=bool, name="a"), Coroutine[Any, Any, bool]))
    late = kitaru.wait.aio(schema=bool, deadline=timedelta(1), default=None)
    keep(assert_type(late, Coroutine[Any, Any, bool | None]))
    keep(assert_type(kitaru.wait.aio(), Coroutine[Any, Any, None]))
    # A union is no class, and mypy takes it apart; without a schema the answer is None.
    optional: int | None = kitaru.wait.sync(schema=int | None)
    keep(optional)
    kitaru.wait.sync(name="go on")
    nothing = kitaru.wait.sync(name="go on")
    assert_type(nothing, None)
    assert_type(kitaru.wait.sync(deadline=3, default="late"), str | None)
    kitaru.wait.sync(schema=int, default=0)  # type: ignore[call-overload]
    kitaru.wait.sync(schema=int, name=3)  # type: ignore[call-overload]
    kitaru.wait.sync(schema=int, nam="a")  # type: ignore[call-overload]
    kitaru.wait.aio(schema=int, deadline="soon")  # type: ignore[call-overload]
    wrong: str = kitaru.wait.sync(schema=int)  # type: ignore[assignment]
    keep(wrong)
    assert_type(kitaru.wait(), Any)
    assert_type(kitaru.wait(schema=Decision), Any)
    kitaru.wait(question=3)  # type: ignore[arg-type]
    kitaru.wait("approve")  # type: ignore[call-arg]


def the_rest() -> None:
    assert_type(kitaru.now(), datetime)
    assert_type(kitaru.random(), float)
    assert_type(kitaru.uuid4(), UUID)
    assert_type(kitaru.current_execution_id(), str | None)
    assert_type(kitaru.idempotency_key(), str)
    assert_type(kitaru.load("id", "name"), Any)
    assert_type(kitaru.register_type(Decision), type[Decision])
    kitaru.save(1, "value")  # type: ignore[arg-type]
    kitaru.configure(lease="1")  # type: ignore[call-arg]


def looked_at() -> None:
    executions = KitaruClient().executions
    assert_type(executions.get("id"), Execution)
    assert_type(executions.list(flow="research", limit=3), list[Execution])
    assert_type(executions.latest(), Execution)
    assert_type(executions.handle("id"), FlowHandle[Any])
    assert_type(executions.pending_waits("id"), tuple[PendingWait, ...])
    assert_type(executions.input("id", wait="approve", value=1), Execution)
    assert_type(executions.retry("id"), Execution)
    assert_type(executions.resume("id"), Execution)
    assert_type(executions.cancel("id"), Execution)
    assert_type(executions.replay("id", from_="fetch"), Execution)
    executions.get(1)  # type: ignore[arg-type]
    executions.input("id")  # type: ignore[call-arg]


async def looked_at_async() -> None:
    executions = AsyncKitaruClient().executions
    assert_type(await executions.get("id"), Execution)
    assert_type(await executions.list(), list[Execution])
    assert_type(await executions.latest(flow="agent"), Execution)
    assert_type(await executions.handle("id"), AsyncFlowHandle[Any])
    assert_type(await executions.pending_waits("id"), tuple[PendingWait, ...])
    assert_type(await executions.abort_wait("id", wait="approve"), Execution)
    assert_type(await executions.resolve("id", "charge", run_again=True), Execution)


def test_the_colors_are_what_the_checker_says() -> None:
    assert isinstance(research, Flow)
    assert isinstance(survey, Flow)
    assert isinstance(agent, AsyncFlow)
    assert isinstance(patient, AsyncFlow)
    assert isinstance(fetch, Checkpoint)
    assert isinstance(parse, Checkpoint)
    assert isinstance(ask, AsyncCheckpoint)
    assert isinstance(tell, AsyncCheckpoint)
