"""`kitaru worker` runs what others have left, until it is told to stop."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Process = Callable[..., "subprocess.CompletedProcess[str]"]

FLOWS = """
import asyncio
import os
from kitaru import checkpoint, flow

@checkpoint
def is_there() -> bool:
    return os.path.exists("there")

@flow
async def slow() -> str:
    while not await is_there.aio():
        await asyncio.sleep(0.05)
    return "done"
"""


def test_a_worker_finishes_what_was_left_and_stops_at_a_signal(
    place: Path, process: Process
) -> None:
    (place / "flows.py").write_text(FLOWS)
    exec_id = process("run", "flows.py:slow", "--timeout", "0.2").stdout.splitlines()[0]
    (place / "there").touch()
    with subprocess.Popen(
        [sys.executable, "-m", "kitaru", "worker", "flows.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "Serving slow. Ctrl-C stops it.\n"
        try:
            deadline = time.monotonic() + 60
            while _status(process, exec_id) != "completed":
                assert time.monotonic() < deadline
        finally:
            worker.send_signal(signal.SIGTERM)
            _, errors = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert "Traceback" not in errors


def _status(process: Process, exec_id: str) -> object:
    answer = json.loads(process("executions", "get", exec_id, "-o", "json").stdout)
    return answer["item"]["status"]


def test_a_file_without_flows_is_refused(place: Path, process: Process) -> None:
    (place / "empty.py").write_text("")
    result = process("worker", "empty.py")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
