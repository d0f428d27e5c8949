"""DBOS on SQLite (`pip install dbos`): `python with_dbos.py FOLDER`.

With WAL and `synchronous=FULL`, which is faster than what it sets up by itself, and as safe.
"""

import asyncio
import os
import sys
import time
from typing import Any

import sqlalchemy
from dbos import DBOS
from work import EXECUTIONS, SEQUENTIAL_STEPS, STEPS, payload, tell

marks: list[float] = []


def set_up(url: str) -> None:
    """DBOS over this database."""
    engine = sqlalchemy.create_engine(url)

    @sqlalchemy.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    DBOS(
        config={
            "name": "bench",
            "log_level": "ERROR",
            "enable_otlp": False,
            "run_admin_server": False,
            "application_version": "1",
            "system_database_url": url,
            "system_database_engine": engine,
        }
    )


async def main(folder: str) -> None:
    """Both scenarios."""
    set_up(f"sqlite:///{os.path.join(folder, 'dbos.db')}")

    @DBOS.step()
    async def step(number: int) -> dict[str, Any]:
        marks.append(time.perf_counter())
        return payload(number)

    @DBOS.workflow()
    async def steps(count: int) -> int:
        for number in range(count):
            await step(number)
        return count

    async def start() -> None:
        handle = await DBOS.start_workflow_async(steps, STEPS)
        await handle.get_result()

    DBOS.launch()
    await steps(20)
    began = time.perf_counter()
    await asyncio.gather(*(start() for _ in range(EXECUTIONS)))
    fanout = time.perf_counter() - began
    marks.clear()
    await steps(SEQUENTIAL_STEPS)
    tell(fanout, marks)
    DBOS.destroy()


asyncio.run(main(sys.argv[1]))
os._exit(0)
