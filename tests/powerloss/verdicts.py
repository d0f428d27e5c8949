"""Whether what is found on a disk after a loss of power is a journal with all that was told."""

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from journal import JournalError, JournalUnavailable, SqliteReader
from tests.powerloss.images import Image

JOURNAL = "journal.db"

Check = Callable[[SqliteReader, tuple[str, ...]], Iterator[str]]
"""What of that which was told is missing in a journal."""


def whole_streams(reader: SqliteReader, told: tuple[str, ...]) -> Iterator[str]:
    """For what `writer` was told: the event of each version is there."""
    last: dict[str, tuple[int, str]] = {}
    for line in told:
        stream, version, digest = line.split()
        last[stream] = (int(version), digest)
    for stream, (at, expected) in last.items():
        found = reader.read_stream(stream, after=at - 1, limit=1)
        if not found or found[0].hash.hex() != expected:
            yield f"version {at} of {stream} is lost"


def judge(image: Image, folder: Path, missing: Check) -> list[str]:
    """What is wrong with an image; empty when nothing is."""
    for name, content in image.files.items():
        (folder / name).write_bytes(content)
    try:
        return list(_findings(image, folder, missing))
    finally:
        for name in os.listdir(folder):
            os.unlink(folder / name)


def _findings(image: Image, folder: Path, missing: Check) -> Iterator[str]:
    path = str(folder / JOURNAL)
    if not image.files.get(JOURNAL):
        # Not even the first page is there: then nothing may have been told.
        yield from [f"there is no journal, and {line} was told" for line in image.told]
        return
    if f"{JOURNAL}-journal" in image.files:
        # Power was lost while the file was made: who may write undoes what was half done.
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    try:
        # Its first statement recovers the log, as that of any other connection does.
        reader = SqliteReader(path)
    except JournalUnavailable:
        yield from [f"the journal is empty, and {line} was told" for line in image.told]
        return
    except JournalError as error:
        yield f"cannot be read: {error}"
        return
    with reader:
        try:
            [(verdict,), *_] = reader._execute("PRAGMA integrity_check").fetchall()
            if verdict != "ok":
                yield f"damaged: {verdict}"
            yield from (f"not as written: {finding}" for finding in reader.verify())
            yield from missing(reader, image.told)
        except (sqlite3.Error, JournalError) as error:
            yield f"cannot be read: {error}"


def judge_all(images: Iterable[Image], missing: Check) -> tuple[Counter[str], list[str]]:
    """Judges images, each distinct one once: how many there were, and what was wrong with them."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    seen: set[bytes] = set()
    folder = Path(tempfile.mkdtemp(dir=_fast_folder()))
    try:
        for image in images:
            counts["images"] += 1
            digest = _digest(image)
            if digest in seen:
                continue
            seen.add(digest)
            counts["distinct"] += 1
            found = judge(image, folder, missing)
            if found:
                counts["with losses"] += 1
                wrong += found
    finally:
        shutil.rmtree(folder)
    return counts, wrong


def _digest(image: Image) -> bytes:
    digest = hashlib.blake2b(str(len(image.told)).encode(), digest_size=16)
    for name, content in sorted(image.files.items()):
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return digest.digest()


def _fast_folder() -> str | None:
    """Images need no disk of their own."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
