"""`kitaru status` says where the journal is and what it holds."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result


@pytest.mark.usefixtures("history")
def test_it_names_the_journal_its_ground_and_its_contents(
    kitaru: Callable[..., Result], place: Path
) -> None:
    text = kitaru("status").stdout
    assert str(place / "journal.db") in text
    assert "KITARU_JOURNAL" in text
    assert sqlite3.sqlite_version in text
    assert "1 completed, 1 failed" in text
    assert "nobody at the moment" in text


@pytest.mark.usefixtures("history")
def test_it_speaks_json(kitaru_json: Callable[..., Any]) -> None:
    item = kitaru_json("status")["item"]
    assert item["executions"] == {"completed": 1, "failed": 1}
    assert item["exists"] is True


def test_a_missing_journal_is_no_error_and_is_not_made(
    kitaru: Callable[..., Result], place: Path
) -> None:
    result = kitaru("status")
    assert result.exit_code == 0
    assert "there is none yet" in result.stdout
    assert list(place.iterdir()) == []
