"""Appends to a journal from several sides and writes down what it was told, for a recording.

`python -m tests.powerloss.writer FOLDER SEED [SYNCHRONOUS]`: the last makes the journal less
durable than it ever is, to show that this is noticed.
"""

import asyncio
import os
import random
import sys

from journal import (
    Append,
    Appended,
    Claim,
    ClaimQuery,
    CommitOutcomeUnknown,
    HeadChange,
    Journal,
    JournalUnavailable,
    NewEvent,
    open_journal,
)
from journal.backends.sqlite import checkpoints, connections
from tests.powerloss.recording import ACKNOWLEDGEMENTS

STREAMS = 3
APPENDS = 12


class Teller:
    """Who is told of what is durable."""

    def __init__(self, folder: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(os.path.join(folder, ACKNOWLEDGEMENTS), flags, 0o600)

    def tell(self, stream: str, appended: Appended) -> None:
        digest = appended.events[-1].hash.hex()
        os.write(self._fd, f"{stream} {appended.version} {digest}\n".encode())


async def write(journal: Journal, teller: Teller, stream: str, chance: random.Random) -> None:
    version = 0
    for _ in range(APPENDS):
        size = chance.choice([10, 300, 300, 3000])
        events = tuple(
            NewEvent("Happened", chance.randbytes(size)) for _ in range(chance.randint(1, 3))
        )
        head = None
        if version == 0 or chance.random() < 0.2:
            head = HeadChange("running", "order", 0, summary=chance.randbytes(50))
        blobs = (chance.randbytes(2000),) if chance.random() < 0.1 else ()
        append = Append(stream, events, version, head, blobs=blobs)
        appended = await insistently(journal, append)
        version = appended.version
        teller.tell(stream, appended)


async def insistently(journal: Journal, append: Append) -> Appended:
    """Appends, and where the disk failed asks the journal what came of it."""
    while True:
        try:
            return await journal.append(append)
        except CommitOutcomeUnknown:
            # Until it can be read back.
            found = await journal.read_stream(append.stream, after=append.expected_version)
            if found:
                return Appended(tuple(found), found[-1].version)
        except JournalUnavailable:
            continue


async def opened(path: str) -> Journal:
    """The journal, opened again where the disk failed while it was made."""
    try:
        return await open_journal(path)
    except JournalUnavailable:
        return await open_journal(path)


async def main(folder: str, seed: str, synchronous: str = "") -> None:
    chance = random.Random(int(seed))
    if synchronous:
        weaker = f"PRAGMA synchronous = {synchronous}"
        connections._SETTINGS = (weaker, *connections._SETTINGS[1:])
    # Often, so that the log is moved into the database and begun anew within a short recording.
    checkpoints.DUE_BYTES = 60_000
    teller = Teller(folder)
    journal = await opened(os.path.join(folder, "journal.db"))
    for number in range(STREAMS):
        await write(journal, teller, f"ex-alone{number}", random.Random(chance.random()))
    together = [f"ex-{number}" for number in range(STREAMS)]
    await asyncio.gather(
        *(write(journal, teller, each, random.Random(chance.random())) for each in together)
    )
    query = ClaimQuery(category="ex", names=["order"], claim=Claim("me", 60))
    for _, lease in await journal.claim(query):
        await journal.release(lease)
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
