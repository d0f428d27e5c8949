"""The law: hash seeds, addresses and the order of completions do not change what a flow does."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.determinism import programs
from tests.determinism.elsewhere import Recorded
from tests.determinism.programs import AnyNode, run_program, written
from tests.determinism.rehearsal import Stage, run_on_memory

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("program.py")
PROGRAMS = 60
SEEDS = range(60 if settings().max_examples > 500 else 6)


def in_child(seed: int, *command: str, journal: str = "memory://") -> str:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONHASHSEED": str(seed), "KITARU_JOURNAL": journal},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout


def test_every_hash_seed_and_completion_order_takes_the_same_path(tmp_path: Path) -> None:
    def run(seed: int) -> str:
        return in_child(seed, str(PROGRAM), journal=str(tmp_path / f"{seed}.db"))

    with ThreadPoolExecutor(2) as pool:
        outputs = set(pool.map(run, SEEDS))
    assert len(outputs) == 1
    assert "task[" in outputs.pop()


def recorded_here() -> list[Recorded]:
    """Random programs, run live in this process."""
    recorded: list[Recorded] = []

    @settings(max_examples=PROGRAMS, phases=(Phase.generate,), database=None)
    @given(program=programs.programs, seed=st.integers(0, 2**16))
    def record(program: AnyNode, seed: int) -> None:
        key = f"program {len(recorded)}"
        programs.library[key] = program
        programs.pace.update(seed=seed, yields=8)

        async def scene() -> None:
            run = await Stage(run_program, programs.traces, programs.bodies).live(key)
            recorded.append(Recorded(run.exec_id, program, run.history, run.trace))

        run_on_memory(scene)

    record()
    return recorded


def test_journals_are_replayed_alike_in_every_process(tmp_path: Path) -> None:
    recorded = recorded_here()
    file = tmp_path / "recorded.json"
    file.write_bytes(msgspec.json.encode(recorded))

    def replay(seed: int) -> str:
        return in_child(seed, "-m", "tests.determinism.elsewhere", str(file))

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(replay, SEEDS))
    for seed, output in zip(SEEDS, outputs, strict=True):
        for one, found in zip(recorded, json.loads(output), strict=True):
            expected = [list(one.trace), [], one.end]
            assert found == expected, f"PYTHONHASHSEED={seed}\n{written(one.program)}"
