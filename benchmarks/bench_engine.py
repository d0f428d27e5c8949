"""What the engine costs above the disk: each figure is a ratio to a raw commit in the same run.

    python benchmarks/bench_engine.py                 # every scenario
    python benchmarks/bench_engine.py sequential --rounds 9
    python benchmarks/bench_engine.py --json          # one JSON object

Scratch files go to --dir, which must be on the disk to be measured.
"""

import argparse
import asyncio
import functools
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

import ceiling

import kitaru
from kitaru import checkpoint, flow
from kitaru.bootstrap import blocking, current_runtime
from kitaru.operations import executions

PAYLOAD = {
    "ok": True,
    "city": "Sapporo",
    "temperature": 21.5,
    "note": "partly cloudy, light wind from the north-west",
    "step": 0,
}
EVENT_BYTES = 300
marks: list[float] = []


@checkpoint(cache=False)
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


@checkpoint(cache=False)
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


@checkpoint
async def look_up(number: int, salt: int) -> dict[str, Any]:
    """A step whose result later executions may reuse."""
    return {**PAYLOAD, "step": number}


@flow
async def look_all_up(steps: int, first: int, salt: int) -> int:
    """Steps that are reused where an earlier execution has made the same."""
    for number in range(first, first + steps):
        await look_up(number, salt)
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


def raw_rows_per_s(folder: str) -> float:
    """Rows per second that sqlite3 writes in FULL commits of a thousand."""
    connection = sqlite3.connect(os.path.join(folder, "raw_many.db"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INT, body BLOB)")
    rates = []
    for _ in range(10):
        rows = [(number, b"x" * EVENT_BYTES) for number in range(1000)]
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO t (n, body) VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        rates.append(1000 / (time.perf_counter() - began))
    connection.close()
    return statistics.median(rates)


def raw_reads_per_s(folder: str) -> float:
    """Rows per second that sqlite3 reads in one query, each decoded from JSON."""
    connection = sqlite3.connect(os.path.join(folder, "raw_read.db"), isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
    body = json.dumps({"checkpoint": "book", "attempt": 1, "result": PAYLOAD}).encode()
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t (body) VALUES (?)", [(body,)] * 5000)
    connection.execute("COMMIT")
    began = time.perf_counter()
    rows = connection.execute("SELECT id, body FROM t ORDER BY id").fetchall()
    found = {number: json.loads(stored)["result"] for number, stored in rows}
    rate = len(found) / (time.perf_counter() - began)
    connection.close()
    return rate


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
    ratios: list[float] = []
    to_ceiling: list[float] = []
    ceilings: list[float] = []
    cpu: list[float] = []
    memory: list[float] = []

    async def toy(number: int) -> float:
        file = os.path.join(folder, f"ceiling-{number}.db")
        return await ceiling.steps_per_s(file, 1000, 5, PAYLOAD)

    async def once(count: int) -> float:
        began = time.perf_counter()
        handles = [trip_async.run(5) for _ in range(count)]
        await asyncio.gather(*(handle.wait() for handle in handles))
        return 5 * count / (time.perf_counter() - began)

    async def every() -> None:
        async with kitaru.runtime():
            await trip_async.run(20).wait()
            for number in range(rounds):
                raw = raw_rows_per_s(folder)
                before = await toy(2 * number)
                busy = time.process_time()
                rates.append(await once(1000))
                cpu.append((time.process_time() - busy) / 5000 * 1e6)
                ceilings.append((before + await toy(2 * number + 1)) / 2)
                ratios.append(rates[-1] / raw)
                to_ceiling.append(rates[-1] / ceilings[-1])
                gc.collect()
                memory.append(rss_mib())

    asyncio.run(every())
    marks.clear()
    return {
        "checkpoints_per_s": summary(rates, 0),
        "ceiling_steps_per_s": summary(ceilings, 0),
        "ratio_to_ceiling": summary(to_ceiling, 3),
        "ratio_to_raw_rows": summary(ratios, 3),
        "cpu_us_per_checkpoint": summary(cpu, 0),
        "rss_mib_after_each_round": [round(value, 1) for value in memory],
        "rss_peak_mib": peak_mib(),
    }


def cache(folder: str, rounds: int) -> dict[str, Any]:
    """What it costs to offer results for reuse, to look in vain, and to find: 200 x 5 steps."""
    cpu: dict[str, list[float]] = {name: [] for name in ("off", "missed", "found")}
    ratios: dict[str, list[float]] = {name: [] for name in ("missed", "found")}
    rates: dict[str, list[float]] = {name: [] for name in cpu}

    async def once(name: str, salt: int) -> None:
        flow_ = look_all_up.with_options(cache=name != "off")
        busy, began = time.process_time(), time.perf_counter()
        handles = [flow_.run(5, 5 * number, salt) for number in range(200)]
        await asyncio.gather(*(handle.wait() for handle in handles))
        rates[name].append(1000 / (time.perf_counter() - began))
        cpu[name].append((time.process_time() - busy) / 1000 * 1e6)

    async def every() -> None:
        async with kitaru.runtime():
            await trip_async.run(20).wait()
            for salt in range(rounds):
                for name in cpu:
                    await once(name, salt)
                for name in ratios:
                    ratios[name].append(cpu[name][-1] / cpu["off"][-1])

    asyncio.run(every())
    return {
        **{f"{name}_checkpoints_per_s": summary(rates[name], 0) for name in rates},
        **{f"{name}_cpu_us_per_checkpoint": summary(cpu[name], 0) for name in cpu},
        **{f"{name}_ratio_of_cpu_to_off": summary(ratios[name]) for name in ratios},
    }


def crowd(folder: str, rounds: int) -> dict[str, Any]:
    """10,000 executions of 5 checkpoints at once: what the memory does, in a process of its own."""
    program = (
        "import asyncio, json, time, bench_engine as bench, kitaru\n"
        "async def main():\n"
        "    async with kitaru.runtime():\n"
        "        await bench.trip_async.run(20).wait()\n"
        "        before, began = bench.rss_mib(), time.perf_counter()\n"
        "        handles = [bench.trip_async.run(5) for _ in range(COUNT)]\n"
        "        await asyncio.gather(*(handle.wait() for handle in handles))\n"
        "        print(json.dumps({'checkpoints_per_s': round(5 * COUNT / (time.perf_counter()"
        " - began)), 'rss_before_mib': round(before, 1), 'rss_peak_mib': bench.peak_mib()}))\n"
        "asyncio.run(main())\n"
    )
    return {
        f"{count}": json.loads(
            subprocess.run(
                [sys.executable, "-c", program.replace("COUNT", str(count))],
                check=True,
                capture_output=True,
                cwd=Path(__file__).parent,
            ).stdout
        )
        for count in (1_000, 10_000)
    }


def start(folder: str, rounds: int) -> dict[str, Any]:
    """`.run()` until the start is durable, and until an empty flow has ended."""
    times: dict[str, list[float]] = {
        name: [] for name in ("sync_durable", "sync_ended", "async_durable", "async_ended", "raw")
    }

    def note(name: str, began: float) -> None:
        times[name].append((time.perf_counter() - began) * 1e6)

    async def asynchronous() -> None:
        async with kitaru.runtime():
            for _ in range(100):
                began = time.perf_counter()
                handle = await trip_async.run(0)
                note("async_durable", began)
                await handle.wait()
                note("async_ended", began)

    for _ in range(rounds):
        times["raw"].append(raw_commit_us(folder, 200))
        for _ in range(100):
            began = time.perf_counter()
            handle = trip.run(0)
            note("sync_durable", began)
            handle.wait()
            note("sync_ended", began)
        asyncio.run(asynchronous())
    p50 = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{f"{name}_p50_us": round(value) for name, value in p50.items()},
        **{
            f"{name}_ratio": round(value / p50["raw"], 2)
            for name, value in p50.items()
            if name != "raw"
        },
    }


def replay(folder: str, rounds: int) -> dict[str, Any]:
    """Replaying 5,000 recorded checkpoints of a failed execution that is retried."""
    fail_file = os.path.join(folder, "fail")
    os.environ["BENCH_FAIL_FILE"] = fail_file
    rates: dict[str, list[float]] = {"sync": [], "async": [], "raw": []}
    cpu: dict[str, list[float]] = {"sync": [], "async": []}
    for number in range(rounds):
        scratch = os.path.join(folder, f"replay-{number}")
        os.mkdir(scratch)
        rates["raw"].append(raw_reads_per_s(scratch))
        for kind, body in (("sync", crashing_trip), ("async", crashing_trip_async)):
            Path(fail_file).touch()
            handle = body.sync.run(5000, fail=True)
            try:
                handle.wait()
            except kitaru.KitaruUserCodeError:
                Path(fail_file).unlink()
            began, busy = time.perf_counter(), time.process_time()
            # Not the client's retry, which also reads the execution for its caller.
            reopened = functools.partial(
                executions.reopen, current_runtime(), handle.exec_id, "retry"
            )
            blocking(current_runtime(), reopened)
            handle.wait()
            rates[kind].append(5000 / (time.perf_counter() - began))
            cpu[kind].append((time.process_time() - busy) / 5000 * 1e6)
    marks.clear()
    raw = statistics.median(rates["raw"])
    return {
        **{f"{kind}_checkpoints_per_s": summary(rates[kind], 0) for kind in ("sync", "async")},
        **{f"{kind}_cpu_us_per_checkpoint": summary(cpu[kind], 1) for kind in cpu},
        **{
            f"{kind}_ratio_to_raw_reads": round(statistics.median(rates[kind]) / raw, 3)
            for kind in ("sync", "async")
        },
        "raw_reads_per_s": summary(rates["raw"], 0),
    }


def imports(folder: str, rounds: int) -> dict[str, Any]:
    """Milliseconds that one import adds to a fresh interpreter, and the CLI's list."""
    # With bytecode, as it is wherever a package has been imported once.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": os.path.join(folder, "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def process_ms(*arguments: str) -> float:
        times = []
        for _ in range(max(7, rounds) + 1):
            began = time.perf_counter()
            command = [sys.executable, *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times[1:])

    bare = process_ms("-c", "pass")
    trip.run(1).wait()
    return {
        "bare_python_ms": round(bare, 1),
        "import_kitaru_ms": round(process_ms("-c", "import kitaru") - bare, 1),
        "import_asyncio_sqlite3_json_ms": round(
            process_ms("-c", "import asyncio, sqlite3, json") - bare, 1
        ),
        "import_flow_ms": round(process_ms("-c", "from kitaru import flow, checkpoint") - bare, 1),
        "executions_list_ms": round(process_ms("-m", "kitaru", "executions", "list")),
    }


def peak_mib() -> float:
    """The most memory that this process ever had resident."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def rss_mib() -> float:
    """The resident memory of this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


SCENARIOS = {
    "sequential": sequential,
    "fanout": fanout,
    "cache": cache,
    "crowd": crowd,
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
