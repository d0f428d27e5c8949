"""dura (`pip install dura`, Python 3.13 or later): `python with_dura.py FOLDER`.

It has no async interface: its executions are taken by two threads. SQLite in WAL mode with its
default, `synchronous=FULL`.
"""

import os
import sys
import threading
import time
from typing import Any

from dura import DurableEngine
from work import EXECUTIONS, SEQUENTIAL_STEPS, STEPS, payload, tell

THREADS = 2
marks: list[float] = []


def step(number: int) -> dict[str, Any]:
    """One durable step."""
    marks.append(time.perf_counter())
    return payload(number)


def run(engine: Any, task: Any) -> None:
    """So many, one after another."""
    for number in range(task.params["count"]):
        name = f"step {number}"
        engine.checkpoint(task_id=task.task_id, step_name=name, fn=lambda n=number: step(n))
    engine.complete_run(run_id=task.run_id, result={})


def take(engine: Any) -> None:
    """Runs what there is to run, until there is nothing."""
    worker = str(threading.get_ident())
    while (task := engine.claim_task(worker_id=worker)) is not None:
        run(engine, task)


def main(folder: str) -> None:
    """Both scenarios."""
    engine = DurableEngine(os.path.join(folder, "dura.db"))
    engine.spawn_task(name="steps", params={"count": 20})
    take(engine)
    began = time.perf_counter()
    for _ in range(EXECUTIONS):
        engine.spawn_task(name="steps", params={"count": STEPS})
    threads = [threading.Thread(target=take, args=(engine,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fanout = time.perf_counter() - began
    engine.spawn_task(name="steps", params={"count": SEQUENTIAL_STEPS})
    marks.clear()
    take(engine)
    tell(fanout, marks)


main(sys.argv[1])
os._exit(0)
