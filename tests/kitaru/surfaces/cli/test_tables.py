"""Tables fit the terminal, and are as wide as they need where there is none."""

import pytest

from kitaru.surfaces.cli import tables
from kitaru.surfaces.cli.tables import Column, facts, indented, table

COLUMNS = [Column("Name"), Column("Value", least=6), Column("Place", least=6, keep="end", room=40)]
ROWS = [("a", "x" * 50, "folder/file.py:12"), ("bb", "漢字漢字漢字漢字漢字漢字", "")]


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int | None:
    monkeypatch.setattr(tables, "terminal_width", lambda: request.param)
    wide: int | None = request.param
    return wide


def shown_width(line: str) -> int:
    plain = line.replace("\x1b[1m", "").replace("\x1b[0m", "")
    return sum(2 if "\u4e00" <= char <= "\u9fff" else 1 for char in plain)


@pytest.mark.parametrize("width", [None], indirect=True)
@pytest.mark.usefixtures("width")
def test_without_a_terminal_nothing_is_cut() -> None:
    assert "x" * 50 in table(COLUMNS, ROWS)


@pytest.mark.parametrize("width", [24, 40, 60, 200], indirect=True)
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for line in table(COLUMNS, ROWS, "  ").splitlines():
        assert shown_width(line) <= width


@pytest.mark.parametrize("width", [40], indirect=True)
@pytest.mark.usefixtures("width")
def test_what_is_cut_says_so_at_the_right_end() -> None:
    line = table(COLUMNS, ROWS).splitlines()[1]
    assert "x…" in line
    assert "file.py:12" in line


@pytest.mark.parametrize("width", [30], indirect=True)
@pytest.mark.usefixtures("width")
def test_a_column_that_needs_room_is_left_out_where_there_is_none() -> None:
    assert "Place" not in table(COLUMNS, ROWS)


def test_a_column_without_texts_is_left_out() -> None:
    assert "Empty" not in table([Column("A"), Column("Empty")], [("x", "")])


def test_cells_are_escaped() -> None:
    assert "\\x1b" in table([Column("A")], [("\x1b[2J",)])


def test_facts_stand_under_each_other() -> None:
    text = facts([("A", "1\n2"), ("Long", "3"), ("None", "")])
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert plain.splitlines() == ["A     1", "      2", "Long  3"]


def test_indenting_leaves_empty_lines_empty() -> None:
    assert indented("a\n\nb") == "  a\n\n  b"
