"""The commands under tests/ that are no tests: whoever asks for help is helped, and no more."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "tests.campaign",
    "tests.campaigns.kill_campaign",
    "tests.campaigns.power_campaign",
    "tests.modes",
    "tests.mutation",
    "tests.seeded_bugs",
    "tests.simulation",
)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_helps_and_runs_nothing(module: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("usage: ")


def test_a_mode_that_there_is_not_is_refused() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "tests.modes", "upside-down"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 2
    assert "no mode 'upside-down'" in asked.stderr
