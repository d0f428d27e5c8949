"""What pytest does in each of the processes: map the lines, or try mutants on collected tests."""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from coverage import Coverage
from msgspec import Struct

from tests.mutation.changes import Mutant
from tests.mutation.outcome import (
    HUNG,
    NOT_SWAPPED,
    NOTICED,
    SURVIVED,
    Outcome,
    Reach,
    tell,
)
from tests.mutation.swap import Functions

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")
FOLDER = str(MEMORY) if MEMORY.is_dir() else None
"""Where a test's files cost no disk, on most machines with Linux."""
LEAST_SECONDS = 20.0
"""A mutant's tests have this, and five times what they take on the code as it is."""


class Limits(Struct, frozen=True):
    """How much is done."""

    jobs: int
    """So many mutants at once."""
    end: float
    """No mutant is begun after this, on the monotonic clock."""
    patience: float
    """For each mutant, tests that take no longer than so many seconds together."""


class Mapper:
    """Runs every test once, and tells which lines it ran; leaves out a test that fails."""

    def __init__(self, packages: Sequence[str], pipe: int) -> None:
        self._pipe = pipe
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._coverage = Coverage(
            data_file=None, include=[f"{ROOT}/{package}/*" for package in packages]
        )
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        began = time.monotonic()
        result = yield
        self._seconds[item.nodeid] = time.monotonic() - began
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            str(Path(file).relative_to(ROOT)): {
                line: [test for test in tests if test not in self._failed]
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        passed = {test: s for test, s in self._seconds.items() if test not in self._failed}
        tell(self._pipe, Reach(passed, lines, failed=tuple(sorted(self._failed))))


class Trying:
    """Collects every test once, and then tries one mutant after the other, each in a fork."""

    def __init__(
        self,
        mutants: Mapping[int, Mutant],
        reach: Reach,
        limits: Limits,
        pipe: int,
    ) -> None:
        self._mutants = mutants
        self._reach = reach
        self._limits = limits
        self._patience = limits.patience
        self._pipe = pipe
        self._noticed: Counter[tuple[str, str, str]] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = Functions()
        gc.collect()
        gc.freeze()

        def trying(number: int) -> Callable[[int], None]:
            mutant = self._mutants[number]
            selected = [items[test] for test in self._tests_of(mutant) if test in items]

            def child(pipe: int) -> None:
                Noticing(number, pipe).install(session)
                try:
                    is_swapped = functions.change(mutant.file, mutant.tree)
                except ValueError:
                    is_swapped = False
                if is_swapped:
                    for item, following in zip(selected, [*selected[1:], None], strict=True):
                        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                tell(pipe, Outcome(number, SURVIVED if is_swapped else NOT_SWAPPED))

            return child

        def limit(number: int) -> float:
            return seconds_for(self._reach, self._tests_of(self._mutants[number]))

        def heard(outcome: Outcome) -> None:
            mutant = self._mutants[outcome.number]
            self._noticed[mutant.file, mutant.function, outcome.by] += 1
            tell(self._pipe, outcome)

        in_forks(list(self._mutants), trying, limit, heard, self._limits)
        return True

    def _tests_of(self, mutant: Mutant) -> list[str]:
        """Those first that have noticed something here before; then those that are quick."""
        tests = self._reach.of(mutant.file, mutant.lines) - {""} or self._reach.forking
        quick = self._reach.quick_of(tests, self._patience, mutant.file)
        noticed = self._noticed
        return sorted(quick, key=lambda test: -noticed[mutant.file, mutant.function, test])


class Selecting:
    """Runs the given tests only, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._places),
            key=lambda item: self._places[item.nodeid],
        )


class Noticing:
    """Ends its process as soon as a test fails."""

    def __init__(self, number: int, pipe: int) -> None:
        self._number = number
        self._pipe = pipe

    def install(self, session: pytest.Session) -> None:
        session.config.pluginmanager.register(self)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            tell(self._pipe, Outcome(self._number, NOTICED, report.nodeid))
            os._exit(0)


class _Running(Struct):
    number: int
    began: float
    limit: float
    pipe: int
    folder: str


def seconds_for(reach: Reach, tests: Sequence[str]) -> float:
    """How long these may take before they are taken to hang."""
    return LEAST_SECONDS + 5 * sum(reach.tests.get(test, 0.0) for test in tests)


def in_forks(
    numbers: Sequence[int],
    child_of: Callable[[int], Callable[[int], None]],
    limit: Callable[[int], float],
    heard: Callable[[Outcome], None],
    limits: Limits,
) -> None:
    """Runs each mutant's tests in a process of its own, which nothing of outlives."""
    left = list(reversed(numbers))
    running: dict[int, _Running] = {}
    while left or running:
        while left and len(running) < limits.jobs and time.monotonic() < limits.end:
            number = left.pop()
            child = child_of(number)
            reading, writing = os.pipe()
            folder = tempfile.mkdtemp(prefix="mutation-", dir=FOLDER)
            pid = os.fork()
            if pid == 0:
                _be_child(child, writing, folder)
            os.close(writing)
            running[pid] = _Running(number, time.monotonic(), limit(number), reading, folder)
        if not running:
            return
        for pid, one in list(running.items()):
            if time.monotonic() - one.began > one.limit:
                _kill(pid)
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            time.sleep(0.002)
            continue
        heard(_ended(pid, running.pop(pid)))


def _be_child(child: Callable[[int], None], pipe: int, folder: str) -> None:
    try:
        os.setpgid(0, 0)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        child(pipe)
    finally:
        os._exit(0)


def _ended(pid: int, one: _Running) -> Outcome:
    seconds = time.monotonic() - one.began
    _kill(pid)  # those that it started and that are in its group
    with os.fdopen(one.pipe, "rb") as reading:
        os.set_blocking(one.pipe, False)
        said = reading.readline()
    _unmount(one.folder)
    shutil.rmtree(one.folder, ignore_errors=True)
    if said:
        outcome = msgspec.json.decode(said, type=Outcome)
        return Outcome(outcome.number, outcome.ended, outcome.by, seconds)
    # It said nothing: it was killed, or it could not even be loaded.
    ended = HUNG if seconds > one.limit else NOTICED
    return Outcome(one.number, ended, "", seconds)


def _unmount(folder: str) -> None:
    """What a test has mounted there and was killed before it could take away."""
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text(encoding="utf-8").splitlines() if mounts.exists() else ():
        place = line.split()[1].replace("\\040", " ")
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
