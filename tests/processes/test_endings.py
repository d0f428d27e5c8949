"""A process ends when its script does, however that comes about, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from journal import open_reader

SCRIPT = Path(__file__).with_name("endings.py")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
GARBAGE = ("Event loop is closed", "Exception ignored", "Task was destroyed", "was never awaited")


def script(journal: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(SCRIPT), *arguments],
        env={**os.environ, "KITARU_JOURNAL": str(journal), "KITARU_LOG_LEVEL": "off"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert not any(words in errors for words in GARBAGE), errors
    return process.returncode, output, errors


@pytest.mark.parametrize("how", ["closed", "runtime"])
def test_no_thread_is_left_after_closing(journal_file: Path, how: str) -> None:
    code, output, errors = ended(script(journal_file, how))
    assert (code, output) == (0, "['MainThread']\n"), errors


@pytest.mark.parametrize(
    ("how", "code"), [("forgotten", 0), ("unfinished", 0), ("error", 1), ("exit", 4)]
)
def test_a_script_that_does_not_close_ends(journal_file: Path, how: str, code: int) -> None:
    found, _, errors = ended(script(journal_file, how))
    assert found == code, errors
    with open_reader(str(journal_file)) as reader:
        assert reader.verify() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_is_told_to_stop_ends(journal_file: Path, number: signal.Signals) -> None:
    """Also in the middle of a checkpoint's body, which would take a minute longer."""
    process = script(journal_file, "waiting")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    code, _, errors = ended(process)
    assert code != 0
    if number == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt"), errors


@pytest.mark.parametrize(
    ("how", "result"),
    [
        ("exit at once", "[3, 7]"),
        ("return in both", "[0, 7]"),
        ("use the client", "[3, 7]"),
        ("multiprocessing", "[1, 2, 7]"),
    ],
)
def test_a_fork_in_a_checkpoint_leaves_the_parents_journal_alone(
    journal_file: Path, how: str, result: str
) -> None:
    code, output, errors = ended(script(journal_file, "fork", how))
    assert (code, output) == (0, f"{result}\n"), errors
    with open_reader(str(journal_file)) as reader:
        assert reader.verify() == []
