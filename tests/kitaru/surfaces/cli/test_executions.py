"""`kitaru executions list` and `get` show what there is, safely, to people and to programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from journal import NewEvent
from kitaru.domain.execution.events import ExecutionStarted

Run = Callable[..., Result]
Ask = Callable[..., Any]

COMPLETED = "aaaa0001-1d9c-4f6e-9f56-0e9a1c3f7b11"
FAILED = "aaaa0002-1d9c-4f6e-9f56-0e9a1c3f7b11"


def is_safe(text: str) -> bool:
    """Whether a terminal would print this and do nothing else."""
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.usefixtures("history")
def test_the_list_is_newest_first(kitaru: Run) -> None:
    result = kitaru("executions", "list")
    title, first, second = result.stdout.splitlines()
    assert title.split() == ["ID", "Flow", "Status", "Started", "Duration", "Note"]
    assert first.startswith(FAILED)
    assert "ValueError: boom" in first
    assert second.startswith(COMPLETED)
    assert "completed" in second


@pytest.mark.usefixtures("history")
def test_the_list_as_json_has_an_envelope(kitaru_json: Ask) -> None:
    answer = kitaru_json("executions", "list")
    assert (answer["command"], answer["count"]) == ("executions.list", 2)
    assert [item["exec_id"] for item in answer["items"]] == [FAILED, COMPLETED]
    assert answer["items"][0]["status"] == "failed"


@pytest.mark.usefixtures("history")
def test_the_list_can_be_filtered_and_paged(kitaru_json: Ask, kitaru: Run) -> None:
    assert kitaru_json("executions", "list", "--flow", "other")["count"] == 0
    assert kitaru_json("executions", "list", "--status", "failed")["count"] == 1
    second = kitaru_json("executions", "list", "--page", "2", "--size", "1")
    assert [item["exec_id"] for item in second["items"]] == [COMPLETED]
    assert "--page 2 --size 1" in kitaru("executions", "list", "--limit", "1").stderr


@pytest.mark.usefixtures("history")
def test_limit_and_pages_exclude_each_other(kitaru: Run) -> None:
    result = kitaru("executions", "list", "--limit", "1", "--page", "1", "--size", "1")
    assert result.exit_code == 2
    assert "either --limit" in result.stderr


def test_an_empty_list_says_so_and_makes_no_journal(kitaru: Run, place: Path) -> None:
    result = kitaru("executions", "list")
    assert (result.exit_code, result.stdout) == (0, "No executions.\n")
    assert "There is no journal" in result.stderr
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("history")
def test_one_execution_is_shown_whole(kitaru: Run) -> None:
    text = kitaru("executions", "get", "aaaa0001").stdout
    for part in (
        COMPLETED,
        "url='https://example.com', 1",
        "/src/agents.py:agent",
        "Decimal('1.50')",
        "llm_call",
        "<39.1 KiB>",
        "report",
        "'draft'",
        "{'usd': 1}",
        "250 ms",
    ):
        assert part in text
    checkpoints = text.split("Checkpoints\n")[1].split("\n\n")[0].splitlines()
    assert len(checkpoints) == 2


@pytest.mark.usefixtures("history")
def test_a_failure_says_what_and_where(kitaru: Run) -> None:
    text = kitaru("executions", "get", FAILED).stdout
    assert "ValueError: boom" in text
    assert "at /src/agents.py:12, in checkpoint think" in text
    assert "Traceback (most recent call last):" in text


@pytest.mark.usefixtures("history")
def test_one_execution_as_json(kitaru_json: Ask) -> None:
    item = kitaru_json("executions", "get", COMPLETED)["item"]
    (call,) = item["checkpoints"]
    assert (call["call_id"], len(call["attempts"])) == ("fetch", 2)
    assert call["result"] == {"$": ["decimal", "1.50"]}
    assert call["duration_seconds"] > 0
    assert item["arguments"] == {"url": "https://example.com", "*": [1]}
    assert item["result"]["$"][0] == "blob"
    assert item["metadata"] == {"cost": {"usd": 1}}


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("command", [("executions", "get"), ("journal", "show")])
def test_what_a_terminal_would_obey_is_escaped(kitaru: Run, command: tuple[str, ...]) -> None:
    for options in ((), ("--full",)) if command[0] == "journal" else ((),):
        text = kitaru(*command, FAILED, *options).stdout
        assert is_safe(text)
        assert r"\x1b]0;owned\x07\x1b[2J\u202eevil" in text
    assert is_safe(kitaru("executions", "list").stdout)


@pytest.mark.parametrize("command", [("executions", "get"), ("journal", "show")])
@pytest.mark.usefixtures("history")
def test_an_unknown_id_is_an_error_without_a_traceback(
    kitaru: Run, command: tuple[str, ...]
) -> None:
    result = kitaru(*command, "bbbb-no-such-one")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There is no execution")
    assert result.stdout == ""
    evil = kitaru(*command, "bbbb\x1b[2J")
    assert evil.exit_code == 1
    assert evil.stderr.startswith("Error: An execution id must not hold control characters")
    assert is_safe(evil.stderr)
    assert evil.stdout == ""


@pytest.mark.usefixtures("history")
def test_an_ambiguous_beginning_lists_its_candidates(kitaru: Run) -> None:
    result = kitaru("executions", "get", "aaaa")
    assert result.exit_code == 1
    assert COMPLETED in result.stderr
    assert FAILED in result.stderr


def test_get_without_a_journal_says_so_and_makes_none(kitaru: Run, place: Path) -> None:
    result = kitaru("executions", "get", "aaaa0001")
    assert result.exit_code == 1
    assert "There is no journal" in result.stderr
    assert list(place.iterdir()) == []


def test_an_execution_of_a_newer_version_is_shown_as_far_as_it_is_understood(
    kitaru: Run, write: Callable[..., None], started: ExecutionStarted
) -> None:
    write(COMPLETED, [started], extra=NewEvent(type="wait_requested", payload=b"{}", schema=2))
    text = kitaru("executions", "get", COMPLETED).stdout
    assert "Not understood here" in text
    assert "wait_requested" in text
