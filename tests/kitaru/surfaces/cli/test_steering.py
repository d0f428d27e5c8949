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


PATIENT = """
import os
from kitaru import Retry, checkpoint, flow

@checkpoint(retries=Retry(max_attempts=2, first_delay=3600))
def look() -> str:
    if not os.path.exists("there"):
        raise FileNotFoundError("there")
    return "seen"

@flow
def patient() -> str:
    return look()
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


def test_a_call_that_waits_for_its_next_attempt_is_tried_at_once(
    process: Process, place: Path
) -> None:
    (place / "patient.py").write_text(PATIENT)
    exec_id = process("run", "patient.py:patient", "--timeout", "3").stdout.splitlines()[0]
    refused = process("executions", "retry", exec_id, "--call", "look")
    assert refused.returncode == 2
    assert "--call goes with --now" in refused.stderr
    refused = process("executions", "retry", exec_id)
    assert "--now" in refused.stderr
    (place / "there").touch()
    result = process("executions", "retry", "--now", exec_id[:8])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "seen"
    result = process("executions", "retry", "--now", exec_id)
    assert result.returncode == 1
    assert "already completed" in result.stderr


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


WAITING = """
import kitaru
from kitaru import checkpoint, flow

@checkpoint
def done(text: str) -> str:
    return text

@flow
def asking() -> str:
    kitaru.wait(name="go", timeout=0)
    try:
        answer = kitaru.wait(schema=str, name="answer", question="Which one?", timeout=0)
    except kitaru.KitaruWaitAborted as error:
        answer = str(error)
    return done(answer)
"""


@pytest.fixture
def asked(place: Path, process: Process) -> str:
    """An execution that waits and that nobody runs."""
    (place / "waiting.py").write_text(WAITING)
    ran = process("run", "waiting.py:asking", "--timeout", "3")
    exec_id = ran.stdout.splitlines()[0]
    assert f"kitaru executions input {exec_id} --wait 'go#1'" in ran.stderr
    return exec_id


def test_a_waiting_execution_is_answered_and_goes_on(asked: str, process: Process) -> None:
    shown = process("executions", "get", asked).stdout
    assert "Waits for" in shown
    answered = process("executions", "input", asked)
    assert answered.returncode == 0, answered.stderr
    assert "Wait go" in answered.stdout
    resumed = process("executions", "resume", asked, "--timeout", "3")
    assert "Which one?" in resumed.stderr
    again = process("executions", "resume", asked, "--timeout", "0.2")
    assert "It waits for answer#1: Which one?" in again.stderr
    item = json.loads(process("executions", "get", asked, "-o", "json").stdout)["item"]
    (wait,) = item["pending_waits"]
    assert (wait["wait_id"], wait["schema"]) == ("answer#1", {"type": "string"})
    missing = process("executions", "input", asked)
    assert (missing.returncode, "--value" in missing.stderr) == (1, True)
    bad = process("executions", "input", asked, "--value", "yes")
    assert (bad.returncode, "quotes" in bad.stderr) == (2, True)
    wrong = process("executions", "input", asked, "--value", "3", "-o", "json")
    assert json.loads(wrong.stderr)["error"]["type"] == "KitaruWaitValidationError"
    assert process("executions", "input", asked, "--value", '"this"').returncode == 0
    assert process("executions", "resume", asked).stdout.splitlines()[-1] == "this"


def test_a_wait_is_aborted(asked: str, process: Process) -> None:
    early = process("executions", "input", asked, "--wait", "answer", "--value", '"early"')
    assert early.returncode == 1
    assert "it waits for: go" in early.stderr
    process("executions", "input", asked, "--wait", "go")
    process("executions", "resume", asked, "--timeout", "3")
    aborted = process("executions", "input", asked, "--abort", "--reason", "no need")
    assert aborted.returncode == 0, aborted.stderr
    assert "no need" in process("executions", "resume", asked).stdout.splitlines()[-1]


@pytest.mark.usefixtures("history")
def test_a_completed_execution_takes_no_input(process: Process) -> None:
    refused = process("executions", "input", COMPLETED, "--wait", "x", "--value", "1")
    assert refused.returncode == 1
    assert "already completed" in refused.stderr
