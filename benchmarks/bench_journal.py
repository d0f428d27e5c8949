"""How far the SQLite journal is from raw sqlite3: both measured in one run, taking turns.

Run it alone: ``python benchmarks/bench_journal.py [--folder FOLDER] [--rounds N]``. The limit is
what sqlite3 does with ``synchronous=FULL`` and rows of the same payload, one per commit or a
thousand; the journal adds versions, leases, hashes and records to it.
"""

import argparse
import asyncio
import platform
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from journal import Append, HeadChange, Journal, NewEvent, open_journal

PAYLOAD = b'{"checkpoint":"book_hotel","attempt":1,"result":"' + b"x" * 250 + b'"}'
EVENT = (NewEvent("CheckpointCompleted", PAYLOAD),)
PER_TURN = 40
CONCURRENT = 1000

DDL = """
CREATE TABLE events (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, version INTEGER NOT NULL,
    type INTEGER NOT NULL, at REAL NOT NULL, body BLOB NOT NULL, UNIQUE (stream, version))
"""
INSERT = "INSERT INTO events (stream, version, type, at, body) VALUES (1, ?, 3, 1.0, ?)"

INSERT_ANY = "INSERT INTO events (stream, version, type, at, body) VALUES (?, ?, 3, 1.0, ?)"


class Raw:
    """The limit: one insert, one commit."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(DDL)
        self.version = 0

    def turn(self, times: list[float]) -> None:
        for _ in range(PER_TURN):
            self.version += 1
            started = time.perf_counter()
            self.connection.execute(INSERT, (self.version, PAYLOAD))
            times.append(time.perf_counter() - started)

    def turn_of_many(self) -> float:
        """Rows per second when each stream gets one in the same commit."""
        self.version += 1
        started = time.perf_counter()
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(
            INSERT_ANY, [(stream, self.version, PAYLOAD) for stream in range(2, CONCURRENT + 2)]
        )
        self.connection.execute("COMMIT")
        return CONCURRENT / (time.perf_counter() - started)


class Stream:
    """One stream of a journal, appended to by one caller."""

    def __init__(self, journal: Journal, stream: str) -> None:
        self.journal = journal
        self.stream = stream
        self.version = 0

    async def create(self) -> None:
        head = HeadChange("running", "bench", None)
        await self.journal.append(Append(self.stream, EVENT, 0, head))
        self.version = 1

    def turn_blocking(self, times: list[float]) -> None:
        for _ in range(PER_TURN):
            started = time.perf_counter()
            appended = self.journal.append_blocking(Append(self.stream, EVENT, self.version))
            times.append(time.perf_counter() - started)
            self.version = appended.version

    async def turn(self, times: list[float]) -> None:
        for _ in range(PER_TURN):
            started = time.perf_counter()
            appended = await self.journal.append(Append(self.stream, EVENT, self.version))
            times.append(time.perf_counter() - started)
            self.version = appended.version


async def sequential(folder: Path, rounds: int) -> None:
    raw, journal = Raw(folder / "raw.db"), await open_journal(str(folder / "sequential.db"))
    blocking, asynchronous = Stream(journal, "bench-1"), Stream(journal, "bench-2")
    await blocking.create()
    await asynchronous.create()
    limit, blocked, awaited = [], [], []
    for _ in range(rounds):
        raw.turn(limit)
        blocking.turn_blocking(blocked)
        await asynchronous.turn(awaited)
    raw.connection.close()
    await journal.close()
    report("raw sqlite3, one row per commit", limit, limit)
    report("append_blocking", blocked, limit)
    report("await append", awaited, limit)


def report(name: str, times: list[float], limit: list[float]) -> None:
    median = statistics.median(times)
    ninety_nine = statistics.quantiles(times, n=100)[98]
    ratio = median / statistics.median(limit)
    print(f"{name:34} p50 {median * 1e6:7.1f} µs  p99 {ninety_nine * 1e6:7.1f} µs  {ratio:.2f} x")


async def concurrent(folder: Path, rounds: int) -> None:
    raw, journal = Raw(folder / "raw_many.db"), await open_journal(str(folder / "concurrent.db"))
    streams = [f"bench-{number}" for number in range(CONCURRENT)]
    head = HeadChange("running", "bench", None)
    started = time.perf_counter()
    await asyncio.gather(*(journal.append(Append(s, EVENT, 0, head)) for s in streams))
    created = CONCURRENT / (time.perf_counter() - started)
    rates, limits = [], []
    for version in range(1, rounds + 1):
        limits.append(raw.turn_of_many())
        started = time.perf_counter()
        await asyncio.gather(*(journal.append(Append(s, EVENT, version)) for s in streams))
        rates.append(CONCURRENT / (time.perf_counter() - started))
    raw.connection.close()
    await journal.close()
    limit, median = statistics.median(limits), statistics.median(rates)
    print(f"raw sqlite3, {CONCURRENT} rows per commit   {limit:9,.0f} events/s")
    print(f"{CONCURRENT} streams created at once         {created:9,.0f} events/s (once)")
    ratio = median / limit
    print(f"{CONCURRENT} appends at once, one a stream   {median:9,.0f} events/s  {ratio:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the databases are made; a temporary folder if not")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, synchronous=FULL")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        asyncio.run(sequential(Path(folder), options.rounds))
        asyncio.run(concurrent(Path(folder), options.rounds))


if __name__ == "__main__":
    main()
