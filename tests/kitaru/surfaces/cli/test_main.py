"""The command line as a whole: help, mistakes, pipes, and what it does not import."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

Run = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]

COMMANDS = [
    (),
    ("executions",),
    ("journal",),
    ("run",),
    ("worker",),
    ("status",),
    ("init",),
    ("executions", "list"),
    ("executions", "get"),
    ("executions", "resume"),
    ("executions", "retry"),
    ("executions", "cancel"),
    ("executions", "input"),
    ("journal", "show"),
    ("journal", "verify"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(kitaru: Run, command: tuple[str, ...]) -> None:
    result = kitaru(*command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: kitaru")


@pytest.mark.parametrize(
    "mistake",
    [("nothing",), ("executions", "nothing"), ("executions", "get"), ("executions", "list", "--x")],
)
def test_a_mistake_on_the_command_line_ends_with_2(kitaru: Run, mistake: tuple[str, ...]) -> None:
    text = kitaru(*mistake)
    assert (text.exit_code, text.stdout) == (2, "")
    assert "Error: " in text.stderr
    answer = kitaru(*mistake, "-o", "json")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert json.loads(answer.stderr)["error"]["message"]


def test_an_error_as_json_names_the_command_and_its_type(kitaru: Run) -> None:
    result = kitaru("executions", "get", "abcd", "-o", "json")
    assert (result.exit_code, result.stdout) == (1, "")
    answer = json.loads(result.stderr)
    assert answer["command"] == "executions.get"
    assert answer["error"]["type"] == "JournalMissing"
    assert "There is no journal" in answer["error"]["message"]


@pytest.mark.usefixtures("history")
def test_a_closed_pipe_is_quiet(place: object) -> None:
    command = f"{sys.executable} -m kitaru journal show aaaa0001 --full | head -n 1"
    result = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.startswith("1  ")
    assert result.stderr == ""


@pytest.mark.usefixtures("history")
def test_without_a_terminal_there_is_no_colour(process: Process) -> None:
    result = process("executions", "list")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout


@pytest.mark.usefixtures("history")
def test_a_list_starts_without_an_event_loop_and_other_heavy_things(place: object) -> None:
    heavy = ["asyncio", "anyio", "aiosqlite", "structlog", "pydantic", "rich", "numpy"]
    heavy += ["kitaru.engine.codec", "kitaru.engine.failures", "kitaru.bootstrap"]
    script = (
        "import sys\n"
        "from kitaru.surfaces.cli.main import cli\n"
        "cli(['executions', 'list'], standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
