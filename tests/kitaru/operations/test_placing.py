"""Executions on process stacks: each in a process of its own, which others replace when it dies."""

import asyncio
import functools
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kitaru
from journal import Append, HeadChange, NewEvent, open_reader
from kitaru import KitaruStateError, KitaruUsageError, flow
from kitaru.bootstrap import close_background, current_runtime
from kitaru.engine.executions import stream_of
from kitaru.engine.source import load_module
from kitaru.settings import runner_folder
from kitaru.stacks import logs
from kitaru.stacks.placer import Placer
from tests.kitaru.stacks.images.conftest import make_wheel

DEADLINE_SECONDS = 90.0

PROGRAM = """
import os
import pathlib
import shutil
import sys
import time

import kitaru
from kitaru import checkpoint, flow


def trace(folder: str, name: str) -> None:
    with open(pathlib.Path(folder, name), "a") as file:
        file.write(f"{os.getpid()}\\n")


@checkpoint
def where() -> tuple[int, str, str, dict[str, str]]:
    shown = {name: os.environ.get(name, "") for name in ("LEVEL", "MY_TOKEN")}
    return os.getpid(), sys.executable, os.getcwd(), shown


@flow
def agent(n: int) -> list:
    return [n, *where()]


@flow
async def agent_async(n: int) -> list:
    return [n, *await where.aio()]


@checkpoint
def tiny() -> int:
    import kitaru_tiny

    return kitaru_tiny.answer


@flow
def with_tiny() -> int:
    return tiny()


@checkpoint
def step(folder: str, number: int) -> int:
    trace(folder, f"step-{number}")
    return number


@checkpoint
def hold(folder: str, until: str) -> None:
    trace(folder, "hold")
    while not pathlib.Path(folder, until).exists():
        time.sleep(0.02)


@flow
def long(folder: str) -> int:
    total = sum(step(folder, number) for number in range(3))
    hold(folder, "go")
    return total + step(folder, 3)


@flow
def asking(folder: str) -> str:
    trace(folder, "pass")
    return kitaru.wait(schema=str, name="name")


@checkpoint
def find_python() -> tuple[str | None, str, str]:
    return shutil.which("python"), os.environ.get("VIRTUAL_ENV", ""), sys.executable


@flow
def finding() -> list:
    return list(find_python())


@checkpoint(runtime="isolated")
def apart() -> int:
    return os.getpid()


@flow
def isolating() -> list:
    return [apart(), apart(), where()[0]]
"""


@pytest.fixture(autouse=True)
def own_journal(journal_url: str, choice_folder: Path, monkeypatch: Any) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(choice_folder.parent / "cache"))
    kitaru.configure(journal=journal_url, cache=False, lease_seconds=2, runner_idle_seconds=0.5)
    kitaru.create_stack("isolated", type="process", activate=False)
    yield
    end_runners()
    close_background()
    kitaru.configure(journal=None, cache=None, lease_seconds=None, runner_idle_seconds=None)
    kitaru.configure(runners=None)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Any]:
    """A project's module, which every process of the test can find."""
    name = f"agents_{os.getpid()}_{tmp_path.name.replace('-', '_')}"
    file = tmp_path / "project" / f"{name}.py"
    file.parent.mkdir()
    file.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    module: ModuleType = load_module(str(file))
    yield module
    sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where bodies leave their traces."""
    made = tmp_path / "traces"
    made.mkdir()
    return made


def current_executors() -> list[Any]:
    runtime = current_runtime()

    async def found() -> list[Any]:
        return list(runtime.placer.executors.values())

    return asyncio.run_coroutine_threadsafe(found(), runtime.loop).result()


def end_runners() -> None:
    """They would outlive the test, as they outlive every starter."""
    runtime = current_runtime()
    if runtime.url == "memory://":
        return
    for executor in current_executors():
        until(functools.partial(has_ended, executor), "a runner does not end")


def has_ended(executor: Any) -> bool:
    return not [executor.stop(runner.exec_id) for runner in executor.placed()]


def until(holds: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def lines(folder: Path, name: str) -> list[int]:
    file = folder / name
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def execution(handle: Any) -> kitaru.Execution:
    return kitaru.KitaruClient().executions.get(handle.exec_id)


@pytest.mark.parametrize("name", ["agent", "agent_async"])
def test_an_execution_has_a_process_of_its_own(agents: Any, name: str, tmp_path: Path) -> None:
    flow = getattr(agents, name).sync
    first = flow.run(1, stack="isolated")
    second = flow.run(2, stack="isolated")
    one, two = first.wait(DEADLINE_SECONDS), second.wait(DEADLINE_SECONDS)
    assert (one[0], two[0]) == (1, 2)
    assert len({one[1], two[1], os.getpid()}) == 3
    assert one[2] == sys.executable
    # Neither in the caller's folder nor in that of another runner.
    assert len({one[3], two[3], os.getcwd()}) == 3
    assert execution(first).stack_name == "isolated"


async def test_an_async_program_has_them_too(agents: Any) -> None:
    handle = await agents.agent_async.run(1, stack="isolated")
    found = await handle.wait(DEADLINE_SECONDS)
    assert found[1] != os.getpid()


def test_the_image_gives_it_variables_and_no_secret_is_written_down(
    agents: Any, tmp_path: Path, journal_file: Path
) -> None:
    image = {"environment": {"LEVEL": "high", "MY_TOKEN": "open-sesame"}}
    handle = agents.agent.run(1, stack="isolated", image=image)
    result = handle.wait(DEADLINE_SECONDS)
    assert result[4] == {"LEVEL": "high", "MY_TOKEN": "open-sesame"}
    with open_reader(f"sqlite:///{journal_file}") as reader:
        (started, *_) = reader.read_stream(stream_of(handle.exec_id))
    assert b"sesame" not in started.payload
    assert b'"MY_TOKEN"' in started.payload
    options = execution(handle).options
    assert options is not None
    assert options.image == kitaru.ImageSettings(
        environment={"LEVEL": "high"}, secret_environment_from=["MY_TOKEN"]
    )


def test_a_variable_that_is_to_be_handed_on_must_be_there(
    agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"secret_environment_from": ["MY_TOKEN"]}
    with pytest.raises(KitaruUsageError, match="MY_TOKEN is not set here"):
        agents.agent.run(1, stack="isolated", image=image)
    assert kitaru.KitaruClient().executions.list() == []
    monkeypatch.setenv("MY_TOKEN", "sesame")
    handle = agents.agent.run(1, stack="isolated", image=image)
    assert handle.wait(DEADLINE_SECONDS)[4]["MY_TOKEN"] == "sesame"


def test_the_image_gives_it_a_package_that_the_caller_does_not_have(
    agents: Any, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path, "kitaru_tiny", "answer = 42\n")
    with pytest.raises(ModuleNotFoundError):
        __import__("kitaru_tiny")
    image = {"requirements": [str(wheel)]}
    handle = agents.with_tiny.run(stack="isolated", image=image)
    assert handle.wait(DEADLINE_SECONDS) == 42
    where = agents.agent.run(1, stack="isolated", image=image).wait(DEADLINE_SECONDS)
    assert Path(where[2]).is_relative_to(tmp_path / "cache")


def test_an_image_that_cannot_be_made_starts_nothing(agents: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"no wheel")
    with pytest.raises(kitaru.KitaruImageError, match="broken"):
        agents.agent.run(1, stack="isolated", image={"requirements": [str(broken)]})
    with pytest.raises(KitaruUsageError, match=r"image\.base_image: the stack 'isolated'"):
        agents.agent.run(1, stack="isolated", image="python:3.12")
    assert kitaru.KitaruClient().executions.list() == []


@flow
def of_this_test() -> None: ...


def test_a_flow_that_no_process_can_find_starts_nothing(tmp_path: Path) -> None:
    @flow
    def nested() -> None: ...

    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("from kitaru import flow\n@flow\ndef typed(): ...", namespace)
    unfindable: list[Any] = [nested, namespace["typed"]]
    for each in unfindable:
        with pytest.raises(KitaruUsageError, match="cannot find it"):
            each.run(stack="isolated")
    assert kitaru.KitaruClient().executions.list() == []


def test_a_journal_in_memory_has_no_process_stacks(agents: Any) -> None:
    kitaru.configure(journal="memory://")
    kitaru.create_stack("isolated", type="process", activate=False)
    with pytest.raises(KitaruUsageError, match="name a file for the journal"):
        agents.agent.run(1, stack="isolated")
    assert kitaru.KitaruClient().executions.list() == []


def test_a_runner_that_is_killed_is_replaced_and_nothing_recorded_runs_again(
    agents: Any, folder: Path
) -> None:
    handle = agents.long.run(str(folder), stack="isolated")
    (first,) = until(lambda: lines(folder, "hold"), "it does not begin")
    os.kill(first, signal.SIGKILL)
    second = until(lambda: lines(folder, "hold")[1:], "nobody takes it over")[0]
    (folder / "go").touch()
    assert handle.wait(DEADLINE_SECONDS) == 6
    assert first != second
    assert [lines(folder, f"step-{number}") for number in range(3)] == [[first]] * 3
    assert lines(folder, "step-3") == [second]
    found = execution(handle)
    assert found.takeovers == 1
    assert found.attempt == 1


def test_it_goes_on_when_its_starter_dies_and_a_worker_looks_after_it(
    agents: Any, folder: Path, journal_url: str, tmp_path: Path
) -> None:
    program = textwrap.dedent(f"""
        import os, signal, kitaru
        from kitaru.engine.source import load_module
        agents = load_module({agents.__file__!r})
        handle = agents.long.run({str(folder)!r}, stack="isolated")
        print(handle.exec_id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    # Nobody here looks after it: this test's runtime would.
    close_background()
    environment = {**os.environ, "KITARU_JOURNAL": journal_url, "KITARU_LEASE_SECONDS": "2"}
    starter = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert starter.returncode == -signal.SIGKILL
    exec_id = starter.stdout.strip()
    (first,) = until(lambda: lines(folder, "hold"), "the runner ended with its starter")
    os.kill(first, signal.SIGKILL)
    worker = subprocess.Popen(
        [sys.executable, "-m", "kitaru", "worker"],
        env=environment,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        until(lambda: lines(folder, "hold")[1:], "the worker does not place it")
        (folder / "go").touch()
        assert kitaru.KitaruClient().executions.handle(exec_id).wait(DEADLINE_SECONDS) == 6
    finally:
        worker.terminate()
        assert worker.wait(DEADLINE_SECONDS) == 0
    assert [len(lines(folder, f"step-{number}")) for number in range(4)] == [1] * 4


def test_threads_start_on_two_stacks_at_once(agents: Any) -> None:
    kitaru.create_stack("other", type="process", activate=False)
    found: list[tuple[str, str, int]] = []

    def run(stack: str, level: str) -> None:
        image = {"environment": {"LEVEL": level}}
        handle = agents.agent.run(1, stack=stack, image=image)
        result = handle.wait(DEADLINE_SECONDS)
        assert result[4]["LEVEL"] == level
        found.append((stack, execution(handle).stack_name, result[1]))

    threads = [
        threading.Thread(target=run, args=(stack, f"{stack}-{number}"))
        for number in range(2)
        for stack in ("isolated", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((stack, got) for stack, got, _ in found) == [
        ("isolated", "isolated"),
        ("isolated", "isolated"),
        ("other", "other"),
        ("other", "other"),
    ]
    assert len({pid for *_, pid in found}) == 4


def test_a_deleted_stack_keeps_what_was_started_on_it(agents: Any, folder: Path) -> None:
    handle = agents.asking.run(str(folder), stack="isolated")
    until(lambda: execution(handle).status == "waiting", "it does not wait")
    kitaru.delete_stack("isolated")
    with pytest.raises(KitaruUsageError, match="no stack 'isolated'"):
        agents.asking.run(str(folder), stack="isolated")
    kitaru.KitaruClient().executions.input(handle.exec_id, wait="name", value="Ada")
    assert handle.wait(DEADLINE_SECONDS) == "Ada"
    assert execution(handle).stack_name == "isolated"


def test_an_execution_that_only_waits_keeps_no_process(agents: Any, folder: Path) -> None:
    handle = agents.asking.run(str(folder), stack="isolated")
    until(lambda: execution(handle).status == "waiting", "it does not wait")
    until(lambda: execution(handle).owner is None, "it is not let go of")
    (first,) = lines(folder, "pass")
    until(lambda: not any(each.placed() for each in current_executors()), "a process stays")
    kitaru.KitaruClient().executions.input(handle.exec_id, wait="name", value="Ada")
    assert handle.wait(DEADLINE_SECONDS) == "Ada"
    assert lines(folder, "pass")[0] == first
    assert len(set(lines(folder, "pass"))) == 2


def test_placing_twice_runs_nothing_twice(agents: Any, folder: Path) -> None:
    handle = agents.long.run(str(folder), stack="isolated")
    runtime = current_runtime()
    others: list[Any] = []

    async def place_again() -> None:
        head = await runtime.journal.head(stream_of(handle.exec_id))
        assert head is not None
        for _ in range(3):
            # As other processes would, that do not know of each other's runners.
            others.append(copy_of(runtime.placer.executors["process"]))
            placer = Placer(
                runtime.journal, {"process": others[-1]}, runtime.worker.note_not_placed
            )
            await placer.place_head(head)

    asyncio.run_coroutine_threadsafe(place_again(), runtime.loop).result()
    (owner,) = until(lambda: lines(folder, "hold"), "it does not begin")
    (folder / "go").touch()
    assert handle.wait(DEADLINE_SECONDS) == 6
    assert [lines(folder, f"step-{number}") for number in range(4)] == [[owner]] * 4
    assert execution(handle).takeovers == 0
    until(lambda: not any(other.placed() for other in others), "a runner that is too many stays")


def copy_of(executor: Any) -> Any:
    return type(executor)(executor._settings)


def test_a_start_that_finds_no_runner_is_kept_and_placed_later(agents: Any) -> None:
    (executor,) = [each for each in current_executors() if hasattr(each, "_settings")]
    folder: Path = executor._settings.folder
    folder.touch()
    handle = agents.agent.run(1, stack="isolated")
    found = until(lambda: execution(handle).status_reason, "it is not said why it stands still")
    assert "its stack cannot give it a runner: The folder of the runners" in found
    folder.unlink()
    assert handle.wait(DEADLINE_SECONDS)[0] == 1


def test_a_runner_that_dies_before_it_begins_is_told_of(agents: Any, folder: Path) -> None:
    image = {"environment": {"PYTHONHOME": str(folder)}}
    handle = agents.agent.run(1, stack="isolated", image=image)
    found = until(lambda: execution(handle).status_reason, "it is not said why it stands still")
    assert "had not begun when it ended with code 1; what it said is in " in found
    assert Path(found.rpartition(" is in ")[2]).is_file()
    kitaru.KitaruClient().executions.force_cancel(handle.exec_id)


def test_a_variable_that_no_process_can_have_starts_nothing(agents: Any) -> None:
    image = {"environment": {"LONG": "x" * 200_000}}
    with pytest.raises(KitaruUsageError, match=r"image\.environment: LONG is longer than"):
        agents.agent.run(1, stack="isolated", image=image)
    assert kitaru.KitaruClient().executions.list() == []


def test_a_runners_subprocesses_find_what_its_environment_has(agents: Any) -> None:
    image: dict[str, Any] = {"requirements": []}
    which, active, python = agents.finding.run(stack="isolated", image=image).wait(DEADLINE_SECONDS)
    assert which == python
    assert Path(active) == Path(python).parents[1]
    image = {"requirements": [], "environment": {"PATH": "/nowhere"}}
    handle = agents.finding.run(stack="isolated", image=image)
    assert handle.wait(DEADLINE_SECONDS)[0] is None


def test_an_execution_that_cannot_be_read_keeps_none_of_the_others(agents: Any) -> None:
    runtime = current_runtime()
    (executor,) = [each for each in current_executors() if hasattr(each, "_settings")]
    folder: Path = executor._settings.folder

    async def look_at_once() -> None:
        head = HeadChange("running", "agent", 0, route="stack:isolated")
        newer = NewEvent("execution_started_otherwise", b"{}")
        stream = stream_of(secrets.token_hex(4))
        await runtime.journal.append(Append(stream, (newer,), 0, head))
        # Before anything else looks: the one that cannot be read is the first that is seen.
        await runtime.placer.look(patience=0)

    folder.touch()
    handle = agents.agent.run(1, stack="isolated")
    for _ in range(2):
        asyncio.run_coroutine_threadsafe(look_at_once(), runtime.loop).result()
        folder.unlink(missing_ok=True)
    assert handle.wait(DEADLINE_SECONDS)[0] == 1


def test_there_is_room_for_so_many_and_the_others_come_after_them(agents: Any) -> None:
    (executor,) = [each for each in current_executors() if hasattr(each, "_settings")]
    object.__setattr__(executor, "_settings", with_room_for_one(executor._settings))
    handles = [agents.agent.run(number, stack="isolated") for number in range(3)]
    assert len(executor.placed()) <= 1
    assert [handle.wait(DEADLINE_SECONDS)[0] for handle in handles] == [0, 1, 2]


def with_room_for_one(settings: Any) -> Any:
    from msgspec.structs import replace

    return replace(settings, most_per_stack=1)


def test_the_oldest_logs_make_room_for_a_runner(
    agents: Any, journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_FILES", 2)
    folder = runner_folder(journal_url)
    assert folder is not None
    folder.mkdir(exist_ok=True)
    for number in range(5):
        (folder / f"old{number}.log").write_text("{}")
    agents.agent.run(1, stack="isolated").wait(DEADLINE_SECONDS)
    assert len(list(folder.glob("old*.log"))) == 2


def test_code_that_is_gone_is_shown_and_not_tried_all_the_time(agents: Any, folder: Path) -> None:
    file = Path(agents.__file__)
    handle = agents.asking.run(str(folder), stack="isolated")
    until(lambda: execution(handle).owner is None and lines(folder, "pass"), "it does not wait")
    hidden = file.rename(file.with_suffix(".away"))
    kitaru.KitaruClient().executions.input(handle.exec_id, wait="name", value="Ada")
    found = until(
        lambda: "cannot be loaded" in (execution(handle).status_reason or ""), "it is not said"
    )
    assert found
    assert not execution(handle).status.is_finished
    hidden.rename(file)
    assert handle.wait(DEADLINE_SECONDS) == "Ada"


def test_isolated_checkpoints_have_their_own_processes_there(agents: Any) -> None:
    one, two, runner = agents.isolating.run(stack="isolated").wait(DEADLINE_SECONDS)
    assert len({one, two, runner, os.getpid()}) == 4


def test_resuming_gives_it_a_runner_and_does_not_run_it_here(agents: Any, folder: Path) -> None:
    handle = agents.asking.run(str(folder), stack="isolated")
    until(lambda: execution(handle).owner is None and lines(folder, "pass"), "it does not wait")
    before = len(lines(folder, "pass"))
    kitaru.KitaruClient().executions.resume(handle.exec_id)
    passes = until(lambda: lines(folder, "pass")[before:], "it gets no runner")
    assert os.getpid() not in passes


def test_a_running_one_is_not_resumed(agents: Any, folder: Path) -> None:
    handle = agents.long.run(str(folder), stack="isolated")
    until(lambda: lines(folder, "hold"), "it does not begin")
    with pytest.raises(KitaruStateError, match="is being run by"):
        kitaru.KitaruClient().executions.resume(handle.exec_id)
    kitaru.KitaruClient().executions.cancel(handle.exec_id)
    (folder / "go").touch()
    with pytest.raises(kitaru.KitaruCancelledError):
        handle.wait(DEADLINE_SECONDS)


def test_forks_are_placed_on_their_stack(agents: Any) -> None:
    source = agents.agent.run(1, stack="isolated")
    source.wait(DEADLINE_SECONDS)
    fork = agents.agent.replay(source.exec_id, from_="where", stack="isolated")
    assert fork.wait(DEADLINE_SECONDS)[1] != os.getpid()
    others = kitaru.KitaruClient().executions.replay(source.exec_id, from_="where")
    handle = kitaru.KitaruClient().executions.handle(others.exec_id)
    assert handle.wait(DEADLINE_SECONDS)[1] != os.getpid()
    assert others.stack_name == "isolated"


def test_a_key_starts_it_once(agents: Any) -> None:
    handles = [agents.agent.run(1, stack="isolated", idempotency_key="once") for _ in range(3)]
    assert len({handle.exec_id for handle in handles}) == 1
    assert handles[2].wait(DEADLINE_SECONDS)[0] == 1
    with pytest.raises(KitaruStateError, match="with other arguments"):
        agents.agent.run(2, stack="isolated", idempotency_key="once")


def test_a_deployed_version_runs_on_its_stack_with_its_image(agents: Any, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "kitaru_tiny", "answer = 42\n")
    image = {"requirements": [str(wheel)]}
    with pytest.raises(KitaruUsageError, match=r"image\.requirements: the stack 'local'"):
        agents.with_tiny.deploy(image=image)
    agents.with_tiny.deploy(stack="isolated", image=image)
    kitaru.delete_stack("isolated")
    handle = kitaru.KitaruClient().deployments.invoke(flow="with_tiny", inputs={})
    assert handle.wait(DEADLINE_SECONDS) == 42
    assert execution(handle).stack_name == "isolated"


def test_a_secret_that_is_gone_is_asked_for_and_the_execution_waits_for_it(
    agents: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"environment": {"MY_TOKEN": "sesame"}}
    handle = agents.asking.run(str(folder), stack="isolated", image=image)
    until(lambda: execution(handle).owner is None and lines(folder, "pass"), "it does not wait")
    kitaru.KitaruClient().executions.input(handle.exec_id, wait="name", value="Ada")
    # The literal was the starter's; whoever goes on takes the value from its own environment.
    found = until(lambda: execution(handle).status_reason, "it is not said why it stands still")
    assert "needs MY_TOKEN in its environment" in found
    assert not execution(handle).status.is_finished
    monkeypatch.setenv("MY_TOKEN", "open")
    assert handle.wait(DEADLINE_SECONDS) == "Ada"


def test_the_command_line_starts_it_and_leaves(
    agents: Any, journal_url: str, choice_folder: Path
) -> None:
    environment = {**os.environ, "KITARU_JOURNAL": journal_url}
    started = subprocess.run(
        [
            *(sys.executable, "-m", "kitaru", "run", f"{agents.__file__}:agent", "--no-wait"),
            *("--args", '{"n": 7}', "--stack", "isolated"),
            *("--image", '{"environment": {"LEVEL": "x"}}'),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert started.stderr == "Started on the stack isolated, which runs it.\n"
    handle = kitaru.KitaruClient().executions.handle(started.stdout.strip())
    found = handle.wait(DEADLINE_SECONDS)
    assert (found[0], found[4]["LEVEL"]) == (7, "x")
