"""The law: a cancel that was acknowledged undoes what was booked, over any number of kill -9."""

import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from journal import SqliteReader
from kitaru.domain.execution.events import CheckpointCompleted, ExecutionCancelled
from kitaru.engine.upcasts import decode_event
from tests.crash.compensation import BOOKED

SCRIPT = Path(__file__).with_name("compensation.py")
KILLS = 4


class Journey:
    """One execution, and the script that is run on it until it has ended."""

    def __init__(self, folder: Path, colour: str) -> None:
        self.colour = colour
        self.journal = folder / "journal.db"
        self.environment = {
            **os.environ,
            "KITARU_JOURNAL": str(self.journal),
            "KITARU_LEASE_SECONDS": "1",
            "KITARU_LOG_LEVEL": "off",
            "EFFECTS": str(folder / "effects"),
        }

    def start(self, *, cancel: bool) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), self.colour],
            env={**self.environment, "CANCEL": "1" if cancel else ""},
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, child: "subprocess.Popen[str]", wanted: str, count: int = 1) -> str:
        """Reads what the script says, up to a line; the line."""
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(wanted):
                count -= 1
                if count == 0:
                    return line.strip()
        raise AssertionError(f"the script ended without {wanted!r}")

    def kill(self, child: "subprocess.Popen[str]") -> None:
        child.send_signal(signal.SIGKILL)
        child.communicate()


def tormented(folder: Path, colour: str, seed: int) -> None:
    chance = random.Random(seed)
    journey = Journey(folder, colour)
    child = journey.start(cancel=False)
    exec_id = journey.until(child, "started").split()[1]
    journey.until(child, "booked")
    journey.kill(child)
    child = journey.start(cancel=True)
    journey.until(child, "asked")
    for _ in range(KILLS):
        # The first replay tells of what is undone already, too: the kill comes somewhere later.
        done = sum(line.startswith("undo") for line in effects(folder))
        if done < BOOKED:
            journey.until(child, "undone", count=min(BOOKED, chance.randint(1, 3)))
        journey.kill(child)
        child = journey.start(cancel=False)
    output, _ = child.communicate(timeout=60)
    assert "cancelled" in output
    check(folder, journey, exec_id)


def effects(folder: Path) -> list[str]:
    return (folder / "effects").read_text().splitlines()


def check(folder: Path, journey: Journey, exec_id: str) -> None:
    with SqliteReader(str(journey.journal)) as reader:
        recorded = reader.read_stream(f"execution-{exec_id}")
    events = [decode_event(fact) for fact in recorded]
    assert isinstance(events[-1], ExecutionCancelled)
    done = [(e.name, bytes(e.result.json)) for e in events if isinstance(e, CheckpointCompleted)]
    numbers = [str(number).encode() for number in range(BOOKED)]
    booked = [("book", number) for number in numbers]
    undone = [("undo", number) for number in reversed(numbers)]
    assert done == booked + undone
    # Nothing is recorded that was not done; what was killed in the middle is done again.
    happened = {tuple(line.split()[:2]) for line in effects(folder)}
    assert happened == {(name, number.decode()) for name, number in done}


@pytest.mark.timeout(300)
def test_a_compensation_that_is_killed_again_and_again_is_done_once_and_whole(
    tmp_path: Path,
) -> None:
    cases = [(colour, seed) for seed, colour in enumerate(("sync", "async"))]
    folders = [tmp_path / f"{colour}-{seed}" for colour, seed in cases]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(tormented, folder, colour, seed)
            for folder, (colour, seed) in zip(folders, cases, strict=True)
        ]
        for run in runs:
            run.result()
