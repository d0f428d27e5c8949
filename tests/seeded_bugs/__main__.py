"""``python -m tests.seeded_bugs``: puts real bugs back into the engine and sees who notices.

(nothing)         ten of them, others with each commit
--all             every one
--only ID …       these
--jobs N          so many at once (2)
--check           ten, but only where CI is set: it takes some minutes

Each is put into a copy of the repository, and what the bug names must fail there within a minute.
Returns 1 when a bug was not caught: then a test is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from tests.seeded_bugs.bug import SIMULATOR, Bug, load_bugs

ROOT = Path(__file__).parents[2]
COPIED = ("journal", "kitaru", "tests", "docs", "pyproject.toml", "README.md")
SECONDS = 60.0
"""Within these, of the machine's own time, a bug must be noticed."""
PATIENCE = 4.0
"""How much longer that may take on a machine that others use, too."""
ROTATING = 10


class Verdict(Struct, frozen=True):
    """What came of one bug."""

    bug: Bug
    caught_by: str
    """Empty: nobody noticed."""
    seconds: float
    said: str

    @property
    def line(self) -> str:
        """For people."""
        how = f"caught by {self.caught_by}" if self.caught_by else "NOT CAUGHT"
        return f"{how:60} {self.seconds:6.1f} s  {self.bug.id}"


def tried(bug: Bug) -> Verdict:
    """Puts a bug into a copy of the repository, and runs what must notice it."""
    began = time.monotonic()
    said = ""
    with tempfile.TemporaryDirectory(prefix="seeded-") as folder:
        scratch = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, scratch / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy2(source, scratch / name)
        file = scratch / bug.file
        file.write_text(bug.put_into(file.read_text(encoding="utf-8")), encoding="utf-8")
        for tests in bug.tests:
            left = SECONDS * PATIENCE - (time.monotonic() - began)
            failed, said = _fails(scratch, tests, max(5.0, left))
            if failed:
                return Verdict(bug, tests, time.monotonic() - began, said)
    return Verdict(bug, "", time.monotonic() - began, said)


def _fails(scratch: Path, tests: str, seconds: float) -> tuple[bool, str]:
    environment = {**os.environ, "PYTHONPATH": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("CI", None)
    if tests == SIMULATOR:
        command = [sys.executable, "-m", "tests.simulation", "find", "--seconds", str(SECONDS)]
    else:
        options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "20", "--tb", "line"]
        command = [sys.executable, "-m", "pytest", *options, *tests.split()]
    try:
        done = subprocess.run(
            command,
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"{tests}: nothing failed in time"
    said = (done.stdout + done.stderr).strip()[-2_000:]
    # 1: something failed. Anything else means that nothing could be tried.
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: {said}")
    return done.returncode == 1, said


def chosen(bugs: list[Bug], number: int) -> list[Bug]:
    """Ten bugs, spread over all of them; which ones depends on the number."""
    count = min(ROTATING, len(bugs))
    return [bugs[(number + place * len(bugs) // count) % len(bugs)] for place in range(count)]


def number_of_commit() -> int:
    """A number that every commit has for itself; the day's, where there is no repository."""
    told = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    text = told.stdout.strip()
    return int(text, 16) if text else int(time.time() // 86_400)


def main(arguments: list[str]) -> int:
    """Returns 1 when a bug was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.seeded_bugs", description=__doc__)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    if given.check and "CI" not in os.environ:
        print("seeded bugs are left to the full run: CI is not set")
        return 0
    bugs = load_bugs()
    if given.only:
        bugs = [bug for bug in bugs if bug.id in given.only]
    elif not given.all:
        bugs = chosen(bugs, number_of_commit())
    return report(bugs, given.jobs)


def report(bugs: list[Bug], jobs: int) -> int:
    """Tries these, says what came of it; 1 when one was not caught."""
    missed = []
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(tried, bugs):
            print(verdict.line, flush=True)
            if not verdict.caught_by:
                missed.append(verdict)
    for verdict in missed:
        print(f"\nNOT CAUGHT {verdict.bug.id}: {verdict.bug.story}\n{verdict.said}")
    print(f"{len(bugs) - len(missed)} of {len(bugs)} seeded bugs were caught")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
