"""What became of a mutant, and how one process tells another."""

import os
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

SURVIVED = "survived"
NOTICED = "noticed"
HUNG = "hung"
"""Its tests did not end in their time: noticed, too."""
NOT_RUN = "not run"
"""No test runs it at all: a survivor."""
NOT_SWAPPED = "not swapped"
"""Cannot be put under what is in memory: the module must be loaded with it."""


class Outcome(Struct, frozen=True):
    """What became of the mutant with this number."""

    number: int
    ended: str
    by: str = ""
    """The test that noticed."""
    seconds: float = 0.0


class Reach(Struct, frozen=True):
    """Which tests run which lines."""

    tests: dict[str, float]
    """Each test that passes → how long it takes, in seconds."""
    lines: dict[str, dict[int, list[str]]]
    """File → line → the tests that run it; the test "" is the import."""
    forking: tuple[str, ...] = ()
    """Tests that run lines in a forked child, where nobody sees which."""
    looking: tuple[str, ...] = ()
    """Tests that look at what is made by the import."""
    failed: tuple[str, ...] = ()
    """Tests that fail on the code as it is: they say nothing."""

    def of(self, file: str, lines: tuple[int, int]) -> set[str]:
        """The tests that run any of these lines."""
        found = self.lines.get(file, {})
        return {test for line in range(lines[0], lines[1] + 1) for test in found.get(line, ())}

    def quick_of(self, tests: Iterable[str], patience: float, file: str) -> list[str]:
        """These, as many as end within so many seconds.

        First the file's own tests, and of all the quick ones.
        """
        own = self.own_of(file)

        def place(test: str) -> tuple[bool, float]:
            return test not in own, self.tests.get(test, 0.0)

        chosen: list[str] = []
        left = patience
        for test in sorted(tests, key=place):
            left -= self.tests.get(test, 0.0)
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen

    def own_of(self, file: str) -> set[str]:
        """The tests that stand where those of a file do, whatever they run."""
        folder, _, name = file.rpartition("/")
        return {test for test in self.tests if test.startswith(f"tests/{folder}/test_{name}::")}

    def of_file(self, file: str) -> set[str]:
        """The tests that run anything of a file."""
        return {test for tests in self.lines.get(file, {}).values() for test in tests} - {""}

    def without(self, files: Sequence[str]) -> "Reach":
        """The same without the tests of some files."""

        def stays(test: str) -> bool:
            return not test.startswith(tuple(f"{file}::" for file in files))

        lines = {
            file: {line: [*filter(stays, tests)] for line, tests in each.items()}
            for file, each in self.lines.items()
        }
        tests = {test: seconds for test, seconds in self.tests.items() if stays(test)}
        return replace(self, tests=tests, lines=lines)


def tell(pipe: int, what: Struct) -> None:
    """Writes one line."""
    with os.fdopen(os.dup(pipe), "wb") as writing:
        writing.write(msgspec.json.encode(what) + b"\n")
