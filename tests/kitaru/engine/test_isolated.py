"""Isolated checkpoints: a process for every attempt, that ends with its runner, and only its runner
records what came of it."""

import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

import kitaru
from kitaru.bootstrap import close_background, current_runtime
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    MetadataLogged,
    StackReference,
)
from kitaru.engine.context import scope
from kitaru.engine.executions import stream_of
from kitaru.engine.source import load_module
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.sdk.handle import FlowHandle

ON_PROCESSES = StackReference("iso", "process")
DEADLINE_SECONDS = 60.0

PROGRAM = """
import asyncio
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import kitaru
from kitaru import checkpoint, flow


@dataclasses.dataclass
class Page:
    url: str
    size: int


class TooBig(ValueError):
    def __init__(self, size):
        super().__init__(f"{size} is too big")
        self.size = size


@checkpoint(runtime="isolated")
def pid(page: Page) -> tuple[int, Page]:
    page.size += 1
    return os.getpid(), page


@checkpoint(runtime="ISOLATED")
async def pid_async(page: Page) -> tuple[int, Page]:
    await asyncio.sleep(0)
    return os.getpid(), dataclasses.replace(page, size=page.size + 1)


@checkpoint(runtime="inline")
def inline() -> int:
    return os.getpid()


@flow
def pids() -> list:
    page = Page("https://example.com", 1)
    first, changed = pid(page)
    second, _ = pid_async.sync(changed)
    third, _ = pid.submit(changed).result()
    return [first, second, third, inline(), page.size, changed.size]


@flow
async def pids_async() -> list:
    page = Page("https://example.com", 1)
    first, changed = await pid.aio(page)
    second, _ = await pid_async(changed)
    (third, _), (fourth, _) = await asyncio.gather(pid_async(page), pid.aio(page))
    return [first, second, third, fourth, await inline.aio(), page.size, changed.size]


@checkpoint(runtime="isolated")
def fail(size: int) -> None:
    raise TooBig(size)


@checkpoint(runtime="isolated")
def unfit() -> object:
    return object()


@flow
def failing() -> list:
    found = []
    for call in (lambda: fail(3), unfit):
        try:
            call()
        except Exception as error:
            found.append([type(error).__name__, str(error), getattr(error, "size", None)])
    return found


@checkpoint(runtime="isolated")
def notes() -> str:
    kitaru.log(cost={"usd": 1})
    kitaru.save("draft", "x" * 100_000)
    print("said by the body: ü")
    print("and this is wrong", file=sys.stderr)
    return kitaru.current_execution_id() + kitaru.idempotency_key()


@flow
def noting() -> str:
    return notes()


@checkpoint(runtime="isolated", retries=2)
def dies(folder: str) -> int:
    count = len(list(pathlib.Path(folder).iterdir()))
    pathlib.Path(folder, str(count)).touch()
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if count == 1:
        os._exit(7)
    return count


@flow
def dying(folder: str) -> int:
    return dies(folder)


@checkpoint(runtime="isolated", effect="once", retries=5)
def dies_once(folder: str) -> None:
    dies.__wrapped__(folder)


@flow
def dying_once(folder: str) -> None:
    dies_once(folder)


@checkpoint(runtime="isolated")
def hang(folder: str) -> None:
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(folder, f"{os.getpid()}-{grandchild.pid}").touch()
    time.sleep(600)


@checkpoint
def tidy(folder: str) -> None:
    pathlib.Path(folder, "tidied").touch()


@flow
def hanging(folder: str) -> None:
    try:
        hang(folder)
    finally:
        tidy(folder)


@flow
async def hanging_async(folder: str) -> None:
    try:
        await hang.aio(folder)
    finally:
        await tidy.aio(folder)


@checkpoint(runtime="isolated")
def large(data: bytes) -> bytes:
    return data[::-1]


@flow
def transporting(size: int) -> bool:
    data = bytes(range(256)) * (size // 256)
    return large(data) == data[::-1]


@checkpoint(runtime="isolated")
def leaves_something() -> int:
    if os.fork() == 0:
        time.sleep(600)
    os._exit(9)


@flow
def leaving() -> None:
    leaves_something()


def nested():
    @checkpoint(runtime="isolated")
    def inner() -> None: ...

    return inner


inner = nested()


@flow
def unreachable() -> None:
    inner()


opened = []


@checkpoint
def press() -> None:
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return


@flow
def pressed() -> str:
    press()
    try:
        pid(Page("a", 1))
    except kitaru.KitaruCheckpointProcessError as error:
        return f"{type(error).__name__}: {error}"
    return "it has run"


if __name__ == "__main__":
    raise SystemExit("this part is not for a checkpoint's process")
"""


@pytest.fixture(autouse=True)
def own_journal(journal_url: str) -> Iterator[None]:
    kitaru.configure(journal=journal_url, cache=False)
    yield
    close_background()
    kitaru.configure(journal=None, cache=None)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[ModuleType]:
    """A project's module, which every process of the test can find."""
    name = f"agents_{os.getpid()}_{tmp_path.name.replace('-', '_')}"
    file = tmp_path / f"{name}.py"
    file.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    yield load_module(str(file))
    sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where bodies leave their traces."""
    made = tmp_path / "traces"
    made.mkdir()
    return made


def start(flow: Any, *arguments: Any) -> FlowHandle[Any]:
    """Starts an execution of a process stack, and runs it here, as its runner would."""
    runtime = current_runtime()
    prepared, _ = flow._prepare(runtime, arguments, {})
    options = replace(prepared.event.options, stack=ON_PROCESSES)
    executions.start_blocking(runtime, executions.with_options(prepared, options))
    return FlowHandle(runtime, prepared.exec_id, flow.definition.types)


def events_of(handle: FlowHandle[Any]) -> list[Any]:
    runtime = current_runtime()
    with runtime_reader(runtime.url) as reader:
        return [decode_event(fact) for fact in reader.read_stream(stream_of(handle.exec_id))]


def runtime_reader(url: str) -> Any:
    from journal import open_reader

    return open_reader(url)


def until(holds: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def traces(folder: Path) -> list[int]:
    """The processes of a hanging checkpoint, once it hangs."""
    (trace,) = until(lambda: [p for p in folder.iterdir() if "-" in p.name], "it does not begin")
    return [int(number) for number in trace.name.split("-")]


@pytest.mark.parametrize("name", ["pids", "pids_async"])
def test_every_attempt_has_a_process_of_its_own(agents: ModuleType, name: str) -> None:
    *isolated, inline, before, after = start(getattr(agents, name)).wait()
    assert inline == os.getpid()
    assert len({*isolated, inline}) == len(isolated) + 1
    # What a body does to its arguments is not seen by the flow.
    assert (before, after) == (1, 2)


@pytest.fixture
def most_files() -> Iterator[int]:
    """How many files this process may have open: for once more than select() knows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2_000 if before[1] == resource.RLIM_INFINITY else min(2_000, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_runner_may_have_many_files_open(agents: ModuleType, most_files: int) -> None:
    if most_files < 2_000:
        pytest.skip("this process may not have so many files open")
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        assert start(agents.transporting, 200_000).wait()
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_a_runner_that_may_open_no_more_files_says_so(agents: ModuleType, most_files: int) -> None:
    try:
        found = start(agents.pressed).wait()
    finally:
        for descriptor in agents.opened:
            os.close(descriptor)
    assert "KitaruCheckpointProcessError: The process of checkpoint 'pid" in found
    assert "cannot be started: [Errno 24]" in found


@pytest.mark.parametrize("name", ["pids", "pids_async"])
def test_on_the_local_stack_it_runs_inline_and_that_is_said(
    agents: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "kitaru.engine.runner.report",
        lambda event, **facts: told.append((event, facts["checkpoint"])),
    )
    *found, _, _ = getattr(agents, name).sync.run().wait()
    assert set(found) == {os.getpid()}
    assert sorted(told) == [
        ("checkpoint_not_isolated", "pid"),
        ("checkpoint_not_isolated", "pid_async"),
    ]


def test_errors_come_back_as_data(agents: ModuleType) -> None:
    handle = start(agents.failing)
    own, unfit = handle.wait()
    assert own == ["TooBig", "3 is too big", 3]
    assert unfit[0] == "KitaruSerializationError"
    assert "result" in unfit[1]
    failed = [event for event in events_of(handle) if isinstance(event, CheckpointFailed)]
    assert failed[0].error.qualname == "TooBig"
    assert failed[0].error.frames[-1].function == "fail"


def test_what_the_body_logs_and_saves_is_recorded_with_its_call(
    agents: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: dict[str, list[tuple[Any, str]]] = {"stdout": [], "stderr": []}
    for name, told in printed.items():
        monkeypatch.setattr(sys, name, Told(told))
    handle = start(agents.noting)
    result = handle.wait()
    assert result.startswith(handle.exec_id)
    found = events_of(handle)
    assert [event.path for event in found if isinstance(event, MetadataLogged)] == ["notes"]
    assert [event.name for event in found if isinstance(event, ArtifactSaved)] == ["draft"]
    assert kitaru.load(handle.exec_id, "draft") == "x" * 100_000
    (completed,) = [event for event in found if isinstance(event, CheckpointCompleted)]
    # It says who asked, so nobody else may have it.
    assert completed.cache_key == ""
    # Printed here, where it is known by whom.
    # However many pieces it comes in.
    assert "".join(text for _, text in printed["stdout"]) == "said by the body: ü\n"
    assert "".join(text for _, text in printed["stderr"]) == "and this is wrong\n"
    assert {place.path for told in printed.values() for place, _ in told} == {"notes"}


class Told(io.StringIO):
    """Remembers what is written to it, and where that was printed."""

    def __init__(self, told: list[tuple[Any, str]]) -> None:
        super().__init__()
        self._told = told

    def write(self, text: str) -> int:
        if text:
            self._told.append((scope.get(), text))
        return len(text)


def test_a_process_that_dies_is_a_failed_attempt(agents: ModuleType, folder: Path) -> None:
    handle = start(agents.dying, str(folder))
    assert handle.wait() == 2
    failed = [event for event in events_of(handle) if isinstance(event, CheckpointFailed)]
    assert [event.error.qualname for event in failed] == ["KitaruCheckpointProcessError"] * 2
    assert "SIGKILL" in failed[0].error.message
    assert "exit code 7" in failed[1].error.message


def test_what_may_run_only_once_is_not_tried_again(agents: ModuleType, folder: Path) -> None:
    handle = start(agents.dying_once, str(folder))
    with pytest.raises(kitaru.KitaruUserCodeError, match="SIGKILL"):
        handle.wait()
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("name", ["hanging", "hanging_async"])
def test_a_cancel_ends_the_process_and_all_that_it_started(
    agents: ModuleType, folder: Path, name: str
) -> None:
    handle = start(getattr(agents, name), str(folder))
    processes = traces(folder)
    kitaru.KitaruClient().executions.cancel(handle.exec_id)
    with pytest.raises(kitaru.KitaruCancelledError):
        handle.wait()
    for process in processes:
        until(lambda process=process: not is_alive(process), "a process was left")  # type: ignore[misc]
    assert (folder / "tidied").exists()


@pytest.mark.parametrize("name", ["hanging", "hanging_async"])
def test_it_ends_when_its_runner_stops(agents: ModuleType, folder: Path, name: str) -> None:
    handle = start(getattr(agents, name), str(folder))
    processes = traces(folder)
    close_background()
    for process in processes:
        until(lambda process=process: not is_alive(process), "a process was left")  # type: ignore[misc]
    found = kitaru.KitaruClient().executions.get(handle.exec_id)
    assert found.status == "running"
    assert not (folder / "tidied").exists()


def test_it_ends_with_its_runner_however_that_ends(
    agents: ModuleType, folder: Path, journal_url: str
) -> None:
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.getcwd()!r})
        import kitaru
        from kitaru.engine.source import load_module
        from tests.kitaru.engine.test_isolated import start
        kitaru.configure(journal={journal_url!r})
        start(load_module({agents.__file__!r}).hanging, {str(folder)!r}).wait()
    """)
    runner = subprocess.Popen([sys.executable, "-c", program])
    processes = traces(folder)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    for process in processes:
        until(lambda process=process: not is_alive(process), "a process was left")  # type: ignore[misc]


def test_large_values_go_both_ways(agents: ModuleType) -> None:
    assert start(agents.transporting, 8 << 20).wait() is True


def test_what_a_dead_process_has_started_does_not_hold_the_call(agents: ModuleType) -> None:
    with pytest.raises(kitaru.KitaruUserCodeError, match="exit code 9"):
        start(agents.leaving).wait()


def test_a_checkpoint_that_no_process_can_find_is_refused_by_name(agents: ModuleType) -> None:
    with pytest.raises(kitaru.KitaruUserCodeError, match="top level of a file"):
        start(agents.unreachable).wait()


def test_isolation_and_a_transaction_exclude_each_other() -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="leave out runtime"):
        kitaru.checkpoint(runtime="isolated", transaction=True)
    with pytest.raises(kitaru.KitaruUsageError, match="Unsupported checkpoint runtime 'x'"):
        kitaru.checkpoint(runtime="x")
