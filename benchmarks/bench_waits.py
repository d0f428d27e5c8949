"""What a waiting execution costs, and how soon after the answer its flow goes on.

Parked executions are released: neither body nor thread. Held ones are still in memory, within their
patience. Memory is the growth of the resident set, with the garbage collected, per execution.
"""

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import kitaru
from kitaru import flow
from kitaru.bootstrap import current_runtime
from kitaru.operations import waits

answered: dict[str, float] = {}


@flow
async def asks(timeout: float) -> float:
    await kitaru.wait(schema=int, timeout=timeout)
    return time.perf_counter()


@flow
def asks_in_a_thread(timeout: float) -> float:
    kitaru.wait(schema=int, timeout=timeout)
    return time.perf_counter()


def resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def waiting(body: Any, count: int, timeout: float) -> dict[str, float]:
    runtime = current_runtime()
    before, threads = resident(), threading.active_count()
    began = time.perf_counter()
    handles = [body.aio.run(timeout) for _ in range(count)]
    for handle in handles:
        await handle
    for handle in handles:
        while handle.status != "waiting" or (  # noqa: ASYNC110 - the journal alone knows
            timeout == 0 and handle.exec_id in runtime.worker.runners
        ):
            await asyncio.sleep(0.02)
    seconds = time.perf_counter() - began
    grown = resident() - before
    more_threads = threading.active_count() - threads
    latencies = []
    for handle in handles[:: max(1, count // 200)]:
        signal = time.perf_counter()
        await waits.give_input(runtime, handle.exec_id, "wait", 1)
        latencies.append(await handle.wait() - signal)
    for handle in handles:
        if handle.status != "completed":
            await waits.give_input(runtime, handle.exec_id, "wait", 1)
    for handle in handles:
        await handle.wait()
    return {
        "count": count,
        "to_waiting_seconds": seconds,
        "bytes_each": grown / count,
        "threads_more": more_threads,
        "signal_to_resumed_p50_ms": statistics.median(latencies) * 1000,
        "signal_to_resumed_p99_ms": sorted(latencies)[int(len(latencies) * 0.99)] * 1000,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--dir")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        async with kitaru.runtime(journal=f"{folder}/journal.db"):
            await waiting(asks, 20, 0)
            await waiting(asks_in_a_thread, 20, 0)
            results["async, parked"] = await waiting(asks, options.count, 0)
            results["sync, parked"] = await waiting(asks_in_a_thread, options.count, 0)
            results["async, held"] = await waiting(asks, 500, 600)
            results["sync, held"] = await waiting(asks_in_a_thread, 40, 600)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, result in results.items():
        print(
            f"{name:14} {result['count']:>6} executions"
            f"  {result['bytes_each'] / 1024:6.1f} KiB each"
            f"  {result['threads_more']:+.0f} threads"
            f"  signal to resumed p50 {result['signal_to_resumed_p50_ms']:.2f} ms"
            f"  p99 {result['signal_to_resumed_p99_ms']:.2f} ms"
        )


if __name__ == "__main__":
    asyncio.run(main())
