"""Real processes: killed, forked, forgotten, and many of them on one file."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from journal import (
    Append,
    HeadChange,
    HeadQuery,
    JournalClosed,
    NewEvent,
    open_journal,
    open_reader,
)
from journal.backends.sqlite.journal import SqliteJournal

RUNNING = HeadChange("running", "order", None)

ACKNOWLEDGING = """
import asyncio, os, sys
from journal import Append, HeadChange, HeadQuery, NewEvent, open_journal

async def one(journal, stream):
    version = 0
    while True:
        head = HeadChange("running", "order", None) if version % 5 == 0 else None
        events = (NewEvent("Happened", os.urandom(300)),) * 2
        version = (await journal.append(Append(stream, events, version, head))).version
        os.write(1, f"{stream} {version}\\n".encode())

async def main(path, cycle):
    journal = await open_journal(path)
    await asyncio.gather(*(one(journal, f"ex-{cycle}-{n}") for n in range(int(cycle) % 4 + 1)))

asyncio.run(main(*sys.argv[1:]))
"""

MANY_APPENDS = """
import asyncio, sys
from journal import Append, HeadChange, NewEvent, open_journal

async def main(path, number):
    journal = await open_journal(path)
    head = HeadChange("running", "order", None)
    for version in range(300):
        events = (NewEvent("Happened", b"x" * 2000),)
        await journal.append(Append(f"ex-{number}", events, version, None if version else head))
    await journal.close()

asyncio.run(main(*sys.argv[1:]))
"""

FORGOTTEN = """
import asyncio, sys
from journal import Append, HeadChange, NewEvent, follow, open_journal

async def main(path, end):
    journal = await open_journal(path)
    append = Append("ex-1", (NewEvent("Happened", b""),), 0, HeadChange("running", "order", None))
    await journal.append(append)
    await asyncio.gather(*(journal.append(append) for _ in range(9)), return_exceptions=True)
    await journal.read_all()
    journal.watch(None, lambda _: None)
    global kept
    kept = journal
    if end == "error":
        raise RuntimeError("deliberate")
    if end == "wait":
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def append(stream: str, version: int) -> Append:
    head = RUNNING if version == 0 else None
    return Append(stream, (NewEvent("Happened", b""),), version, head)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


def test_what_was_acknowledged_survives_kill_9(path: str) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, int] = {}
    for cycle in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", ACKNOWLEDGING, path, str(cycle)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(chance.random() * 0.1)
        process.kill()
        for line in (first + process.stdout.read()).splitlines(keepends=True):
            if line.endswith(b"\n"):
                stream, version = line.split()
                acknowledged[stream.decode()] = int(version)
        process.wait()
        process.stdout.close()
        with open_reader(path) as reader:
            heads = {name: reader.head(name) for name in acknowledged}
        for name, head in heads.items():
            assert head is not None
            assert head.version >= acknowledged[name]
            assert head.version % 2 == 0
    with open_reader(path) as reader:
        assert reader.verify() == []
    assert sum(acknowledged.values()) > 40


def test_many_processes_write_one_journal(path: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY_APPENDS, path, str(number)])
        for number in range(4)
    ]
    for process in processes:
        assert process.wait(timeout=60) == 0
    with open_reader(path) as reader:
        assert reader.verify() == []
        assert [head.version for head in reader.heads(HeadQuery(category="ex"))] == [300] * 4
        positions = [event.position for event in reader.read_all(limit=5000)]
    assert positions == list(range(1, 1201))


@pytest.mark.parametrize(("end", "code"), [("return", 0), ("error", 1)])
def test_a_process_that_forgets_to_close_ends(path: str, end: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, path, end], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == code, done.stderr
    assert "Event loop is closed" not in done.stderr
    with open_reader(path) as reader:
        assert len(reader.read_all()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_stopped_ends(path: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORGOTTEN, path, "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert b"Event loop is closed" not in errors


# A forked child shares the parent's files and locks, and must leave them alone.


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_must_open_the_journal_anew(path: str) -> None:
    journal = await open_journal(path)
    await journal.append(append("ex-1", 0))
    await asyncio.gather(*(journal.append(append(f"ex-{n}", 0)) for n in range(2, 20)))
    await journal.read_all()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                journal.append_blocking(append("ex-1", 1))
            except JournalClosed as error:
                os.write(writing, str(error).encode())
                code = 0
        finally:
            os._exit(code)
    os.close(writing)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    told = os.read(reading, 1000).decode()
    os.close(reading)
    assert status == 0
    assert "fork" in told
    assert (await journal.append(append("ex-1", 1))).version == 2
    await journal.close()


FORKED = """
import asyncio, os, sys
from journal import Append, HeadChange, JournalClosed, NewEvent, open_journal

def append(version):
    head = HeadChange("running", "order", None) if version == 0 else None
    return Append("ex-1", (NewEvent("Happened", b""),), version, head)

async def write_in_child(path):
    journal = await open_journal(path)
    print((await journal.append(append(2))).version, flush=True)
    await journal.close()

async def main(path):
    journal = await open_journal(path)
    await journal.append(append(0))
    await journal.read_all()
    return journal

runner = asyncio.Runner()
journal = runner.run(main(sys.argv[1]))
if os.fork() == 0:
    runner._loop = None
    asyncio.events._set_running_loop(None)
    del journal
    import gc; gc.collect()
    sys.exit(0)  # an ordinary end, with all its finalizers
os.wait()
print(runner.run(journal.append(append(1))).version, flush=True)
if os.fork() == 0:
    try:
        journal.append_blocking(append(2))
    except JournalClosed:
        asyncio.run(write_in_child(sys.argv[1]))
    sys.exit(0)
os.wait()
print(runner.run(journal.append(append(3))).version, flush=True)
runner.run(journal.close())
"""


def test_a_child_that_ends_leaves_the_parents_journal_alone(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, path],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["2", "3", "4"], done.stderr
    with open_reader(path) as reader:
        assert reader.verify() == []


def test_a_journal_outlives_its_loop_for_threads(path: str) -> None:
    """The loop is gone and nobody closed: a thread that still appends is served all the same."""

    async def opened() -> SqliteJournal:
        journal = await SqliteJournal.open(path)
        journal.watch(None, lambda _: None)
        journal.append_blocking(append("ex-1", 0))
        return journal

    journal = asyncio.run(opened())
    threads = [
        threading.Thread(target=journal.append_blocking, args=(append(f"ex-{n}", 0),))
        for n in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    writer = journal._committer.close(lambda: None)
    assert writer is not None
    writer.join(20)
    with open_reader(path) as reader:
        assert len(reader.read_all()) == 5
