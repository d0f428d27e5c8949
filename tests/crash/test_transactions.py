"""Wherever it is killed, an order is written exactly once, and never without its record."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journal import HeadQuery, SqliteReader
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.upcasts import decode_event

SCRIPT = Path(__file__).with_name("orders.py")
ORDERS = ["one", "two"]


class Shop:
    """A journal, a table of orders in it or in another file, and the script that is killed."""

    def __init__(self, folder: Path, kind: str, colour: str) -> None:
        folder.mkdir()
        self.shared = kind == "shared"
        self.colour = colour
        self.journal = folder / "journal.db"
        self.database = self.journal if self.shared else folder / "orders.db"

    def run(self, kill_at: int) -> "subprocess.CompletedProcess[str]":
        """Runs the script; 0 is for no kill."""
        environment = {
            **os.environ,
            "KILL_AT": str(kill_at),
            "KITARU_JOURNAL": str(self.journal),
            "KITARU_LOG_LEVEL": "off",
            "ORDERS": str(self.database),
        }
        command = [sys.executable, str(SCRIPT), self.colour]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    def open(self) -> None:
        """Makes the journal, and the table."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("CREATE TABLE orders (id TEXT)")

    def orders(self) -> list[str]:
        with closing(sqlite3.connect(self.database)) as connection:
            return sorted(row[0] for row in connection.execute("SELECT id FROM orders"))

    def remembered(self) -> list[str]:
        """The outcomes that the orders' own database has."""
        with closing(sqlite3.connect(self.database)) as connection:
            try:
                rows = connection.execute("SELECT result FROM kitaru_checkpoints").fetchall()
            except sqlite3.OperationalError:
                return []
        return sorted(row[0].decode().strip('"') for row in rows)

    def recorded(self) -> list[str]:
        """The outcomes that the journal has."""
        with SqliteReader(str(self.journal)) as reader:
            heads = reader.heads(HeadQuery(category="execution"))
            events = [decode_event(fact) for h in heads for fact in reader.read_stream(h.stream)]
        found = [each for each in events if isinstance(each, CheckpointCompleted)]
        return sorted(bytes(each.result.json).decode().strip('"') for each in found)

    def forget_leases(self) -> None:
        """As if the time of the dead process's leases were over."""
        with closing(sqlite3.connect(self.journal)) as connection, connection:
            connection.execute("UPDATE heads SET lease_until = 0")


@pytest.mark.parametrize("kind", ["shared", "separate"])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_kill_at_every_boundary_neither_loses_nor_doubles_an_order(
    tmp_path: Path, kind: str, colour: str
) -> None:
    template = Shop(tmp_path / "0", kind, colour)
    empty = "import asyncio, sys, journal\nasync def make(url):\n"
    empty += "    await (await journal.open_journal(url)).close()\nasyncio.run(make(sys.argv[1]))"
    made = [sys.executable, "-c", empty, str(template.journal)]
    subprocess.run(made, check=True)
    template.open()
    for kill_at in range(1, 1000):
        shop = Shop(tmp_path / str(kill_at), kind, colour)
        for source, copy in {
            template.journal: shop.journal,
            template.database: shop.database,
        }.items():
            copy.write_bytes(source.read_bytes())
        killed = shop.run(kill_at)
        if killed.returncode == 0:
            assert killed.stdout.split() == ["onetwo"]
            assert kill_at > 10, "it was never killed"
            return
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if shop.shared:
            assert shop.orders() == shop.recorded(), kill_at
        else:
            assert shop.orders() == shop.remembered(), kill_at
            assert set(shop.recorded()) <= set(shop.orders()), kill_at
        shop.forget_leases()
        again = shop.run(0)
        assert again.stdout.split() == ["onetwo"], (kill_at, again.stderr)
        assert shop.orders() == shop.recorded() == ORDERS, kill_at
