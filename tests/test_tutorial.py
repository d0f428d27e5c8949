"""The tutorial does what it says, typed in as it stands there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "tutorial" / "first-flow.md"
EXEC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DEADLINE_SECONDS = 60.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the tutorial's file."""
    program = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "report.py").write_text(program[0], "utf-8")
    return tmp_path


def typed(place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What a command answers."""
    program = ["-m", "kitaru", *words[1:]] if words[0] == "kitaru" else [*words[1:]]
    return subprocess.run(
        [sys.executable, *program],
        cwd=place,
        env={**os.environ, "KITARU_LEASE_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def executions(place: Path) -> list[dict[str, Any]]:
    listed = typed(place, "kitaru", "executions", "list", "-o", "json")
    items: list[dict[str, Any]] = json.loads(listed.stdout)["items"]
    return items


def test_the_tutorial_is_killed_and_comes_back(place: Path) -> None:
    assert ".kitaru" in typed(place, "kitaru", "init").stdout
    first = typed(place, "python", "report.py", "to", "be", "or", "not", "to", "be")
    # Two threads print, in any order, and a word and the end of its line may be torn apart.
    left, told_once = first.stdout, (EXEC_ID.search(first.stdout), "counting", "writing")
    for said in told_once:
        assert said, first.stdout
        word = said if isinstance(said, str) else said.group()
        assert left.count(word) == 1, first.stdout
        left = left.replace(word, "")
    assert left.split() == ["report.txt"], first.stdout
    assert first.stdout.split()[-1] == "report.txt"
    assert (place / "report.txt").read_text() == "6 words\n"

    (place / "pause").write_text("60\n")
    killed = subprocess.Popen(
        [sys.executable, "-u", "report.py", "the", "rest", "is", "silence"],
        cwd=place,
        env={**os.environ, "KITARU_LEASE_SECONDS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed:
        assert killed.stdout is not None
        told = ""
        # Two threads print: a word and the end of its line may be torn apart.
        while not ("counting" in told and "writing" in told and EXEC_ID.search(told)):
            line = killed.stdout.readline()
            assert line, told
            told += line
        killed.send_signal(signal.SIGKILL)
    exec_id = executions(place)[0]["exec_id"]
    assert exec_id in told
    (place / "pause").unlink()

    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        resumed = typed(place, "kitaru", "executions", "resume", exec_id[:8])
        if resumed.returncode == 0:
            break
        assert "lease" in resumed.stderr
        assert time.monotonic() < end
        time.sleep(0.2)
    # Its first step is not done again.
    assert "counting" not in resumed.stdout
    assert resumed.stdout.split()[-1] == "report.txt"
    assert (place / "report.txt").read_text() == "4 words\n"
    assert {each["status"] for each in executions(place)} == {"completed"}
