"""What a wait is called by: its id, which is its alone, and its name, which others may have."""

from collections.abc import Container, Iterable
from typing import Protocol

ORDINAL = "#"
"""What stands in front of the ordinal in an id; no wait's name holds it."""


class Called(Protocol):
    """A wait, as far as it has to be told from others."""

    @property
    def path(self) -> str:
        """Its call's path."""

    @property
    def name(self) -> str:
        """The name that the body gave it."""


def wait_id(path: str, name: str) -> str:
    """The id of the wait of this path and name: ``approve#1``, ``task[1]/approve#2``.

    The path of the first of a name does not say that it is the first, and might be a name.
    """
    is_first = path == name or path.endswith(f"/{name}")
    return f"{path}{ORDINAL}1" if is_first else path


def meant(wanted: str, waits: Iterable[Called]) -> list[str]:
    """The paths of the waits that are called so: the one with this id, else those with this name.

    Where neither is, the one of this path: the ids of the first of a name were once written so.
    """
    paths: dict[str, list[str]] = {"id": [], "name": [], "path": []}
    for wait in waits:
        if wanted == wait_id(wait.path, wait.name):
            paths["id"].append(wait.path)
        elif wanted == wait.name:
            paths["name"].append(wait.path)
        elif wanted == wait.path:
            paths["path"].append(wait.path)
    return paths["id"] or paths["name"] or paths["path"]


def early_answer(early: Container[str], path: str, name: str) -> str | None:
    """Which of the early answers is that of a wait: the one for its id, else that for its name."""
    known = (wait_id(path, name), path, name)
    return next((called for called in known if called in early), None)
