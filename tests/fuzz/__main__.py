"""The long run: ``python -m tests.fuzz [SECONDS] [TARGET…]``; with atheris, by coverage.

Each target runs for that long. An input that breaks it is written to the working directory.
"""

import importlib.util
import random
import resource
import sys
import time
from pathlib import Path

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target, seeds


def main(seconds: float = 60.0, *names: str) -> int:
    """Runs the targets, and says how many inputs each was given."""
    failed = 0
    for name in names or TARGETS:
        failed += not _run(name, TARGETS[name], seconds)
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


def by_coverage(name: str, *options: str) -> None:
    """Runs one target under atheris, which looks for inputs that reach new code."""
    atheris = importlib.import_module("atheris")
    atheris.instrument_all()
    atheris.Setup(["fuzz", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--coverage"]:
        by_coverage(*sys.argv[2:])
    else:
        sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 60.0, *sys.argv[2:]))
