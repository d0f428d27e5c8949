"""Kitaru beside other durable engines that need no server: the same work, in turns, in one run.

    python benchmarks/bench_peers.py --dura PYTHON --dbos PYTHON --dir FOLDER

PYTHON is the interpreter of an environment in which that engine is installed; what is not given is
left out. `--dir` must be on the disk to be measured. Each turn starts each engine anew, with a new
database: 1,000 executions of 5 steps at once, then one of 1,000 steps. Every step is safe from a
loss of power before the next begins (`synchronous=FULL`). The ratios are medians over the turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
ROOT = PEERS.parent.parent


def once(engine: str, python: str, folder: str) -> dict[str, Any]:
    """What one engine says of its turn."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        program = [python, str(PEERS / f"with_{engine}.py"), place]
        done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(program)} failed:\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Runs the engines that are given in turns, and prints what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dura", metavar="PYTHON")
    parser.add_argument("--dbos", metavar="PYTHON")
    parser.add_argument("--kitaru", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="where scratch files go")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pythons = {name: getattr(options, name) for name in ("kitaru", "dura", "dbos")}
    told: dict[str, list[dict[str, Any]]] = {name: [] for name, it in pythons.items() if it}
    for _ in range(options.rounds):
        for name, turns in told.items():
            turns.append(once(name, pythons[name], options.dir))
    found = {name: summary(turns, told["kitaru"]) for name, turns in told.items()}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':8}{'fan-out, steps/s':>26}{'ratio':>8}{'sequential, µs':>26}{'ratio':>8}")
    for name, it in found.items():
        rate, step = it["fanout_steps_per_s"], it["sequential_us"]
        print(
            f"{name:8}{spread(rate):>26}{it['fanout_ratio']:>8}"
            f"{spread(step):>26}{it['sequential_ratio']:>8}"
        )


def summary(turns: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """An engine's medians; the ratios say how many times as fast Kitaru was in the same turn."""
    pairs = list(zip(turns, ours, strict=True))
    fanout = [mine["fanout_steps_per_s"] / its["fanout_steps_per_s"] for its, mine in pairs]
    sequential = [its["sequential_us"] / mine["sequential_us"] for its, mine in pairs]
    figures = {
        name: least_median_most([it[name] for it in turns])
        for name in ("fanout_steps_per_s", "sequential_us")
    }
    return {
        **figures,
        "fanout_ratio": round(statistics.median(fanout), 2),
        "sequential_ratio": round(statistics.median(sequential), 2),
        "python": turns[0]["python"],
    }


def least_median_most(figures: list[float]) -> list[int]:
    """Rounded."""
    return [round(pick(figures)) for pick in (min, statistics.median, max)]


def spread(figures: list[int]) -> str:
    """The median, and the least and the most."""
    least, median, most = figures
    return f"{median:,} ({least:,}-{most:,})"


if __name__ == "__main__":
    main()
