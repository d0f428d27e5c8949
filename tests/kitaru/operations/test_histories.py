"""An execution goes out of one journal and into another, and nothing of it changes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import kitaru
from journal import NewEvent, RecordedEvent
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.engine.executions import stream_of
from kitaru.engine.history_file import DamagedHistory, History, read, written
from kitaru.engine.upcasts import UnknownEvent
from kitaru.operations import histories
from kitaru.verdicts import Judgement

CALLS: list[str] = []


@checkpoint
def step(name: str) -> str:
    CALLS.append(name)
    return name


@checkpoint
def large(size: int) -> str:
    return "x" * size


@flow
def deliver(address: str) -> int:
    step(address)
    parcel = large(50_000)
    if kitaru.wait(schema=bool, name="sign"):
        step("signed")
    return len(parcel)


@flow
def other(address: str) -> str:
    return step(address)


URLS = ["memory://", "sqlite"]
into = pytest.mark.parametrize("target", URLS)


def url_of(kind: str, folder: Path) -> str:
    return kind if kind == "memory://" else str(folder / "target.db")


async def recorded(*, answered: bool = True) -> tuple[str, bytes, list[RecordedEvent]]:
    """An execution of another journal, as a file and as its events."""
    async with kitaru.runtime(journal="memory://"):
        client = kitaru.AsyncKitaruClient().executions
        handle = deliver.aio.run("here")
        await handle
        async with asyncio.timeout(30):
            while not (await client.get(handle.exec_id)).pending_waits:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        if answered:
            await client.input(handle.exec_id, wait="sign", value=True)
            await handle.wait()
        content = await client.export(handle.exec_id[:12])
        events = await current_runtime().journal.read_stream(stream_of(handle.exec_id))
    CALLS.clear()
    return handle.exec_id, content, events


def bare(events: list[RecordedEvent]) -> list[RecordedEvent]:
    return [replace(event, position=0) for event in events]


@into
async def test_it_is_the_same_in_another_journal(target: str, tmp_path: Path) -> None:
    exec_id, content, events = await recorded()
    async with kitaru.runtime(journal=url_of(target, tmp_path)):
        client = kitaru.AsyncKitaruClient().executions
        execution = await client.import_(content)
        assert (execution.exec_id, execution.status) == (exec_id, "completed")
        assert await (await client.handle(exec_id)).wait() == 50_000
        there = await current_runtime().journal.read_stream(stream_of(exec_id))
        assert bare(there) == bare(events)
        assert await client.export(exec_id) == content
        # Twice is as good as once.
        assert (await client.import_(content)).version == execution.version
    assert CALLS == []


@into
async def test_one_that_has_not_ended_goes_on_only_when_it_is_told_to(
    target: str, tmp_path: Path
) -> None:
    exec_id, content, events = await recorded(answered=False)
    async with kitaru.runtime(journal=url_of(target, tmp_path)):
        runtime = current_runtime()
        runtime.worker.registry.serve(deliver.reference, deliver.definition)
        client = kitaru.AsyncKitaruClient().executions
        execution = await client.import_(content)
        assert execution.status == "waiting" or execution.status == "running"
        runtime.worker.look_now()
        # It takes over what it may have: this one is not among it.
        another = other.aio.run("there")
        assert await another.wait() == "there"
        there = await runtime.journal.read_stream(stream_of(exec_id))
        assert bare(there) == bare(events)
        await client.resume(exec_id)
        await client.input(exec_id, wait="sign", value=True)
        assert await (await client.handle(exec_id)).wait() == 50_000
        assert CALLS == ["there", "signed"]


@into
async def test_another_history_of_the_same_execution_is_not_overwritten(
    target: str, tmp_path: Path
) -> None:
    exec_id, content, _ = await recorded(answered=False)
    async with kitaru.runtime(journal=url_of(target, tmp_path)):
        client = kitaru.AsyncKitaruClient().executions
        await client.import_(content)
        await client.cancel(exec_id)
        before = await current_runtime().journal.read_stream(stream_of(exec_id))
        with pytest.raises(kitaru.KitaruStateError, match="not overwritten"):
            await client.import_(content)
        assert await current_runtime().journal.read_stream(stream_of(exec_id)) == before


async def test_a_damaged_file_leaves_nothing_behind() -> None:
    exec_id, content, _ = await recorded()
    async with kitaru.runtime(journal="memory://"):
        client = kitaru.AsyncKitaruClient().executions
        with pytest.raises(DamagedHistory):
            await client.import_(content.replace(b'"here"', b'"hers"'))
        assert await client.list() == []
        assert await current_runtime().journal.read_all() == []
    assert exec_id


async def test_events_of_a_newer_version_are_not_imported() -> None:
    from journal import Append, HeadChange

    async with kitaru.runtime(journal="memory://"):
        journal = current_runtime().journal
        head = HeadChange(state="running", name="x", due_at=None)
        await journal.append(
            Append("execution-x", (NewEvent("execution_started", b"{}", 99),), 0, head=head)
        )
        events = tuple(await journal.read_stream("execution-x"))
    async with kitaru.runtime(journal="memory://"):
        with pytest.raises(UnknownEvent):
            await kitaru.AsyncKitaruClient().executions.import_(written(History(events, {})))
        assert await current_runtime().journal.read_all() == []


async def test_results_of_an_imported_execution_are_reused_by_nobody() -> None:
    _, content, _ = await recorded()
    async with kitaru.runtime(journal="memory://"):
        client = kitaru.AsyncKitaruClient().executions
        await client.import_(content)
        handle = deliver.aio.run("here")
        await handle
        await client.input(handle.exec_id, wait="sign", value=False)
        await handle.wait()
    assert CALLS == ["here"]


async def test_a_value_that_is_gone_is_told_and_does_not_stop_the_export() -> None:
    exec_id, content, _ = await recorded()
    history = read(content, "a file")
    assert len(history.blobs) == 1
    without = written(History(history.events, {}, tuple(history.blobs)))
    async with kitaru.runtime(journal="memory://"):
        client = kitaru.AsyncKitaruClient().executions
        await client.import_(without)
        again = await histories.export_from(current_runtime(), exec_id)
        assert again.missing == tuple(history.blobs)
        assert read(again.content, "a file").missing == again.missing


async def test_an_execution_that_is_not_there_cannot_be_exported() -> None:
    async with kitaru.runtime(journal="memory://"):
        with pytest.raises(kitaru.KitaruStateError):
            await kitaru.AsyncKitaruClient().executions.export("nobody")
        with pytest.raises(kitaru.KitaruStateError):
            await histories.export_from(current_runtime(), "nobody")


async def test_a_fork_needs_nothing_of_its_source(tmp_path: Path) -> None:
    async with kitaru.runtime(journal="memory://"):
        handle = other.aio.run("a")
        await handle.wait()
        fork = other.aio.replay(handle.exec_id, from_="step")
        await fork.wait()
        content = await kitaru.AsyncKitaruClient().executions.export(fork.exec_id)
    (tmp_path / "fork.history.jsonl").write_bytes(content)
    CALLS.clear()
    checked = histories.check(str(tmp_path / "fork.history.jsonl"), lambda _: other.definition)
    assert checked.verdict.is_safe
    assert CALLS == []


async def test_a_file_is_held_against_code(tmp_path: Path) -> None:
    file = tmp_path / "one.history.jsonl"
    exec_id, content, events = await recorded()
    file.write_bytes(content)
    assert histories.history_files([str(tmp_path)]) == [str(file)]
    checked = histories.check(str(file), lambda _: deliver.definition)
    assert (checked.exec_id, checked.flow, checked.events) == (exec_id, "deliver", len(events))
    assert checked.verdict.is_safe
    assert histories.check(str(file), histories.flows_among([__file__])).verdict.is_safe
    assert histories.check(str(file), histories.flows_among([])).verdict.is_safe
    verdict = histories.check(str(file), lambda _: other.definition).verdict
    assert verdict.judgement is Judgement.DIVERGES
    assert CALLS == []


@pytest.mark.parametrize(
    ("content", "target", "told"),
    [
        (b"{}\n", "", "no history of an execution"),
        (None, "", "No such file"),
        ("good", f"{__file__}:other", "no flow named 'deliver'; found: other"),
    ],
)
async def test_what_cannot_be_judged_is_unknown(
    content: Any, target: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "one.history.jsonl"
    if content == "good":
        _, content, _ = await recorded()
    if content is not None:
        file.write_bytes(content)
    find = histories.flows_among([target] if target else [])
    verdict = histories.check(str(file), find).verdict
    assert (verdict.judgement, verdict.version) == (Judgement.UNKNOWN, 0)
    assert told in verdict.summary


def test_a_place_without_histories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="There are no histories in"):
        histories.history_files([str(tmp_path)])
    with pytest.raises(kitaru.KitaruUsageError, match="There is no file or folder"):
        histories.history_files([str(tmp_path / "nothing")])
    (tmp_path / "empty.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(kitaru.KitaruUsageError, match="defines no flow"):
        histories.flows_among([str(tmp_path / "empty.py")])
