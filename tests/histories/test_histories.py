"""Executions that earlier versions have recorded can be read, judged and gone on with, for ever."""

from pathlib import Path

import pytest

import kitaru
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import ExecutionStarted
from kitaru.engine.executions import stream_of
from kitaru.engine.history_file import read
from kitaru.engine.upcasts import decode_event
from kitaru.operations import histories

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("*.history.jsonl"))
VERSIONS = {"0.1": 21}
"""How many histories of each version there must be: none is ever taken away."""

each = pytest.mark.parametrize(
    "file",
    FILES,
    ids=[str(file.relative_to(HERE)).removesuffix(".history.jsonl") for file in FILES],
)


def test_no_history_was_taken_away() -> None:
    found = dict.fromkeys(VERSIONS, 0)
    for file in FILES:
        found[file.parent.name] += 1
    assert found == VERSIONS


@each
def test_the_code_of_today_fits(file: Path) -> None:
    checked = histories.check(str(file), histories.flows_among([str(HERE / "flows.py")]))
    assert checked.verdict.is_safe, checked
    assert checked.verdict.version == checked.events
    open_ones = ("-open.history.jsonl", "-in-review.history.jsonl")
    assert checked.verdict.is_finished == (not file.name.endswith(open_ones))


@each
async def test_it_can_be_taken_into_a_journal_and_looked_at(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()  # noqa: ASYNC240
    async with kitaru.runtime(journal=str(tmp_path / "journal.db")):
        client = kitaru.AsyncKitaruClient().executions
        execution = await client.import_(content)
        assert execution.unknown == ()
        again = await client.export(execution.exec_id)
        events = await current_runtime().journal.read_stream(stream_of(execution.exec_id))
    # All but the head, which names the version that wrote it.
    assert again.split(b"\n")[1:] == content.split(b"\n")[1:]
    assert [event.hash for event in events] == [event.hash for event in read(content, "").events]


@pytest.mark.parametrize("name", ["is-cancelled-open", "is-cancelled-async-open"])
async def test_an_open_one_goes_on(name: str) -> None:
    find = histories.flows_among([str(HERE / "flows.py")])
    content = (HERE / "0.1" / f"{name}.history.jsonl").read_bytes()
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        client = kitaru.AsyncKitaruClient().executions
        execution = await client.import_(content)
        started = decode_event(read(content, name).events[0])
        assert isinstance(started, ExecutionStarted)
        runtime.worker.registry.serve(started.source, find(started))
        await client.cancel(execution.exec_id, "enough")
        await client.resume(execution.exec_id)
        with pytest.raises(kitaru.KitaruCancelledError):
            await (await client.handle(execution.exec_id)).wait()
        ended = await client.get(execution.exec_id)
        assert [call.name for call in ended.checkpoints] in (["fetch"], ["fetch_async"])


@pytest.mark.parametrize("wait", ["go on#1", "go on"])
async def test_the_open_wait_of_one_is_answered_by_id_or_name(wait: str) -> None:
    find = histories.flows_among([str(HERE / "flows.py")])
    content = (HERE / "0.1" / "asks-open.history.jsonl").read_bytes()
    async with kitaru.runtime(journal="memory://"):
        runtime = current_runtime()
        client = kitaru.AsyncKitaruClient().executions
        execution = await client.import_(content)
        assert [wait.wait_id for wait in execution.pending_waits] == ["go on#1"]
        started = decode_event(read(content, "").events[0])
        assert isinstance(started, ExecutionStarted)
        runtime.worker.registry.serve(started.source, find(started))
        # The others have their answers, early ones and expired ones included.
        for closed, value in (("early#1", 4), ("agree#1", False), ("late#1", "late")):
            with pytest.raises(kitaru.KitaruStateError):
                await client.input(execution.exec_id, wait=closed, value=value)
        await client.input(execution.exec_id, wait="early#1", value=3)
        await client.input(execution.exec_id, wait=wait, value=None)
        await client.resume(execution.exec_id)
        await (await client.handle(execution.exec_id)).wait()
