"""A pool starts a runner where one is missing, never too many, and leaves none dead behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from journal import Append, Claim, ClaimQuery, HeadChange, Journal, NewEvent, open_journal
from kitaru.domain.execution.state import ExecutionState
from kitaru.engine.executions import CATEGORY
from kitaru.stacks import pool
from kitaru.stacks.pool import PoolSettings, RunnerPool
from kitaru.stacks.runners import RunnerProcess, RunnerSpec
from kitaru.stacks.slots import Slots

SLEEPS = "import time; time.sleep(600)"


class Starter:
    """Starts processes that only sleep, or end at once, instead of runners."""

    def __init__(self) -> None:
        self.program = SLEEPS
        self.started: list[RunnerSpec] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, spec: RunnerSpec, *, inherited: Sequence[int]) -> RunnerProcess:
        process = subprocess.Popen([sys.executable, "-c", self.program], pass_fds=inherited)
        self.started.append(spec)
        self.processes.append(process)
        return RunnerProcess(spec, process)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    starter = Starter()
    monkeypatch.setattr(pool, "start_runner", starter)
    yield starter
    starter.end()


async def opened(tmp_path: Path, most: int = 2) -> tuple[Journal, RunnerPool]:
    journal = await open_journal("memory://")
    settings = PoolSettings(
        journal="sqlite:////j.db", folder=tmp_path, lease_seconds=30, most_per_route=most
    )
    return journal, RunnerPool(journal, settings)


async def due(journal: Journal, number: int, route: str = "deployment:ab") -> None:
    head = HeadChange("running", "agent", 0, route=route)
    await journal.append(Append(f"{CATEGORY}-{number}", (NewEvent("A", b""),), 0, head))


async def test_each_route_with_something_to_do_gets_a_runner(
    tmp_path: Path, starter: Starter
) -> None:
    journal, runners = await opened(tmp_path)
    await due(journal, 1)
    await due(journal, 2, "deployment:cd")
    await due(journal, 3, "")
    await due(journal, 4, "process:x")
    await runners.look()
    assert sorted(spec.route for spec in starter.started) == ["deployment:ab", "deployment:cd"]
    first = starter.started[0]
    assert (first.bundle, first.journal) == (first.route[-2:], "sqlite:////j.db")
    await runners.look()
    assert len(starter.started) == 2


async def test_a_folder_that_cannot_be_used_is_tried_again(
    tmp_path: Path, starter: Starter
) -> None:
    folder = tmp_path / "runners"
    folder.touch()
    journal, runners = await opened(folder)
    await due(journal, 1)
    await runners.look()
    assert starter.started == []
    folder.unlink()
    await runners.look()
    assert [spec.route for spec in starter.started] == ["deployment:ab"]


async def test_what_somebody_runs_and_what_is_not_due_needs_none(
    tmp_path: Path, starter: Starter
) -> None:
    journal, runners = await opened(tmp_path)
    await due(journal, 1)
    later = HeadChange("waiting", "agent", journal.now() + 10**9, route="deployment:ab")
    await journal.append(Append(f"{CATEGORY}-2", (NewEvent("A", b""),), 0, later))
    query = ClaimQuery(
        category=CATEGORY, names=None, claim=Claim("me", 60), routes=["deployment:ab"]
    )
    assert len(await journal.claim(query)) == 1
    await runners.look()
    assert starter.started == []


async def test_many_executions_get_several_runners_and_never_more_than_the_most(
    tmp_path: Path, starter: Starter
) -> None:
    journal, runners = await opened(tmp_path, most=3)
    _, others = await opened(tmp_path, most=3)
    others._journal = journal
    for number in range(100):
        await due(journal, number)
    await runners.look()
    assert len(starter.started) == 3
    await others.look()
    assert len(starter.started) == 3


async def test_what_nobody_takes_for_a_while_gets_another_runner(
    tmp_path: Path, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, runners = await opened(tmp_path)
    await due(journal, 1)
    await runners.look()
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 0.0)
    await runners.look()
    assert len(starter.started) == 2


async def test_a_runner_that_died_is_reaped_and_followed_by_another(
    tmp_path: Path, starter: Starter
) -> None:
    journal, runners = await opened(tmp_path, most=1)
    await due(journal, 1)
    await runners.look()
    starter.processes[0].kill()
    starter.processes[0].wait()
    await runners.look()
    assert len(starter.started) == 2
    assert [runner.pid for runner in runners.runners] == [starter.processes[1].pid]


async def test_runners_that_die_again_and_again_are_started_more_and_more_seldom(
    tmp_path: Path, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    starter.program = "raise SystemExit(3)"
    journal, runners = await opened(tmp_path, most=1)
    await due(journal, 1)
    for _ in range(10):
        await runners.look()
        for process in starter.processes:
            process.wait()
    # The clock stands still: the third waits for it.
    assert len(starter.started) == 2


async def test_closing_leaves_the_runners_alone(tmp_path: Path, starter: Starter) -> None:
    journal, runners = await opened(tmp_path)
    runners.start()
    await due(journal, 1)
    await runners.look()
    await runners.close()
    assert starter.processes[0].poll() is None


async def test_code_that_could_not_be_loaded_is_told_once_for_each_route(
    tmp_path: Path, starter: Starter, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, runners = await opened(tmp_path)
    state = ExecutionState(load_failures=1, reason="version 1 of agent cannot be loaded: why")
    for number in range(3):
        head = HeadChange(
            "running", "agent", 0, summary=msgspec.json.encode(state), route="deployment:ab"
        )
        append = Append(f"{CATEGORY}-{number}", (NewEvent("A", b""),), 0, head)
        await journal.append(append)
    await runners.look()
    await runners.look()
    assert capsys.readouterr().err.count("cannot be loaded: why") == 1


def spoiled_lock(folder: Path) -> Path:
    """A folder where the lock of a route's only runner should be."""
    for slot in Slots(folder, "deployment:ab", 1).take(1):
        os.close(slot)
    [lock] = folder.glob("*.lock")
    lock.unlink()
    lock.mkdir()
    return lock


async def test_a_folder_that_cannot_be_used_is_told_and_left_alone_for_a_while(
    tmp_path: Path, starter: Starter, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = spoiled_lock(tmp_path)
    journal, runners = await opened(tmp_path)
    await due(journal, 1)
    await due(journal, 2, "deployment:cd")
    await runners.look()
    # The other route has its runner all the same.
    assert [spec.route for spec in starter.started] == ["deployment:cd"]
    assert lock.name in capsys.readouterr().err
    lock.rmdir()
    await runners.look()
    assert [spec.route for spec in starter.started] == ["deployment:cd", "deployment:ab"]
