"""Tools to test flows with: a runtime in memory, crash sweeps, faults that hypothesis draws.

Names are loaded at their first use: pytest loads the plugin in every run.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kitaru.testing.bodies import BodyRun, never
    from kitaru.testing.checking import CheckReport, check_flow, reproduce
    from kitaru.testing.errors import FlowBroken, NothingHappens, ReproductionUnusable
    from kitaru.testing.fault import ClockJump, Crash, LostNews, Reorder, TakeOver, Twice
    from kitaru.testing.rehearsal import Outcome, Run
    from kitaru.testing.runtime import AsyncTestRuntime, TestClock, TestRuntime
    from kitaru.testing.strategies import faults
    from kitaru.testing.sweep import SweepReport, crash_sweep

_WHERE = {
    "AsyncTestRuntime": "kitaru.testing.runtime",
    "BodyRun": "kitaru.testing.bodies",
    "CheckReport": "kitaru.testing.checking",
    "ClockJump": "kitaru.testing.fault",
    "Crash": "kitaru.testing.fault",
    "FlowBroken": "kitaru.testing.errors",
    "LostNews": "kitaru.testing.fault",
    "NothingHappens": "kitaru.testing.errors",
    "Outcome": "kitaru.testing.rehearsal",
    "Reorder": "kitaru.testing.fault",
    "ReproductionUnusable": "kitaru.testing.errors",
    "Run": "kitaru.testing.rehearsal",
    "SweepReport": "kitaru.testing.sweep",
    "TakeOver": "kitaru.testing.fault",
    "TestClock": "kitaru.testing.runtime",
    "TestRuntime": "kitaru.testing.runtime",
    "Twice": "kitaru.testing.fault",
    "check_flow": "kitaru.testing.checking",
    "crash_sweep": "kitaru.testing.sweep",
    "faults": "kitaru.testing.strategies",
    "never": "kitaru.testing.bodies",
    "reproduce": "kitaru.testing.checking",
}

__all__ = [
    "AsyncTestRuntime",
    "BodyRun",
    "CheckReport",
    "ClockJump",
    "Crash",
    "FlowBroken",
    "LostNews",
    "NothingHappens",
    "Outcome",
    "Reorder",
    "ReproductionUnusable",
    "Run",
    "SweepReport",
    "TakeOver",
    "TestClock",
    "TestRuntime",
    "Twice",
    "check_flow",
    "crash_sweep",
    "faults",
    "never",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'kitaru.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
