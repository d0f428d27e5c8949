"""One execution in its owner's hands: rebasing, fencing, and threads that flush together."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

import pytest
from msgspec import Raw

from journal import (
    Append,
    Appended,
    Claim,
    ClaimQuery,
    Head,
    Journal,
    JournalUnavailable,
    NewEvent,
    RecordedEvent,
    StaleLease,
    WrongExpectedVersion,
    open_journal,
)
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionParked,
    ExecutionStarted,
    FrozenOptions,
    InputGiven,
    MetadataLogged,
    SourceReference,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.executions import (
    CATEGORY,
    Foreign,
    Outgoing,
    OwnedExecution,
    ThreadedExecution,
    exec_id_of,
    fold,
    head_of,
    new_event,
    owned_execution,
    state_of,
    stream_of,
)
from kitaru.engine.upcasts import UnknownEvent, decode_event
from kitaru.status import ExecutionStatus, FailureOrigin

NULL = StoredValue(json=Raw(b"null"))
STARTED = ExecutionStarted(
    flow="f",
    source=SourceReference(module="m", qualname="f"),
    arguments=NULL,
    arguments_digest="d",
    options=FrozenOptions(retries=2),
)
STREAM = stream_of("x")


def done(path: str) -> CheckpointCompleted:
    return CheckpointCompleted(path=path, name=path, attempt=1, result=NULL)


class Paused:
    """A journal whose appends wait for a gate; everything else is the real one's."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.appends: list[Append] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append_blocking(self, append: Append) -> Appended:
        self.appends.append(append)
        self.entered.set()
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        return self._journal.append_blocking(append)


@pytest.fixture
async def journal() -> AsyncIterator[Journal]:
    opened = await open_journal("memory://")
    yield opened
    await opened.close()


async def started(journal: Journal, *, asynchronous: bool = True, on: Any = None) -> OwnedExecution:
    """An execution that has just begun, in its owner's hands."""
    state = fold(ABSENT, [STARTED])
    appended = await journal.append(
        Append(
            stream=STREAM,
            events=(new_event(STARTED),),
            expected_version=0,
            head=head_of(state),
            claim=Claim("owner", 60),
        )
    )
    assert appended.lease is not None
    return owned_execution(asynchronous, on or journal, "x", state, 1, appended.lease)


async def threaded(journal: Journal, on: Any = None) -> ThreadedExecution:
    execution = await started(journal, asynchronous=False, on=on)
    assert isinstance(execution, ThreadedExecution)
    loop = asyncio.get_running_loop()

    def read(after: int) -> list[RecordedEvent]:
        reading = journal.read_stream(STREAM, after=after)
        return asyncio.run_coroutine_threadsafe(reading, loop).result(30)

    execution.read_blocking = read
    return execution


async def flushed(execution: OwnedExecution) -> None:
    """What a flow of either colour does to make its events durable."""
    if isinstance(execution, ThreadedExecution):
        execution.read_blocking = lambda _: []
        execution.flush_blocking()
    else:
        await execution.flush()


async def head_after(journal: Journal, execution: OwnedExecution, event: ExecutionEvent) -> Head:
    """What the journal says of an execution to which this has happened."""
    execution.put(Outgoing(event))
    await execution.flush()
    head = await journal.head(STREAM)
    assert head is not None
    return head


async def until(holds: Callable[[], object]) -> None:
    """Waits until other threads have made something true."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "this never became true"
        await asyncio.sleep(0.001)


async def client_writes(journal: Journal, *events: ExecutionEvent | NewEvent) -> None:
    recorded = await journal.read_stream(STREAM)
    new = tuple(event if isinstance(event, NewEvent) else new_event(event) for event in events)
    await journal.append(Append(stream=STREAM, events=new, expected_version=recorded[-1].version))


async def paths(journal: Journal) -> list[str]:
    events = [decode_event(fact) for fact in await journal.read_stream(STREAM)]
    return [getattr(event, "path", None) or type(event).__name__ for event in events]


def test_a_stream_is_named_after_its_execution() -> None:
    assert exec_id_of(stream_of("a-b-c")) == "a-b-c"
    assert stream_of("x").startswith(f"{CATEGORY}-")


async def test_events_are_told_in_the_order_of_the_journal_once_they_are_durable(
    journal: Journal,
) -> None:
    execution = await started(journal)
    told: list[tuple[str, int]] = []

    def tell(path: str, fact: RecordedEvent) -> None:
        told.append((path, fact.version))

    for path in "abc":
        execution.put(Outgoing(done(path), (), functools.partial(tell, path)))
    assert told == []
    await execution.flush()
    assert told == [("a", 2), ("b", 3), ("c", 4)]
    assert (execution.version, execution.outbox) == (4, [])
    await execution.flush()
    assert len(await journal.read_stream(STREAM)) == 4


async def test_a_clients_event_in_front_of_ours_is_taken_in_and_ours_follows(
    journal: Journal,
) -> None:
    execution = await started(journal)
    heard: list[Foreign] = []
    execution.on_foreign = heard.append
    execution.put(Outgoing(done("a")))
    await client_writes(journal, CancelRequested(reason="enough"))
    await execution.flush()
    assert await paths(journal) == ["ExecutionStarted", "CancelRequested", "a"]
    assert [foreign.version for foreign in heard] == [2]
    assert execution.state.cancel_requested
    assert execution.state == state_of(await journal.read_stream(STREAM))
    await execution.catch_up()
    assert len(heard) == 1


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_what_was_decided_before_a_clients_event_is_not_written_behind_it(
    journal: Journal, asynchronous: bool
) -> None:
    execution = await started(journal, asynchronous=asynchronous)
    execution.put(Outgoing(WaitRequested(path="w", name="w")))
    await flushed(execution)
    seen = execution.version
    await client_writes(journal, InputGiven(path="w", value=NULL))
    # Taken in before the flush: the append itself meets nothing that would refuse it.
    await execution.catch_up()
    execution.put(Outgoing(WaitExpired(path="w"), seen=seen))
    execution.put(Outgoing(ExecutionParked(), seen=seen))
    await flushed(execution)
    assert await paths(journal) == ["ExecutionStarted", "w", "w"]
    assert execution.state.status is ExecutionStatus.RUNNING


async def test_a_wait_that_is_asked_and_given_up_in_one_append_is_not_left_open(
    journal: Journal,
) -> None:
    execution = await started(journal)
    execution.put(Outgoing(WaitRequested(path="w", name="w")))
    execution.put(Outgoing(WaitAborted(path="w"), seen=0))
    await client_writes(journal, CancelRequested())
    await execution.flush()
    assert await paths(journal) == ["ExecutionStarted", "CancelRequested", "w", "w"]
    assert execution.state.waits == ()


async def test_blobs_are_written_with_the_event_that_names_them(journal: Journal) -> None:
    execution = await started(journal)
    execution.put(Outgoing(done("a"), (b"one blob",)))
    await client_writes(journal, CancelRequested())
    await execution.flush()
    assert await journal.get_blob(sha256(b"one blob").hexdigest()) == b"one blob"


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_owner_that_was_replaced_writes_nothing(
    journal: Journal, asynchronous: bool
) -> None:
    execution = await started(journal, asynchronous=asynchronous)
    await journal.release(execution.lease)
    query = ClaimQuery(category=CATEGORY, names=["f"], claim=Claim("other", 60))
    assert len(await journal.claim(query)) == 1
    execution.put(Outgoing(done("a")))
    with pytest.raises(StaleLease):
        await flushed(execution)
    assert await paths(journal) == ["ExecutionStarted"]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_owner_that_was_replaced_hears_nothing_of_what_its_successor_records(
    journal: Journal, asynchronous: bool
) -> None:
    """A look for news: its body has gone another way since, and is not to be given any of it."""
    execution = await started(journal, asynchronous=asynchronous)
    heard: list[Foreign] = []
    execution.on_foreign = heard.append
    await journal.release(execution.lease)
    query = ClaimQuery(category=CATEGORY, names=["f"], claim=Claim("other", 60))
    ((_, lease),) = await journal.claim(query)
    successor = owned_execution(True, journal, "x", execution.state, 1, lease)
    successor.put(Outgoing(done("a")))
    await successor.flush()
    with pytest.raises(StaleLease):
        await execution.catch_up()
    assert heard == []
    assert execution.version == 1


async def test_the_head_is_rewritten_only_when_something_in_it_changes(journal: Journal) -> None:
    execution = await started(journal)
    before = await journal.head(STREAM)
    execution.put(Outgoing(MetadataLogged(metadata=Raw(b"{}"))))
    execution.put(Outgoing(done("a")))
    append, _ = execution.prepare(execution.outbox)
    assert append.head is None
    await execution.flush()
    after = await journal.head(STREAM)
    assert before is not None
    assert after is not None
    assert (after.state, after.updated_at) == (before.state, before.updated_at)


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (ExecutionCompleted(result=NULL), ExecutionStatus.COMPLETED),
        (ExecutionParked(), ExecutionStatus.WAITING),
    ],
)
async def test_the_lease_ends_in_the_append_that_lets_go(
    journal: Journal, event: ExecutionEvent, state: ExecutionStatus
) -> None:
    execution = await started(journal)
    head = await head_after(journal, execution, event)
    assert (head.state, head.owner) == (state.value, None)
    execution.put(Outgoing(done("too late")))
    with pytest.raises(StaleLease):
        await execution.flush()


@pytest.mark.parametrize(
    "event",
    [
        ExecutionCompleted(result=NULL),
        ExecutionFailed(
            error=ErrorData(type="ValueError", message="no"), origin=FailureOrigin.USER_CODE
        ),
        ExecutionCancelled(reason="enough"),
        ExecutionDiverged(report="another", facts=Raw(b"{}")),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_what_has_ended_is_due_no_more_and_nobody_takes_it_up(
    journal: Journal, event: ExecutionEvent
) -> None:
    head = await head_after(journal, await started(journal), event)
    assert (head.due_at, head.owner) == (None, None)
    query = ClaimQuery(category=CATEGORY, names=None, claim=Claim("another", 60))
    assert await journal.claim(query) == []


async def test_an_execution_to_which_something_happens_is_not_parked(journal: Journal) -> None:
    execution = await started(journal)
    execution.put(Outgoing(ExecutionParked()))
    await client_writes(journal, CancelRequested())
    await execution.flush()
    assert await paths(journal) == ["ExecutionStarted", "CancelRequested"]
    head = await journal.head(STREAM)
    assert head is not None
    assert head.owner == "owner"


async def test_an_event_of_a_newer_version_stops_the_owner(journal: Journal) -> None:
    execution = await started(journal)
    execution.put(Outgoing(done("a")))
    await client_writes(journal, NewEvent(type="something_new", payload=b"{}"))
    with pytest.raises(UnknownEvent):
        await execution.flush()
    assert len(await journal.read_stream(STREAM)) == 2


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_journal_that_is_shorter_than_it_was_does_not_hold_its_owner_for_ever(
    journal: Journal, asynchronous: bool
) -> None:
    # Put back from a backup, under a running process.
    execution = await started(journal, asynchronous=asynchronous)
    execution.version = 7
    execution.put(Outgoing(done("a")))
    with pytest.raises(WrongExpectedVersion):
        await flushed(execution)


# threads


async def test_threads_that_come_together_share_a_commit(journal: Journal) -> None:
    paused = Paused(journal)
    execution = await threaded(journal, on=paused)
    told: list[str] = []

    def write(path: str) -> None:
        execution.put(Outgoing(done(path), (), lambda _: told.append(path)))
        execution.flush_blocking()
        assert path in told

    first = asyncio.create_task(asyncio.to_thread(write, "first"))
    await asyncio.to_thread(paused.entered.wait, 30)
    others = [asyncio.create_task(asyncio.to_thread(write, f"other {n}")) for n in range(3)]
    await until(lambda: len(execution.outbox) == 3)
    paused.gate.set()
    await asyncio.gather(first, *others)
    assert [len(append.events) for append in paused.appends] == [1, 3]
    assert sorted(told) == ["first", *(f"other {n}" for n in range(3))]
    assert execution.version == 5


async def test_threads_rebase_behind_a_clients_event(journal: Journal) -> None:
    execution = await threaded(journal)
    heard: list[int] = []
    execution.on_foreign = lambda foreign: heard.append(foreign.version)

    def write(path: str) -> None:
        execution.put(Outgoing(done(path)))
        execution.flush_blocking()

    for round_ in range(5):
        await client_writes(journal, CancelRequested(reason=str(round_)))
        await asyncio.gather(*(asyncio.to_thread(write, f"{round_} {n}") for n in range(4)))
    written = await paths(journal)
    assert sorted(written[1:]) == sorted(
        [*["CancelRequested"] * 5, *(f"{r} {n}" for r in range(5) for n in range(4))]
    )
    assert heard == [n for n, path in enumerate(written, start=1) if path == "CancelRequested"]
    assert execution.state == state_of(await journal.read_stream(STREAM))


async def test_a_failed_flush_is_seen_by_every_thread(journal: Journal) -> None:
    paused = Paused(journal)
    paused.failure = JournalUnavailable("nothing was written")
    execution = await threaded(journal, on=paused)
    failures: list[BaseException] = []

    def write(path: str) -> None:
        execution.put(Outgoing(done(path)))
        try:
            execution.flush_blocking()
        except JournalUnavailable as error:
            failures.append(error)

    first = asyncio.create_task(asyncio.to_thread(write, "first"))
    await asyncio.to_thread(paused.entered.wait, 30)
    second = asyncio.create_task(asyncio.to_thread(write, "second"))
    await until(lambda: execution.outbox)
    paused.gate.set()
    await asyncio.gather(first, second)
    assert failures == [paused.failure, paused.failure]
    # Nobody knows what is in the journal: only a new owner, who reads it, may write again.
    paused.failure = None
    with pytest.raises(JournalUnavailable):
        execution.flush_blocking()
    assert await paths(journal) == ["ExecutionStarted"]


async def test_clients_events_are_taken_in_after_the_flush_that_is_under_way(
    journal: Journal,
) -> None:
    paused = Paused(journal)
    execution = await threaded(journal, on=paused)
    story: list[str] = []
    execution.on_foreign = lambda foreign: story.append(f"foreign {foreign.version}")
    execution.put(Outgoing(done("a"), (), lambda fact: story.append(f"ours {fact.version}")))
    flush = asyncio.create_task(asyncio.to_thread(execution.flush_blocking))
    await asyncio.to_thread(paused.entered.wait, 30)
    assert not execution.accept_at_once([])
    paused.gate.set()
    await flush
    await client_writes(journal, CancelRequested())
    recorded = await journal.read_stream(STREAM, after=1)
    execution.accept_in_turn(recorded)
    assert execution.accept_at_once(recorded)
    assert story == ["ours 2", "foreign 3"]
    assert execution.version == 3
