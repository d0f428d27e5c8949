"""Kills processes thousands of times, and says how often, where, and that nothing was lost.

`uv run python -m tests.campaigns.kill_campaign --kills 10000 --seed 1`
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from tests.crash.victims import torture_at_once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="journals at a time")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # A violation ends it with an AssertionError that names the call or the start.
        counts = torture_at_once(Path(folder), given.seed, given.kills, given.processes)
    print(f"commit {commit()}, seed {given.seed}, {time.monotonic() - began:.0f} s")
    for name, count in counts.most_common():
        print(f"{count:8} {name}")


def commit() -> str:
    """What is being tested."""
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
