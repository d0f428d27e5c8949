"""Tables and facts in columns, as wide as the terminal, or as they need where there is none."""

import shutil
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

import click

from kitaru.surfaces.cli.text import escaped

GAP = "  "
COLOURS = {
    "running": "cyan",
    "waiting": "yellow",
    "diverged": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "bright_black",
}


class Column(NamedTuple):
    """One column of a table."""

    title: str
    least: int = 0
    """How narrow it may become; 0: it keeps its width."""
    keep: Literal["start", "end"] = "start"
    """Which end of a text that is too long is shown."""
    align: Literal["left", "right"] = "left"
    coloured: bool = False
    """Whether its words are statuses."""
    room: int = 0
    """On a terminal that is narrower than this the column is left out."""


def terminal_width() -> int | None:
    """The columns of the terminal; None where the output is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """The rows under their titles. Columns without any text are left out."""
    limit = terminal_width()
    kept = [
        i
        for i, column in enumerate(columns)
        if any(row[i] for row in rows) and (limit is None or limit >= column.room)
    ]
    columns = [columns[i] for i in kept]
    cells = [[escaped(row[i]) for i in kept] for row in rows]
    widths = _widths(columns, cells, len(indent))
    title = GAP.join(
        _fitted(column.title, width, column) for column, width in zip(columns, widths, strict=True)
    )
    lines = [click.style((indent + title).rstrip(), bold=True)]
    lines += [_line(columns, row, widths, indent) for row in cells]
    return "\n".join(lines)


def _line(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], indent: str) -> str:
    parts = [
        _coloured(_fitted(cell, width, column), cell if column.coloured else "")
        for column, cell, width in zip(columns, row, widths, strict=True)
    ]
    return (indent + GAP.join(parts)).rstrip()


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and what they stand for; a pair without text is left out."""
    shown = [(name, text) for name, text in pairs if text]
    width = max(len(name) for name, _ in shown)
    margin = "\n" + " " * width + GAP
    return "\n".join(
        click.style(name.ljust(width), bold=True) + GAP + text.replace("\n", margin)
        for name, text in shown
    )


def status_text(status: str) -> str:
    """A status in its colour."""
    return _coloured(escaped(status), status)


def indented(text: str, indent: str = "  ") -> str:
    """The text, moved to the right."""
    return "\n".join(indent + line if line else line for line in text.split("\n"))


def _coloured(text: str, status: str) -> str:
    colour = COLOURS.get(status)
    return click.style(text, fg=colour) if colour else text


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], indent: int) -> list[int]:
    widths = [
        max(_width(column.title), *(_width(row[i]) for row in cells))
        for i, column in enumerate(columns)
    ]
    limit = terminal_width()
    if limit is None:
        return widths
    excess = indent + sum(widths) + len(GAP) * (len(widths) - 1) - limit
    while excess > 0:
        # The widest gives way first, down to its least.
        flexible = [i for i, column in enumerate(columns) if 0 < column.least < widths[i]]
        if not flexible:
            break
        widths[max(flexible, key=lambda i: widths[i])] -= 1
        excess -= 1
    return widths


def _fitted(text: str, width: int, column: Column) -> str:
    missing = width - _width(text)
    if missing < 0:
        text = _cut(text, width, column.keep)
        missing = width - _width(text)
    return " " * missing + text if column.align == "right" else text + " " * missing


def _cut(text: str, width: int, keep: Literal["start", "end"]) -> str:
    while text and _width(text) > width - 1:
        text = text[:-1] if keep == "start" else text[1:]
    return f"{text}…" if keep == "start" else f"…{text}"


def _width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
