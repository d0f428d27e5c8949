"""`kitaru run` starts a flow, tells what it does and shows its result."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Process = Callable[..., "subprocess.CompletedProcess[str]"]

FLOWS = """
import asyncio
from kitaru import checkpoint, flow

@checkpoint
def double(n: int) -> int:
    return n * 2

@flow
def agent(n: int, fail: bool = False) -> dict[str, int]:
    result = double(n)
    if fail:
        raise ValueError("no \\x1b[2Jgood")
    return {"result": result}

@flow
async def slow() -> str:
    await asyncio.sleep(3600)
    return "done"
"""


@pytest.fixture
def flows(place: Path) -> str:
    (place / "flows.py").write_text(FLOWS)
    return "flows.py"


def test_the_id_comes_first_then_the_result(flows: str, process: Process) -> None:
    result = process("run", f"{flows}:agent", "--args", '{"n": 21}')
    assert result.returncode == 0, result.stderr
    exec_id, answer = result.stdout.splitlines()
    assert len(exec_id) == 36
    assert answer == "{'result': 42}"
    assert "double  completed" in result.stderr


def test_as_json_there_is_one_object_on_stdout(flows: str, process: Process, place: Path) -> None:
    (place / "arguments.json").write_text('{"n": 1}')
    result = process("run", f"{flows}:agent", "--args", "@arguments.json", "-o", "json")
    answer = json.loads(result.stdout)
    assert answer["command"] == "run"
    assert answer["item"]["result"] == {"result": 2}
    assert answer["item"]["status"] == "completed"
    assert result.stderr.strip() == answer["item"]["exec_id"]


def test_a_failure_says_what_where_and_what_to_do(flows: str, process: Process) -> None:
    result = process("run", f"{flows}:agent", "--args", '{"n": 1, "fail": true}')
    assert result.returncode == 1
    assert r"ValueError: no \x1b[2Jgood" in result.stderr
    assert "flows.py:13" in result.stderr
    assert "kitaru executions retry" in result.stderr
    assert "Traceback" not in result.stderr
    failed = process("executions", "list", "-o", "json")
    assert json.loads(failed.stdout)["items"][0]["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("flows.py:agent",), "'n'"),
        (("flows.py:agent", "--args", '{"n": "x"}'), "n"),
        (("flows.py:agent", "--args", '{"n": 1, "m": 2}'), "m"),
        (("flows.py",), "agent"),
        (("flows.py:none",), "none"),
        (("nowhere.py:agent",), "nowhere.py"),
        (("flows.py:agent", "--args", "@nowhere.json"), "nowhere.json"),
    ],
)
def test_what_cannot_be_run_is_an_error_and_starts_nothing(
    flows: str, process: Process, place: Path, arguments: tuple[str, ...], what: str
) -> None:
    result = process("run", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert what in result.stderr
    assert "Traceback" not in result.stderr
    assert not (place / "journal.db").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_arguments_must_be_a_json_object(flows: str, process: Process, text: str) -> None:
    assert process("run", f"{flows}:agent", "--args", text).returncode == 2


def test_a_timeout_says_that_nothing_is_lost(flows: str, process: Process) -> None:
    result = process("run", f"{flows}:slow", "--timeout", "0.2")
    assert result.returncode == 1
    assert "still running" in result.stderr
    assert "kitaru executions resume" in result.stderr


def test_without_waiting_it_leaves_the_execution_in_the_journal(
    flows: str, process: Process
) -> None:
    result = process("run", f"{flows}:slow", "--no-wait")
    assert result.returncode == 0
    listed = json.loads(process("executions", "list", "-o", "json").stdout)
    assert [item["exec_id"] for item in listed["items"]] == [result.stdout.strip()]


def test_a_key_finds_the_execution_that_was_started_with_it(flows: str, process: Process) -> None:
    again = ("run", f"{flows}:agent", "--idempotency-key", "k", "--args")
    first = process(*again, '{"n": 1}')
    second = process(*again, '{"n": 1}')
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    conflict = process(*again, '{"n": 2}')
    assert conflict.returncode == 1
    assert "arguments.n: 1 was recorded, now 2" in conflict.stderr
    assert "Traceback" not in conflict.stderr


def test_an_interrupt_ends_the_waiting_and_not_the_execution(flows: str, process: Process) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kitaru", "run", f"{flows}:slow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        exec_id = running.stdout.readline().strip()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "is not cancelled" in errors
    assert f"kitaru executions resume {exec_id}" in errors
    assert "Traceback" not in errors
    shown = json.loads(process("executions", "get", exec_id, "-o", "json").stdout)
    assert shown["item"]["status"] == "running"
