"""A result is reused where everything that could change it is the same, and nowhere else."""

import asyncio
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import BlobNotFound, JournalUnavailable, RecordedEvent, open_reader
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.cache import is_on
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.engine.executions import new_event, stream_of
from kitaru.engine.upcasts import UnknownEvent, decode_event
from kitaru.projections.views import Execution
from tests.conftest import RunProgram


class Runs:
    """How often bodies ran: an object, which counts as it was when it was first looked at."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> int:
        self.names.append(name)
        return len(self.names)


runs = Runs()


@pytest.fixture(autouse=True)
def own_journal(journal_url: str) -> Iterator[None]:
    runs.names.clear()
    kitaru.configure(journal=journal_url)
    yield
    from kitaru.bootstrap import close_background

    close_background()
    kitaru.configure(journal=None, cache=None, retries=None, lease_seconds=None)


@checkpoint
def fetch(url: str) -> dict[str, Any]:
    return {"url": url, "run": runs(f"fetch {url}")}


@checkpoint
async def fetch_async(url: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"url": url, "run": runs(f"fetch {url}")}


@flow
def collect(*urls: str) -> list[Any]:
    return [fetch(url) for url in urls]


@flow
def collect_submitted(*urls: str) -> list[Any]:
    return [future.result() for future in fetch.map(list(urls))]


@flow
async def collect_async(*urls: str) -> list[Any]:
    return [await fetch_async(url) for url in urls]


@flow
async def collect_gathered(*urls: str) -> list[Any]:
    return list(await asyncio.gather(*map(fetch_async, urls)))


FLOWS = [collect, collect_submitted, collect_async, collect_gathered]


def run(body: Any, *args: Any, **options: Any) -> tuple[Any, Execution]:
    handle = body.sync.with_options(**options).run(*args)
    result = handle.wait(timeout=60)
    return result, kitaru.KitaruClient().executions.get(handle.exec_id)


def read_stream(exec_id: str) -> list[RecordedEvent]:
    runtime = current_runtime()
    read: Any = runtime.journal.read_stream(stream_of(exec_id))
    return list(asyncio.run_coroutine_threadsafe(read, runtime.loop).result())


def sources(execution: Execution) -> list[str | None]:
    return [call.cached_from for call in execution.checkpoints]


# What may be reused.


@pytest.mark.parametrize("body", FLOWS)
def test_an_earlier_executions_results_are_reused_and_shown(body: Any) -> None:
    first, original = run(body, "a", "b")
    second, reusing = run(body, "b", "a", "c")
    assert sorted(runs.names) == ["fetch a", "fetch b", "fetch c"]
    assert second[:2] == [first[1], first[0]]
    assert sources(original) == [None, None]
    by_path = {bytes(call.arguments.json): call for call in reusing.checkpoints if call.arguments}
    taken = [by_path[b'{"url":"%s"}' % url] for url in (b"b", b"a")]
    assert [call.cached_from for call in taken] == [original.exec_id] * 2
    assert [call.attempts for call in taken] == [(), ()]
    assert by_path[b'{"url":"c"}'].cached_from is None


@pytest.mark.parametrize("body", FLOWS)
def test_equal_calls_of_one_execution_each_run(body: Any) -> None:
    result, execution = run(body, "a", "a", "a")
    assert sorted(item["run"] for item in result) == [1, 2, 3]
    assert sources(execution) == [None] * 3


@pytest.mark.parametrize("body", FLOWS)
def test_what_is_shown_is_the_origin_and_never_a_copy(body: Any) -> None:
    _, original = run(body, "a")
    for _ in range(3):
        assert sources(run(body, "a")[1]) == [original.exec_id]
    assert runs.names == ["fetch a"]


def test_the_latest_result_is_taken() -> None:
    run(collect, "a", "a", cache=True)
    (latest,) = run(collect, "a")[0]
    assert latest["run"] == 2


def test_another_flows_results_are_its_own() -> None:
    run(collect, "a")
    run(collect_submitted, "a")
    assert runs.names == ["fetch a", "fetch a"]


def test_arguments_with_the_same_meaning_are_the_same() -> None:
    @flow
    def by_name(url: str, positional: bool) -> Any:
        return fetch(url) if positional else fetch(url=url)

    run(by_name, "a", True)
    run(by_name, "a", False)
    assert runs.names == ["fetch a"]


def test_large_results_are_reused_with_their_blob() -> None:
    @checkpoint
    def large(size: int) -> str:
        runs("large")
        return "x" * size

    @flow
    def both(size: int) -> str:
        return large(size)

    @flow
    async def both_async(size: int) -> str:
        return await large.aio(size)

    for body in (both, both_async):
        runs.names.clear()
        first, _ = run(body, 100_000)
        second, execution = run(body, 100_000)
        assert first == second == "x" * 100_000
        assert sources(execution) != [None]
        assert runs.names == ["large"]


@pytest.mark.parametrize("body", [collect, collect_async])
def test_a_result_whose_blob_is_gone_is_made_anew(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(body, "x" * 50_000)
    journal = current_runtime().journal
    read = journal.get_blob
    gone: list[str] = []

    async def lost(digest: str) -> bytes:
        if len(gone) < 1:
            gone.append(digest)
            raise BlobNotFound(digest)
        return await read(digest)

    monkeypatch.setattr(journal, "get_blob", lost)
    _, execution = run(body, "x" * 50_000)
    # The flow's arguments are a blob too, but are not read by the process that has started it.
    assert sources(execution) == [None]
    assert len(gone) == 1
    assert len(runs.names) == 2


def answered_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes look-ups of async flows be answered in a later pass of the loop."""
    runtime = current_runtime()
    find = runtime.journal.find_soon

    def later(query: Any, done: Any) -> None:
        runtime.loop.call_later(0.01, find, query, done)

    monkeypatch.setattr(runtime.journal, "find_soon", later)


@pytest.mark.parametrize("body", [collect_async, collect_gathered])
def test_a_look_up_may_be_answered_later(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answered_late(monkeypatch)
    _, original = run(body, "a", "b")
    assert sources(run(body, "a", "b", "x" * 50_000)[1]) == [original.exec_id] * 2 + [None]
    assert len(runs.names) == 3


def test_a_call_that_is_given_up_during_its_look_up_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @flow
    async def gives_up() -> str:
        task = asyncio.ensure_future(fetch_async("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return "done"

    answered_late(monkeypatch)
    assert run(gives_up)[0] == "done"
    assert runs.names == []


@pytest.mark.parametrize("body", [collect, collect_async])
def test_a_look_up_that_fails_runs_nothing_and_the_next_runner_goes_on(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise JournalUnavailable("the disk is away")

    kitaru.configure(lease_seconds=1)
    runtime = current_runtime()
    with monkeypatch.context() as patch:
        journal: Any = runtime.journal
        patch.setattr(journal._finder, "find_all", fail)
        handle = body.sync.run("a")
        end = time.monotonic() + 60
        while handle.exec_id in runtime.worker.runners:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert runs.names == []
    assert handle.wait(timeout=60) == [{"url": "a", "run": 1}]


def test_a_long_call_whose_start_was_noted_is_reused() -> None:
    @checkpoint
    def slow() -> int:
        runs("slow")
        time.sleep(0.2)
        return 1

    @flow
    def direct() -> list[int]:
        return [slow(), slow.submit().result()]

    _, first = run(direct)
    kinds = [entry.type for entry in read_stream(first.exec_id)]
    assert "checkpoint_started" in kinds
    run(direct)
    assert runs.names == ["slow", "slow"]


def test_a_result_that_cannot_be_read_any_more_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(collect, "a")

    def refuse(recorded: RecordedEvent) -> Any:
        raise UnknownEvent(recorded, 1)

    monkeypatch.setattr("kitaru.engine.cache.decode_event", refuse)
    assert sources(run(collect, "a")[1]) == [None]
    assert len(runs.names) == 2


# What may not.


def test_a_failure_is_never_reused() -> None:
    @checkpoint
    def fails() -> None:
        runs("fails")
        raise ValueError("no")

    @flow
    def failing() -> None:
        fails()

    for _ in range(2):
        with pytest.raises(kitaru.KitaruUserCodeError):
            run(failing)
    assert runs.names == ["fails", "fails"]


def test_the_attempt_that_succeeded_in_the_end_is_reused() -> None:
    @checkpoint(retries=1)
    def flaky() -> int:
        if runs("flaky") == 1:
            raise ValueError("once")
        return 7

    @flow
    def retrying() -> int:
        return flaky()

    assert run(retrying)[0] == run(retrying)[0] == 7
    assert runs.names == ["flaky", "flaky"]


def test_the_results_of_a_failed_execution_are_reused_by_the_next() -> None:
    ok = [False]

    @flow
    def breaks() -> Any:
        value = fetch("a")
        if not ok[0]:
            raise ValueError("after the checkpoint")
        return value

    with pytest.raises(kitaru.KitaruUserCodeError):
        run(breaks)
    ok[0] = True
    run(breaks)
    assert runs.names == ["fetch a"]


def saves() -> None:
    kitaru.save("report", 1)


def logs() -> None:
    kitaru.log(tokens=5)


def asks_for_a_key() -> None:
    kitaru.idempotency_key()


def asks_who_it_is() -> None:
    kitaru.current_execution_id()


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("does", [saves, logs, asks_for_a_key, asks_who_it_is])
def test_what_does_something_for_its_own_execution_runs_each_time(
    colour: str, does: Callable[[], None]
) -> None:
    @checkpoint
    def noting(kind: str) -> str:
        runs(kind)
        does()
        return kind

    @flow
    def notes() -> None:
        noting("direct")
        noting.submit("submitted").result()
        fetch("a")

    @flow
    async def notes_async() -> None:
        await noting.aio("direct")
        await noting.aio("submitted")
        await fetch_async("a")

    body: Any = notes if colour == "sync" else notes_async
    _, first = run(body)
    _, second = run(body)
    assert runs.names == ["direct", "submitted", "fetch a", "direct", "submitted"]
    assert len(second.artifacts) == len(first.artifacts)
    assert [call.metadata for call in second.checkpoints] == [
        call.metadata for call in first.checkpoints
    ]


def test_an_attempt_that_saved_and_failed_does_not_keep_the_next_from_being_reused() -> None:
    @checkpoint(retries=1)
    def flaky() -> int:
        if runs("flaky") == 1:
            kitaru.log(seen=1)
            raise ValueError("once")
        return 7

    @flow
    def retrying() -> int:
        return flaky()

    run(retrying)
    run(retrying)
    assert runs.names == ["flaky", "flaky"]


def test_results_that_came_after_an_execution_had_begun_are_not_for_it() -> None:
    ok = [False]

    @flow
    def breaks(_marker: int) -> Any:
        if not ok[0]:
            raise ValueError("before the checkpoint")
        return fetch("a")

    older = breaks.run(1)
    with pytest.raises(kitaru.KitaruUserCodeError):
        older.wait(timeout=60)
    ok[0] = True
    run(breaks, 2)
    kitaru.KitaruClient().executions.retry(older.exec_id)
    older.wait(timeout=60)
    assert runs.names == ["fetch a", "fetch a"]
    # Its own result is that of the execution that ran last.
    assert run(breaks, 3)[0]["run"] == 2


def test_a_retry_keeps_what_it_has_and_says_where_it_came_from() -> None:
    ok = [False]

    @flow
    def breaks(_marker: int) -> Any:
        value = fetch("a")
        if not ok[0]:
            raise ValueError("after the checkpoint")
        return value

    first = breaks.run(1)
    with pytest.raises(kitaru.KitaruUserCodeError):
        first.wait(timeout=60)
    second = breaks.run(2)
    with pytest.raises(kitaru.KitaruUserCodeError):
        second.wait(timeout=60)
    ok[0] = True
    client = kitaru.KitaruClient()
    client.executions.retry(second.exec_id)
    second.wait(timeout=60)
    assert sources(client.executions.get(second.exec_id)) == [first.exec_id]
    assert sources(run(breaks, 3)[1]) == [first.exec_id]
    assert runs.names == ["fetch a"]


# Who decides.


def definition(cache: bool | None) -> CheckpointDefinition:
    from kitaru.domain.execution.retry import retry_policy

    return CheckpointDefinition(
        lambda: None,
        asynchronous=False,
        policy=retry_policy(0, whose="Checkpoint"),
        type=None,
        record_inputs=None,
        cache=cache,
    )


@pytest.mark.parametrize(
    ("execution", "own", "expected"),
    [
        (None, None, True),
        (None, True, True),
        (None, False, False),
        (False, None, False),
        (False, True, False),
        (True, None, True),
        (True, False, True),
    ],
)
def test_what_the_execution_says_counts_before_what_the_checkpoint_says(
    execution: bool | None, own: bool | None, expected: bool
) -> None:
    assert is_on(execution, definition(own)) is expected


def decorated(cache: bool | None) -> Any:
    @checkpoint
    def step() -> int:
        return runs("step")

    @flow(cache=cache)
    def one() -> int:
        return step()

    return one


def test_off_for_a_run_is_off_for_reading_and_for_offering() -> None:
    one = decorated(None)
    run(one, cache=False)
    run(one)
    run(one, cache=False)
    run(one)
    assert runs.names == ["step"] * 3


def test_off_at_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    off, unset = decorated(False), decorated(None)
    run(off)
    run(off)
    assert len(runs.names) == 2
    # The nearer one counts.
    run(off, cache=True)
    run(off, cache=True)
    assert len(runs.names) == 3
    kitaru.configure(cache=False)
    run(unset)
    run(unset)
    assert len(runs.names) == 5
    kitaru.configure(cache=None)
    monkeypatch.setenv("KITARU_CACHE", "off")
    run(unset)
    assert len(runs.names) == 6
    kitaru.configure(cache=True)
    run(unset)
    # The code of both is the same, so that this is what `off` has left above.
    assert len(runs.names) == 6
    monkeypatch.delenv("KITARU_CACHE")


def test_a_checkpoint_that_says_no_runs_each_time() -> None:
    @checkpoint(cache=False)
    def charge() -> int:
        return runs("charge")

    @flow
    def order() -> int:
        return charge()

    assert [run(order)[0], run(order)[0]] == [1, 2]


# What is recorded.


def completed(exec_id: str, url: str) -> list[CheckpointCompleted]:
    with open_reader(url) as reader:
        events = map(decode_event, reader.read_stream(stream_of(exec_id)))
        return [event for event in events if isinstance(event, CheckpointCompleted)]


def test_a_hit_is_an_event_without_a_key_and_is_not_looked_up_in_a_replay(
    journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok = [False]

    @flow
    def breaks() -> Any:
        value = fetch("a")
        if not ok[0]:
            raise ValueError("after the checkpoint")
        return value

    handles = []
    for _ in range(2):
        handles.append(breaks.run())
        with pytest.raises(kitaru.KitaruUserCodeError):
            handles[-1].wait(timeout=60)
    first, second = handles
    (origin,), (hit,) = (completed(handle.exec_id, journal_url) for handle in handles)
    assert (len(origin.cache_key), origin.cached_from) == (32, None)
    assert (hit.cache_key, hit.cached_from, hit.cached_path) == ("", first.exec_id, "fetch")
    assert (hit.result, hit.arguments_digest) == (origin.result, origin.arguments_digest)
    assert new_event(origin).key is not None
    assert new_event(hit).key is None

    def refuse(query: object) -> object:
        raise AssertionError("a recorded call was looked up")

    monkeypatch.setattr(current_runtime().journal, "find_blocking", refuse)
    ok[0] = True
    kitaru.KitaruClient().executions.retry(second.exec_id)
    second.wait(timeout=60)
    assert runs.names == ["fetch a"]


def test_two_calls_whose_lookup_keys_collide_do_not_share_a_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kitaru.engine.executions.lookup_key", lambda key: 42)
    monkeypatch.setattr("kitaru.engine.cache.lookup_key", lambda key: 42)
    run(collect, "a")
    result, _ = run(collect, "b")
    assert result[0]["url"] == "b"
    assert runs.names == ["fetch a", "fetch b"]


def test_a_hit_shows_where_people_look(journal_url: str) -> None:
    from click.testing import CliRunner

    from kitaru.surfaces.cli.main import cli

    _, first = run(collect, "a")
    _, second = run(collect, "a")
    os.environ["KITARU_JOURNAL"] = journal_url
    try:
        shown = CliRunner().invoke(cli, ["executions", "get", second.exec_id]).output
        told = CliRunner().invoke(cli, ["journal", "show", second.exec_id]).output
    finally:
        del os.environ["KITARU_JOURNAL"]
    assert f"fetch  {first.exec_id}  fetch" in " ".join(shown.split(" ")).replace("   ", "  ")
    assert f"result reused from execution {first.exec_id}" in " ".join(told.split())


# In other processes.

PROGRAM = """
import sys, time
from kitaru import flow, checkpoint, KitaruClient

{code}

@flow
def main(x: int) -> str:
    return work(x)

if __name__ == "__main__":
    handle = main.run(1)
    result = handle.wait()
    (call,) = KitaruClient().executions.get(handle.exec_id).checkpoints
    print(result, call.cached_from is not None)
"""
ORIGINAL = """
LIMITS = {"most": 3, "names": ["a", "b"]}

def helper(x: int) -> int:
    return x + 1

class Report:
    size = 2
    def text(self) -> str:
        return "r" * self.size

@checkpoint
def work(x: int) -> str:
    # a comment
    return Report().text() + str(helper(x)) + str(LIMITS)
"""
CHANGES = {
    "same": ("", "", True),
    "comment": ("# a comment", '"""A docstring."""\n\n    # more', True),
    "body": ("str(LIMITS)", "repr(LIMITS)", False),
    "helper": ("x + 1", "x + 2", False),
    "constant": ('"b"', '"c"', False),
    "class attribute": ("size = 2", "size = 3", False),
    "method": ('"r" *', '"s" *', False),
    "option": ("@checkpoint", "@checkpoint(retries=2)", True),
    "off": ("@checkpoint", "@checkpoint(cache=False)", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_edited_code_runs_and_the_same_code_is_reused(run_program: RunProgram, change: str) -> None:
    before, after, reused = CHANGES[change]
    assert run_program(PROGRAM.format(code=ORIGINAL)).stdout.split()[-1] == "False"
    edited = ORIGINAL.replace(before, after) if before else ORIGINAL
    assert edited != ORIGINAL or change == "same"
    second = run_program(PROGRAM.format(code=edited))
    assert second.stdout.split()[-1] == str(reused), second.stderr


def test_an_edited_module_of_the_project_counts(run_program: RunProgram, tmp_path: Path) -> None:
    program = PROGRAM.format(
        code="import helpers\n\n@checkpoint\ndef work(x: int) -> str:\n"
        "    from more import inner\n    return helpers.outer(x) + inner(x)\n"
    )
    (tmp_path / "more.py").write_text("def inner(x):\n    return 'i'\n")
    (tmp_path / "helpers.py").write_text("PREFIX = 'o'\ndef outer(x):\n    return PREFIX\n")

    def reused() -> str:
        done = run_program(program)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    assert [reused(), reused()] == ["False", "True"]
    (tmp_path / "helpers.py").write_text("PREFIX = 'oo'\ndef outer(x):\n    return PREFIX\n")
    assert [reused(), reused()] == ["False", "True"]
    (tmp_path / "more.py").write_text("def inner(x):\n    return 'ii'\n")
    assert [reused(), reused()] == ["False", "True"]


def test_what_a_killed_process_had_recorded_is_reused_by_another_execution(
    run_program: RunProgram, tmp_path: Path
) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from kitaru import flow, checkpoint, KitaruClient

        @checkpoint
        def work(x: int) -> int:
            with open("ran", "a") as file:
                file.write(f"{x} ")
            return x

        @flow
        def main(kill: bool) -> int:
            total = sum(work(x) for x in range(20))
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return total

        if __name__ == "__main__":
            print(main.run(sys.argv[1] == "kill").wait())
        """
    )
    assert run_program(program, "kill").returncode == -signal.SIGKILL
    assert run_program(program, "live").stdout.strip() == "190"
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(20))
