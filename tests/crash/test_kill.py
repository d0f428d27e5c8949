"""The law: what was acknowledged is there after kill -9, and no body runs after its record."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from journal import RecordedEvent, SqliteReader
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.upcasts import decode_event

SCRIPT = Path(__file__).with_name("chain.py")
KILLS_EACH = 25
STEPS = 150
EXPECTED = sum(2 * number + (6 if number % 10 == 0 else 0) for number in range(STEPS))


class Victim:
    """One journal, and the script that is run on it until it is done."""

    def __init__(self, folder: Path, colour: str, seed: int) -> None:
        self.colour = colour
        self.random = random.Random(seed)
        self.journal = folder / "journal.db"
        self.effects = folder / "effects"
        self.environment = {
            **os.environ,
            "KITARU_JOURNAL": str(self.journal),
            "KITARU_LEASE_SECONDS": "1",
            "KITARU_LOG_LEVEL": "off",
            "EFFECTS": str(self.effects),
            "STEPS": str(STEPS),
        }
        self.acknowledged: dict[str, int] = {}
        self.exec_id = ""

    def run(self, kill_after: float | None) -> str | None:
        """Runs the script, killed after some seconds; its result when it came to one."""
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), self.colour],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            output, _ = child.communicate(timeout=60 if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            output, _ = child.communicate()
        return self._heard(output)

    def _heard(self, output: str) -> str | None:
        result = None
        for line in output.splitlines():
            match line.split():
                case ["started", exec_id]:
                    assert self.exec_id in ("", exec_id)
                    self.exec_id = exec_id
                case ["ack", path, value]:
                    assert self.acknowledged.setdefault(path, int(value)) == int(value)
                case ["result", value]:
                    result = value
        return result

    def events(self) -> list[RecordedEvent]:
        if not self.exec_id:
            return []
        with SqliteReader(str(self.journal)) as reader:
            return reader.read_stream(f"execution-{self.exec_id}")

    def check(self) -> None:
        """Acknowledged is recorded; recorded once; and no body ran after its record."""
        completed: dict[str, int] = {}
        for recorded in self.events():
            event = decode_event(recorded)
            if isinstance(event, CheckpointCompleted):
                assert event.path not in completed, f"{event.path} has two outcomes"
                completed[event.path] = recorded.recorded_at
        assert self.acknowledged.keys() <= completed.keys()
        effects = self.effects.read_text().splitlines() if self.effects.exists() else []
        for line in effects:
            path, at = line.split()
            assert int(at) <= completed.get(path, int(at)), f"{path} ran again after its record"


def torture(folder: Path, colour: str, seed: int) -> int:
    victim = Victim(folder, colour, seed)
    kills = 0
    finished = 0
    while kills < KILLS_EACH:
        # The lease of the one before has up to a second to go: most of the time is spent there.
        result = victim.run(kill_after=victim.random.uniform(0.3, 1.7))
        victim.check()
        if result is not None:
            assert int(result) == EXPECTED
            finished += 1
            fresh = folder / f"again-{finished}"
            fresh.mkdir()
            victim = Victim(fresh, colour, seed + finished)
            continue
        kills += 1
    deadline = time.monotonic() + 60
    while (result := victim.run(kill_after=None)) is None:
        assert time.monotonic() < deadline
    assert int(result) == EXPECTED
    victim.check()
    return kills


@pytest.mark.timeout(400)
def test_a_hundred_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    folders = [tmp_path / f"{colour}-{n}" for n in range(2) for colour in ("sync", "async")]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(len(folders)) as pool:
        runs = [
            pool.submit(torture, folder, folder.name.split("-")[0], 1000 * n)
            for n, folder in enumerate(folders)
        ]
        assert sum(run.result() for run in runs) == 4 * KILLS_EACH
    for database in tmp_path.rglob("journal.db"):
        with SqliteReader(str(database)) as reader:
            assert reader.verify() == []
