"""``python -m tests.simulation``: one seed again, or as many as somebody wants.

core --seed N           the exhaustive level, for the program of one seed
world --seed N          the full simulator, for the world of one seed, or for a part of it
shrink --seed N         the same, made as small as it can be and still fail
threaded --seed N       a sync flow of one seed, with threads
both --seed N           the same world's store on both backends
find --seconds N        one seed after the other until one fails
check                   what the one check of the repository runs; more of it when CI is set
run --core-points N --worlds N --programs N --sync-points N --minutes M --first-seed N
compare --programs N --first-seed N --jobs N
                        the same programs on both backends, and nothing else
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

from tests.simulation import threaded
from tests.simulation.campaign import (
    Chunk,
    Tally,
    core_chunk,
    differential_chunk,
    run_until,
    threaded_chunk,
    world_chunk,
)
from tests.simulation.core import run_seed
from tests.simulation.cuts import Cuts, part_of
from tests.simulation.differential import compare
from tests.simulation.shrink import failing, shrink
from tests.simulation.sometimes import SOMETIMES
from tests.simulation.store import Weather
from tests.simulation.violation import Violation
from tests.simulation.world import run_world

CI = (500_000, 2_000, 300, 2_000)
LOCAL = (3_000, 25, 20, 100)
"""(core crash points, worlds, programs on both backends, crash points of sync flows)"""


def main(arguments: list[str]) -> int:
    """Returns 1 when a promise was broken, or a rare situation was never met."""
    os.environ["KITARU_LOG_LEVEL"] = "off"
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("core", "both", "threaded"):
        commands.add_parser(name).add_argument("--seed", type=int, required=True)
    for name in ("world", "shrink"):
        one = commands.add_parser(name)
        one.add_argument("--seed", type=int, required=True)
        one.add_argument("--without", type=int, nargs="+", default=[], metavar="EXECUTION")
        one.add_argument("--faults", type=int, nargs="*", metavar="FAULT")
        one.add_argument("--part", type=part_of, action="append", default=[])
        one.add_argument("--calm", nargs="+", default=[], choices=Weather.__struct_fields__)
        one.add_argument("--luck", type=int, default=0)
        one.add_argument("--alone", action="store_true")
    commands.choices["shrink"].add_argument("--seconds", type=float, default=120.0)
    commands.add_parser("find").add_argument("--seconds", type=float, default=45.0)
    commands.add_parser("check")
    run = commands.add_parser("run")
    run.add_argument("--core-points", type=int, default=10_000_000)
    run.add_argument("--worlds", type=int, default=50_000)
    run.add_argument("--programs", type=int, default=10_000)
    run.add_argument("--sync-points", type=int, default=100_000)
    run.add_argument("--minutes", type=float, default=120.0)
    run.add_argument("--first-seed", type=int, default=0)
    both = commands.add_parser("compare")
    both.add_argument("--programs", type=int, default=10_000)
    both.add_argument("--first-seed", type=int, default=0)
    both.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if given.command == "compare":
        return _compare(given.programs, given.first_seed, given.jobs)
    if given.command in ("world", "shrink"):
        faults = None if given.faults is None else tuple(given.faults)
        cuts = Cuts(
            executions=tuple(given.without),
            faults=faults,
            parts=tuple(given.part),
            calm=tuple(given.calm),
            luck=given.luck,
            is_alone=given.alone,
        )
        return _world(given.seed, cuts, getattr(given, "seconds", 0.0))
    if given.command in ("core", "both", "threaded"):
        return _one(given.command, given.seed)
    if given.command == "find":
        return _find(given.seconds)
    if given.command == "check":
        is_ci = "CI" in os.environ
        return _many(CI if is_ci else LOCAL, 0, float("inf"), whole=is_ci)
    sizes = (given.core_points, given.worlds, given.programs, given.sync_points)
    return _many(sizes, given.first_seed, given.minutes * 60, whole=True)


def _one(command: str, seed: int) -> int:
    try:
        does: dict[str, Callable[[int], object]] = {
            "core": run_seed,
            "both": compare,
            "threaded": threaded.run_seed,
        }
        print(does[command](seed))
    except Violation as violation:
        print(violation)
        return 1
    return 0


def _world(seed: int, cuts: Cuts, seconds: float) -> int:
    """With seconds: made as small as it becomes in them."""
    failed = failing(seed, cuts)
    if failed is not None:
        print((shrink(failed, seconds) if seconds else failed).text)
        return 1
    world = run_world(seed, cuts)
    print(f"{len(world.plans)} executions, {world.steps} steps, {world.crash_points} crash points")
    print(f"log {world.log.hexdigest()[:16]}")
    return 0


def _compare(programs: int, first: int, jobs: int) -> int:
    """1 when a program's journal is not the same on every backend."""
    began = time.monotonic()

    def enough(tally: Tally) -> bool:
        return tally.compared_programs >= programs

    tally = run_until(differential_chunk, enough, size=5, first=first, processes=jobs)
    print(tally.both)
    print(f"{time.monotonic() - began:.0f} seconds, seeds from {first} on")
    return verdict(tally, whole=False)


def _find(seconds: float) -> int:
    """1 when something fails within so many seconds of this process's own time."""
    seed, tried = 0, Tally()
    while time.process_time() < seconds:
        for chunk in (world_chunk, core_chunk, threaded_chunk):
            tried.add(chunk(range(seed, seed + 3)))
            if tried.failures:
                print(tried.failures[0])
                return 1
        seed += 3
    print(f"nothing in {tried.worlds} worlds and {tried.core_points} core crash points")
    return 0


def _many(sizes: tuple[int, int, int, int], first: int, seconds: float, *, whole: bool) -> int:
    """`whole`: every rare situation must have been met."""
    points, worlds, programs, sync_points = sizes
    began, tally = time.monotonic(), Tally()
    steps: list[tuple[Chunk, Callable[[Tally], bool], int, float]] = [
        (world_chunk, lambda it: it.worlds >= worlds, 10, 0.25),
        (differential_chunk, lambda it: it.compared_programs >= programs, 5, 0.4),
        (threaded_chunk, lambda it: it.sync_points >= sync_points, 5, 0.45),
        (core_chunk, lambda it: it.core_points >= points, 50, 1.0),
    ]
    for chunk, enough, size, until in steps:
        left = seconds * until - (time.monotonic() - began)
        tally.add(run_until(chunk, enough, size=size, first=first, seconds=left))
        if tally.failures:
            break
    print(tally.text())
    print(f"{time.monotonic() - began:.0f} seconds, seeds from {first} on")
    return verdict(tally, whole=whole)


def verdict(tally: Tally, *, whole: bool) -> int:
    """Says what went wrong; 0 when nothing did."""
    for failure in tally.failures:
        print(f"\nFAILED {failure}")
    never = tally.never() if whole and not tally.failures else []
    for name in never:
        print(f"NEVER MET {name}: {SOMETIMES[name]}")
    return int(bool(tally.failures or never))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
