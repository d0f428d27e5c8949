"""``python -m tests.mutation``: changes the code in small ways, and sees who notices.

``python -m tests.mutation [--only FILE …] [--jobs N] [--every N] [--minutes M]``
``                         [--record] [--again]``

A mutant that no test notices is a survivor: a test is missing, or the change means nothing, and
then `survivors.txt` says why. Returns 1 when there is a survivor that `survivors.txt` does not
name. `--record` writes what came of the files into `results.json`; `--again` tries those only that
it names as survivors.

Each mutant is tried on the tests that run the changed statement, the quick ones first, in a fork of
a process that has collected all tests already. What is made while a module is imported is tried in
a process that imports it anew.
"""

import argparse
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from msgspec import Struct

from tests.mutation import plugin
from tests.mutation.changes import Mutant, mutants_of
from tests.mutation.outcome import NOT_RUN, NOT_SWAPPED, SURVIVED, Outcome, Reach, tell
from tests.mutation.results import (
    counted,
    known_survivors,
    python,
    read_results,
    report,
    tried_again,
    write_results,
)

ROOT = Path(__file__).parents[2]
OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "--tb", "no", "--no-header", "-o", "timeout=20"),
    # What rewrites assertions would load the changed modules, and from their files.
    *("--assert", "plain"),
)


class Part(Struct, frozen=True):
    """Code that is changed, and the tests that must notice."""

    package: str
    tests: tuple[str, ...]
    wider: tuple[str, ...] = ()
    """Tests that are asked, too, where a function is changed: too many for each import anew."""
    forking: tuple[str, ...] = ()
    """How the names of tests begin that run code in a forked child, where no line is seen."""
    looking: tuple[str, ...] = ()
    """How the names of tests begin that look at what is made by the import, and run none of it."""


PARTS = (
    Part(
        "kitaru/domain",
        ("tests/kitaru/domain",),
        ("tests/conformance/test_conformance.py",),
        looking=("tests/kitaru/domain/test_stored_form.py::",),
    ),
    Part(
        "journal",
        ("tests/journal",),
        forking=("tests/journal/backends/sqlite/test_processes.py::test_a_forked_child",),
        looking=(
            "tests/journal/test_records.py::",
            "tests/journal/test_journal.py::test_a_backend_takes_what_the_port_says",
        ),
    ),
)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from other source than its file's."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        file = ROOT / self._mutant.file
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def create_module(self, spec: Any) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self._mutant.tree, str(ROOT / self._mutant.file), "exec")
        exec(code, module.__dict__)


def files_of(part: Part) -> list[str]:
    """Its source files."""
    return sorted(str(file.relative_to(ROOT)) for file in (ROOT / part.package).rglob("*.py"))


def reach_of(part: Part) -> Reach:
    """Which of its tests run which lines. Raises RuntimeError when it cannot be found out."""

    def map_lines(pipe: int) -> None:
        # Each test has its usual time: what is too slow here would be asked by no mutant.
        _pytest(
            ["-o", "timeout=120", *part.tests, *part.wider], plugin.Mapper([part.package], pipe)
        )

    for said in _in_another_process(map_lines):
        reach = msgspec.json.decode(said, type=Reach)
        return msgspec.structs.replace(
            reach, forking=_named(reach, part.forking), looking=_named(reach, part.looking)
        )
    raise RuntimeError(f"{' '.join(part.tests)} cannot be run")


def _named(reach: Reach, beginnings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(test for test in reach.tests if test.startswith(beginnings))


def outcomes_of(
    part: Part, mutants: dict[int, Mutant], reach: Reach, limits: plugin.Limits
) -> Iterator[Outcome]:
    """What becomes of each mutant of a part."""
    swapped, loaded = {}, {}
    for number, mutant in mutants.items():
        tests = reach.of(mutant.file, mutant.lines)
        if mutant.function and not tests and not reach.forking:
            yield Outcome(number, NOT_RUN)
        elif mutant.function and "" not in tests:
            swapped[number] = mutant
        else:
            loaded[number] = mutant

    def swap(pipe: int) -> None:
        _pytest([*part.tests, *part.wider], plugin.Trying(swapped, reach, limits, pipe))

    for said in _in_another_process(swap) if swapped else ():
        outcome = msgspec.json.decode(said, type=Outcome)
        if outcome.ended == NOT_SWAPPED:
            loaded[outcome.number] = mutants[outcome.number]
        else:
            yield outcome

    def load(pipe: int) -> None:
        _load_each(loaded, reach.without(part.wider), limits, pipe)

    for said in _in_another_process(load) if loaded else ():
        yield msgspec.json.decode(said, type=Outcome)


def _load_each(mutants: dict[int, Mutant], reach: Reach, limits: plugin.Limits, pipe: int) -> None:
    """Each mutant with its module, and all that imports it, loaded anew."""
    noticed: dict[str, Counter[str]] = {}

    def tests_of(number: int) -> list[str]:
        mutant = mutants[number]
        tests = reach.of(mutant.file, mutant.lines) - {""} or reach.of_file(mutant.file)
        # What looks at a constant need not run any line beside it.
        tests |= reach.own_of(mutant.file)
        quick = reach.quick_of(tests or reach.tests, limits.patience, mutant.file)
        return [*reach.looking, *(test for test in quick if test not in reach.looking)]

    def loading(number: int) -> Callable[[int], None]:
        tests = tests_of(number)
        files = {test.split("::")[0] for test in tests}
        # Most of the time goes into loading tests: first those that have noticed something before.
        first = [file for file, _ in noticed.get(mutants[number].file, Counter()).most_common(1)]
        stages = [[file for file in first if file in files], sorted(files)]

        def child(pipe: int) -> None:
            sys.meta_path.insert(0, Changed(mutants[number]))
            plugins = (plugin.Selecting(tests), plugin.Noticing(number, pipe))
            codes = [_pytest(["-x", *stage], *plugins) for stage in stages if stage]
            if not any(codes):
                tell(pipe, Outcome(number, SURVIVED))

        return child

    def limit(number: int) -> float:
        return plugin.seconds_for(reach, tests_of(number))

    def heard(outcome: Outcome) -> None:
        by = noticed.setdefault(mutants[outcome.number].file, Counter())
        if outcome.by:
            by[outcome.by.split("::")[0]] += 1
        tell(pipe, outcome)

    plugin.in_forks(list(mutants), loading, limit, heard, limits)


def _pytest(arguments: list[str], *plugins: object) -> int:
    import pytest

    return int(pytest.main([*OPTIONS, *arguments], plugins=list(plugins)))


def _in_another_process(work: Callable[[int], object]) -> Iterator[bytes]:
    """The lines that it writes, while it writes them. What it prints is lost."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            if "KITARU_TEST_LOUD" not in os.environ:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            work(writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        yield from lines
    os.waitpid(pid, 0)


def main(arguments: list[str]) -> int:
    """Returns 1 when there is a survivor that is not known."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="files or folders")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--every", type=int, default=1, help="only each N-th mutant")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds of tests for each mutant"
    )
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--again", action="store_true", help="only the recorded survivors")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    # A shell's background jobs ignore it, and so would the processes that tests stop with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    _load_tools()
    began = time.monotonic()
    everything: list[Mutant] = []
    tried: dict[Mutant, Outcome] = {}
    recorded = read_results()
    survivors = {name for result in recorded.values() for name in result.survivors}
    for part in PARTS:
        files = [file for file in files_of(part) if _is_wanted(file, given.only)]
        made = [it for file in files for it in mutants_of(file)][:: given.every]
        if given.again:
            made = [it for it in made if it.name in survivors]
        everything += made
        mutants = dict(enumerate(made))
        if not mutants:
            continue
        reach = reach_of(part)
        print(f"{part.package}: {len(mutants)} mutants, {len(reach.tests)} tests", flush=True)
        for test in reach.failed:
            print(f"LEFT OUT, for it fails on the code as it is: {test}", flush=True)
        limits = plugin.Limits(given.jobs, began + given.minutes * 60, given.patience)
        for outcome in outcomes_of(part, mutants, reach, limits):
            mutant = mutants[outcome.number]
            tried[mutant] = outcome
            if outcome.ended in (SURVIVED, NOT_RUN):
                where = f"{mutant.file}:{mutant.lines[0]}"
                print(f"{outcome.ended.upper()} {where}: {mutant.name}", flush=True)
    known = known_survivors()
    if given.again:  # what there was no time for is a survivor still
        tried = {mutant: Outcome(0, SURVIVED) for mutant in everything} | tried
    results = counted(everything, tried)
    if given.again:
        results = {file: tried_again(recorded[file], it) for file, it in results.items()}
    if given.record:
        write_results(results)
    print(report(results, known))
    print(f"python {python()}, {(time.monotonic() - began) / 60:.1f} minutes")
    return int(any(name not in known for it in results.values() for name in it.survivors))


def _is_wanted(file: str, only: Sequence[str]) -> bool:
    return not only or any(file == one or file.startswith(f"{one.rstrip('/')}/") for one in only)


def _load_tools() -> None:
    """What every child needs, and no mutant changes."""
    import hypothesis
    import hypothesis.strategies
    import pytest
    import pytest_asyncio

    assert all((hypothesis, pytest, pytest_asyncio))
    changed = [name for name in sys.modules if name.split(".")[0] in ("kitaru", "journal")]
    assert not changed, "the modules that are changed must not be loaded yet"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
