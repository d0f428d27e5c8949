"""A pytest plugin: each recorded history in a folder is a test of today's code.

``pytest --kitaru-histories tests/histories --kitaru-flows flows.py`` replays every file that
`kitaru journal export` has written into the folder, without effects. Nothing of Kitaru is loaded
before the option is given.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kitaru.operations.histories import Checked, FindFlow

SUFFIX = ".history.jsonl"
FOLDERS = "--kitaru-histories"
FLOWS = "--kitaru-flows"
SECONDS = 10.0


class NotSafe(Exception):
    """Today's code does not fit a recorded history, or nobody can tell."""

    def __init__(self, checked: "Checked") -> None:
        self.checked = checked
        verdict = checked.verdict
        super().__init__(f"{verdict.judgement}: {verdict.summary}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("kitaru")
    group.addoption(
        FOLDERS,
        action="append",
        default=[],
        metavar="DIR",
        help="replay the recorded histories in this folder against today's code; may be repeated",
    )
    group.addoption(
        FLOWS,
        action="append",
        default=[],
        metavar="TARGET",
        help="the file or module whose flows they are held against, or one flow (flows.py:agent); "
        "may be repeated; without it, each flow is looked for where it was recorded",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Has the folders collected, wherever the tests are."""
    folders = _folders(config)
    for folder in folders:
        if not folder.is_dir():
            raise pytest.UsageError(f"{FOLDERS} {folder}: there is no such folder")
    if not folders:
        return
    known = [Path(str(argument).partition("::")[0]).absolute() for argument in config.args]
    config.args += [
        str(folder)
        for folder in folders
        if not any(folder == place or place in folder.parents for place in known)
    ]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "HistoryFile | None":
    """A history in one of the folders is a test."""
    if not file_path.name.endswith(SUFFIX):
        return None
    if not any(folder in file_path.parents for folder in _folders(parent.config)):
        return None
    return HistoryFile.from_parent(parent, path=file_path)


def _folders(config: pytest.Config) -> list[Path]:
    here = config.invocation_params.dir
    return [(here / folder).absolute() for folder in config.getoption(FOLDERS)]


class HistoryFile(pytest.File):
    """A file with one execution."""

    def collect(self) -> Iterable[pytest.Item]:
        """Its one test."""
        yield HistoryItem.from_parent(self, name="replay")


class HistoryItem(pytest.Item):
    """Passes when today's code fits all that is recorded."""

    def runtest(self) -> None:
        """Replays the history. Raises NotSafe."""
        from kitaru.operations.histories import check

        checked = check(str(self.path), _flows(self.config), seconds=SECONDS)
        if not checked.verdict.is_safe:
            raise NotSafe(checked)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What does not fit and where; a traceback would only show this plugin."""
        if not isinstance(excinfo.value, NotSafe):
            return super().repr_failure(excinfo, style)
        return told(excinfo.value.checked)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The file, and what is done with it."""
        return self.path, None, f"replay of {self.path.name}"


FOUND = pytest.StashKey["FindFlow"]()


def _flows(config: pytest.Config) -> "FindFlow":
    if FOUND not in config.stash:
        from kitaru.operations.histories import flows_among

        config.stash[FOUND] = flows_among(config.getoption(FLOWS))
    return config.stash[FOUND]


def told(checked: "Checked") -> str:
    """The verdict of one history, for people."""
    verdict = checked.verdict
    where = f" at {verdict.place}" if verdict.place else ""
    lines = [f"Execution {checked.exec_id or '?'} of flow {checked.flow or '?'}:"]
    if verdict.judgement == "diverges":
        lines.append(f"diverges{where}, at event {verdict.version}")
        lines.append(verdict.report or verdict.summary)
    else:
        lines.append(f"unknown beyond event {verdict.version}{where}")
        lines.append(verdict.summary)
    return "\n".join(lines)
