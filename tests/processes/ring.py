"""Several real processes on one journal: started, stopped and killed, and what they leave."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from journal import HeadQuery, RecordedEvent, SqliteReader
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    ExecutionCompleted,
    ExecutionEvent,
)
from kitaru.engine.executions import exec_id_of, head_of, state_of, stream_of
from kitaru.engine.upcasts import decode_event

FLOWS = Path(__file__).with_name("flows.py")
ROOT = Path(__file__).parents[2]
STUCK_SECONDS = 90.0
LEASE_SECONDS = 1


class Ring:
    """A journal, the processes on it, and what their bodies have written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.db"
        self.environment = {
            **os.environ,
            "KITARU_JOURNAL": str(self.journal),
            "KITARU_LEASE_SECONDS": str(LEASE_SECONDS),
            "KITARU_TEST_FOLDER": str(folder),
            "PYTHONPATH": str(ROOT),
        }
        self._workers: list[subprocess.Popen[str]] = []

    def start(self, flow: str, count: int, *arguments: object) -> list[str]:
        """Executions whose process died when it had started them; their ids."""
        command = [sys.executable, str(FLOWS), "start", flow, str(count), *map(repr, arguments)]
        done = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=STUCK_SECONDS,
            check=False,
        )
        assert done.returncode == 9
        return done.stdout.split()

    def worker(self, **environment: str) -> "subprocess.Popen[str]":
        """A worker that serves all of these flows, when it is ready."""
        with self.log_of(len(self._workers)).open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "kitaru", "worker", str(FLOWS)],
                env={**self.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._workers.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith("Serving")
        return worker

    def log_of(self, number: int) -> Path:
        """What a worker has to say; the first has number 0."""
        return self.folder / f"worker-{number}.log"

    def end(self) -> None:
        """Kills what is left."""
        for worker in self._workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()

    def put_to_sleep(self, worker: "subprocess.Popen[str]") -> None:
        """Stops a process outside of a write: in one, it would keep the file's lock."""
        while True:
            worker.send_signal(signal.SIGSTOP)
            with closing(sqlite3.connect(self.journal, timeout=0, isolation_level=None)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    worker.send_signal(signal.SIGCONT)
                    time.sleep(0.01)
                else:
                    other.execute("ROLLBACK")
                    return

    def go_on(self, pid: int) -> None:
        """Gives the bodies of a process leave to return."""
        (self.folder / f"go-on-{pid}").touch()

    def effects(self) -> list[tuple[str, int, int]]:
        """Which bodies began, in which process, and when."""
        file = self.folder / "effects"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(path, int(pid), int(at)) for path, pid, at in map(str.split, lines)]

    def began(self, path: str, pid: int) -> bool:
        """Whether a body began in a process."""
        return any(effect[:2] == (path, pid) for effect in self.effects())

    def events(self, exec_id: str) -> list[ExecutionEvent]:
        """An execution's events."""
        with SqliteReader(str(self.journal)) as reader:
            return [decode_event(fact) for fact in reader.read_stream(stream_of(exec_id))]

    def result(self, exec_id: str) -> Any:
        """What an execution has returned; None as long as it has not ended."""
        last = self.events(exec_id)[-1]
        if not isinstance(last, ExecutionCompleted):
            return None
        assert isinstance(last.result.json, msgspec.Raw)
        return msgspec.json.decode(bytes(last.result.json))

    def states(self) -> Counter[str]:
        """How many executions stand where."""
        with SqliteReader(str(self.journal)) as reader:
            heads = reader.heads(HeadQuery(category="execution", limit=10_000))
        return Counter(head.state for head in heads)

    def check(self, *, clocks_agree: bool = True) -> None:
        """One outcome a call, no body after its record, heads as their events say, chains whole."""
        recorded: dict[str, list[RecordedEvent]] = {}
        with SqliteReader(str(self.journal)) as reader:
            assert reader.verify() == []
            heads = reader.heads(HeadQuery(category="execution", limit=10_000))
            for head in heads:
                recorded[head.stream] = reader.read_stream(head.stream)
        records: dict[str, int] = {}
        for head in heads:
            facts = recorded[head.stream]
            rebuilt = head_of(state_of(facts))
            assert (head.state, head.summary) == (rebuilt.state, rebuilt.summary), exec_id_of(
                head.stream
            )
            for fact in facts:
                event = decode_event(fact)
                if isinstance(event, CheckpointCompleted):
                    assert event.path not in records, f"{event.path} has two outcomes"
                    records[event.path] = fact.recorded_at
        for path, pid, at in self.effects() if clocks_agree else []:
            assert at <= records.get(path, at), (
                f"{path} ran after its record at {records[path]}, in {pid}: {self.effects()}"
            )


@contextmanager
def ring(folder: Path) -> Iterator[Ring]:
    """A ring of processes that leaves none behind."""
    made = Ring(folder)
    try:
        yield made
    finally:
        made.end()


def until(holds: Callable[[], object], what: str) -> None:
    """Waits until something is true."""
    end = time.monotonic() + STUCK_SECONDS
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)
