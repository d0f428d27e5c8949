"""The law: what the code of today cannot read stops the execution; it is no error of the body's.

A body that could catch it, or was given something else instead, would take another branch than the
one that is recorded.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

import kitaru
from journal import follow
from kitaru import DivergenceStory, KitaruDivergenceError, checkpoint, flow
from kitaru.divergence import divergence_of
from kitaru.domain.execution.events import CheckpointCompleted, ExecutionDiverged, InputRejected
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.operations.waits import give_input


@dataclasses.dataclass
class Order:
    total: int


@dataclasses.dataclass
class Purchase:
    """What Order is called now."""

    total: int


def _same_name(new: type) -> type:
    new.__module__, new.__qualname__ = Order.__module__, Order.__qualname__
    return new


@_same_name
@dataclasses.dataclass
class WithCurrency:
    """What Order is now: it has gained a field that has no default."""

    total: int
    currency: str


@_same_name
class Numbered(msgspec.Struct):
    """What Order is now: another kind of class, whose field has another name."""

    number: int


CHANGES = {
    "renamed": (Purchase, ("Order' is not known here", "register_type")),
    "no annotation": (Any, ("Order' is not known here", "register_type")),
    "a field more": (WithCurrency, ("without its field 'currency'", "needs a default")),
    "another kind": (
        Numbered,
        ("TypeError: Missing required argument 'number'", "needs a default"),
    ),
}


def direct(annotation: Any) -> Any:
    @checkpoint(cache=False)
    def fetch(number: int) -> annotation:
        return Order(number)

    @checkpoint(cache=False)
    def note(text: str) -> str:
        return text

    @flow
    def body() -> str:
        note("before")
        try:
            order = fetch(1)
        except Exception:
            return note("caught")
        return note(f"{type(order).__name__} {order.total}")

    return body


def submitted(annotation: Any) -> Any:
    @checkpoint(cache=False)
    def fetch(number: int) -> annotation:
        return Order(number)

    @checkpoint(cache=False)
    def note(order: annotation) -> str:
        return f"{type(order).__name__} {order.total}"

    @flow
    def body() -> str:
        # What depends on it cannot read it, either.
        future = note.submit(fetch.submit(1))
        try:
            return future.result()
        except Exception:
            return "caught"

    return body


def awaited(annotation: Any) -> Any:
    @checkpoint(cache=False)
    async def fetch(number: int) -> annotation:
        return Order(number)

    @checkpoint(cache=False)
    async def note(text: str) -> str:
        return text

    @flow
    async def body() -> str:
        await note("before")
        try:
            order = await fetch(1)
        except Exception:
            return await note("caught")
        return await note(f"{type(order).__name__} {order.total}")

    return body


def gathered(annotation: Any) -> Any:
    @checkpoint(cache=False)
    async def fetch(number: int) -> annotation:
        return Order(number)

    @checkpoint(cache=False)
    async def note(text: str) -> str:
        return text

    @flow
    async def body() -> str:
        orders = await asyncio.gather(fetch(1), note("beside"), return_exceptions=True)
        order: Any = orders[0]
        if isinstance(order, BaseException):
            return await note("caught")
        return await note(f"{type(order).__name__} {order.total}")

    return body


class Fetched(NamedTuple):
    """An execution that has recorded an Order, and what it comes to with the old code."""

    history: list[Any]
    result: str


async def fetched(bench: Any, body: Any) -> Fetched:
    """The journal of an execution whose process died before its end."""
    handle = await body.aio.run()
    result = await bench.result(handle.exec_id, body)
    recorded = await bench.recorded(handle.exec_id)
    return Fetched(recorded[:-1], result)


async def put_back(bench: Any, body: Any) -> None:
    """Resumes with the old code."""
    registry = bench.runtime.worker.registry
    registry._served.clear()
    registry.serve(body.reference, body.definition)
    await executions.resume(bench.runtime, "changed")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [direct, submitted, awaited, gathered])
async def test_a_result_of_a_class_that_has_changed_is_a_divergence_and_comes_back_with_it(
    bench: Any, make: Callable[[Any], Any], change: str
) -> None:
    annotation, told = CHANGES[change]
    before, after = make(Order), make(annotation)
    history, result = await fetched(bench, before)
    await bench.crashed_after(after, history, "changed")
    ending = await bench.ending("changed")
    assert isinstance(ending, ExecutionDiverged)
    divergence = divergence_of(ending.facts)
    assert divergence.story == DivergenceStory.UNREADABLE_VALUE
    assert divergence.recorded.path == divergence.asked[0].path == "fetch"
    assert "what `fetch` has returned cannot be read by the code at " in ending.report
    for text in told:
        assert text in ending.report
    with pytest.raises(KitaruDivergenceError, match="cannot be read"):
        await bench.result("changed", after)

    # Nothing was run or lost: with the old code it comes to its end.
    await put_back(bench, before)
    assert await bench.result("changed", before) == result == "Order 1"
    outcomes = bench.outcomes_by_path(await bench.events("changed"))
    assert set(outcomes.values()) == {1}


async def test_a_class_that_keeps_its_recorded_name_is_read(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.codec.registry.REGISTRY._by_class", {})
    monkeypatch.setattr("kitaru.engine.codec.registry.REGISTRY._by_name", {})
    history, _ = await fetched(bench, direct(Order))
    kitaru.register_type(Purchase, name="Order")
    after = direct(Purchase)
    # Before what was made of it: `note` has got the old name of the class.
    place = [type(decode_event(fact)) for fact in history].index(CheckpointCompleted, 2)
    await bench.crashed_after(after, history[: place + 1], "renamed")
    assert await bench.result("renamed", after) == "Purchase 1"


async def test_an_earlier_executions_result_that_cannot_be_read_is_not_reused(bench: Any) -> None:
    ran: list[int] = []

    def make(annotation: Any, cls: Any) -> Any:
        def fetch(number: int) -> annotation:
            ran.append(number)
            return cls(number)

        wrapped = checkpoint(fetch)

        @flow
        def body() -> str:
            return type(wrapped(1)).__name__

        return body

    first = make(Order, Order)
    assert await bench.result((await first.aio.run()).exec_id, first) == "Order"
    second = make(Purchase, Purchase)
    assert await bench.result((await second.aio.run()).exec_id, second) == "Purchase"
    assert ran == [1, 1]


@pytest.mark.parametrize("color", ["sync", "async"])
async def test_arguments_of_a_class_that_has_changed_leave_the_execution_to_others(
    bench: Any, color: str
) -> None:
    def make(annotation: Any) -> Any:
        if color == "sync":

            @flow
            def body(order: annotation) -> str:
                return type(order).__name__

            return body

        @flow
        async def body_async(order: annotation) -> str:
            return type(order).__name__

        return body_async

    before, after = make(Order), make(Purchase)
    handle = await before.aio.run(Order(1))
    await bench.result(handle.exec_id, before)
    history = (await bench.recorded(handle.exec_id))[:1]
    await bench.crashed_after(after, history, "changed")
    await bench.until(lambda: bench.runtime.worker.why_not("changed") is not None)
    assert "Order' is not known here" in bench.runtime.worker.why_not("changed")
    assert len(await bench.recorded("changed")) == 1
    await put_back(bench, before)
    assert await bench.result("changed", before) == "Order"


class Answer(msgspec.Struct):
    """What people answered."""

    amount: int


class OtherAnswer(msgspec.Struct):
    """What they are to answer now."""

    percent: int


def asking(schema: Any) -> Any:
    @checkpoint(cache=False)
    def note(text: str) -> str:
        return text

    @flow
    def body() -> str:
        answer: Any = kitaru.wait(schema=schema, name="approve")
        note("answered")
        kitaru.sleep(0)
        return f"{note('end')} {type(answer).__name__}"

    return body


def asking_async(schema: Any) -> Any:
    @checkpoint(cache=False)
    async def note(text: str) -> str:
        return text

    @flow
    async def body() -> str:
        answer: Any = await kitaru.wait(schema=schema, name="approve")
        await note("answered")
        await asyncio.sleep(0.001)
        return f"{await note('end')} {type(answer).__name__}"

    return body


@pytest.mark.parametrize("make", [asking, asking_async])
async def test_an_answer_that_the_body_has_had_is_not_refused_afterwards(
    bench: Any, make: Callable[[Any], Any]
) -> None:
    before, after = make(Answer), make(OtherAnswer)
    handle = await before.aio.run()
    await give_input(bench.runtime, handle.exec_id, "approve", {"amount": 3})
    assert await bench.result(handle.exec_id, before) == "end Answer"
    history = (await bench.recorded(handle.exec_id))[:-1]
    await bench.crashed_after(after, history, "changed")
    ending = await bench.ending("changed")
    assert isinstance(ending, ExecutionDiverged)
    assert divergence_of(ending.facts).story == DivergenceStory.UNREADABLE_VALUE
    assert "the answer to the wait `approve` cannot be read by the code at " in ending.report
    assert not any(isinstance(event, InputRejected) for event in await bench.events("changed"))
    await put_back(bench, before)
    assert await bench.result("changed", before) == "end Answer"


class Strict(Answer):
    """What they are to answer now: it looks the same, and is looked at more closely."""

    def __post_init__(self) -> None:
        if self.amount < 10:
            raise ValueError("too little")


Strict.__name__, Strict.__doc__ = Answer.__name__, Answer.__doc__


@pytest.mark.parametrize("had", [True, False])
@pytest.mark.parametrize("make", [asking, asking_async])
async def test_an_answer_that_does_not_do_any_more_is_asked_for_again_unless_the_body_has_had_it(
    bench: Any, make: Callable[[Any], Any], had: bool
) -> None:
    before, after = make(Answer), make(Strict)
    handle = await before.aio.run()
    await give_input(bench.runtime, handle.exec_id, "approve", {"amount": 3})
    await bench.result(handle.exec_id, before)
    events = await bench.events(handle.exec_id)
    place = next(n for n, event in enumerate(events) if isinstance(event, CheckpointCompleted))
    history = (await bench.recorded(handle.exec_id))[: place + had]
    await bench.crashed_after(after, history, "changed")
    if had:
        assert isinstance(await bench.ending("changed"), ExecutionDiverged)
        return
    journal = bench.runtime.journal
    async with asyncio.timeout(bench.DEADLINE_SECONDS):
        async with contextlib.aclosing(follow(journal, stream_of("changed"))) as facts:
            async for fact in facts:
                if isinstance(decode_event(fact), InputRejected):
                    break
    await give_input(bench.runtime, "changed", "approve", {"amount": 30})
    assert await bench.result("changed", after) == "end Answer"
