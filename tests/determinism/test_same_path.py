"""The law: hash seeds and the order of completions do not change which calls a flow makes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROGRAM = Path(__file__).with_name("program.py")


def test_every_hash_seed_and_completion_order_takes_the_same_path(tmp_path: Path) -> None:
    def run(seed: int) -> str:
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(seed),
            "KITARU_JOURNAL": str(tmp_path / f"{seed}.db"),
        }
        return subprocess.run(
            [sys.executable, str(PROGRAM)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    with ThreadPoolExecutor(2) as pool:
        outputs = set(pool.map(run, range(21)))
    assert len(outputs) == 1
    assert "task[" in outputs.pop()
