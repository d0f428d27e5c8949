"""`kitaru journal show` tells a history, `verify` finds damage."""

import sqlite3
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


@pytest.mark.usefixtures("history")
def test_the_history_has_a_line_for_each_event(kitaru: Run) -> None:
    lines = kitaru("journal", "show", COMPLETED).stdout.splitlines()
    assert lines[0].startswith(f"agent {COMPLETED}, started ")
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "4", "5", "6"]
    assert "checkpoint completed" in lines[5]
    assert "250 ms" in lines[5]
    assert "agents.py:7" in lines[5]


@pytest.mark.usefixtures("history")
def test_the_full_history_has_whole_values_and_tracebacks(kitaru: Run) -> None:
    text = kitaru("journal", "show", COMPLETED, "--full").stdout
    assert "x" * 40_000 in text
    assert "Traceback (most recent call last):" in text


@pytest.mark.usefixtures("history")
def test_the_history_as_json(kitaru_json: Ask) -> None:
    answer = kitaru_json("journal", "show", COMPLETED)
    assert (answer["command"], answer["count"]) == ("journal.show", 6)
    assert answer["items"][3]["kind"] == "checkpoint_completed"
    assert answer["items"][3]["value"] == {"$": ["decimal", "1.50"]}


def test_an_event_of_a_newer_version_has_its_line(
    kitaru: Run, write: Callable[..., None], started: ExecutionStarted
) -> None:
    write(COMPLETED, [started], extra=NewEvent(type="wait_requested", payload=b"{}", schema=2))
    last = kitaru("journal", "show", COMPLETED).stdout.splitlines()[-1]
    assert "wait_requested (schema 2)" in last
    result = kitaru("journal", "verify")
    assert result.exit_code == 0
    assert "newer version" in result.stdout


@pytest.mark.usefixtures("history")
def test_a_sound_journal_is_well(kitaru: Run, kitaru_json: Ask) -> None:
    result = kitaru("journal", "verify")
    assert (result.exit_code, result.stdout) == (0, "2 executions, 9 events: all is well.\n")
    assert kitaru_json("journal", "verify", COMPLETED)["item"]["sound"] is True


@pytest.mark.usefixtures("history")
def test_damage_is_named_and_ends_with_an_error(kitaru: Run, place: Path) -> None:
    connection = sqlite3.connect(place / "journal.db")
    connection.execute("DROP TRIGGER events_are_never_changed")
    connection.execute("UPDATE events SET payload = x'00ff' WHERE stream = 1 AND version = 4")
    connection.commit()
    connection.close()
    result = kitaru("journal", "verify")
    assert result.exit_code == 1
    assert f"{COMPLETED}, event 4: altered" in result.stdout
    shown = kitaru("journal", "show", COMPLETED)
    assert "unreadable" in shown.stdout
    assert kitaru("executions", "get", COMPLETED).exit_code == 0


@pytest.mark.usefixtures("history")
def test_a_lost_event_is_an_error_that_names_the_place(kitaru: Run, place: Path) -> None:
    connection = sqlite3.connect(place / "journal.db")
    connection.execute("DROP TRIGGER events_are_never_deleted")
    connection.execute("DELETE FROM events WHERE stream = 1 AND version = 2")
    connection.commit()
    connection.close()
    result = kitaru("journal", "show", COMPLETED)
    assert result.exit_code == 1
    assert "damaged at version 2" in result.stderr


def test_a_missing_journal_cannot_be_verified(kitaru: Run, place: Path) -> None:
    result = kitaru("journal", "verify")
    assert result.exit_code == 1
    assert "There is no journal" in result.stderr
    assert list(place.iterdir()) == []
