"""Waits: whoever answers, however and whenever, the flow is given that answer once."""

import asyncio
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pydantic
import pytest

import kitaru
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.ids import LONGEST_ID

Eventually = Callable[[Callable[[], object]], None]
Restart = Callable[..., None]

done: list[str] = []


@dataclasses.dataclass
class Decision:
    approved: bool
    limit: int | None = None


class Order(msgspec.Struct):
    item: str
    count: int


class Even(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("an even number is needed")
        return number


SCHEMAS: dict[str, Any] = {
    "none": None,
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list[int],
    "dict": dict[str, int],
    "optional": int | None,
    "dataclass": Decision,
    "struct": Order,
    "pydantic": Even,
}


@checkpoint(cache=False)
def note(text: str) -> str:
    done.append(text)
    return text


@flow
def asking(kind: str, timeout: float) -> Decision | Order | Even | Any:
    note("before")
    answer = kitaru.wait(schema=SCHEMAS[kind], name="approve", question="May I?", timeout=timeout)
    note("after")
    return answer


@flow
async def asking_async(kind: str, timeout: float) -> Decision | Order | Even | Any:
    await note.aio("before")
    answer = await kitaru.wait(
        schema=SCHEMAS[kind], name="approve", question="May I?", timeout=timeout
    )
    await note.aio("after")
    return answer


both = pytest.mark.parametrize("body", [asking, asking_async.sync], ids=["sync", "async"])
patience = pytest.mark.parametrize("timeout", [600.0, 0.0], ids=["held", "parked"])


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


def executions() -> Any:
    return kitaru.KitaruClient().executions


def waiting(handle: Any) -> Any:
    """The open waits, once there are any and, for a parked execution, once nobody holds it."""
    return executions().get(handle.exec_id).pending_waits


def is_parked(handle: Any) -> bool:
    execution = executions().get(handle.exec_id)
    return (
        execution.status is ExecutionStatus.WAITING
        and execution.owner is None
        and handle.exec_id not in current_runtime().worker.runners
    )


@both
@patience
@pytest.mark.parametrize(
    ("kind", "answer", "given"),
    [
        ("none", None, None),
        ("str", "yes", "yes"),
        ("str", "", ""),
        ("int", 3, 3),
        ("float", 1, 1.0),
        ("bool", False, False),
        ("list", [1, 2], [1, 2]),
        ("dict", {"a": 1}, {"a": 1}),
        ("optional", None, None),
        ("optional", 2**40, 2**40),
        ("dataclass", {"approved": True}, Decision(True)),
        ("dataclass", Decision(False, 3), Decision(False, 3)),
        ("struct", {"item": "x", "count": 2}, Order("x", 2)),
        ("struct", Order("y", 3), Order("y", 3)),
        ("pydantic", {"number": 4}, Even(number=4)),
        ("pydantic", Even(number=6), Even(number=6)),
    ],
)
def test_the_answer_is_given_as_the_schema_says(
    body: Any, timeout: float, kind: str, answer: Any, given: Any, eventually: Eventually
) -> None:
    handle = body.run(kind, timeout)
    eventually(lambda: waiting(handle) if timeout else is_parked(handle))
    assert handle.status is ExecutionStatus.WAITING
    (wait,) = waiting(handle)
    assert (wait.wait_id, wait.name, wait.question) == ("approve#1", "approve", "May I?")
    executions().input(handle.exec_id, wait="approve", value=answer)
    result = handle.wait(timeout=30)
    assert result == given
    assert type(result) is type(given)
    assert done == ["before", "after"]


@both
@patience
@pytest.mark.parametrize(
    ("kind", "answer", "named"),
    [
        ("none", "yes", "schema"),
        ("int", "three", "approve"),
        ("bool", 1, "approve"),
        ("dataclass", {"approved": "maybe"}, "approve.approved"),
        ("dataclass", {}, "approved"),
        ("struct", {"item": "x", "count": None}, "approve.count"),
        ("list", [1, "x"], r"approve\[1\]"),
        ("str", b"\xff" * 3 and object(), "approve"),
    ],
)
def test_an_answer_that_does_not_fit_leaves_it_waiting(
    body: Any, timeout: float, kind: str, answer: Any, named: str, eventually: Eventually
) -> None:
    handle = body.run(kind, timeout)
    eventually(lambda: waiting(handle) if timeout else is_parked(handle))
    before = executions().get(handle.exec_id).version
    with pytest.raises(kitaru.KitaruWaitValidationError, match=named):
        executions().input(handle.exec_id, wait="approve", value=answer)
    execution = executions().get(handle.exec_id)
    assert (execution.status, execution.version) == (ExecutionStatus.WAITING, before)


@both
@patience
def test_what_only_the_flows_own_code_can_refuse_is_told_at_the_wait(
    body: Any, timeout: float, eventually: Eventually
) -> None:
    handle = body.run("pydantic", timeout)
    eventually(lambda: waiting(handle) if timeout else is_parked(handle))
    executions().input(handle.exec_id, wait="approve", value={"number": 3})
    eventually(lambda: waiting(handle) and waiting(handle)[0].rejected)
    assert "an even number is needed" in waiting(handle)[0].rejected
    assert handle.status is ExecutionStatus.WAITING
    executions().input(handle.exec_id, wait="approve", value={"number": 8})
    assert handle.wait(timeout=30) == Even(number=8)
    assert done == ["before", "after"]


@flow
def asking_often(count: int, timeout: float) -> list[Any]:
    return [kitaru.wait(schema=int, name="next", timeout=timeout) for _ in range(count)]


@flow
async def asking_often_async(count: int, timeout: float) -> list[Any]:
    return [await kitaru.wait(schema=int, name="next", timeout=timeout) for _ in range(count)]


@pytest.mark.parametrize("body", [asking_often, asking_often_async.sync], ids=["sync", "async"])
@patience
def test_the_same_name_in_a_loop_gets_an_answer_each_time(
    body: Any, timeout: float, eventually: Eventually
) -> None:
    handle = body.run(3, timeout)
    for number in range(3):
        eventually(lambda: waiting(handle))
        executions().input(handle.exec_id, wait="next", value=number)
        eventually(lambda: not waiting(handle) or waiting(handle)[0].wait_id != "next#1")
        if number == 0:
            eventually(lambda: waiting(handle))
            assert waiting(handle)[0].wait_id == "next#2"
    assert handle.wait(timeout=30) == [0, 1, 2]


@flow
async def asking_together(timeout: float) -> list[Any]:
    async def branch(number: int) -> Any:
        await note.aio(f"branch {number}")
        return await kitaru.wait(schema=str, name="which", timeout=timeout)

    return list(await asyncio.gather(*(branch(number) for number in range(3))))


@patience
def test_branches_wait_together_and_are_answered_in_any_order(
    timeout: float, eventually: Eventually
) -> None:
    handle = asking_together.sync.run(timeout)
    eventually(lambda: len(waiting(handle)) == 3)
    ids = [wait.wait_id for wait in waiting(handle)]
    assert sorted(ids) == ["task[1]/which#1", "task[2]/which#1", "task[3]/which#1"]
    with pytest.raises(kitaru.KitaruStateError, match=r"task\[1\]/which"):
        executions().input(handle.exec_id, wait="which", value="?")
    with pytest.raises(kitaru.KitaruStateError, match=r"task\[3\]/which"):
        executions().input(handle.exec_id, wait="what", value="?")
    for place in (3, 1, 2):
        executions().input(handle.exec_id, wait=f"task[{place}]/which#1", value=f"answer {place}")
    assert handle.wait(timeout=30) == ["answer 1", "answer 2", "answer 3"]
    assert sorted(done) == ["branch 0", "branch 1", "branch 2"]


@both
@patience
def test_the_first_answer_counts(body: Any, timeout: float, eventually: Eventually) -> None:
    handle = body.run("int", timeout)
    eventually(lambda: waiting(handle))
    executions().input(handle.exec_id, wait="approve", value=1)
    assert handle.wait(timeout=30) == 1
    # Whoever has not heard that it was accepted says it again, also after the end.
    version = executions().get(handle.exec_id).version
    for wait in ("approve", "approve#1"):
        executions().input(handle.exec_id, wait=wait, value=1)
        with pytest.raises(kitaru.KitaruStateError, match=r"another value.* is completed"):
            executions().input(handle.exec_id, wait=wait, value=2)
    with pytest.raises(kitaru.KitaruStateError, match="already completed"):
        executions().input(handle.exec_id, wait="approve#2", value=1)
    assert executions().get(handle.exec_id).version == version


@patience
def test_a_wait_with_the_longest_name_is_answered_by_its_id(
    timeout: float, eventually: Eventually
) -> None:
    name = "n" * LONGEST_ID

    @flow
    async def asks() -> Any:
        async def branch() -> Any:
            return await kitaru.wait(schema=int, name=name, timeout=timeout)

        return await asyncio.gather(branch(), branch())

    handle = asks.sync.run()
    eventually(lambda: len(waiting(handle)) == 2)
    for number, wait in enumerate(waiting(handle)):
        assert len(wait.wait_id) > LONGEST_ID
        executions().input(handle.exec_id, wait=wait.wait_id, value=number)
    assert handle.wait(timeout=30) == [0, 1]


held = threading.Event()


@checkpoint(cache=False)
def hold() -> None:
    held.wait(30)


@flow
def asking_late() -> Any:
    hold()
    first = kitaru.wait(schema=int, name="approve", timeout=0)
    hold()
    return first


def test_an_early_answer_is_kept_and_counts(eventually: Eventually) -> None:
    held.clear()
    handle = asking_late.run()
    executions().input(handle.exec_id, wait="approve", value=5)
    executions().input(handle.exec_id, wait="approve", value=5)
    with pytest.raises(kitaru.KitaruStateError, match="answered already"):
        executions().input(handle.exec_id, wait="approve", value=6)
    held.set()
    assert handle.wait(timeout=30) == 5


def test_an_early_answer_that_does_not_fit_is_told_at_the_wait(eventually: Eventually) -> None:
    held.clear()
    handle = asking_late.run()
    executions().input(handle.exec_id, wait="approve", value="five")
    held.set()
    eventually(lambda: waiting(handle) and waiting(handle)[0].rejected)
    executions().input(handle.exec_id, wait="approve", value=5)
    assert handle.wait(timeout=30) == 5


@both
def test_an_answer_that_comes_while_nobody_runs_is_there_afterwards(
    body: Any, eventually: Eventually, restart: Restart
) -> None:
    handle = body.run("int", 600.0)
    exec_id = handle.exec_id
    eventually(lambda: waiting(handle))
    restart()
    executions().input(exec_id, wait="approve", value=7)
    assert executions().get(exec_id).status is ExecutionStatus.RUNNING
    restart(body)
    assert executions().handle(exec_id).wait(timeout=30) == 7
    assert done == ["before", "after"]


@both
def test_another_process_answers_what_is_parked_here(
    body: Any, eventually: Eventually, own_journal: str
) -> None:
    handle = body.run("int", 0.0)
    eventually(lambda: is_parked(handle))
    program = (
        "import kitaru\n"
        f"kitaru.configure(journal={own_journal!r})\n"
        f"kitaru.KitaruClient().executions.input({handle.exec_id!r}, wait='approve', value=9)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert handle.wait(timeout=30) == 9
    assert done == ["before", "after"]


@flow
def guarded(timeout: float) -> str:
    try:
        return str(kitaru.wait(schema=str, name="approve", timeout=timeout))
    except kitaru.KitaruWaitAborted as error:
        return note(str(error))


@flow
async def guarded_async(timeout: float) -> str:
    try:
        return str(await kitaru.wait(schema=str, name="approve", timeout=timeout))
    except kitaru.KitaruWaitAborted as error:
        return await note.aio(str(error))


@pytest.mark.parametrize("body", [guarded, guarded_async.sync], ids=["sync", "async"])
@patience
def test_an_aborted_wait_is_an_error_that_the_body_may_catch(
    body: Any, timeout: float, eventually: Eventually
) -> None:
    handle = body.run(timeout)
    eventually(lambda: waiting(handle) if timeout else is_parked(handle))
    executions().abort_wait(handle.exec_id, wait="approve", reason="not today")
    assert "not today" in handle.wait(timeout=30)
    with pytest.raises(kitaru.KitaruStateError):
        executions().abort_wait(handle.exec_id, wait="approve")


def test_an_aborted_wait_that_nobody_catches_fails_the_flow(eventually: Eventually) -> None:
    handle = asking.run("int", 600.0)
    eventually(lambda: waiting(handle))
    with pytest.raises(kitaru.KitaruStateError, match="it waits for: approve"):
        executions().abort_wait(handle.exec_id, wait="other")
    executions().abort_wait(handle.exec_id, wait="approve")
    with pytest.raises(kitaru.KitaruUserCodeError, match="approve"):
        handle.wait(timeout=30)


@flow
def limited(deadline: float, with_default: bool, timeout: float) -> Any:
    if with_default:
        return kitaru.wait(schema=str, deadline=deadline, default="nobody", timeout=timeout)
    try:
        return kitaru.wait(schema=str, deadline=deadline, timeout=timeout)
    except kitaru.KitaruWaitExpired as error:
        return str(error)


@flow
async def limited_async(deadline: float, with_default: bool, timeout: float) -> Any:
    if with_default:
        return await kitaru.wait(
            schema=str, deadline=timedelta(seconds=deadline), default="nobody", timeout=timeout
        )
    try:
        until = kitaru.now() + timedelta(seconds=deadline)
        return await kitaru.wait(schema=str, deadline=until, timeout=timeout)
    except kitaru.KitaruWaitExpired as error:
        return str(error)


@pytest.mark.parametrize("body", [limited, limited_async.sync], ids=["sync", "async"])
@pytest.mark.parametrize("with_default", [True, False])
@pytest.mark.parametrize("deadline", [0.0, 0.05])
def test_a_deadline_ends_the_wait(body: Any, with_default: bool, deadline: float) -> None:
    result = body.run(deadline, with_default, 600.0).wait(timeout=30)
    assert result == "nobody" if with_default else "by its deadline" in result


@pytest.mark.parametrize("body", [limited, limited_async.sync], ids=["sync", "async"])
def test_a_deadline_that_passes_while_nobody_runs_holds_at_once(
    body: Any, eventually: Eventually, restart: Restart
) -> None:
    handle = body.run(0.3, True, 600.0)
    exec_id = handle.exec_id
    eventually(lambda: waiting(handle))
    restart()
    eventually(lambda: datetime.now(UTC) > waiting(handle)[0].deadline_at)
    restart(body)
    assert executions().handle(exec_id).wait(timeout=30) == "nobody"


@flow
def tidying(timeout: float) -> None:
    try:
        kitaru.wait(name="approve", timeout=timeout)
    finally:
        note("tidied")


@flow
async def tidying_async(timeout: float) -> None:
    try:
        await kitaru.wait(name="approve", timeout=timeout)
    finally:
        await note.aio("tidied")


@pytest.mark.parametrize("body", [tidying, tidying_async.sync], ids=["sync", "async"])
@patience
def test_cancelling_what_waits_runs_its_handlers_once(
    body: Any, timeout: float, eventually: Eventually
) -> None:
    handle = body.run(timeout)
    eventually(lambda: waiting(handle) if timeout else is_parked(handle))
    assert done == []
    executions().cancel(handle.exec_id, "enough")
    with pytest.raises(kitaru.KitaruCancelledError, match="enough"):
        handle.wait(timeout=30)
    assert done == ["tidied"]
    assert waiting(handle) == ()


@pytest.mark.parametrize("body", [tidying, tidying_async.sync], ids=["sync", "async"])
def test_parking_runs_no_handlers(body: Any, eventually: Eventually) -> None:
    handle = body.run(0.0)
    eventually(lambda: is_parked(handle))
    assert done == []
    executions().input(handle.exec_id, wait="approve", value=None)
    handle.wait(timeout=30)
    assert done == ["tidied"]


version = {"now": "old"}


@flow
def changing() -> Any:
    if version["now"] == "new":
        note("inserted")
    return kitaru.wait(schema=int, name="approve", timeout=0)


@flow
async def changing_async() -> Any:
    if version["now"] == "new":
        await note.aio("inserted")
    return await kitaru.wait(schema=int, name="approve", timeout=0)


@pytest.mark.parametrize("body", [changing, changing_async.sync], ids=["sync", "async"])
def test_code_that_changes_in_front_of_an_open_wait_diverges(
    body: Any, eventually: Eventually
) -> None:
    version["now"] = "old"
    handle = body.run()
    eventually(lambda: is_parked(handle))
    version["now"] = "new"
    executions().resume(handle.exec_id)
    with pytest.raises(kitaru.KitaruDivergenceError, match="approve"):
        handle.wait(timeout=30)
    assert done == []
    version["now"] = "old"
    executions().input(handle.exec_id, wait="approve", value=3)
    executions().resume(handle.exec_id)
    assert handle.wait(timeout=30) == 3


def test_a_wait_needs_a_flow() -> None:
    with pytest.raises(kitaru.KitaruContextError, match="inside a @flow"):
        kitaru.wait()

    @checkpoint
    def inner() -> None:
        kitaru.wait()

    @flow
    def outer() -> None:
        inner()

    with pytest.raises(kitaru.KitaruUserCodeError, match="cannot run inside a @checkpoint"):
        outer.run().wait(timeout=30)


@pytest.mark.parametrize(
    "terms",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "approve#1"},
        {"name": "#"},
        {"question": 3},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "1"},
        {"timeout": True},
        {"metadata": []},
        {"deadline": float("inf")},
        {"deadline": float("nan")},
        {"deadline": -1},
        {"deadline": 1e308},
        {"deadline": datetime(2026, 1, 1)},
        {"default": 3},
    ],
    ids=str,
)
def test_terms_that_make_no_sense_are_refused_at_the_wait(terms: dict[str, Any]) -> None:
    @flow
    def asks() -> None:
        kitaru.wait(**terms)

    with pytest.raises(kitaru.KitaruUserCodeError) as caught:
        asks.run().wait(timeout=30)
    assert isinstance(caught.value.__cause__, kitaru.KitaruUsageError)
    assert waiting(asks.run()) == ()


def test_an_unserialisable_metadata_is_refused_at_the_wait() -> None:
    @flow
    def asks() -> None:
        kitaru.wait(metadata={"client": object()})

    with pytest.raises(kitaru.KitaruUserCodeError, match=r"metadata\.client"):
        asks.run().wait(timeout=30)


@patience
def test_a_wait_that_the_body_gives_up_is_no_longer_open(
    timeout: float, eventually: Eventually
) -> None:
    @flow
    async def gives_up() -> str:
        try:
            async with asyncio.timeout(0.05):
                await kitaru.wait(name="approve", timeout=timeout)
        except TimeoutError:
            await note.aio("gave up")
        await kitaru.wait(name="second", timeout=timeout)
        return "done"

    handle = gives_up.sync.run()
    eventually(lambda: [wait.name for wait in waiting(handle)] == ["second"])
    with pytest.raises(kitaru.KitaruStateError, match="second"):
        executions().input(handle.exec_id, wait="approve", value=None)
    executions().input(handle.exec_id, wait="second", value=None)
    assert handle.wait(timeout=30) == "done"
    assert done == ["gave up"]


def test_the_wrong_colour_is_named() -> None:
    @flow
    def sync_flow() -> Any:
        return kitaru.wait.aio()

    @flow
    async def async_flow() -> Any:
        return kitaru.wait.sync()

    handles: list[Any] = [sync_flow.run(), async_flow.sync.run()]
    for started in handles:
        with pytest.raises(kitaru.KitaruUserCodeError, match=r"kitaru\.wait"):
            started.wait(timeout=30)


def test_metadata_and_deadline_are_shown(eventually: Eventually) -> None:
    @flow
    def asks() -> None:
        kitaru.wait(name="approve", metadata={"amount": 3}, deadline=3600, timeout=600)

    handle = asks.run()
    eventually(lambda: waiting(handle))
    (wait,) = waiting(handle)
    assert wait.metadata == {"amount": 3}
    assert wait.deadline_at - wait.entered_waiting_at > timedelta(seconds=3599)
    line = asks.definition.function.__code__.co_firstlineno + 2
    assert wait.site.endswith(f"test_wait.py:{line}")
    executions().cancel(handle.exec_id)


@both
@patience
def test_what_waits_for_people_alone_goes_on_at_no_time(
    body: Any, timeout: float, eventually: Eventually
) -> None:
    handle = body.run("bool", timeout)
    eventually(lambda: waiting(handle) if timeout else is_parked(handle))
    execution = executions().get(handle.exec_id)
    assert execution.status is ExecutionStatus.WAITING
    assert execution.due_at is None
    assert all(each.due_at is None for each in executions().list())
    executions().input(handle.exec_id, wait="approve", value=True)
    assert handle.wait() is True
