"""``python -m tests.campaign``: everything that is done to the engine, at length, in one command.

``uv run python -m tests.campaign [--minutes M] [--first-seed N]``

Prints the commit, the seeds, what was tried and how often, and every failure; returns 1 when there
was one. With fewer minutes than the default 170 each part does less, and says how much.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[1]
WHOLE_MINUTES = 170.0


class Part(Struct, frozen=True):
    """One part of the campaign."""

    name: str
    module: str
    arguments: list[str]
    share: float
    """Of the minutes."""


def parts(minutes: float, first_seed: int) -> list[Part]:
    """What is done, with what of the time that there is."""
    simulated = round(minutes * 0.45)
    whole = minutes / WHOLE_MINUTES
    kills, images, programs = (round(it * whole) for it in (10_000, 500_000, 10_000))
    return [
        Part(
            "simulator",
            "tests.simulation",
            # The programs on both backends are a part of their own.
            [
                *("run", "--minutes", str(simulated), "--first-seed", str(first_seed)),
                *("--programs", "0"),
            ],
            0.45,
        ),
        Part(
            "both backends",
            "tests.simulation",
            ["compare", "--programs", str(programs), "--first-seed", str(first_seed)],
            0.05,
        ),
        Part("seeded bugs", "tests.seeded_bugs", ["--all"], 0.15),
        Part("engine modes", "tests.modes", [], 0.1),
        Part("kills", "tests.campaigns.kill_campaign", ["--kills", str(kills)], 0.15),
        Part("losses of power", "tests.campaigns.power_campaign", ["--images", str(images)], 0.1),
    ]


def run(part: Part, minutes: float) -> str:
    """Runs one part; how it ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", part.module, *part.arguments],
            cwd=ROOT,
            timeout=max(60.0, minutes * part.share * 1.5 * 60),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "was not done in its time"
    return "passed" if done.returncode == 0 else "FAILED"


def main(arguments: list[str]) -> int:
    """Returns 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=WHOLE_MINUTES)
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(f"commit {commit()}, python {sys.version.split()[0]}, seeds from {given.first_seed} on")
    results = {}
    for part in parts(given.minutes, given.first_seed):
        began = time.monotonic()
        print(f"\n== {part.name}", flush=True)
        ended = run(part, given.minutes)
        results[part.name] = f"{ended} ({(time.monotonic() - began) / 60:.1f} min)"
    print()
    for name, result in results.items():
        print(f"{name:20} {result}")
    return int(any(not result.startswith("passed") for result in results.values()))


def commit() -> str:
    """What is being tested."""
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(
        asked, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
