"""Flows: what can be decorated, how they are started, and what comes back."""

import asyncio
import dataclasses
import functools
import importlib.util
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import ExecutionStatus, checkpoint, flow


@checkpoint
def double(number: int) -> int:
    return number * 2


@checkpoint
def echo(value: Any) -> Any:
    return value


@flow
def bare(number: int) -> int:
    """Doubles a number."""
    return double(number)


@flow()
def with_parentheses(number: int) -> int:
    return double(number)


@flow(retries=1, cache=False)
def with_retries(number: int) -> int:
    return double(number)


@flow
async def bare_async(number: int) -> int:
    return await double.aio(number)


@flow(retries=1)
async def async_with_retries(number: int) -> int:
    return await double.aio(number)


def options_of(handle: kitaru.FlowHandle[Any]) -> tuple[int, bool | None]:
    handle.wait()
    options = kitaru.KitaruClient().executions.get(handle.exec_id).options
    assert options is not None
    return options.retries, options.cache


# decorating


@pytest.mark.parametrize("decorated", [bare, with_parentheses, with_retries])
def test_a_sync_flow_runs_however_it_was_decorated(decorated: kitaru.Flow[[int], int]) -> None:
    assert isinstance(decorated, kitaru.Flow)
    assert decorated.run(21).wait() == 42


@pytest.mark.parametrize("decorated", [bare_async, async_with_retries])
async def test_an_async_flow_runs_however_it_was_decorated(
    decorated: kitaru.AsyncFlow[[int], int],
) -> None:
    assert isinstance(decorated, kitaru.AsyncFlow)
    assert await decorated.run(21).wait() == 42


def test_a_flow_looks_like_its_function() -> None:
    looks: Any = bare
    assert (bare.name, looks.__name__, bare.__doc__) == ("bare", "bare", "Doubles a number.")
    assert looks.__module__ == __name__
    assert looks.__wrapped__ is bare.definition.function
    assert (repr(bare), repr(bare_async)) == ("Flow('bare')", "AsyncFlow('bare_async')")
    assert (repr(double), repr(double.aio)) == ("Checkpoint('double')", "AsyncCheckpoint('double')")


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class SomeClass:
    def __call__(self) -> None: ...


@pytest.mark.parametrize("decorator", [flow, flow(retries=1), checkpoint, checkpoint(retries=1)])
@pytest.mark.parametrize(
    "wrong",
    [
        generator,
        async_generator,
        SomeClass,
        SomeClass(),
        functools.partial(print),
        3,
        "text",
        print,
    ],
    ids=lambda wrong: str(wrong)[:20],
)
def test_what_cannot_be_recorded_is_refused_at_decoration(decorator: Any, wrong: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="needs a function|generator"):  # noqa: RUF043
        decorator(wrong)


def test_a_staticmethod_is_a_flow() -> None:
    class Agents:
        @staticmethod
        @flow
        def answer(number: int) -> int:
            return double(number)

    assert Agents.answer.run(4).wait() == 8


def test_a_method_that_lacks_its_object_says_which_argument_is_missing() -> None:
    class Agents:
        @flow
        def answer(self, number: int) -> int:
            return number

    with pytest.raises(kitaru.KitaruUsageError, match=r"answer\(self.*missing.*'number'"):
        Agents().answer.run(4)  # type: ignore[arg-type, call-arg]


def test_a_lambda_is_a_flow() -> None:
    nameless: kitaru.Flow[[int], int] = flow(lambda number: double(number))
    assert nameless.run(3).wait() == 6


@pytest.mark.parametrize("name", ["stack", "image", "cache", "retries", "idempotency_key"])
def test_a_parameter_with_the_name_of_an_option_is_refused_at_decoration(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def taken(url, {name}=None): ...", namespace)
    with pytest.raises(kitaru.KitaruUsageError, match=f"{name}.*rename"):
        flow(namespace["taken"])


@pytest.mark.parametrize("name", ["id", "after"])
def test_a_checkpoint_parameter_with_the_name_of_an_option_is_refused(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def taken(url, {name}=None): ...", namespace)
    with pytest.raises(kitaru.KitaruUsageError, match=f"{name}.*rename"):
        checkpoint(namespace["taken"])


BAD_RETRIES = [-1, 1.0, 1.5, True, False, "2", float("nan"), [1], -(10**30)]


@pytest.mark.parametrize("retries", BAD_RETRIES)
def test_retries_that_are_no_whole_number_from_zero_are_refused_everywhere(retries: Any) -> None:
    run: Any = bare.run
    for refused in (
        lambda: flow(retries=retries),
        lambda: checkpoint(retries=retries),
        lambda: bare.with_options(retries=retries),
        lambda: run(1, retries=retries),
        lambda: kitaru.configure(retries=retries),
    ):
        with pytest.raises(kitaru.KitaruUsageError, match="retries"):
            refused()
    assert kitaru.KitaruClient().executions.list() == []


@pytest.mark.parametrize("cache", [1, "yes", 0.0])
def test_a_cache_that_is_no_truth_value_is_refused_everywhere(cache: Any) -> None:
    run: Any = bare.run
    for refused in (
        lambda: flow(cache=cache),
        lambda: checkpoint(cache=cache),
        lambda: bare.with_options(cache=cache),
        lambda: run(1, cache=cache),
    ):
        with pytest.raises(kitaru.KitaruUsageError, match="cache"):
            refused()


@pytest.mark.parametrize("decorated", [bare, with_retries, bare_async, bare.aio, bare_async.sync])
def test_a_direct_call_is_refused_and_names_run(decorated: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match=r"\.run\(") as caught:
        decorated(1)
    assert decorated.name in str(caught.value)


@pytest.mark.parametrize("option", ["stack", "image"])
def test_a_run_that_cannot_be_placed_starts_nothing(option: str) -> None:
    run: Any = bare.run
    with pytest.raises(kitaru.KitaruUsageError, match=option):
        run(1, **{option: "production"})
    assert kitaru.KitaruClient().executions.list() == []


# arguments


@flow
def everything(
    first: int, /, second: int, *rest: int, third: int = 3, fourth: int = 4, **others: int
) -> list[Any]:
    return [first, second, list(rest), third, fourth, others]


@flow
async def everything_async(
    first: int, /, second: int, *rest: int, third: int = 3, fourth: int = 4, **others: int
) -> list[Any]:
    return [first, second, list(rest), third, fourth, others]


ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1, 2), {}),
    ((1,), {"second": 2}),
    ((1, 2, 3, 4), {}),
    ((1, 2), {"fourth": 9}),
    ((1, 2, 3), {"third": 7, "zulu": 1, "alpha": 2}),
    ((1,), {"second": 2, "first_": 5}),
]


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
def test_arguments_arrive_as_in_an_ordinary_call(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    expected = everything.definition.function(*args, **kwargs)
    assert everything.run(*args, **kwargs).wait() == expected
    assert everything_async.sync.run(*args, **kwargs).wait() == expected


@flow
def two(url: str, count: int = 1, *, flag: bool = False) -> list[Any]:
    return [url, count, flag]


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((), {}, "url"),
        (("a", 1, 2), {}, "too many"),
        (("a",), {"url": "b"}, "url"),
        (("a",), {"colour": "red"}, "colour"),
        (("a", 1, True), {}, "too many"),
        ((), {"count": 3}, "url"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], named: str
) -> None:
    run: Any = two.run
    with pytest.raises(kitaru.KitaruUsageError, match=named) as caught:
        run(*args, **kwargs)
    assert str(caught.value).startswith("two(")
    assert kitaru.KitaruClient().executions.list() == []


@flow
def positional_only(first: int, /, **others: int) -> list[Any]:
    return [first, others]


def test_a_keyword_may_have_the_name_of_a_positional_only_parameter() -> None:
    assert positional_only.run(1, first=2).wait() == [1, {"first": 2}]


def test_a_positional_only_parameter_is_not_filled_by_its_name() -> None:
    run: Any = positional_only.run
    with pytest.raises(kitaru.KitaruUsageError, match="first"):
        run(first=2)


def test_any_text_may_be_a_keyword_of_a_flow_that_takes_them() -> None:
    handle = positional_only.run(1, **{"*": 2, "a b": 3})
    assert handle.wait(timeout=5) == [1, {"*": 2, "a b": 3}]


def test_a_parameter_may_be_called_self() -> None:
    @flow
    def selfish(self: int) -> int:
        return self

    run: Any = selfish.run
    assert run(self=5).wait() == 5


def test_a_large_argument_and_a_large_result_come_through_whole() -> None:
    @flow
    def large(value: list[int]) -> list[int]:
        return list(reversed(echo(value)))

    value = list(range(300_000))
    assert large.run(value).wait() == value[::-1]


@pytest.mark.parametrize("result", [None, False, 0, "", [], {}, b"\0\xff", 2**200, (1, (2,))])
def test_every_kind_of_result_comes_back_as_it_was(result: Any, restart: Any) -> None:
    @flow
    def returning() -> Any:
        return result

    handle = returning.run()
    assert handle.wait() == result
    assert type(handle.wait()) is type(result)
    restart()
    again = kitaru.KitaruClient().executions.handle(handle.exec_id).wait()
    assert (again, type(again)) == (result, type(result))


@dataclasses.dataclass
class Page:
    title: str
    size: int


def test_a_class_that_the_annotation_names_comes_back_as_itself() -> None:
    @flow
    def paged(page: Page) -> Page:
        assert isinstance(page, Page)
        return Page(page.title.upper(), page.size + 1)

    assert paged.run(Page("a", 1)).wait() == Page("A", 2)


def test_a_flow_has_its_own_copy_of_its_arguments() -> None:
    @flow
    def mutating(items: list[int]) -> list[int]:
        items.append(99)
        return items

    mine = [1]
    assert mutating.run(mine).wait() == [1, 99]
    assert mine == [1]


def test_an_argument_that_cannot_be_kept_is_refused_with_its_place() -> None:
    @flow
    def taking(settings: Any) -> None: ...

    with pytest.raises(kitaru.KitaruSerializationError) as caught:
        taking.run({"clients": [1, threading.Lock()]})
    assert "settings" in caught.value.path
    assert "clients" in caught.value.path
    assert "[1]" in caught.value.path
    assert "lock" in str(caught.value)
    assert kitaru.KitaruClient().executions.list() == []


def test_a_result_that_cannot_be_kept_fails_the_execution_without_another_try() -> None:
    passes: list[int] = []

    @flow(retries=3)
    def returning() -> Any:
        passes.append(1)
        return {"items": [threading.Lock()]}

    with pytest.raises(kitaru.KitaruExecutionError, match=r"items.*lock") as caught:
        returning.run().wait()
    assert isinstance(caught.value.__cause__, kitaru.KitaruSerializationError)
    assert "items" in caught.value.__cause__.path
    assert len(passes) == 1


def test_a_future_as_the_result_is_refused_and_the_fix_is_named() -> None:
    @flow
    def returning() -> Any:
        return double.submit(1)

    with pytest.raises(kitaru.KitaruExecutionError, match=r"result.*CheckpointFuture"):
        returning.run().wait()


async def test_a_task_as_the_result_is_refused() -> None:
    @flow
    async def returning() -> Any:
        return double.aio.submit(1)

    with pytest.raises(kitaru.KitaruExecutionError, match="result"):
        await returning.run().wait()


# where flows may be started


def test_a_flow_can_be_nested_in_a_function() -> None:
    factor = 5

    @flow
    def nested(number: int) -> int:
        return double(number) * factor

    assert nested.run(2).wait() == 20


def test_a_flow_may_be_started_inside_a_checkpoint() -> None:
    @checkpoint
    def delegate(number: int) -> int:
        return bare.run(number).wait() + 1

    @flow
    def outer(number: int) -> int:
        return delegate(number)

    assert outer.run(3).wait() == 7


async def test_an_async_flow_may_be_started_inside_an_async_checkpoint() -> None:
    @checkpoint
    async def delegate(number: int) -> int:
        return await bare_async.run(number).wait() + await bare.aio.run(number).wait()

    @flow
    async def outer(number: int) -> int:
        return await delegate(number)

    assert await outer.run(3).wait() == 12


def test_a_flow_is_not_started_from_a_flows_body() -> None:
    @flow
    def outer() -> None:
        bare.run(1)

    with pytest.raises(kitaru.KitaruExecutionError, match=r"inside a @checkpoint") as caught:
        outer.run().wait()
    assert isinstance(caught.value.__cause__, kitaru.KitaruContextError)
    assert [each.flow_name for each in kitaru.KitaruClient().executions.list()] == ["outer"]


async def test_an_async_flow_is_not_started_from_a_flows_body() -> None:
    @flow
    async def outer() -> None:
        await bare_async.run(1)

    with pytest.raises(kitaru.KitaruExecutionError, match=r"inside a @checkpoint"):
        await outer.run().wait()


def test_two_files_may_each_have_a_flow_of_one_name(tmp_path: Path, restart: Any) -> None:
    program = (
        "from kitaru import checkpoint, flow\n"
        "@checkpoint\ndef work(gate: int) -> str:\n    return {name!r}\n"
        "@flow\ndef same(number: int) -> str:\n    return work(number)\n"
    )
    flows = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.py"
        file.write_text(program.format(name=name))
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        flows.append(module.same)
    assert [each.run(1).wait() for each in flows] == ["one", "two"]
    assert [each.run(2).wait() for each in reversed(flows)] == ["two", "one"]
    assert len(kitaru.KitaruClient().executions.list(flow="same")) == 4


# options


def test_a_run_overrides_the_decorator_and_the_decorator_the_configuration() -> None:
    run: Any = with_retries.run
    kitaru.configure(retries=7, cache=True)
    assert options_of(run(1, retries=3, cache=True)) == (3, True)
    assert options_of(with_retries.run(1)) == (1, False)
    assert options_of(bare.run(1)) == (7, True)
    assert options_of(run(1, retries=0)) == (0, False)


def test_an_option_of_none_is_one_that_was_not_given() -> None:
    run: Any = with_retries.run
    assert options_of(run(1, retries=None, cache=None, idempotency_key=None)) == (1, False)


def test_with_options_leaves_the_original_alone() -> None:
    changed = with_retries.with_options(retries=5)
    assert options_of(changed.run(1)) == (5, False)
    assert options_of(changed.with_options(cache=True).run(1)) == (5, True)
    assert options_of(with_retries.run(1)) == (1, False)
    assert with_retries.with_options(retries=0).run(2).wait() == 4


async def test_views_cross_between_colours() -> None:
    assert await bare.aio.run(2).wait() == 4
    assert bare.sync is bare
    assert bare_async.aio is bare_async
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, lambda: bare_async.sync.run(2).wait()) == 4
    assert (await bare_async.with_options(retries=2).run(1)).exec_id
    assert await bare.aio.with_options(retries=2).run(1).wait() == 2


# retries


def test_a_flows_retries_keep_what_completed_and_try_the_failed_call_again() -> None:
    ran: list[str] = []

    @checkpoint
    def good(name: str) -> str:
        ran.append(name)
        return name

    @checkpoint
    def flaky() -> str:
        ran.append("flaky")
        if ran.count("flaky") < 3:
            raise ConnectionError("not yet")
        return "fine"

    @flow(retries=2)
    def retried() -> list[str]:
        ran.append("pass")
        return [good("a"), flaky(), good("b")]

    handle = retried.run()
    assert handle.wait() == ["a", "fine", "b"]
    assert ran == ["pass", "a", "flaky", "pass", "flaky", "pass", "flaky", "b"]
    execution = kitaru.KitaruClient().executions.get(handle.exec_id)
    assert execution.attempt == 3
    calls = {call.call_id: call for call in execution.checkpoints}
    assert sorted(calls) == ["flaky", "good", "good#2"]
    assert [attempt.status for attempt in calls["flaky"].attempts] == [
        ExecutionStatus.FAILED,
        ExecutionStatus.FAILED,
        ExecutionStatus.COMPLETED,
    ]
    assert [attempt.number for attempt in calls["flaky"].attempts] == [1, 2, 3]
    assert len(calls["good"].attempts) == 1


async def test_an_async_flows_retries_keep_what_completed() -> None:
    ran: list[str] = []

    @checkpoint
    async def good(name: str) -> str:
        ran.append(name)
        return name

    @flow(retries=1)
    async def retried() -> list[str]:
        names = await asyncio.gather(*[good(name) for name in "abc"])
        ran.append("pass")
        if ran.count("pass") == 1:
            raise RuntimeError("the body itself fails")
        return names

    assert await retried.run().wait() == ["a", "b", "c"]
    assert sorted(ran) == ["a", "b", "c", "pass", "pass"]


def test_when_the_retries_are_used_up_the_last_error_is_told() -> None:
    passes: list[int] = []

    @flow(retries=2)
    def failing() -> None:
        passes.append(1)
        raise ValueError(f"failure {len(passes)}")

    with pytest.raises(kitaru.KitaruUserCodeError) as caught:
        failing.run().wait()
    assert str(caught.value) == "failure 3"
    assert len(passes) == 3


def test_the_options_of_a_running_execution_are_frozen(gate: threading.Event) -> None:
    passes: list[int] = []

    @checkpoint
    def hold() -> None:
        gate.wait()

    @flow(retries=1)
    def failing() -> None:
        hold()
        passes.append(1)
        raise ValueError

    handle = failing.run()
    kitaru.configure(retries=9)
    gate.set()
    with pytest.raises(kitaru.KitaruUserCodeError):
        handle.wait()
    assert len(passes) == 2


# idempotency keys


def test_the_same_key_and_input_is_the_same_execution() -> None:
    ran: list[int] = []

    @flow
    def counted(number: int) -> int:
        ran.append(number)
        return double(number)

    keyed = counted.with_options(idempotency_key="order 7")
    first, second = keyed.run(1), keyed.run(number=1)
    assert first.exec_id == second.exec_id
    assert first.wait() == second.wait() == 2
    assert keyed.run(1).wait() == 2
    assert ran == [1]


def test_the_same_key_with_other_input_is_a_clear_conflict() -> None:
    keyed = bare.with_options(idempotency_key="order 7")
    first = keyed.run(1)
    assert first.wait() == 2
    with pytest.raises(kitaru.KitaruStateError, match=r"'order 7'.*other arguments") as caught:
        keyed.run(2)
    assert first.exec_id in str(caught.value)


async def test_the_conflict_of_an_async_flow_is_told_by_its_handle() -> None:
    keyed = bare_async.with_options(idempotency_key="order 7")
    assert await keyed.run(1).wait() == 2
    handle = keyed.run(2)
    with pytest.raises(kitaru.KitaruStateError, match="other arguments"):
        await handle
    with pytest.raises(kitaru.KitaruStateError, match="other arguments"):
        await keyed.run(2).wait()
    with pytest.raises(kitaru.KitaruStateError, match="other arguments"):
        await keyed.run(2).get()


def test_the_same_key_of_another_flow_is_another_execution() -> None:
    first = bare.with_options(idempotency_key="k").run(1)
    second = with_retries.with_options(idempotency_key="k").run(1)
    assert first.exec_id != second.exec_id


@pytest.mark.parametrize(
    "key", ["", " ", "\n", "\t", "a\0b", "a\nb", "\x1b[0m", "x" * 1_000_000, 7]
)
def test_a_key_that_nobody_could_type_again_is_refused(key: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="idempotency key") as caught:
        bare.with_options(idempotency_key=key).run(1)
    assert len(str(caught.value)) < 2_000
    assert kitaru.KitaruClient().executions.list() == []


@pytest.mark.parametrize("key", ["../x", "Zürich", "a b", "x" * 500, "' OR 1=1 --", "日本"])
def test_a_key_may_be_any_text_that_can_be_printed(key: str) -> None:
    keyed = bare.with_options(idempotency_key=key)
    assert keyed.run(4).wait() == 8
    assert keyed.run(4).wait() == 8
    assert len(kitaru.KitaruClient().executions.list()) == 1


def test_many_threads_with_one_key_start_one_execution() -> None:
    ran: list[int] = []

    @flow
    def counted(number: int) -> int:
        ran.append(number)
        return double(number)

    handles: list[kitaru.FlowHandle[int]] = []
    together = threading.Barrier(16)

    def start() -> None:
        together.wait()
        handles.append(counted.with_options(idempotency_key="k").run(1))

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {handle.wait() for handle in handles} == {2}
    assert len({handle.exec_id for handle in handles}) == 1
    assert ran == [1]


async def test_many_tasks_with_one_key_start_one_execution() -> None:
    keyed = bare_async.with_options(idempotency_key="k")
    handles = [keyed.run(1) for _ in range(50)]
    assert await asyncio.gather(*[handle.wait() for handle in handles]) == [2] * 50
    assert len(await kitaru.AsyncKitaruClient().executions.list()) == 1
