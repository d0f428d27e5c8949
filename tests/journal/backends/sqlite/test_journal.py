"""The journal in a file: how its connections come and go."""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from journal import HeadQuery, open_journal
from journal.backends.sqlite import journal as module
from journal.backends.sqlite.connections import connect_reader


def test_a_first_read_that_is_given_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def slowly(path: str, **options: Any) -> sqlite3.Connection:
        began.set()
        time.sleep(0.05)
        return connect(path, **options)

    async def main() -> None:
        journal = await open_journal(f"sqlite:///{tmp_path}/journal.db")
        reading = asyncio.create_task(journal.heads(HeadQuery(category="order")))
        await asyncio.to_thread(began.wait)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await journal.close()

    connect = connect_reader
    monkeypatch.setattr(module, "connect_reader", slowly)
    before = set(threading.enumerate())
    asyncio.run(main())
    # An exception in a thread, of a loop that is closed, fails the test as a warning.
    assert set(threading.enumerate()) == before
