"""Times and chance in flows, and durable sleep: a replay gets what the first pass got."""

import asyncio
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import kitaru
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import current_runtime

Eventually = Callable[[Callable[[], object]], None]
Restart = Callable[..., None]
passes: list[list[Any]] = []


@pytest.fixture(autouse=True)
def _no_passes() -> None:
    passes.clear()


@checkpoint(cache=False)
def step(number: float) -> float:
    return number


@flow
def drawing(timeout: float) -> list[Any]:
    drawn: list[Any] = [kitaru.random(), str(kitaru.uuid4()), kitaru.now().isoformat()]
    step(drawn[0])
    drawn += [kitaru.random(), str(kitaru.uuid4()), kitaru.now().isoformat()]
    passes.append(drawn)
    kitaru.wait(timeout=timeout)
    return [*drawn, kitaru.random()]


@flow
async def drawing_async(timeout: float) -> list[Any]:
    async def draw() -> list[Any]:
        first = kitaru.random()
        await step.aio(first)
        return [first, kitaru.random(), str(kitaru.uuid4()), kitaru.now().isoformat()]

    drawn: list[Any] = list(await asyncio.gather(draw(), draw()))
    passes.append(drawn)
    await kitaru.wait(timeout=timeout)
    return [*drawn, kitaru.random()]


@pytest.mark.parametrize("body", [drawing, drawing_async.sync], ids=["sync", "async"])
def test_a_replay_draws_the_same(body: Any, eventually: Eventually) -> None:
    executions = kitaru.KitaruClient().executions
    handle = body.run(0.0)
    eventually(lambda: executions.get(handle.exec_id).owner is None)
    executions.input(handle.exec_id, wait="wait", value=None)
    result = handle.wait(timeout=30)
    assert len(passes) == 2
    assert passes[0] == passes[1] == result[:-1]
    flat = [value for drawn in result for value in (drawn if isinstance(drawn, list) else [drawn])]
    numbers = [value for value in flat if isinstance(value, float)]
    assert len(set(numbers)) == len(numbers) > 2
    other = body.run(0.0)
    eventually(lambda: len(passes) == 3)
    assert passes[2] != passes[0]
    executions.cancel(other.exec_id)


@flow
def sleeping(seconds: float) -> float:
    before = kitaru.now()
    kitaru.sleep(seconds)
    return (kitaru.now() - before).total_seconds()


@flow
async def sleeping_async(seconds: float) -> float:
    before = kitaru.now()
    await kitaru.sleep(timedelta(seconds=seconds))
    return (kitaru.now() - before).total_seconds()


both = pytest.mark.parametrize("body", [sleeping, sleeping_async.sync], ids=["sync", "async"])


@both
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1])
def test_a_sleep_takes_its_time(body: Any, seconds: float) -> None:
    began = time.monotonic()
    slept = body.run(seconds).wait(timeout=30)
    assert slept >= seconds
    assert time.monotonic() - began >= seconds


@both
def test_a_sleep_goes_on_while_nobody_runs(
    body: Any, eventually: Eventually, restart: Restart
) -> None:
    executions = kitaru.KitaruClient().executions
    handle = body.run(0.3)
    exec_id = handle.exec_id
    eventually(lambda: executions.get(exec_id).version > 1)
    restart()
    time.sleep(0.4)
    restart(body)
    began = time.monotonic()
    assert executions.handle(exec_id).wait(timeout=30) >= 0.3
    assert time.monotonic() - began < 10


@both
def test_a_long_sleep_is_parked_and_cancelled_at_once(
    body: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.sync_resting.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 0.05)
    executions = kitaru.KitaruClient().executions
    handle = body.run(365 * 86_400.0)
    eventually(lambda: executions.get(handle.exec_id).owner is None)
    execution = executions.get(handle.exec_id)
    assert execution.status is ExecutionStatus.WAITING
    assert execution.due_at is not None
    assert (execution.due_at - execution.started_at).days in (364, 365)
    assert handle.exec_id not in current_runtime().worker.runners
    executions.cancel(handle.exec_id)
    with pytest.raises(kitaru.KitaruCancelledError):
        handle.wait(timeout=30)


@both
def test_what_is_parked_goes_on_by_itself_when_it_is_due(
    body: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.sync_resting.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 0.01)
    handle = body.run(0.5)
    executions = kitaru.KitaruClient().executions
    eventually(lambda: executions.get(handle.exec_id).owner is None)
    assert handle.wait(timeout=30) >= 0.5


@pytest.mark.parametrize(
    "seconds", [-1, math.nan, math.inf, -math.inf, True, "1", None, 1e308], ids=repr
)
def test_what_is_no_time_is_refused(seconds: Any) -> None:
    @flow
    def sleeps() -> None:
        kitaru.sleep(seconds)

    with pytest.raises(kitaru.KitaruUserCodeError) as caught:
        sleeps.run().wait(timeout=30)
    assert isinstance(caught.value.__cause__, kitaru.KitaruUsageError)


@pytest.mark.parametrize("name", ["now", "random", "uuid4"])
def test_they_are_for_a_flows_body(name: str) -> None:
    with pytest.raises(kitaru.KitaruContextError, match=rf"kitaru\.{name}\(\)"):
        getattr(kitaru, name)()

    @checkpoint
    def inside() -> None:
        getattr(kitaru, name)()

    @flow
    def outer() -> None:
        inside()

    with pytest.raises(kitaru.KitaruUserCodeError, match="checkpoint"):
        outer.run().wait(timeout=30)


def test_sleeping_outside_a_flow_is_refused() -> None:
    with pytest.raises(kitaru.KitaruContextError, match=r"time\.sleep"):
        kitaru.sleep(1)
