"""Bugs of other engines around waits: lost wake-ups, lost and mixed up answers."""

import asyncio
import random
import time
from collections import deque
from typing import Any, cast

import msgspec
import pytest

import kitaru
from journal import Append, Appended
from kitaru import checkpoint, flow
from kitaru.domain.execution.events import InputGiven, WaitRequested
from kitaru.domain.values import StoredValue
from kitaru.engine.codec import Codec, TypeScope
from kitaru.engine.executions import fold, head_of, new_event, state_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions, waits

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@checkpoint
def step(name: str) -> str:
    ran.append(name)
    return name


@flow
def asks(timeout: float) -> list[Any]:
    step("before")
    answer = kitaru.wait(schema=int, name="number", timeout=timeout)
    return [answer, step("after")]


@flow
async def asks_async(timeout: float) -> list[Any]:
    await step.aio("before")
    answer = await kitaru.wait(schema=int, name="number", timeout=timeout)
    return [answer, await step.aio("after")]


both = pytest.mark.parametrize("body", [asks, asks_async], ids=["sync", "async"])
patience = pytest.mark.parametrize("timeout", [600.0, 0.0], ids=["held", "parked"])


async def opened(bench: Any, exec_id: str) -> None:
    """Waits until a wait is open."""
    end = time.monotonic() + bench.DEADLINE_SECONDS
    while not any(isinstance(e, WaitRequested) for e in await bench.events(exec_id)):
        assert time.monotonic() < end, "nothing is asked"
        await asyncio.sleep(0.001)


@both
@patience
async def test_an_answer_arrives_although_its_notification_was_lost(
    deaf: Any, body: Any, timeout: float
) -> None:
    handle = await body.aio.run(timeout)
    await opened(deaf, handle.exec_id)
    await waits.give_input(deaf.runtime, handle.exec_id, "number", 7)
    assert await deaf.result(handle.exec_id, body) == [7, "after"]
    assert ran == ["before", "after"]


@both
async def test_a_cancel_arrives_although_its_notification_was_lost(deaf: Any, body: Any) -> None:
    handle = await body.aio.run(600.0)
    await opened(deaf, handle.exec_id)
    await executions.cancel(deaf.runtime, handle.exec_id)
    with pytest.raises(kitaru.KitaruCancelledError):
        await deaf.result(handle.exec_id, body)


SEVEN = StoredValue(json=msgspec.Raw(Codec().encode(7, where="input", types=TypeScope.of())))


class Intruder:
    """A client whose answer comes right before, or right after, a certain append of the owner."""

    def __init__(self, journal: Any, before: bool, tag: str) -> None:
        self.inner = journal._journal
        self.before = before
        self.tag = tag
        self.came = False
        self.append = journal.append_blocking
        journal.append_blocking = self.append_blocking

    def append_blocking(self, append: Append) -> Appended:
        if self.came or all(event.type != self.tag for event in append.events):
            return cast("Appended", self.append(append))
        self.came = True
        if self.before:
            self._answer(append.stream)
            # The owner is refused now, as it does not know of the answer.
            return cast("Appended", self.append(append))
        appended = self.append(append)
        self._answer(append.stream)
        return cast("Appended", appended)

    def _answer(self, stream: str) -> None:
        recorded = self.inner._streams[stream]
        given = InputGiven(path="number", value=SEVEN)
        self.inner.append_blocking(
            Append(
                stream=stream,
                events=(new_event(given),),
                expected_version=recorded[-1].version,
                head=head_of(fold(state_of(recorded), [given])),
            )
        )


moments = pytest.mark.parametrize("moment", ["wait_requested", "execution_parked"])
sides = pytest.mark.parametrize("before", [True, False], ids=["before", "after"])


@both
@moments
@sides
async def test_no_answer_falls_between_the_question_and_the_parking(
    bench: Any, body: Any, before: bool, moment: str
) -> None:
    await answered_at(bench, body, before, moment)


@both
@moments
@sides
async def test_no_answer_that_nobody_was_told_of_falls_there_either(
    deaf: Any, body: Any, before: bool, moment: str
) -> None:
    await answered_at(deaf, body, before, moment)


async def answered_at(bench: Any, body: Any, before: bool, moment: str) -> None:
    intruder = Intruder(bench.runtime.journal, before, moment)
    handle = await body.aio.run(0.0)
    result = await bench.result(handle.exec_id, body)
    # An answer in front of the parking makes an end of it.
    assert intruder.came
    assert result == [7, "after"]
    assert ran == ["before", "after"]


# inputs that are unusual, or many


@flow
def asks_until(deadline: float) -> list[Any]:
    first = kitaru.wait(schema=int | None, name="first", deadline=deadline, default="late")
    second = kitaru.wait(schema=int | None, name="second", deadline=0.0, default="late")
    return [first, second]


@flow
async def asks_until_async(deadline: float) -> list[Any]:
    first = await kitaru.wait(schema=int | None, name="first", deadline=deadline, default="late")
    second = await kitaru.wait(schema=int | None, name="second", deadline=0.0, default="late")
    return [first, second]


@pytest.mark.parametrize("body", [asks_until, asks_until_async], ids=["sync", "async"])
async def test_an_answer_of_none_is_no_deadline_that_has_passed(bench: Any, body: Any) -> None:
    handle = await body.aio.run(3600.0)
    await opened(bench, handle.exec_id)
    await waits.give_input(bench.runtime, handle.exec_id, "first", None)
    assert await bench.result(handle.exec_id, body) == [None, "late"]
    # And from the journal again.
    history = await bench.recorded(handle.exec_id)
    await bench.crashed_after(body, history[:-1], "again")
    assert await bench.result("again", body) == [None, "late"]


@flow
async def fan_out(branches: int, timeout: float) -> list[list[Any]]:
    async def branch(number: int) -> list[Any]:
        name = await step.aio(f"branch {number}")
        first = await kitaru.wait(schema=int, name="first", timeout=timeout)
        again = await step.aio(f"{name} again")
        second = await kitaru.wait(schema=int, name="second", timeout=timeout)
        return [name, first, again, second]

    return list(await asyncio.gather(*(branch(number) for number in range(branches))))


BRANCHES = 5


@patience
async def test_inputs_at_every_point_are_given_to_the_same_waits_again(
    bench: Any, timeout: float
) -> None:
    """Whatever came when, and wherever the body was evicted: each wait has its own answer."""
    chance = random.Random(35)
    for round_ in range(10):
        ran.clear()
        handle = await fan_out.aio.run(BRANCHES, timeout)
        ids = [f"task[{n + 1}]/{name}" for n in range(BRANCHES) for name in ("first", "second")]
        values = {wait_id: chance.randrange(1_000) for wait_id in ids}
        chance.shuffle(ids)
        waiting = deque(ids)
        while waiting:
            wait_id = waiting.popleft()
            for _ in range(chance.choice([0, 0, 1, 5])):
                await asyncio.sleep(0)
            try:
                await waits.give_input(bench.runtime, handle.exec_id, wait_id, values[wait_id])
            except kitaru.KitaruStateError:
                # Others are open, and the body has not come to this one.
                waiting.append(wait_id)
                await asyncio.sleep(0.001)
        expected = [
            [
                f"branch {n}",
                values[f"task[{n + 1}]/first"],
                f"branch {n} again",
                values[f"task[{n + 1}]/second"],
            ]
            for n in range(BRANCHES)
        ]
        assert await bench.result(handle.exec_id, fan_out) == expected
        history = await bench.recorded(handle.exec_id)
        assert len(ran) == len(set(ran)) == 2 * BRANCHES
        given = {fact.version for fact in history if fact.type == "input_given"}
        for cut in range(1, len(history)):
            left = [fact for fact in history[cut:] if fact.version in given]
            exec_id = f"round {round_}, cut {cut}"
            await bench.crashed_after(fan_out, history[:cut], exec_id)
            for given_ in map(decode_event, left):
                assert isinstance(given_, InputGiven)
                await give_once_asked(bench, exec_id, given_.path, values)
            assert await bench.result(exec_id, fan_out) == expected, exec_id


async def give_once_asked(bench: Any, exec_id: str, wait_id: str, values: dict[str, int]) -> None:
    while True:
        try:
            await waits.give_input(bench.runtime, exec_id, wait_id, values[wait_id])
        except kitaru.KitaruStateError:
            await asyncio.sleep(0.001)
        else:
            return


@flow
async def works_then_asks() -> list[Any]:
    async def inner(name: str) -> str:
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(step.aio(f"{name}{n}")) for n in range(3)]
        return await step.aio("+".join(part.result() for part in parts))

    before = await asyncio.gather(inner("a"), inner("b"))
    answer = await kitaru.wait(schema=int, name="number", timeout=0.0)
    return [*before, answer]


async def test_nested_work_in_front_of_a_wait_is_not_done_again(bench: Any) -> None:
    handle = await works_then_asks.run()
    await bench.until(lambda: handle.exec_id not in bench.runtime.worker.runners)
    done = sorted(ran)
    assert done == sorted(["a0", "a1", "a2", "b0", "b1", "b2", "a0+a1+a2", "b0+b1+b2"])
    await waits.give_input(bench.runtime, handle.exec_id, "number", 1)
    result = await bench.result(handle.exec_id, works_then_asks)
    assert result == ["a0+a1+a2", "b0+b1+b2", 1]
    assert sorted(ran) == done


@both
async def test_news_for_others_do_not_keep_a_waiting_flow_in_memory(bench: Any, body: Any) -> None:
    """Whoever looks for an answer all the time, and finds none, does not wait for longer."""
    handle = await body.aio.run(0.5)
    await opened(bench, handle.exec_id)
    end = time.monotonic() + bench.DEADLINE_SECONDS
    while (runner := bench.runtime.worker.runners.get(handle.exec_id)) is not None:
        assert time.monotonic() < end, "it is never let go of"
        runner.notice()
        await asyncio.sleep(0.02)
    await waits.give_input(bench.runtime, handle.exec_id, "number", 7)
    assert await bench.result(handle.exec_id, body) == [7, "after"]
