"""Disks that are full or read-only for a while, under the whole engine."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journal import HeadQuery, SqliteReader, open_reader
from kitaru.domain.execution.events import CheckpointCompleted, ExecutionCompleted
from kitaru.engine.upcasts import decode_event
from tests.preload import shim

SCRIPT = Path(__file__).with_name("steady.py")
STEPS = 60
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Steady:
    """The script, what it says, and its disk."""

    def __init__(self, journal: Path, **environment: str) -> None:
        self.journal = journal
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={
                **os.environ,
                "KITARU_JOURNAL": str(journal),
                "KITARU_LEASE_SECONDS": "1",
                "KITARU_LOG_LEVEL": "off",
                "KITARU_TEST_STEPS": str(STEPS),
                **environment,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[list[str]] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.split())

    def heard(self, word: str) -> int:
        """How often it has said something."""
        return sum(words[0] == word for words in self.said)

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < end, self.said[-3:]
            assert self._process.poll() is None, self.said[-3:]
            time.sleep(0.01)

    def finish(self) -> None:
        """It ends by itself, and everything that it was told is in the journal."""
        assert self._process.wait(90) == 0
        self._listener.join()
        with open_reader(str(self.journal)) as reader:
            assert reader.verify() == []
            heads = reader.heads(HeadQuery(category="execution"))
            assert {head.state for head in heads} == {"completed"}
            events = [decode_event(fact) for h in heads for fact in reader.read_stream(h.stream)]
        paths = [event.path for event in events if isinstance(event, CheckpointCompleted)]
        assert sorted(paths) == sorted(f"step-{number}" for number in range(STEPS))
        assert self.heard("ack") >= STEPS
        assert sum(isinstance(event, ExecutionCompleted) for event in events) == len(heads)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def refusal(tmp_path: Path) -> Path:
    """The file that makes writes fail while it exists."""
    return tmp_path / "refusal"


@pytest.fixture
def steady(tmp_path: Path, refusal: Path) -> Iterator[Steady]:
    if shim.why_not():
        pytest.skip(shim.why_not())
    folder = tmp_path / "files"
    folder.mkdir()
    script = Steady(
        folder / "journal.db",
        LD_PRELOAD=shim.compiled(),
        KITARU_TEST_SHIM_FOLDER=str(folder),
        KITARU_TEST_SHIM_WRITES=str(refusal),
    )
    yield script
    script.end()


@pytest.mark.parametrize("why", ["ENOSPC", "EROFS", "EIO", "EDQUOT"])
def test_it_goes_on_when_the_disk_does(steady: Steady, refusal: Path, why: str) -> None:
    """Every write fails for some lease times: what was told stays, and nobody has to help."""
    steady.until(lambda: steady.heard("ack") >= 10)
    refusal.write_text(str(getattr(errno, why)))
    steady.until(lambda: steady.heard("refused"))
    # Longer than a lease: meanwhile it can neither renew nor claim.
    time.sleep(2)
    acknowledged = steady.heard("ack")
    time.sleep(0.2)
    assert steady.heard("ack") == acknowledged
    refusal.unlink()
    steady.finish()
    [_, kind, *text] = next(words for words in steady.said if words[0] == "refused")
    assert kind == "KitaruBackendError"
    assert str(steady.journal) in " ".join(text)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_forgotten_when_there_is_room(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(120_000))
    steady = Steady(small_disk / "journal.db")
    try:
        steady.until(lambda: steady.heard("down"))
        acknowledged = steady.heard("ack")
        assert 0 < acknowledged < STEPS
        with SqliteReader(str(steady.journal)) as reader:
            [head, *_] = reader.heads(HeadQuery(category="execution"))
            assert head.version > acknowledged
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", "tmpfs", str(small_disk)], check=True)
        steady.finish()
        assert "no space is left" in " ".join(
            " ".join(words) for words in steady.said if words[0] in ("down", "refused")
        )
    finally:
        steady.end()
