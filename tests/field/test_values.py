"""Bugs of other engines around values and errors, from end to end and on every backend."""

import asyncio
import contextlib
import datetime
import math
import sqlite3
import threading
import zoneinfo
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import kitaru
from kitaru import ExecutionStatus, checkpoint, flow
from kitaru.engine.codec import Codec, TypeScope

# exceptions: those that cannot be pickled, printed or made again; those that look like the store's


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def local_class() -> BaseException:
    class Local(Exception):
        pass

    return Local("of a class in a function")


def chain_of_fifty() -> BaseException:
    error: BaseException = ValueError("the first")
    for number in range(50):
        outer = RuntimeError(f"number {number}")
        outer.__cause__ = error
        error = outer
    return error


def very_deep() -> BaseException:
    def down(left: int) -> None:
        if left:
            down(left - 1)
        else:
            raise ValueError("from far below")

    import sys

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        down(10_000)
    except ValueError as error:
        return error
    finally:
        sys.setrecursionlimit(limit)
    raise AssertionError


ERRORS: dict[str, Callable[[], BaseException]] = {
    "keyword only": lambda: KeywordOnly(code=7),
    "unpicklable": Unpicklable,
    "unprintable": Unprintable,
    "five megabytes": lambda: ValueError("x" * 5_000_000),
    "ten megabytes of two bytes": lambda: ValueError("ü" * 10_000_000),
    "chain of fifty": chain_of_fifty,
    "ten thousand frames": very_deep,
    "group": lambda: ExceptionGroup("several", [ValueError("a"), KeywordOnly(code=1)]),
    "local class": local_class,
    "recursion": lambda: RecursionError("maximum recursion depth exceeded"),
    "memory": lambda: MemoryError(),
    "lone surrogate": lambda: ValueError("\ud800 and \0"),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "cancelled": lambda: asyncio.CancelledError("of the checkpoint's own"),
    "generator exit": lambda: GeneratorExit(),
    "stop iteration": lambda: StopIteration(1),
    "stop async iteration": lambda: StopAsyncIteration(),
    # What an engine might take for its own store's trouble, and try again.
    "database is locked": lambda: sqlite3.OperationalError("database is locked"),
    "disk I/O error": lambda: sqlite3.OperationalError("disk I/O error"),
    "input/output error": lambda: OSError(5, "Input/output error"),
    "no space": lambda: OSError(28, "No space left on device"),
    "connection reset": lambda: ConnectionResetError(104, "Connection reset by peer"),
    "timeout": lambda: TimeoutError(),
    "stale lease": lambda: journal.StaleLease("execution-x", 1, 2),
    "wrong version": lambda: journal.WrongExpectedVersion("execution-x", 1, 2),
    "unavailable": lambda: journal.JournalUnavailable("somebody else's journal"),
    "unknown outcome": lambda: journal.CommitOutcomeUnknown("somebody else's commit"),
    "backend": lambda: kitaru.KitaruBackendError("of another runtime"),
}
named = pytest.mark.parametrize("name", list(ERRORS))
seen: list[str] = []


@checkpoint
def fails(name: str) -> None:
    raise ERRORS[name]()


@checkpoint
async def fails_async(name: str) -> None:
    raise ERRORS[name]()


@flow
def catches(name: str) -> str:
    try:
        fails(name)
    except BaseException as error:
        seen.append(told(error))
        return seen[-1]
    return "nothing"


@flow
async def catches_async(name: str) -> str:
    try:
        await fails_async(name)
    except BaseException as error:
        seen.append(told(error))
        return seen[-1]
    return "nothing"


def told(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "<no text>"
    return f"{type(error).__name__}: {text[:100]!a}"


@named
@pytest.mark.parametrize("body", [catches, catches_async], ids=["sync", "async"])
async def test_every_error_of_a_checkpoint_is_its_outcome_and_the_same_in_a_replay(
    bench: Any, body: Any, name: str
) -> None:
    seen.clear()
    handle = await body.aio.run(name)
    result = await bench.result(handle.exec_id, body)
    history = await bench.recorded(handle.exec_id)
    # A body that takes its time has its start noted, too.
    assert [fact.type for fact in history if fact.type != "checkpoint_started"] == [
        "execution_started",
        "checkpoint_failed",
        "execution_completed",
    ]
    assert sum(len(fact.payload) for fact in history) < 500_000
    await bench.crashed_after(body, history[:-1], "again")
    assert await bench.result("again", body) == result
    assert seen == [result, result]


@flow
def raises(name: str) -> None:
    raise ERRORS[name]()


@flow
async def raises_async(name: str) -> None:
    raise ERRORS[name]()


@named
@pytest.mark.parametrize("body", [raises, raises_async], ids=["sync", "async"])
async def test_every_error_of_a_body_ends_its_execution_at_once_as_the_users(
    bench: Any, body: Any, name: str
) -> None:
    handle = await body.aio.run(name)
    with pytest.raises(kitaru.KitaruExecutionError) as caught:
        await bench.result(handle.exec_id, body)
    assert caught.value.status is ExecutionStatus.FAILED
    assert caught.value.failure_origin is kitaru.FailureOrigin.USER_CODE
    assert [fact.type for fact in await bench.recorded(handle.exec_id)] == [
        "execution_started",
        "execution_failed",
    ]


# what cannot be kept


class Client:
    """Holds a connection."""


@checkpoint
def takes(value: Any) -> None:
    pass


@checkpoint
def gives() -> Any:
    return [{"client": Client()}]


@checkpoint
def saves() -> None:
    kitaru.save("artifact", Client())


@checkpoint
def logs() -> None:
    kitaru.log(client=Client())


@checkpoint
def fails_with_it() -> None:
    error = ValueError("holds a client")
    error.client = Client()  # type: ignore[attr-defined]
    raise error


PLACES: dict[str, Callable[[], Any]] = {
    "argument": lambda: takes({"client": Client()}),
    "result": gives,
    "artifact": saves,
    "metadata of a checkpoint": logs,
    "metadata of a body": lambda: kitaru.log(client=Client()),
    "metadata of a wait": lambda: kitaru.wait(metadata={"client": Client()}),
    "result of the flow": Client,
}


@flow(retries=2)
def misuses(place: str) -> Any:
    return PLACES[place]()


@pytest.mark.parametrize("place", list(PLACES))
async def test_what_cannot_be_kept_fails_at_once_and_names_its_place(
    bench: Any, place: str
) -> None:
    handle = await misuses.aio.run(place)
    with pytest.raises(kitaru.KitaruExecutionError, match="Client") as caught:
        await bench.result(handle.exec_id, misuses)
    assert isinstance(caught.value.__cause__, kitaru.KitaruSerializationError)
    types = [fact.type for fact in await bench.recorded(handle.exec_id)]
    assert types[-1] == "execution_failed"
    assert "flow_attempt_failed" not in types


async def test_an_argument_of_the_flow_that_cannot_be_kept_starts_nothing(bench: Any) -> None:
    with pytest.raises(kitaru.KitaruSerializationError, match="Client"):
        await takes_any.aio.run({"client": Client()})
    assert await kitaru.AsyncKitaruClient().executions.list() == []


@flow
def takes_any(value: Any) -> None:
    pass


@flow
def fails_holding() -> str:
    try:
        fails_with_it()
    except ValueError as error:
        return f"{error} {hasattr(error, 'client')}"
    return "nothing"


async def test_what_an_error_holds_and_cannot_be_kept_is_missing_from_the_start(
    bench: Any,
) -> None:
    handle = await fails_holding.aio.run()
    assert await bench.result(handle.exec_id, fails_holding) == "holds a client False"


# the same payloads in every place, on every backend


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


PAYLOADS: dict[str, Any] = {
    "NUL": "a\0b",
    "NUL as a key": {"\0": "\0"},
    "lone surrogates": ["\ud800", "\udfff\ud800", {"\udc00": 1}],
    "pairs of surrogates": "\ud83d\ude00",
    "an astral letter": "\U0001f600",
    "not a number": [math.nan, math.inf, -math.inf, -0.0],
    "two to the two hundred": [2**200, -(2**200), 2**63, 2**64],
    "a hundred deep": nested(100),
    "every byte": bytes(range(256)),
    "empty": ["", b"", [], {}, (), set()],
    "a megabyte": "x" * 1_000_000,
    "controls": "\x1b]0;title\x07\r\n\u2028\u202e",
    "not normalised": "e\u0301",
    "what looks like a tag": {"$": "bytes", "$v": 1, "__reduce__": ["os.system", "true"]},
    "dates": [
        datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime.max,
        datetime.datetime(2025, 10, 26, 2, 30, fold=1),
    ],
}


@contextlib.asynccontextmanager
async def opened(backend: str, folder: Path) -> AsyncIterator[None]:
    url = "memory://" if backend == "memory" else str(folder / "journal.db")
    async with kitaru.runtime(journal=url):
        yield


@checkpoint
def passes_on(value: Any) -> Any:
    kitaru.log(value=value)
    kitaru.save("artifact", value)
    return value


@flow
def everywhere(value: Any) -> list[Any]:
    kitaru.log(value=value)
    given_ = kitaru.wait(name="go", timeout=0)
    assert given_ is None
    try:
        raises_with(value)
    except ValueError as error:
        return [value, passes_on(value), *error.args]
    raise AssertionError


@checkpoint
def raises_with(value: Any) -> None:
    raise ValueError(value)


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@pytest.mark.parametrize("name", list(PAYLOADS))
async def test_a_payload_comes_back_from_every_place(
    name: str, backend: str, tmp_path: Path
) -> None:
    value = PAYLOADS[name]
    encode = Codec().encode
    scope = TypeScope.of()
    expected = encode(value, where="value", types=scope)
    async with opened(backend, tmp_path):
        handle = await everywhere.aio.run(value)
        client = kitaru.AsyncKitaruClient().executions
        # It is parked and comes back: all of it is read from the journal.
        while not await client.pending_waits(handle.exec_id):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await client.input(handle.exec_id, wait="go", value=None)
        results = await handle.wait(timeout=30)
        # An error's attributes have a limit.
        assert len(results) == 3
        for result in results[: 2 if len(expected) > 10_000 else 3]:
            assert encode(result, where="value", types=scope) == expected
        shown = await client.get(handle.exec_id)
        assert encode(shown.metadata["value"], where="value", types=scope) == expected
        saved = await asyncio.to_thread(kitaru.load, handle.exec_id, "artifact")
        assert encode(saved, where="value", types=scope) == expected


@flow
def answered() -> Any:
    return kitaru.wait(schema=Any, name="anything", timeout=0)


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@pytest.mark.parametrize(
    "name",
    ["NUL", "NUL as a key", "two to the two hundred", "a hundred deep", "a megabyte", "controls"],
)
async def test_an_answer_of_any_json_comes_back(name: str, backend: str, tmp_path: Path) -> None:
    value = PAYLOADS[name]
    async with opened(backend, tmp_path):
        handle = await answered.aio.run()
        await kitaru.AsyncKitaruClient().executions.input(
            handle.exec_id, wait="anything", value=value
        )
        assert await handle.wait(timeout=30) == value


# moments

moments = st.datetimes(
    timezones=st.none() | st.timezones() | st.just(datetime.UTC), allow_imaginary=True
)


@given(moments, st.sampled_from([0, 1]))
@settings(max_examples=300)
def test_moments_of_all_years_keep_zone_fold_and_offset(
    moment: datetime.datetime, fold: int
) -> None:
    moment = moment.replace(fold=fold)
    zone = moment.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key is None:
        return
    data = Codec().encode(moment, where="value", types=TypeScope.of())
    again = Codec().decode(data, TypeScope.of())
    assert again.replace(tzinfo=None) == moment.replace(tzinfo=None)
    assert (again.fold, str(again.tzinfo)) == (fold, str(zone))
    assert (again.tzinfo is None) == (zone is None)
    if 1 < moment.year < 9999:
        assert again.utcoffset() == moment.utcoffset()
