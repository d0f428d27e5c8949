"""The Python in the README and in docs/ runs, as a reader would run it: each page is one script."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from unittest import SkipTest

import click
import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from kitaru.surfaces.cli.main import cli

RunProgram = Callable[..., "CompletedProcess[str]"]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SKIP = re.compile(r"<!--+\s*skip:\s*(?P<rest>.*?)\s*--+>")


def program_of(page: Path) -> str:
    """The page's Python, each line at its own place, so that a traceback names the page's line."""
    blocks: list[tuple[int, str]] = []

    def keep(example: Example) -> None:
        blocks.append((example.line, example.parsed))

    sybil = Sybil([CodeBlockParser("python", keep), SkipParser()], path=str(ROOT))
    for example in sybil.parse(page).examples():
        try:
            example.evaluate()
        except SkipTest:
            continue
    lines: list[str] = []
    for line, source in blocks:
        lines += [""] * (line - len(lines))
        lines += source.splitlines()
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]
)
def test_the_python_on_a_page_runs(page: Path, run_program: RunProgram) -> None:
    program = program_of(page)
    if not program.strip():
        return
    done = run_program(program, name=f"{page.stem.replace('-', '_')}.py")
    assert done.returncode == 0, f"{page}:\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whatever_is_not_run_says_why(page: Path) -> None:
    for directive in SKIP.finditer(page.read_text(encoding="utf-8")):
        words = directive["rest"].split(maxsplit=1)
        assert words == ["end"] or len(words) == 2, f"{page.name}: {directive[0]} has no reason"


def test_a_page_becomes_one_program_with_its_own_line_numbers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\na = 1\n```\n\n```console\n$ ls\n```\n\n"
        '<!--- skip: next "it needs a printer" -->\n\n```python\nb = 1\n```\n\n'
        "```python\nc = 1\n```\n",
        encoding="utf-8",
    )
    lines = program_of(page).splitlines()
    assert [line for line in lines if line] == ["a = 1", "c = 1"]
    text = page.read_text(encoding="utf-8").splitlines()
    assert all(text[number] == line for number, line in enumerate(lines) if line)


def test_the_command_line_page_has_every_command() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    named = {
        match[1].strip() for match in re.finditer(r"^\| `kitaru ([a-z ]+)", page, re.MULTILINE)
    }
    assert named == set(commands_of(cli, []))


def commands_of(group: click.Group, path: list[str]) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands_of(command, [*path, name])
        else:
            yield " ".join([*path, name])
