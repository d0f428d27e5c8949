"""How a worker finds its work: it neither writes for nothing nor keeps what it cannot run."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import kitaru
from journal import (
    ClaimQuery,
    Head,
    Journal,
    JournalUnavailable,
    Lease,
    RecordedEvent,
    open_journal,
)
from kitaru import checkpoint, flow
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import ExecutionCompleted
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.engine.worker import Worker
from kitaru.operations import executions, waits
from tests.kitaru.conftest import DEADLINE_SECONDS, Bench, Faults

LARGE = "x" * 100_000


@checkpoint(cache=False)
def part(number: int) -> int:
    return number


@checkpoint(cache=False)
async def part_async(number: int) -> int:
    return number


@flow
def asks(text: str) -> int:
    return int(kitaru.wait(schema=int, name="first")) + len(text)


@flow
async def asks_async(text: str) -> int:
    return int(await kitaru.wait(schema=int, name="first")) + len(text)


@flow
def parts(text: str) -> int:
    return sum(part(number) for number in range(3)) + len(text)


@flow
async def parts_async(text: str) -> int:
    return sum([await part_async(number) for number in range(3)]) + len(text)


async def _nothing(_name: str) -> None:
    pass


class Watched:
    """A journal that tells which of its calls were made, and of which one fails."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.calls: list[str] = []
        self.claimed: list[str] = []
        self.before: Callable[[str], Any] = _nothing
        """Called before a call happens, with its name."""
        self.fails: Callable[[str, int], str] = lambda _name, _number: ""
        """Given a call's name and number: "before" or "after" it has happened, or not at all."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def _call(self, name: str, call: Callable[[], Any]) -> Any:
        await self.before(name)
        self.calls.append(name)
        fault = self.fails(name, len(self.calls))
        if fault == "before":
            raise JournalUnavailable(f"the disk is away: {name}")
        result = await call()
        if fault == "after":
            raise JournalUnavailable(f"the disk is away after {name}")
        return result

    async def claim(self, query: ClaimQuery) -> list[tuple[Head, Lease]]:
        found: list[tuple[Head, Lease]]
        found = await self._call("claim", lambda: self._journal.claim(query))
        self.claimed += [head.stream for head, _ in found]
        return found

    async def release(self, lease: Lease) -> None:
        await self._call("release", lambda: self._journal.release(lease))

    async def read_stream(self, stream: str, **options: Any) -> list[RecordedEvent]:
        found: list[RecordedEvent]
        found = await self._call(
            "read_stream", lambda: self._journal.read_stream(stream, **options)
        )
        return found

    async def get_blob(self, digest: str) -> bytes:
        blob: bytes = await self._call("get_blob", lambda: self._journal.get_blob(digest))
        return blob

    async def append(self, append: Any) -> Any:
        return await self._call("append", lambda: self._journal.append(append))


class Stage:
    """Executions whose owner has died, and a worker that finds them in a watched journal."""

    def __init__(self, journal: Watched, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = journal
        self.faults = faults
        self._monkeypatch = monkeypatch
        self.abandoned: list[str] = []

    async def abandon(self, *flows: Any) -> None:
        """Starts an execution of each flow in a runtime that ends without giving anything back."""
        async with self.runtime() as dying:
            dying.worker.run = lambda *_: None  # type: ignore[method-assign]
            for body in flows:
                handle = await body.aio.run(LARGE)
                self.abandoned.append(handle.exec_id)
        self.let_leases_run_out()

    @contextlib.asynccontextmanager
    async def runtime(self) -> AsyncIterator[Runtime]:
        async def opened(_url: str) -> Any:
            return _Unclosed(self.journal)

        self._monkeypatch.setattr("kitaru.bootstrap.open_journal", opened)
        async with kitaru.runtime(journal="memory://"):
            yield current_runtime()

    def let_leases_run_out(self) -> None:
        self.faults.offset_us += 60_000_000

    async def polls(self, runtime: Runtime, count: int) -> None:
        """Has the worker look for work some more times."""
        for _ in range(count):
            before = self.journal.calls.count("claim")
            runtime.worker.look_now()
            end = time.monotonic() + DEADLINE_SECONDS
            while self.journal.calls.count("claim") == before:
                assert time.monotonic() < end
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)

    async def are_completed(self, exec_ids: list[str]) -> bool:
        for exec_id in exec_ids:
            recorded = await self.journal._journal.read_stream(stream_of(exec_id))
            if not any(isinstance(decode_event(fact), ExecutionCompleted) for fact in recorded):
                return False
        return True

    async def until_completed(self, exec_ids: list[str], runtime: Runtime) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while not await self.are_completed(exec_ids):
            assert time.monotonic() < end, f"{exec_ids} do not go on"
            runtime.worker.look_now()
            await asyncio.sleep(0.005)


class _Unclosed:
    """A journal that its runtimes leave open."""

    def __init__(self, journal: Watched) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def close(self) -> None:
        return None


@pytest.fixture
async def stage(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setenv("KITARU_CACHE", "off")
    journal = await open_journal("memory://", clock=faults.clock)
    yield Stage(Watched(journal), faults, monkeypatch)
    await journal.close()


# An execution whose flow cannot be loaded is tried once, and then left to others.


@pytest.mark.parametrize("body", [parts, parts_async], ids=["sync", "async"])
async def test_what_cannot_be_loaded_is_claimed_once(
    stage: Stage, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.abandon(body)
    async with stage.runtime() as runtime:
        loads = 0

        def find(_reference: object) -> Any:
            nonlocal loads
            loads += 1
            raise kitaru.KitaruUsageError("its code is gone")

        monkeypatch.setattr(runtime.worker.registry, "find", find)
        runtime.worker.registry.serve(body.reference, body.definition)
        await stage.polls(runtime, 5)
        assert stage.journal.claimed == [stream_of(stage.abandoned[0])]
        assert stage.journal.calls.count("release") == 1
        assert loads == 1
        assert "its code is gone" in (runtime.worker.why_not(stage.abandoned[0]) or "")


async def test_a_flow_that_comes_later_is_served(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.abandon(parts)
    async with stage.runtime() as runtime:
        registry = runtime.worker.registry
        find = registry.find

        def missing(_reference: object) -> Any:
            raise kitaru.KitaruUsageError("its code is gone")

        monkeypatch.setattr(registry, "find", missing)
        registry.serve(parts_async.reference, parts_async.definition)
        registry._served.setdefault("parts", [])
        await stage.polls(runtime, 2)
        assert stage.journal.claimed == [stream_of(stage.abandoned[0])]
        monkeypatch.setattr(registry, "find", find)
        registry.serve(parts.reference, parts.definition)
        await stage.until_completed(stage.abandoned, runtime)


async def test_a_record_that_breaks_the_loader_stops_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.abandon(parts, parts_async, parts)
    broken = stage.abandoned[1]
    real = decode_event

    def decode(fact: RecordedEvent) -> Any:
        if fact.stream == stream_of(broken):
            raise ZeroDivisionError("a mistake in an upcast")
        return real(fact)

    monkeypatch.setattr("kitaru.engine.worker.decode_event", decode)
    async with stage.runtime() as runtime:
        for body in (parts, parts_async):
            runtime.worker.registry.serve(body.reference, body.definition)
        await stage.until_completed([stage.abandoned[0], stage.abandoned[2]], runtime)
        await stage.polls(runtime, 3)
        assert stage.journal.claimed.count(stream_of(broken)) == 1
        assert "a mistake in an upcast" in (runtime.worker.why_not(broken) or "")
        assert broken not in runtime.worker.runners


# The law: whichever call of the recovery loop fails once, every execution goes on: the others of
# the batch at once, the one that it struck at the latest when its lease is over.


@pytest.mark.parametrize("when", ["before", "after"])
async def test_no_failing_call_of_the_recovery_strands_an_execution(
    stage: Stage, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.engine.worker.PUT_OFF_SECONDS", 0.02)
    struck: set[str] = set()
    for failing in range(1, 100):
        stage.abandoned.clear()
        await stage.abandon(parts, parts_async, parts, parts_async)
        journal = stage.journal
        journal.calls.clear()
        journal.claimed.clear()
        failed: list[str] = []

        def fails(name: str, number: int, failing: int = failing) -> str:
            if number != failing:
                return ""
            failed.append(name)  # noqa: B023 - called in this round only
            return when

        journal.fails = fails
        async with stage.runtime() as runtime:
            for body in (parts, parts_async):
                runtime.worker.registry.serve(body.reference, body.definition)
            runtime.worker.look_now()
            end = time.monotonic() + DEADLINE_SECONDS
            while not await stage.are_completed(stage.abandoned):
                done = [each for each in stage.abandoned if await stage.are_completed([each])]
                stuck_alone = len(done) == len(stage.abandoned) - 1
                if failed == ["claim"] or (stuck_alone and failed == ["append"]):
                    stage.let_leases_run_out()
                runtime.worker.look_now()
                assert time.monotonic() < end, f"{failed} strands all but {len(done)}"
                await asyncio.sleep(0.002)
        journal.fails = lambda _name, _number: ""
        struck.update(failed)
        if not failed:
            break
    assert struck >= {"claim", "read_stream", "get_blob", "append"}
    assert failing > 10


async def test_a_call_that_fails_again_and_again_is_not_asked_without_end(stage: Stage) -> None:
    await stage.abandon(parts)
    stage.journal.fails = lambda name, _: "before" if name == "read_stream" else ""
    async with stage.runtime() as runtime:
        runtime.worker.registry.serve(parts.reference, parts.definition)
        await stage.polls(runtime, 5)
        assert len(stage.journal.claimed) == 1
        stage.journal.fails = lambda _name, _number: ""
        await stage.until_completed(stage.abandoned, runtime)


# The law: an answer that comes at any moment of a take-over reaches the body.


@pytest.mark.parametrize("body", [asks, asks_async], ids=["sync", "async"])
@pytest.mark.parametrize("moment", ["claim", "read_stream", "get_blob", "append", "begin"])
async def test_an_answer_in_the_middle_of_a_take_over_is_heard(
    stage: Stage, body: Any, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.abandon(body)
    (exec_id,) = stage.abandoned
    async with stage.runtime() as runtime:
        given: list[str] = []

        async def before(name: str) -> None:
            if name == moment and not given:
                given.append(name)
                await waits.give_input(runtime, exec_id, "first", 7)

        stage.journal.before = before
        if moment == "begin":
            monkeypatch.setattr("kitaru.engine.worker.Worker._recovered", _answering(exec_id))
        runtime.worker.registry.serve(body.reference, body.definition)
        await stage.until_completed(stage.abandoned, runtime)
        assert given or moment == "begin"


def _answering(exec_id: str) -> Any:
    real = Worker._recovered

    async def recovered(worker: Worker, execution: Any, previous: str) -> bool:
        goes_on = await real(worker, execution, previous)
        await waits.give_input(current_runtime(), exec_id, "first", 7)
        return goes_on

    return recovered


# What runs here is not claimed here, whatever the clock says: only another owner can take it.


async def test_a_runner_whose_lease_is_over_keeps_it(bench: Bench, gate: Any) -> None:
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    @checkpoint(cache=False)
    def slow() -> int:
        loop.call_soon_threadsafe(entered.set)
        gate.wait()
        return 1

    @flow
    def body() -> int:
        return slow()

    handle = await body.aio.run()
    await entered.wait()
    head = await bench.runtime.journal.head(stream_of(handle.exec_id))
    assert head is not None
    bench.let_leases_run_out()
    await asyncio.sleep(0.05)
    later = await bench.runtime.journal.head(stream_of(handle.exec_id))
    assert later is not None
    assert later.epoch == head.epoch
    assert not await bench.runtime.worker.take_over(handle.exec_id)
    gate.set()
    event = await executions.ending_of(bench.runtime, handle.exec_id, DEADLINE_SECONDS)
    assert isinstance(event, ExecutionCompleted)
