"""A worker serves what it was told, or what it finds, and one bad execution stops nothing."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import Append, CorruptJournal, HeadChange, JournalUnavailable, NewEvent
from kitaru.domain.execution.events import ExecutionStarted, SourceReference
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.codec import TypeScope
from kitaru.engine.executions import fold, head_of, new_event, stream_of
from kitaru.engine.values import stored
from kitaru.operations import executions, serving

PROGRAM = """
from kitaru import checkpoint, flow

@checkpoint
def double(number: int) -> int:
    return number * 2

@flow
def found(number: int) -> int:
    return double(number)

@flow
async def other(number: int) -> int:
    return await double.aio(number)
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    # A module of this name may be loaded once only: each test has its own.
    path = tmp_path / f"flows_of_{abs(hash(tmp_path))}.py"
    path.write_text(PROGRAM, encoding="utf-8")
    yield path
    sys.modules.pop(path.stem, None)


def started(bench: Any, file: Path, flow: str) -> ExecutionStarted:
    """The start of an execution of a flow in this file, by a process that is gone."""
    arguments, _ = stored(bench.runtime.codec.encode({"number": 4}, where="", types=TypeScope.of()))
    reference = SourceReference(file.stem, flow, str(file), str(file.parent))
    return ExecutionStarted(
        flow=flow, source=reference, arguments=arguments, arguments_digest="d", asynchronous=False
    )


async def left(bench: Any, exec_id: str, file: Path, flow: str) -> None:
    """An execution that no process runs."""
    event = started(bench, file, flow)
    await bench.runtime.journal.append(
        Append(
            stream=stream_of(exec_id),
            events=(new_event(event),),
            expected_version=0,
            head=head_of(fold(ABSENT, [event])),
        )
    )


def test_a_target_serves_every_flow_that_it_defines(file: Path) -> None:
    assert sorted(flow.name for flow in serving._flows_of(str(file))) == ["found", "other"]


def test_a_target_without_flows_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty_module.py"
    empty.write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(kitaru.KitaruUsageError, match="defines no flow"):
        serving._flows_of(str(empty))


async def test_recorded_flows_are_found_and_their_executions_completed(
    bench: Any, file: Path
) -> None:
    await left(bench, "first", file, "found")
    await left(bench, "second", file, "other")
    tried: set[str] = set()
    assert await serving._find_flows(bench.runtime, tried)
    assert sorted(bench.runtime.worker.registry.names) == ["found", "other"]
    bench.runtime.worker.look_now()
    for exec_id in ("first", "second"):
        await bench.ending(exec_id)
        assert await executions.status_of(bench.runtime, exec_id) == "completed"
    assert not await serving._find_flows(bench.runtime, tried)


@pytest.mark.parametrize(
    "bad",
    [
        NewEvent("execution_started", b"{}", schema=99),
        NewEvent("execution_started", b"not even JSON"),
        NewEvent("something_from_the_future", b"{}"),
        NewEvent("cancel_requested", b"{}"),
    ],
    ids=["newer schema", "damaged", "newer type", "no start"],
)
async def test_an_execution_that_cannot_be_read_does_not_stop_the_others(
    bench: Any, file: Path, bad: NewEvent
) -> None:
    # The newest is looked at first.
    await left(bench, "good", file, "found")
    await bench.runtime.journal.append(
        Append(
            stream=stream_of("bad"),
            events=(bad,),
            expected_version=0,
            head=HeadChange(state="running", name="found", due_at=0),
        )
    )
    assert await serving._find_flows(bench.runtime, set())
    bench.runtime.worker.look_now()
    await bench.ending("good")
    assert (await bench.runtime.journal.head(stream_of("bad"))).state == "running"


async def test_a_damaged_stream_hides_none_of_the_others(bench: Any, file: Path) -> None:
    await left(bench, "good", file, "found")
    await left(bench, "bad", file, "other")
    read_stream = bench.runtime.journal.read_stream

    async def damaged(stream: str, **options: Any) -> Any:
        if stream == stream_of("bad"):
            raise CorruptJournal(stream, 1, "its payload is not bytes")
        return await read_stream(stream, **options)

    bench.runtime.journal.read_stream = damaged
    tried: set[str] = set()
    assert await serving._find_flows(bench.runtime, tried)
    assert stream_of("bad") in tried
    bench.runtime.worker.look_now()
    await bench.ending("good")


async def test_a_journal_that_cannot_be_read_for_a_while_does_not_end_the_worker(
    bench: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left(bench, "good", file, "found")
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.01)
    failures = [JournalUnavailable("gone for a while")] * 3
    heads = bench.runtime.journal.heads

    async def sometimes(query: Any) -> Any:
        if failures:
            raise failures.pop()
        return await heads(query)

    bench.runtime.journal.heads = sometimes
    stopped, told = asyncio.Event(), list[list[str]]()
    serve = asyncio.create_task(
        serving._serve_what_is_recorded(bench.runtime, stopped, told.append)
    )
    await bench.until(lambda: told or serve.done())
    assert told == [["found"]]
    stopped.set()
    await serve
    await bench.ending("good")


def test_serving_goes_on_until_it_is_told_to_stop_and_gives_back_what_it_has(
    file: Path, journal_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "worker.py"
    program.write_text(
        "import sys\n"
        "from kitaru.operations import serving\n"
        "serving.serve([sys.argv[1]], lambda names: print(*names, flush=True))\n"
        "print('stopped', flush=True)\n",
        encoding="utf-8",
    )
    worker = subprocess.Popen(
        [sys.executable, str(program), str(file)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KITARU_JOURNAL": journal_url},
    )
    assert worker.stdout is not None
    try:
        assert sorted(worker.stdout.readline().split()) == ["found", "other"]
        worker.send_signal(signal.SIGTERM)
        assert worker.stdout.readline() == "stopped\n"
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
