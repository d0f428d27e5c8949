"""Many seeds on all processors, counted: what was tried, what was met, and what went wrong."""

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, field

from tests.simulation import databases, threaded
from tests.simulation.core import run_seed
from tests.simulation.differential import compare
from tests.simulation.sometimes import SOMETIMES
from tests.simulation.violation import Violation
from tests.simulation.world import run_world

MOST_FAILURES = 5
CHUNKS_OF_A_PROCESS = 4
"""Then it ends, and all that it has kept with it: that costs less than to collect it."""
_graveyard: list[Any] | None = None
"""Where a process that ends soon keeps the owners that have died in the core."""


class Tally(Struct):
    """What has been tried, and what came of it."""

    core_programs: int = 0
    core_runs: int = 0
    """Their executions, each from its start to its end."""
    core_points: int = 0
    """Crash points of the exhaustive level: owners that died, and a recovery after each."""
    sync_programs: int = 0
    sync_runs: int = 0
    sync_points: int = 0
    """Crash points of sync flows."""
    worlds: int = 0
    world_points: int = 0
    """Crash points of the full simulator: unfinished executions of processes that died."""
    take_overs: int = 0
    steps: int = 0
    compared_programs: int = 0
    """Programs whose journals were the same on both backends."""
    compared_questions: int = 0
    compared_events: int = 0
    sometimes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = []

    def add(self, other: "Tally") -> None:
        """Takes in another one."""
        for name in self.__struct_fields__:
            if isinstance(getattr(self, name), int):
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sometimes.update(other.sometimes)
        self.failures = self.failures + other.failures

    def never(self) -> list[str]:
        """The situations that were never met."""
        return [name for name in SOMETIMES if not self.sometimes[name]]

    @property
    def both(self) -> str:
        """For people: what was the same on both backends."""
        counted = f"{self.compared_questions} questions, {self.compared_events} events"
        return f"both backends: {self.compared_programs} programs, {counted}"

    def text(self) -> str:
        """For people."""
        core = f"core: {self.core_programs} programs, {self.core_points} crash points"
        runs = f"in {self.core_runs} executions, each of which came to its end"
        sync = f"sync flows: {self.sync_programs} programs, {self.sync_points} crash points"
        worlds = f"worlds: {self.worlds}, {self.world_points} crash points"
        lines = [
            self.both,
            f"{core} {runs}",
            f"{sync} in {self.sync_runs} executions",
            f"{worlds}, {self.take_overs} take-overs, {self.steps} steps",
        ]
        if self.worlds:
            lines += [f"  {self.sometimes[name]:9}  {name}" for name in SOMETIMES]
        return "\n".join(lines)


def core_chunk(seeds: range) -> Tally:
    """All crash points of the programs of these seeds."""
    tally = Tally()
    for seed in seeds:
        try:
            counted = run_seed(seed, _graveyard)
        except Violation as violation:
            tally.failures = [*tally.failures, f"core seed {seed}: {violation}"]
            continue
        tally.core_programs += counted.programs
        tally.core_points += counted.points
        tally.sometimes.update(counted.sometimes)
        tally.core_runs += counted.runs
    return tally


def threaded_chunk(seeds: range) -> Tally:
    """All crash points of the sync programs of these seeds."""
    tally = Tally()
    gc.enable()
    for seed in seeds:
        try:
            counted = threaded.run_seed(seed)
        except Violation as violation:
            tally.failures = [*tally.failures, f"threaded seed {seed}: {violation}"]
            continue
        tally.sync_programs += counted.programs
        tally.sync_runs += counted.runs
        tally.sync_points += counted.points
        tally.sometimes.update(counted.sometimes)
    return tally


def world_chunk(seeds: range) -> Tally:
    """The worlds of these seeds."""
    tally = Tally()
    gc.enable()
    for seed in seeds:
        try:
            world = run_world(seed)
        except Violation as violation:
            tally.failures = [*tally.failures, f"world seed {seed}: {violation}"]
            continue
        tally.worlds += 1
        tally.world_points += world.crash_points
        tally.take_overs += world.take_overs
        tally.steps += world.steps
        tally.sometimes.update(world.sometimes.counts)
    return tally


def differential_chunk(seeds: range) -> Tally:
    """The worlds of these seeds, on both backends."""
    tally = Tally()
    gc.enable()
    for seed in seeds:
        try:
            compared = compare(seed)
        except Violation as violation:
            tally.failures = [*tally.failures, f"differential seed {seed}: {violation}"]
            continue
        tally.compared_programs += compared.programs
        tally.compared_questions += compared.asked
        tally.compared_events += compared.events
    return tally


Chunk = Callable[[range], Tally]


def _begin_process() -> None:
    global _graveyard
    _graveyard = []
    databases.leave_to_parent()
    gc.collect()
    gc.freeze()
    gc.disable()


def run_until(
    chunk: Chunk,
    enough: Callable[[Tally], bool],
    *,
    size: int,
    first: int = 0,
    seconds: float = float("inf"),
    processes: int | None = None,
) -> Tally:
    """Seeds from `first` on, until it is enough, time is over, or too much has failed."""
    tally = Tally()
    end = time.monotonic() + seconds
    count = processes or os.cpu_count() or 1
    databases.folder()
    context = multiprocessing.get_context("fork")
    with context.Pool(count, _begin_process, maxtasksperchild=CHUNKS_OF_A_PROCESS) as pool:

        def seeds() -> Iterator[range]:
            start = first
            while True:
                yield range(start, start + size)
                start += size

        pending: list[Any] = []
        source = seeds()
        while True:
            while len(pending) < 2 * count:
                pending.append(pool.apply_async(chunk, (next(source),)))
            tally.add(pending.pop(0).get())
            over = time.monotonic() > end or len(tally.failures) >= MOST_FAILURES
            if enough(tally) or over:
                pool.terminate()
                return tally
