"""uv, which makes virtual environments: where it is, and how it is run."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kitaru.errors import KitaruImageError, KitaruStackIntegrationDependencyError

LAST_LINES = 20
_NOT_PASSED_ON = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON")
"""What would make it look at another environment than the one that it is told of."""


def uv_command() -> list[str]:
    """How uv is called: by its own name, or as a module of this Python.

    Raises KitaruStackIntegrationDependencyError where there is none.
    """
    found = shutil.which("uv")
    if found is not None:
        return [found]
    if _is_module("uv"):
        return [sys.executable, "-m", "uv"]
    raise KitaruStackIntegrationDependencyError(
        "An image with requirements needs uv, which makes the runners' environments, and there is "
        "none here. Install it: `pip install uv`, or see https://docs.astral.sh/uv/."
    )


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def run_uv(arguments: Sequence[str], *, folder: Path, doing: str) -> None:
    """Runs uv in a folder; `doing` says for people what it is for.

    Raises KitaruImageError with its last lines when it fails.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_PASSED_ON}
    done = subprocess.run(  # noqa: S603 - our own command, without a shell
        [*uv_command(), *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    lines = [line for line in done.stdout.splitlines() if line.strip()][-LAST_LINES:]
    shown = "\n  ".join(lines) or "(it said nothing)"
    raise KitaruImageError(
        f"{doing} failed: uv ended with exit code {done.returncode}.\n  {shown}",
        output=done.stdout,
    )
