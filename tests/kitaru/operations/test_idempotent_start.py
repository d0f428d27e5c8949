"""Idempotent starts: one key and one input are one execution, whoever asks, whenever."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import Append, Claim, SqliteReader
from kitaru import ExecutionStatus, KitaruClient, checkpoint, flow
from kitaru.bootstrap import close_background, current_runtime
from kitaru.domain.execution.events import CheckpointCompleted, ExecutionStarted
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.sdk.flow import AsyncFlow, Flow

runs: list[str] = []
gate = threading.Event()
fails = {"now": False}


@pytest.fixture(autouse=True)
def own_journal(journal_url: str) -> Any:
    kitaru.configure(journal=journal_url, lease_seconds=1.0)
    runs.clear()
    gate.set()
    fails["now"] = False
    yield
    gate.set()
    close_background()
    kitaru.configure(journal=None, lease_seconds=None)


@checkpoint
def work(day: str) -> str:
    runs.append(day)
    gate.wait(60)
    if fails["now"]:
        raise ValueError(day)
    return f"report of {day}"


@flow
def nightly(day: str, options: dict[str, Any] | None = None) -> str:
    return work(day)


@flow
async def nightly_async(day: str, options: dict[str, Any] | None = None) -> str:
    return await work.aio(day)


@flow
def weekly(day: str) -> str:
    return work(day)


BOTH = pytest.mark.parametrize("body", [nightly_async, nightly], ids=["async", "sync"])
AnyFlow = Flow[..., str] | AsyncFlow[..., str]
keyed_async = nightly_async.with_options(idempotency_key="k")


def keyed(key: str, body: AnyFlow = nightly) -> Flow[..., str]:
    return body.sync.with_options(idempotency_key=key)


@BOTH
def test_the_second_start_finds_the_first_whatever_has_become_of_it(body: AnyFlow) -> None:
    start = keyed("k", body).run
    gate.clear()
    first = start("mon")
    running = start("mon")
    assert running.exec_id == first.exec_id
    gate.set()
    assert first.wait(30) == running.wait(30) == "report of mon"
    completed = start(day="mon")
    assert completed.exec_id == first.exec_id
    assert completed.get() == "report of mon"
    assert runs == ["mon"]


@BOTH
def test_a_failed_and_a_cancelled_execution_keep_their_key(body: AnyFlow) -> None:
    fails["now"] = True
    first = keyed("failed", body).run("mon")
    with pytest.raises(kitaru.KitaruUserCodeError):
        first.wait(30)
    again = keyed("failed", body).run("mon")
    assert again.exec_id == first.exec_id
    assert again.status is ExecutionStatus.FAILED
    assert runs == ["mon"]
    gate.clear()
    third = keyed("cancelled", body).run("tue")
    KitaruClient().executions.cancel(third.exec_id)
    gate.set()
    with pytest.raises(kitaru.KitaruCancelledError):
        third.wait(30)
    assert keyed("cancelled", body).run("tue").status is ExecutionStatus.CANCELLED


@BOTH
def test_other_arguments_are_a_conflict_that_shows_where_they_differ(body: AnyFlow) -> None:
    start = keyed("k", body).run
    start("mon", {"depth": 1, "parts": ["a", "b"]}).wait(30)
    with pytest.raises(kitaru.KitaruStateError) as caught:
        start("tue", {"depth": 1, "parts": ["a", "c", "d"]})
    lines = str(caught.value).splitlines()
    assert "key 'k'" in lines[0]
    assert [line.strip() for line in lines[1:4]] == [
        "arguments.day: 'mon' was recorded, now 'tue'",
        "arguments.options.parts[1]: 'b' was recorded, now 'c'",
        "arguments.options.parts[2]: nothing was recorded, now 'd'",
    ]
    assert runs == ["mon"]


def test_large_arguments_are_compared_and_told_apart(journal_file: Path) -> None:
    large = {"text": "x" * 100_000, "n": 1}
    start = keyed("k").run
    first = start("mon", large)
    assert start("mon", dict(large)).exec_id == first.exec_id
    with pytest.raises(kitaru.KitaruStateError, match=r"options\.n: 1 was recorded, now 2"):
        start("mon", large | {"n": 2})
    first.wait(30)
    with SqliteReader(str(journal_file)) as reader:
        assert len(reader.read_all()) == 3


def test_a_default_that_is_written_out_is_another_argument_and_a_position_is_not() -> None:
    start = keyed("k").run
    first = start("mon")
    assert start(day="mon").exec_id == first.exec_id
    with pytest.raises(kitaru.KitaruStateError, match=r"arguments\.options: nothing was recorded"):
        start("mon", None)


@BOTH
def test_the_order_of_a_dicts_keys_makes_no_other_start(body: AnyFlow) -> None:
    start = keyed("k", body).run
    first = start("mon", {"a": 1, "b": {"c": 2, "d": 3}})
    again = start("mon", {"b": {"d": 3, "c": 2}, "a": 1})
    assert again.exec_id == first.exec_id
    with pytest.raises(kitaru.KitaruStateError, match=r"options\.b\.c: 2 was recorded, now 4"):
        start("mon", {"b": {"d": 3, "c": 4}, "a": 1})
    assert first.wait(30) == "report of mon"


def test_a_key_of_another_flow_is_another_key_and_so_is_a_similar_text() -> None:
    keys = ["k", "K", "k ", " k", "k1", "k\u0301", "\u1e31"]
    started = [keyed(key).run("mon").exec_id for key in keys]
    started.append(weekly.with_options(idempotency_key="k").run("mon").exec_id)
    assert len(set(started)) == len(keys) + 1


@pytest.mark.parametrize("key", ["", " ", "\t", "\0", "a\nb", 3, b"k", "x" * 501, True])
@BOTH
def test_what_is_no_key_is_refused_and_nothing_starts(
    body: AnyFlow, key: Any, journal_file: Path
) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="idempotency key"):
        body.with_options(idempotency_key=key).run("mon")
    with SqliteReader(str(journal_file)) as reader:
        assert reader.read_all() == []


async def test_a_conflict_of_an_async_start_is_told_by_its_handle() -> None:
    first = await keyed_async.run("mon")
    conflict = keyed_async.run("tue")
    with pytest.raises(kitaru.KitaruStateError, match="'mon' was recorded, now 'tue'"):
        await conflict
    assert await first.wait(30) == "report of mon"


async def test_a_key_is_refused_where_looking_it_up_would_stop_the_loop() -> None:
    async with kitaru.runtime(journal="memory://"):
        assert await nightly.run("mon").aio.wait(30) == "report of mon"
        with pytest.raises(kitaru.KitaruUsageError, match=r"await nightly\.aio\.run"):
            keyed("k").run("mon")
        first = await keyed("k").aio.run("mon")
        assert (await keyed("k").aio.run("mon")).exec_id == first.exec_id
        with pytest.raises(kitaru.KitaruUsageError, match=r"await nightly\.aio\.replay"):
            nightly.replay(first.exec_id, from_="work")
        await first.wait(30)


async def test_many_starts_at_once_are_one_execution() -> None:
    handles = [keyed_async.run("mon") for _ in range(50)]
    results = await asyncio.gather(*(handle.wait(30) for handle in handles))
    assert set(results) == {"report of mon"}
    assert len({handle.exec_id for handle in handles}) == 1
    assert runs == ["mon"]


def test_many_threads_at_once_start_one_execution() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        handles = list(pool.map(lambda _: keyed("k").run("mon"), range(48)))
    assert {handle.wait(30) for handle in handles} == {"report of mon"}
    assert len({handle.exec_id for handle in handles}) == 1
    assert runs == ["mon"]


# The owner that started it has died: the next start with the key takes it over, and runs it.


@BOTH
def test_a_start_with_a_known_key_takes_over_what_nobody_runs(body: AnyFlow) -> None:
    start = keyed("k", body).run
    gate.clear()
    first = start("mon")
    while not runs:
        threading.Event().wait(0.001)
    close_background()
    gate.set()
    again = start("mon")
    assert again.exec_id == first.exec_id
    assert again.wait(30) == "report of mon"
    history = events_of(again.exec_id)
    assert sum(isinstance(event, ExecutionStarted) for event in history) == 1
    assert sum(isinstance(event, CheckpointCompleted) for event in history) == 1


def events_of(exec_id: str) -> list[Any]:
    runtime = current_runtime()
    reading = asyncio.run_coroutine_threadsafe(
        runtime.journal.read_stream(stream_of(exec_id)), runtime.loop
    )
    return [decode_event(fact) for fact in reading.result()]


def test_a_start_waits_for_the_lease_of_a_dead_owner() -> None:
    from kitaru.domain.execution.events import FrozenOptions
    from kitaru.operations import executions

    runtime = current_runtime()
    named = nightly.definition.binder.name_all(("mon",), {})
    prepared = executions.prepare(
        runtime, nightly.definition, nightly.reference, "", named, FrozenOptions(), "k"
    )
    append = prepared.append
    runtime.journal.append_blocking(
        Append(
            stream=append.stream,
            events=append.events,
            expected_version=0,
            head=append.head,
            claim=Claim("a dead process", 1.0),
        )
    )
    handle = keyed("k").run("mon")
    assert handle.exec_id == prepared.exec_id
    assert handle.wait(30) == "report of mon"
    assert KitaruClient().executions.get(handle.exec_id).takeovers == 1


# Of many processes that start it at the same moment one does, and all get its result.

STARTER = """
import sys
import time
import kitaru
from pathlib import Path
from kitaru import checkpoint, flow

@checkpoint
def effect(number: int) -> int:
    with Path("effects").open("a") as file:
        file.write(f"{number}\\n")
    return number * 2

@flow
def started(number: int) -> int:
    return effect(number) + effect(number + 1)

if __name__ == "__main__":
    kitaru.configure(lease_seconds=2.0)
    while not Path("go").exists():
        time.sleep(0.001)
    try:
        handle = started.run(int(sys.argv[1]), idempotency_key="one")
    except kitaru.KitaruStateError as error:
        print("conflict", "number" in str(error))
    else:
        print(handle.exec_id, handle.wait(60))
"""


def start_together(
    folder: Path, journal_url: str, numbers: list[int]
) -> list["subprocess.CompletedProcess[str]"]:
    import os

    script = folder / "starter.py"
    script.write_text(STARTER)
    children = [
        subprocess.Popen(
            [sys.executable, str(script), str(number)],
            cwd=folder,
            env={**os.environ, "KITARU_JOURNAL": journal_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in numbers
    ]
    (folder / "go").touch()
    done = []
    for child in children:
        out, err = child.communicate(timeout=100)
        done.append(subprocess.CompletedProcess(child.args, child.returncode, out, err))
    return done


def test_eight_processes_at_once_start_one_execution(tmp_path: Path, journal_url: str) -> None:
    done = start_together(tmp_path, journal_url, [3] * 8)
    outputs = {each.stdout for each in done}
    assert len(outputs) == 1, [(each.stdout, each.stderr) for each in done]
    assert outputs.pop().split()[1] == "14"
    assert sorted((tmp_path / "effects").read_text().split()) == ["3", "4"]


def test_of_processes_with_other_inputs_one_input_wins_everywhere(
    tmp_path: Path, journal_url: str, journal_file: Path
) -> None:
    done = start_together(tmp_path, journal_url, [3, 4, 3, 4, 3, 4])
    outputs = [each.stdout.split() for each in done]
    assert all(each.returncode == 0 for each in done), [each.stderr for each in done]
    won = [output for output in outputs if output[0] != "conflict"]
    lost = [output for output in outputs if output[0] == "conflict"]
    assert len({tuple(output) for output in won}) == 1
    assert (len(won), len(lost)) == (3, 3)
    assert lost == [["conflict", "True"]] * 3
    with SqliteReader(str(journal_file)) as reader:
        starts = [event for event in reader.read_all() if event.type == "execution_started"]
        assert len(starts) == 1
        number = json.loads(starts[0].payload)["arguments"]["json"]["number"]
    assert sorted((tmp_path / "effects").read_text().split()) == [str(number), str(number + 1)]
