"""A runtime whose journal a test can make fail, whose clock it can move, and crashes at will."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

import kitaru
from journal import (
    Append,
    Appended,
    CommitOutcomeUnknown,
    Journal,
    JournalError,
    JournalUnavailable,
    NewEvent,
    RecordedEvent,
    open_journal,
)
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionEvent,
    FlowAttemptFailed,
    TimerFired,
)
from kitaru.engine.executions import head_of, state_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.engine.worker import Worker
from kitaru.operations import executions

DEADLINE_SECONDS = 30.0
"""How long anything may take before a test calls it stuck; nothing is measured against it."""


class Faults:
    """Which call of a journal's fails, and how."""

    def __init__(self) -> None:
        self.appends = 0
        self.fail_at = 0
        """The append that fails, counted from 1; 0: none."""
        self.happens = False
        """Whether what fails has happened nevertheless."""
        self.failed = False
        self.blob_reads_that_fail = 0
        self.before_blob_read: Callable[[], Awaitable[None]] | None = None
        """What happens before a blob is read."""
        self.after_append: Callable[[Append], None] = lambda _: None
        """What happens between an append from a thread and its return."""
        self.offset_us = 0
        """How far the journal's clock is ahead of the machine's."""
        self._lock = threading.Lock()

    def clock(self) -> int:
        """The journal's clock."""
        return time.time_ns() // 1_000 + self.offset_us

    def is_now(self) -> bool:
        """Counts an append, and says whether it is the one that fails."""
        with self._lock:
            self.appends += 1
            if self.appends != self.fail_at:
                return False
            self.failed = True
            return True

    @property
    def error(self) -> JournalError:
        """What the failing append raises."""
        if self.happens:
            return CommitOutcomeUnknown("nobody can tell whether this is on disk")
        return JournalUnavailable("nothing was written")


class FaultyJournal:
    """The reference journal, whose appends and reads of blobs fail when a test wants it."""

    def __init__(self, journal: Journal, faults: Faults) -> None:
        self._journal = journal
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def append(self, append: Append) -> Appended:
        return self.append_blocking(append)

    def append_soon(
        self, append: Append, done: Callable[[Appended | None, BaseException | None], None]
    ) -> None:
        call_soon = asyncio.get_running_loop().call_soon
        try:
            call_soon(done, self.append_blocking(append), None)
        except JournalError as error:
            call_soon(done, None, error)

    def append_blocking(self, append: Append) -> Appended:
        if not self._faults.is_now():
            appended = self._journal.append_blocking(append)
            self._faults.after_append(append)
            return appended
        if self._faults.happens:
            self._journal.append_blocking(append)
        raise self._faults.error

    async def get_blob(self, digest: str) -> bytes:
        if self._faults.blob_reads_that_fail:
            self._faults.blob_reads_that_fail -= 1
            raise JournalUnavailable("the blob cannot be read now")
        if self._faults.before_blob_read is not None:
            await self._faults.before_blob_read()
        return await self._journal.get_blob(digest)


class Bench:
    """One runtime over one journal, and what a test does to them."""

    DEADLINE_SECONDS = DEADLINE_SECONDS

    def __init__(self, runtime: Runtime, faults: Faults) -> None:
        self.runtime = runtime
        self.faults = faults

    @contextlib.asynccontextmanager
    async def second_worker(self, *flows: Any) -> "AsyncIterator[Bench]":
        """Another worker over the same journal, as of another process."""
        runtime = await Runtime.open("memory://", self.runtime.worker.lease_seconds)
        for flow in flows:
            runtime.worker.registry.serve(flow.reference, flow.definition)
        try:
            yield Bench(runtime, self.faults)
        finally:
            await runtime.worker.close()

    async def recorded(self, exec_id: str) -> list[RecordedEvent]:
        """The execution's journal."""
        return await self.runtime.journal.read_stream(stream_of(exec_id))

    async def events(self, exec_id: str) -> list[ExecutionEvent]:
        """The execution's events."""
        return [decode_event(fact) for fact in await self.recorded(exec_id)]

    async def ending(self, exec_id: str) -> ExecutionEvent:
        """The event with which the execution ends."""
        return await executions.ending_of(self.runtime, exec_id, DEADLINE_SECONDS)

    async def result(self, exec_id: str, body: Any) -> Any:
        """What the flow returned."""
        event = await self.ending(exec_id)
        return await executions.outcome_of(self.runtime, exec_id, event, body.definition.types)

    async def crashed_after(
        self, body: Any, history: Sequence[RecordedEvent], exec_id: str
    ) -> None:
        """A new execution with the first events of another: as if its process had died there."""
        self.runtime.worker.registry.serve(body.reference, body.definition)
        await self.runtime.journal.append(
            Append(
                stream=stream_of(exec_id),
                events=tuple(NewEvent(fact.type, fact.payload, fact.schema) for fact in history),
                expected_version=0,
                head=head_of(state_of(history)),
            )
        )
        self.runtime.worker.look_now()

    async def result_after_faults(self, exec_id: str, body: Any) -> Any:
        """What the flow returned, with a new runner whenever the journal has let one down."""
        ending = asyncio.create_task(self.result(exec_id, body))
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            await asyncio.wait([ending], timeout=0.01)
            if ending.done() and not isinstance(ending.exception(), kitaru.KitaruBackendError):
                return ending.result()
            assert time.monotonic() < end, f"{exec_id} does not go on"
            if exec_id not in self.runtime.worker.runners:
                self.let_leases_run_out()
            if ending.done():
                ending = asyncio.create_task(self.result(exec_id, body))

    def let_leases_run_out(self) -> None:
        """Moves the journal's clock on, so that what nobody runs can be claimed."""
        self.faults.offset_us += round(self.runtime.worker.lease_seconds * 1_000_000) + 1
        self.runtime.worker.look_now()

    def in_body(self, coroutine: Any) -> None:
        """Does something on the runtime's loop in the middle of a flow's or checkpoint's body.

        A sync body waits for it; an async one hears of it when it waits for something.
        """
        loop = self.runtime.loop
        if threading.get_ident() == getattr(loop, "_thread_id", None):
            self._task = loop.create_task(coroutine)
        else:
            asyncio.run_coroutine_threadsafe(coroutine, loop).result(DEADLINE_SECONDS)

    @staticmethod
    def outcomes_by_path(events: Sequence[ExecutionEvent]) -> dict[str, int]:
        """How many outcomes are recorded for each call: by our first promise, at most one each.

        A call that failed may be tried again by the next flow attempt.
        """
        counts: dict[str, int] = {}
        failed: set[str] = set()
        for event in events:
            match event:
                case CheckpointCompleted(path=path) | TimerFired(path=path):
                    counts[path] = counts.get(path, 0) + 1
                case CheckpointFailed(path=path, retry_at=None):
                    counts[path] = counts.get(path, 0) + 1
                    failed.add(path)
                case FlowAttemptFailed():
                    counts = {path: n for path, n in counts.items() if path not in failed}
                    failed.clear()
                case _:
                    pass
        return counts

    async def started_calls(self, exec_id: str, count: int) -> None:
        """Waits until it is written down that so many calls run."""
        end = time.monotonic() + DEADLINE_SECONDS
        while sum(isinstance(e, CheckpointStarted) for e in await self.events(exec_id)) < count:
            assert time.monotonic() < end, "no call is said to run"
            await asyncio.sleep(0.005)

    async def is_recorded(self, exec_id: str, kind: type[ExecutionEvent]) -> None:
        """Waits until there is an event of a kind."""
        end = time.monotonic() + DEADLINE_SECONDS
        events = await self.events(exec_id)
        while not any(isinstance(event, kind) for event in events):
            assert time.monotonic() < end, f"no {kind.__name__} is recorded, but {events}"
            await asyncio.sleep(0.001)
            events = await self.events(exec_id)

    async def until(self, holds: Any) -> None:
        """Waits until something is true."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            assert time.monotonic() < end, "this never became true"
            await asyncio.sleep(0.001)


@pytest.fixture
def faults() -> Faults:
    """What goes wrong in this test's journal; nothing, until the test says so."""
    return Faults()


@pytest.fixture
async def bench(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A runtime on the test's own loop, over a journal in memory."""

    journal = FaultyJournal(await open_journal("memory://", clock=faults.clock), faults)

    async def opened(_url: str) -> FaultyJournal:
        return journal

    monkeypatch.setattr("kitaru.bootstrap.open_journal", opened)
    # These tests count what runs; what is reused has tests of its own.
    monkeypatch.setenv("KITARU_CACHE", "off")
    async with kitaru.runtime(journal="memory://"):
        worker = current_runtime().worker
        yield Bench(current_runtime(), faults)
    await threads_at_rest(worker)


async def threads_at_rest(worker: Worker) -> None:
    """What a worker's threads have begun is over, or has been given the time to be.

    Else the next test would find what it leaves in the module's lists.
    """
    for _ in range(500):
        if not worker._threads._threads and not worker._body_threads._threads:
            return
        await asyncio.sleep(0.001)


@pytest.fixture
def gate() -> Any:
    """Holds what waits for it until the test sets it, and at the latest until the test ends."""
    event = threading.Event()
    yield event
    event.set()
