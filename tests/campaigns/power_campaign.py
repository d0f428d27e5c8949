"""Loses power hundreds of thousands of times, and says how often, and that nothing was lost.

`uv run python -m tests.campaigns.power_campaign --images 500000 --seed 1`
"""

import argparse
import sys
import time

from tests.campaigns.kill_campaign import commit
from tests.powerloss.losses import lose_power, trials
from tests.preload import shim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0, help="0: one for each core")
    given = parser.parse_args()
    if shim.why_not():
        sys.exit(shim.why_not())
    began = time.monotonic()
    tried = list(trials(given.images, given.seed))
    verdict = lose_power(tried, shim.compiled(), given.processes)
    print(f"commit {commit()}, seed {given.seed}, {time.monotonic() - began:.0f} s")
    for name, count in verdict.counts.items():
        print(f"{count:8} {name}")
    for line in verdict.wrong[:100]:
        print(line)
    sys.exit(bool(verdict.wrong))


if __name__ == "__main__":
    main()
