"""What the engine costs above the disk: each figure is a ratio to a raw commit in the same run.

    python benchmarks/bench_engine.py                 # every scenario
    python benchmarks/bench_engine.py sequential --rounds 9
    python benchmarks/bench_engine.py --json          # one JSON object

Scratch files go to --dir, which must be on the disk to be measured.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kitaru
from kitaru import checkpoint, flow

PAYLOAD = {
    "ok": True,
    "city": "Sapporo",
    "temperature": 21.5,
    "note": "partly cloudy, light wind from the north-west",
    "step": 0,
}
EVENT_BYTES = 300
marks: list[float] = []


@checkpoint
def book(number: int) -> dict[str, Any]:
    """A step of a sync flow."""
    marks.append(time.perf_counter())
    return {**PAYLOAD, "step": number}


@flow
def trip(steps: int) -> int:
    """Sequential steps, each durable before the next."""
    for number in range(steps):
        book(number)
    return steps


@checkpoint
async def book_async(number: int) -> dict[str, Any]:
    """A step of an async flow."""
    marks.append(time.perf_counter())
    return {**PAYLOAD, "step": number}


@flow
async def trip_async(steps: int) -> int:
    """Sequential steps, each durable before the next."""
    for number in range(steps):
        await book_async(number)
    return steps


@flow
def crashing_trip(steps: int, fail: bool) -> int:
    """Many recorded steps, then an error: the execution can be retried, which replays them."""
    for number in range(steps):
        book(number)
    if Path(os.environ["BENCH_FAIL_FILE"]).exists():
        raise RuntimeError("stop here")
    return steps


@flow
async def crashing_trip_async(steps: int, fail: bool) -> int:
    """The same, async."""
    for number in range(steps):
        await book_async(number)
    if Path(os.environ["BENCH_FAIL_FILE"]).exists():  # noqa: ASYNC240
        raise RuntimeError("stop here")
    return steps


def raw_commit_us(folder: str, count: int) -> float:
    """The median microseconds of one FULL commit of one row through sqlite3."""
    connection = sqlite3.connect(os.path.join(folder, "raw.db"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INT, body BLOB)")
    times = []
    for number in range(count):
        began = time.perf_counter()
        connection.execute("INSERT INTO t (n, body) VALUES (?, ?)", (number, b"x" * EVENT_BYTES))
        times.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(times) * 1e6


def between_marks_us() -> float:
    """The median microseconds from one step to the next."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(marks)]
    marks.clear()
    return statistics.median(gaps) * 1e6


def summary(values: list[float], digits: int = 2) -> dict[str, float]:
    """Median and spread of one figure over the rounds."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }


def sequential(folder: str, rounds: int) -> dict[str, Any]:
    """1,000 checkpoints one after another, sync and async, against a raw commit."""
    ratios: dict[str, list[float]] = {"sync": [], "async": []}
    times: dict[str, list[float]] = {"raw": [], "sync": [], "async": []}
    trip.run(20).wait()

    def one(kind: str, run: Callable[[], object]) -> None:
        raw = raw_commit_us(folder, 500)
        marks.clear()
        run()
        step = between_marks_us()
        raw = (raw + raw_commit_us(folder, 500)) / 2
        times["raw"].append(raw)
        times[kind].append(step)
        ratios[kind].append(step / raw)

    async def asynchronous() -> None:
        async with kitaru.runtime():
            await trip_async.run(1000).wait()

    for _ in range(rounds):
        one("sync", lambda: trip.run(1000).wait())
        one("async", lambda: asyncio.run(asynchronous()))
    return {
        "sync_ratio": summary(ratios["sync"]),
        "async_ratio": summary(ratios["async"]),
        **{f"{name}_us": summary(values, 0) for name, values in times.items()},
    }


def fanout(folder: str, rounds: int) -> dict[str, Any]:
    """1,000 executions of 5 checkpoints, started at once in one async process."""
    rates: list[float] = []
    memory: list[float] = []

    async def once() -> None:
        began = time.perf_counter()
        handles = [trip_async.run(5) for _ in range(1000)]
        await asyncio.gather(*(handle.wait() for handle in handles))
        rates.append(5000 / (time.perf_counter() - began))

    async def every() -> None:
        async with kitaru.runtime():
            await trip_async.run(20).wait()
            for _ in range(rounds):
                await once()
                gc.collect()
                memory.append(rss_mib())

    asyncio.run(every())
    marks.clear()
    return {
        "checkpoints_per_s": summary(rates, 0),
        "rss_mib_after_each_round": [round(value, 1) for value in memory],
        "rss_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def start(folder: str, rounds: int) -> dict[str, Any]:
    """Starting an empty flow and waiting for it, one after another."""
    times: dict[str, list[float]] = {"sync": [], "async": []}
    raw = raw_commit_us(folder, 500)
    for _ in range(100 * rounds):
        began = time.perf_counter()
        trip.run(0).wait()
        times["sync"].append((time.perf_counter() - began) * 1e6)

    async def asynchronous() -> None:
        async with kitaru.runtime():
            for _ in range(100 * rounds):
                began = time.perf_counter()
                await trip_async.run(0).wait()
                times["async"].append((time.perf_counter() - began) * 1e6)

    asyncio.run(asynchronous())
    return {
        "raw_us": round(raw),
        **{f"{kind}_p50_us": round(statistics.median(values)) for kind, values in times.items()},
    }


def replay(folder: str, rounds: int) -> dict[str, Any]:
    """Replaying 5,000 recorded checkpoints of a failed execution that is retried."""
    fail_file = os.path.join(folder, "fail")
    os.environ["BENCH_FAIL_FILE"] = fail_file
    rates: dict[str, list[float]] = {"sync": [], "async": []}
    for _ in range(rounds):
        for kind, body in (("sync", crashing_trip), ("async", crashing_trip_async)):
            Path(fail_file).touch()
            handle = body.sync.run(5000, fail=True)
            try:
                handle.wait()
            except kitaru.KitaruUserCodeError:
                Path(fail_file).unlink()
            began = time.perf_counter()
            kitaru.KitaruClient().executions.retry(handle.exec_id)
            handle.wait()
            rates[kind].append(5000 / (time.perf_counter() - began))
    marks.clear()
    return {f"{kind}_checkpoints_per_s": summary(values, 0) for kind, values in rates.items()}


def imports(folder: str, rounds: int) -> dict[str, Any]:
    """Milliseconds that one import adds to a fresh interpreter, and the CLI's list."""

    def process_ms(*command: str) -> float:
        times = []
        for _ in range(max(7, rounds)):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times)

    bare = process_ms(sys.executable, "-c", "pass")
    trip.run(1).wait()
    return {
        "bare_python_ms": round(bare, 1),
        "import_kitaru_ms": round(process_ms(sys.executable, "-c", "import kitaru") - bare, 1),
        "import_flow_ms": round(
            process_ms(sys.executable, "-c", "from kitaru import flow, checkpoint") - bare, 1
        ),
        "executions_list_ms": round(
            process_ms(sys.executable, "-m", "kitaru", "executions", "list")
        ),
    }


def rss_mib() -> float:
    """The resident memory of this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


SCENARIOS = {
    "sequential": sequential,
    "fanout": fanout,
    "start": start,
    "replay": replay,
    "imports": imports,
}


def main() -> None:
    """Runs the scenarios that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="where scratch files go")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cores": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        os.environ["KITARU_JOURNAL"] = os.path.join(folder, "journal.db")
        for name in options.scenarios or SCENARIOS:
            results[name] = SCENARIOS[name](folder, options.rounds)
            if not options.json:
                print(name, json.dumps(results[name], indent=2))
        if options.json:
            print(json.dumps(results))


if __name__ == "__main__":
    main()
