"""How soon a deployed version's result is there: with a runner to start, and with one that is warm.

    python benchmarks/bench_deployments.py [--rounds 50] [--json]

The project, its journal and the bundles are in a scratch folder of their own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = """
from kitaru import checkpoint, flow

@checkpoint(cache=False)
def step(number: int) -> int:
    return number + 1

@flow
def agent(number: int = 0) -> int:
    return step(number)
"""
INVOKES = """
import json, sys, time
from kitaru import KitaruClient
deployments = KitaruClient().deployments
deployments.list()
took = []
for number in range(int(sys.argv[1])):
    began = time.perf_counter()
    assert deployments.invoke(flow="agent", inputs={"number": number}).wait(60) == number + 1
    took.append(1000 * (time.perf_counter() - began))
print(json.dumps(took))
"""


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    for name, milliseconds in figures.items():
        print(f"{name:<28} {milliseconds:8.1f} ms")


def measured(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds by what they are of."""
    environment = {
        **os.environ,
        "KITARU_JOURNAL": str(folder / "journal.db"),
        "KITARU_RUNNER_IDLE_SECONDS": "5",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    project, here = folder / "project", folder / "here"
    project.mkdir()
    here.mkdir()
    (project / "flows.py").write_text(PROGRAM)

    def run(where: Path, *command: str) -> str:
        return subprocess.run(
            [sys.executable, *command],
            cwd=where,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    began = time.perf_counter()
    run(project, "-m", "kitaru", "deploy", "flows.py:agent")
    deployed = 1000 * (time.perf_counter() - began)
    first, *others = json.loads(run(here, "-c", INVOKES, str(rounds)))
    return {
        "kitaru deploy": deployed,
        "invoke, a runner starts": first,
        "invoke, warm, p50": statistics.median(others),
        "invoke, warm, p90": statistics.quantiles(others, n=10)[-1],
    }


if __name__ == "__main__":
    main()
