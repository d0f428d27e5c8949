"""Loses power over recordings of many kinds, on every core, and counts what came of it."""

import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from msgspec import Struct

from tests.crash.told import missing_lines
from tests.powerloss.images import images
from tests.powerloss.recording import Synced, record
from tests.powerloss.verdicts import judge_all, whole_streams

KINDS = {
    "writer": ("tests.powerloss.writer", whole_streams),
    "engine": ("tests.powerloss.engine", missing_lines),
}
FAILING = ("journal.db-wal", "journal.db")


class Trial(Struct, frozen=True):
    """One recording, and how many losses of power in it are tried."""

    kind: str
    seed: int
    images: int
    synchronous: str = ""
    """A setting that is less durable than the journal's own."""
    fail: str = ""
    """Which sync fails, as the preloaded library is told."""


class Verdict(Struct, frozen=True):
    """What came of a trial."""

    counts: dict[str, int]
    wrong: list[str]


def trials(count: int, seed: int) -> Iterator[Trial]:
    """A mixture: appends, the whole engine, and appends on a disk of which one sync fails."""
    each = 1000
    for number in range(-(-count // each)):
        match number % 5:
            case 0 | 1:
                yield Trial("writer", seed + number, each)
            case 2 | 3:
                failing = FAILING[number % 2]
                at = 1 + (seed + 7 * number) % (60 if failing.endswith("wal") else 4)
                yield Trial("writer", seed + number, each, fail=f"{failing}:{at}")
            case _:
                yield Trial("engine", seed + number, each)


def lose_power(tried: Sequence[Trial], shim: str, processes: int = 0) -> Verdict:
    """Runs trials, several at a time."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        for verdict in pool.map(_try, tried, [shim] * len(tried)):
            counts.update(verdict.counts)
            wrong += verdict.wrong
    return Verdict(dict(counts), wrong)


def _try(trial: Trial, shim: str) -> Verdict:
    module, missing = KINDS[trial.kind]
    arguments = [str(trial.seed), *([trial.synchronous] if trial.synchronous else [])]
    with tempfile.TemporaryDirectory() as folder:
        operations = record(module, arguments, Path(folder) / "files", shim, trial.fail)
    counts, wrong = judge_all(images(operations, trial.images, trial.seed), missing)
    counts["recordings"] += 1
    counts["operations"] += len(operations)
    counts["failed syncs"] += sum(isinstance(o, Synced) and not o.worked for o in operations)
    return Verdict(dict(counts), [f"{trial}: {each}" for each in wrong])
