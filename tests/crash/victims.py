"""Processes that are killed again and again over one journal, and what must be true after each."""

import contextlib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec.structs import replace

from journal import JournalUnavailable, SqliteReader
from tests.crash import failpoints, programs
from tests.crash.told import Found, Told

ROOT = Path(__file__).parents[2]
STUCK_SECONDS = 60.0
SECONDS_A_LIFE = 0.25
"""About how long a process lives that is killed at any moment."""
_CYCLE_US = 60_000_000
_UNDISTURBED_EVERY = 7
_MOST_STATEMENTS = 400
_MOST_PASSES = 40


class Zygote:
    """The process that makes the children, and what they say."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(STUCK_SECONDS)
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode().rstrip("\n"))
        self._lines.put("died zygote")

    def run(self, orders: programs.Orders, kill_after: float | None) -> tuple[list[str], int]:
        """Runs one child, killed after some seconds; what it said, and its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(orders) + b"\n")
        self._process.stdin.flush()
        said: list[str] = []
        word, _, pid = self._lines.get(timeout=STUCK_SECONDS).partition(" ")
        assert word == "born"
        timer = None
        if kill_after is not None:
            timer = threading.Timer(kill_after, _kill, (int(pid),))
            timer.start()
        while True:
            try:
                line = self._lines.get(timeout=STUCK_SECONDS)
            except queue.Empty:
                _kill(int(pid))
                raise AssertionError(
                    f"a process stands still; the last it said: {said[-3:]}"
                ) from None
            if line.startswith("died "):
                break
            said.append(line)
        if timer is not None:
            timer.cancel()
            timer.join()
        return said, int(line.split()[1])


def _kill(pid: int) -> None:
    # It may have come to its end in this very moment.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Victim:
    """One journal, the processes that were killed over it, and what they were told."""

    def __init__(self, folder: Path, steps: int = 8) -> None:
        folder.mkdir()
        self.folder = folder
        self.steps = steps
        self._orders = programs.Orders(
            journal=str(folder / "journal.db"),
            effects=str(folder / "effects"),
            steps=steps,
            log_is_due_bytes=200_000,
        )
        self.told = Told()
        self.lives = 0

    def live(self, zygote: Zygote, failpoint: str = "", kill_after: float | None = None) -> int:
        """One process's life on the journal; its exit code. What must be true is checked."""
        orders = replace(self._orders, failpoint=failpoint, offset_us=self.lives * _CYCLE_US)
        self.lives += 1
        said, code = zygote.run(orders, kill_after)
        for line in said:
            self.told.hear(line)
        assert code in (0, -signal.SIGKILL), (code, failpoint, said[-3:])
        self.check()
        return code

    @property
    def is_done(self) -> bool:
        """Whether every flow has said its result."""
        return len(self.told.results) == len(programs.FLOWS)

    def check(self) -> None:
        """Acknowledged is recorded, recorded is once, and no body began after its record."""
        if not Path(self._orders.journal).exists() or not self.lives:
            return
        try:
            with SqliteReader(self._orders.journal) as reader:
                found = Found(reader)
        except JournalUnavailable:
            # Killed before the journal was made: then nobody was told of anything in it.
            assert not self.told.started
            return
        assert list(found.missing(self.told)) == []
        for line in self._effects():
            path, at = line.split()
            recorded = found.completed.get(path)
            assert recorded is None or int(at) <= recorded[1], f"{path} ran after its record"

    def finish(self, zygote: Zygote) -> None:
        """Lets it come to its end, and compares that with what it must be."""
        assert self.live(zygote) == 0
        assert self.told.results == programs.expected(self.steps)
        with SqliteReader(self._orders.journal) as reader:
            assert reader.verify() == []

    def _effects(self) -> list[str]:
        file = Path(self._orders.effects)
        return file.read_text().splitlines() if file.exists() else []


def torture(folder: Path, seed: int, kills: int) -> Counter[str]:
    """Kills processes so often, over as many journals as that takes; how many where."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    with Zygote() as zygote:
        while counts["kills"] < kills:
            victim = Victim(folder / str(counts["journals"]))
            while counts["kills"] < kills and not victim.is_done:
                counts.update(_disturbed_life(victim, zygote, chance))
            victim.finish(zygote)
            counts["journals"] += 1
            shutil.rmtree(victim.folder)
    return counts


def _disturbed_life(victim: Victim, zygote: Zygote, chance: random.Random) -> Counter[str]:
    failpoint, kill_after = _moment(chance)
    if victim.lives % _UNDISTURBED_EVERY == _UNDISTURBED_EVERY - 1:
        # Ten take-overs without progress would end an execution: now and then there is some.
        failpoint, kill_after = "", None
    code = victim.live(zygote, failpoint, kill_after)
    counts = Counter({"lives": 1})
    if code == -signal.SIGKILL:
        counts.update(["kills", failpoint.partition(":")[0] or "any moment"])
    return counts


def torture_at_once(folder: Path, seed: int, kills: int, processes: int) -> Counter[str]:
    """The same over several journals at a time."""
    counts: Counter[str] = Counter()
    folders = [folder / str(number) for number in range(processes)]
    for each in folders:
        each.mkdir(parents=True)
    with ThreadPoolExecutor(processes) as pool:
        share = -(-kills // processes)
        seeds = range(seed, seed + processes)
        for counted in pool.map(torture, folders, seeds, [share] * processes):
            counts.update(counted)
    return counts


def _moment(chance: random.Random) -> tuple[str, float | None]:
    """When the next process is to die: at some place of the engine's, or at any moment."""
    place = chance.choice([*failpoints.PLACES])
    kind = chance.choices(["moment", "statement", place], [3, 2, 5])[0]
    if kind == "moment":
        return "", chance.uniform(0, SECONDS_A_LIFE)
    if kind == "statement":
        return f"{kind}:{chance.randint(1, _MOST_STATEMENTS)}", None
    # Early passes more often: there are few of some places in a life.
    return f"{kind}:{round(_MOST_PASSES ** chance.random())}", None
