"""The pytest plugin: fixtures and options. It loads nothing of Kitaru before one is used."""

import importlib
import pkgutil
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kitaru.testing.runtime import TestClock, TestRuntime
    from kitaru.testing.sweep import SweepReport

FIXTURE = "kitaru_runtime"
LOADED = ("journal", "kitaru.engine", "kitaru.projections", "kitaru.operations", "kitaru.sdk")
SWEPT = pytest.StashKey["list[SweepReport]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("kitaru")
    group.addoption(
        "--kitaru-crash-sweep",
        action="store_true",
        help="crash every flow that a test has run with kitaru_runtime.run() after each of its "
        "events, and see that it comes to the same outcome",
    )
    group.addoption(
        "--kitaru-crash-pairs",
        type=int,
        default=0,
        metavar="N",
        help="with --kitaru-crash-sweep: up to N runs with two crashes, too",
    )


def pytest_collection_finish() -> None:
    """Loads all of Kitaru before the first test, where tests use it.

    Much is loaded when it is first used, and so in the threads of flows' bodies. pytest, which may
    rewrite the assertions of what is loaded, reads each module as a tree for that, and CPython has
    failed to do so in two threads at once ("AST constructor recursion depth mismatch").
    """
    if "kitaru.sdk.flow" not in sys.modules:
        return
    import kitaru

    for name in kitaru.__all__:
        getattr(kitaru, name)
    for package in LOADED:
        paths = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(paths, f"{package}."):
            importlib.import_module(module.name)


@pytest.fixture
def kitaru_runtime() -> "Iterator[TestRuntime]":
    """A runtime in memory for this test: every flow that the test starts runs on it."""
    from kitaru.testing.runtime import TestRuntime

    with TestRuntime() as runtime:
        yield runtime


@pytest.fixture
def kitaru_clock(kitaru_runtime: "TestRuntime") -> "TestClock":
    """The clock of the test's runtime."""
    return kitaru_runtime.clock


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """After a test that has passed, its flows are crashed, if that was asked for."""
    result = yield
    config = pyfuncitem.config
    if config.getoption("--kitaru-crash-sweep") and FIXTURE in pyfuncitem.funcargs:
        reports = _sweep(pyfuncitem.funcargs[FIXTURE], config.getoption("--kitaru-crash-pairs"))
        config.stash.setdefault(SWEPT, []).extend(reports)
    return result


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Says what was swept."""
    reports = config.stash.get(SWEPT, [])
    if not reports:
        return
    terminalreporter.section("Kitaru crash sweeps")
    for report in reports:
        terminalreporter.write_line(str(report))


def _sweep(runtime: object, pairs: int) -> "list[SweepReport]":
    from kitaru.testing.runtime import TestRuntime
    from kitaru.testing.sweep import sweep_again

    if not isinstance(runtime, TestRuntime):
        # Somebody has a fixture of this name that is their own.
        return []
    return [sweep_again(ran, runtime.stand_ins, pairs) for ran in runtime.ran]
