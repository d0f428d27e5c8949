"""The long run: ``python -m tests.fuzz [SECONDS] [TARGET…] [--coverage]``.

Each target runs for that long. An input that breaks it is written to the working directory. With
``--coverage`` the inputs come from atheris, which looks for those that reach new code.
"""

import argparse
import importlib.util
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target, seeds

ROOT = Path(__file__).parents[2]
STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)
REACHED = re.compile(r"cov: (\d+)")


def main(arguments: list[str]) -> int:
    """Runs the targets, and says how many inputs each was given; how many of them broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=60.0)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_intermixed_args(arguments)
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}: {', '.join(TARGETS)}")
    if given.coverage and importlib.util.find_spec("atheris") is None:
        parser.error("--coverage needs atheris: `uv pip install atheris`")
    failed = 0
    for name in given.targets or TARGETS:
        if given.coverage:
            failed += not _run_covered(name, given.seconds)
        else:
            failed += not _run(name, TARGETS[name], given.seconds)
    if not given.coverage:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"at most {peak} MiB of memory")
    return failed


def _run(name: str, target: Target, seconds: float) -> bool:
    seed = random.SystemRandom().getrandbits(32)
    chance, pool = random.Random(seed), list(seeds(name))
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = pool[count] if count < len(pool) else mutated(chance, pool)
        try:
            target(data)
        except BaseException as error:
            file = Path(f"fuzz-{name}-{seed}-{count}")
            file.write_bytes(data)
            print(f"{name}: {type(error).__name__}: {error}; the input is in {file}")
            return False
        count += 1
        if chance.random() < 0.01 and len(pool) < 5_000:
            pool.append(data)
    print(f"{name}: {count:,} inputs, none that breaks it (seed {seed})")
    return True


def _run_covered(name: str, seconds: float) -> bool:
    """In a process of its own, which atheris ends."""
    command = [sys.executable, "-m", "tests.fuzz.covered", name, str(round(seconds))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    found = {key: int(value) for key, value in STATISTIC.findall(said)}
    if done.returncode or "number_of_executed_units" not in found:
        print(f"{name}: BROKEN\n{said[-4_000:]}", flush=True)
        return False
    reached = max((int(edges) for edges in REACHED.findall(said)), default=0)
    print(
        f"{name}: {found['number_of_executed_units']:,} inputs, none that breaks it; "
        f"{reached:,} edges reached, at most {found['peak_rss_mb']} MiB",
        flush=True,
    )
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
