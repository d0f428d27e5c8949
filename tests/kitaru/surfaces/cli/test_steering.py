"""Executions are resumed, retried and cancelled from the command line."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Process = Callable[..., "subprocess.CompletedProcess[str]"]

COMPLETED = "aaaa0001-1d9c-4f6e-9f56-0e9a1c3f7b11"

FLOWS = """
import asyncio
import os
from kitaru import checkpoint, flow

@checkpoint
def look() -> str:
    if not os.path.exists("there"):
        raise FileNotFoundError("there")
    return "seen"

@flow
def agent() -> str:
    return look()

@checkpoint
def is_there() -> bool:
    return os.path.exists("there")

@flow
async def slow() -> str:
    while not await is_there.aio():
        await asyncio.sleep(0.05)
    return "done"
"""


@pytest.fixture
def flows(place: Path) -> str:
    (place / "flows.py").write_text(FLOWS)
    return "flows.py"


def test_a_failed_execution_is_retried_to_its_result(
    flows: str, process: Process, place: Path
) -> None:
    exec_id = process("run", f"{flows}:agent").stdout.splitlines()[0]
    (place / "there").touch()
    result = process("executions", "retry", exec_id[:8])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [exec_id, "seen"]


def test_an_execution_that_nobody_runs_is_resumed_to_its_result(
    flows: str, process: Process, place: Path
) -> None:
    exec_id = process("run", f"{flows}:slow", "--timeout", "0.2").stdout.splitlines()[0]
    (place / "there").touch()
    result = process("executions", "resume", exec_id, "-o", "json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["item"]["result"] == "done"


def test_an_execution_that_nobody_runs_is_cancelled_by_force(flows: str, process: Process) -> None:
    exec_id = process("run", f"{flows}:slow", "--timeout", "0.2").stdout.splitlines()[0]
    asked = process("executions", "cancel", exec_id, "--reason", "enough")
    assert "--force" in asked.stdout
    forced = process("executions", "cancel", exec_id, "--force")
    assert forced.stdout == f"Execution {exec_id} is cancelled.\n"
    shown = json.loads(process("executions", "get", exec_id, "-o", "json").stdout)["item"]
    assert (shown["status"], shown["status_reason"]) == ("cancelled", "enough")


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("verb", ["retry", "resume", "cancel"])
def test_a_completed_execution_cannot_be_steered(process: Process, verb: str) -> None:
    result = process("executions", verb, COMPLETED)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "completed" in result.stderr


@pytest.mark.parametrize("verb", ["retry", "resume", "cancel"])
def test_steering_does_not_make_a_journal(
    kitaru: Callable[..., Result], place: Path, verb: str
) -> None:
    assert kitaru("executions", verb, COMPLETED).exit_code == 1
    assert list(place.iterdir()) == []


def test_inputs_are_not_available_yet(kitaru: Callable[..., Result]) -> None:
    result = kitaru("executions", "input", COMPLETED, "--value", "true", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"]["type"] == "KitaruFeatureNotAvailableError"
