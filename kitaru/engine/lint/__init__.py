"""The determinism lint: what a flow's body must not do, found in its source without running it."""

from kitaru.engine.lint.codes import CODES, Code
from kitaru.engine.lint.linter import Finding, lint

__all__ = ["CODES", "Code", "Finding", "lint"]
