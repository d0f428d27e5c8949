"""What a process did to the files of a journal, in the order in which it did it."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]
ACKNOWLEDGEMENTS = "acknowledged"
"""The file into which a process writes what it was told; it stands for somebody who listens."""
_NUMBERS = {"O": 2, "C": 1, "W": 3, "T": 2, "S": 2, "U": 1, "R": 1}


class Opened(Struct, frozen=True):
    """A file was opened, perhaps made."""

    fd: int
    name: str


class Wrote(Struct, frozen=True):
    """Bytes were written."""

    fd: int
    offset: int
    data: bytes


class Truncated(Struct, frozen=True):
    """A file was cut or lengthened."""

    fd: int
    size: int


class Synced(Struct, frozen=True):
    """A sync of a file or folder ended."""

    fd: int
    worked: bool


class Unlinked(Struct, frozen=True):
    """A name was removed."""

    name: str


Operation = Opened | Wrote | Truncated | Synced | Unlinked


def record(
    module: str, arguments: list[str], folder: Path, shim: str, fail: str = ""
) -> list[Operation]:
    """Runs a module in a process of its own, whose files are in `folder`; what it did to them."""
    folder.mkdir()
    log = folder.with_suffix(".log")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LD_PRELOAD": shim,
        "KITARU_TEST_SHIM_FOLDER": str(folder),
        "KITARU_TEST_SHIM_LOG": str(log),
    }
    if fail:
        environment["KITARU_TEST_SHIM_FAIL"] = fail
    command = [sys.executable, "-m", module, str(folder), *arguments]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=120)
    recorded = log.read_bytes()
    log.unlink()
    return list(_operations(recorded, str(folder)))


def _operations(recorded: bytes, folder: str) -> Iterator[Operation]:
    place = 0

    def numbers(count: int) -> tuple[int, ...]:
        nonlocal place
        found = struct.unpack_from(f"={count}q", recorded, place)
        place += 8 * count
        return found

    def taken(size: int) -> bytes:
        nonlocal place
        place += size
        return recorded[place - size : place]

    def name(size: int) -> str:
        return os.path.relpath(taken(size).decode(), folder)

    while place < len(recorded):
        kind = chr(recorded[place])
        place += 1
        given = numbers(_NUMBERS[kind])
        match kind:
            case "O":
                yield Opened(given[0], name(given[1]))
            case "W":
                yield Wrote(given[0], given[1], taken(given[2]))
            case "T":
                yield Truncated(*given)
            case "S":
                yield Synced(given[0], bool(given[1]))
            case "U":
                yield Unlinked(name(given[0]))
            case "C":
                pass
            case _:
                raise AssertionError(f"{kind} is not expected of SQLite")
