"""What came of the mutants, counted and written down."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.mutation.changes import Mutant
from tests.mutation.outcome import HUNG, NOT_RUN, NOTICED, SURVIVED, Outcome

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).parent / "survivors.txt"
RESULTS = Path(__file__).parent / "results.json"


class FileResult(Struct):
    """What came of the mutants of one file."""

    commit: str
    """The one on which they were tried; of survivors that were tried again: the last one."""
    mutants: int
    noticed: int
    hung: int
    """Noticed by tests that did not end."""
    survivors: list[str]
    """Those that no test notices, explained or not."""


def read_results() -> dict[str, FileResult]:
    """What was recorded last of each file."""
    if not RESULTS.exists():
        return {}
    return msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, FileResult])


def known_survivors() -> dict[str, str]:
    """Those that mean nothing, and why: a line ``## why``, then the mutants it is true of."""
    known: dict[str, str] = {}
    why = ""
    for line in SURVIVORS.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            why = line.removeprefix("## ")
        elif line and not line.startswith("#"):
            known[line] = why
    return known


def counted(tried: Mapping[Mutant, Outcome]) -> dict[str, FileResult]:
    """What came of those that were tried, by file."""
    asked = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found: dict[str, FileResult] = {}
    for mutant, outcome in tried.items():
        result = found.setdefault(mutant.file, FileResult(commit.strip(), 0, 0, 0, []))
        result.mutants += 1
        result.noticed += outcome.ended == NOTICED
        result.hung += outcome.ended == HUNG
        if outcome.ended in (SURVIVED, NOT_RUN):
            result.survivors.append(mutant.name)
    return found


def tried_again(before: FileResult, again: FileResult) -> FileResult:
    """The counts of a file of which only the survivors were tried again."""
    return FileResult(
        again.commit,
        before.mutants,
        before.noticed + again.noticed,
        before.hung + again.hung,
        again.survivors,
    )


def write_results(results: Mapping[str, FileResult]) -> None:
    """Replaces what is recorded of these files."""
    recorded = {**read_results(), **results}
    content = msgspec.json.encode(dict(sorted(recorded.items())))
    RESULTS.write_bytes(msgspec.json.format(content, indent=1) + b"\n")


def report(results: Mapping[str, FileResult], known: Mapping[str, str]) -> str:
    """For people: how many of each file, and in all."""
    columns = ("mutants", "noticed", "hung", "explained", "survived")
    lines = ["".join(f"{column:>10}" for column in columns) + "  file"]
    total = Counter[str]()
    for file, result in results.items():
        explained = sum(name in known for name in result.survivors)
        left = len(result.survivors) - explained
        counts = (result.mutants, result.noticed, result.hung, explained, left)
        total.update(dict(zip(columns, counts, strict=True)))
        lines.append("".join(f"{count:10}" for count in counts) + f"  {file}")
    lines.append("".join(f"{total[column]:10}" for column in columns) + "  in all")
    return "\n".join(lines)


def python() -> str:
    """Which Python this is."""
    return sys.version.split()[0]
