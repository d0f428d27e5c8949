"""One seeded bug: what it is, where it goes, and what must notice it."""

import textwrap
from pathlib import Path

import yaml
from msgspec import Struct, convert

FILE = Path(__file__).parent / "bugs.yaml"
SIMULATOR = "simulator"


class StaleBug(ValueError):
    """The code that a bug is to be put into is not there, or not there once: mend the bug."""


class Bug(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of one place of the engine that brings a real bug back."""

    id: str
    story: str
    file: str
    old: str
    """The lines, or the part of one line, that it replaces; indented as here or there."""
    new: str
    tests: list[str]
    """What must fail: files and folders of tests, or `simulator`."""

    def put_into(self, source: str) -> str:
        """The source with the bug in it. Raises StaleBug."""
        if "\n" not in self.old.strip("\n") and source.count(self.old.strip("\n")) == 1:
            whole = self.old.strip("\n")
            if not self.new.strip("\n").count("\n") and not whole.startswith(" "):
                return source.replace(whole, self.new.strip("\n"))
        return self._put_lines(source)

    def _put_lines(self, source: str) -> str:
        old, lines = _lines(self.old), source.split("\n")
        places = [
            number
            for number in range(len(lines) - len(old) + 1)
            if _stands(old, lines[number : number + len(old)])
        ]
        if len(places) != 1:
            raise StaleBug(f"{self.id}: {self.file} has {len(places)} places like\n{self.old}")
        (place,) = places
        indent = _indent(lines[place])
        rest = lines[place + len(old) - 1][len(indent) + len(old[-1]) :]
        new = [indent + line if line else line for line in _lines(self.new)] if self.new else []
        if rest:
            new[-1] += rest
        return "\n".join([*lines[:place], *new, *lines[place + len(old) :]])


def _lines(text: str) -> list[str]:
    return textwrap.dedent(text.strip("\n")).split("\n")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _stands(old: list[str], lines: list[str]) -> bool:
    indent = _indent(lines[0])
    shifted = [indent + line if line else line for line in old]
    return shifted[:-1] == lines[:-1] and lines[-1].startswith(shifted[-1])


def load_bugs() -> list[Bug]:
    """All of them."""
    return convert(yaml.safe_load(FILE.read_text(encoding="utf-8")), list[Bug])
