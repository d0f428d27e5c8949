"""Reading what runner processes have printed: all of it, or what comes."""

import os
import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import msgspec
from msgspec.structs import replace

from kitaru.stacks.logs import ENDING, OLDER, LogLine

FEW_EXECUTIONS = 10
LENGTH_OF_ID = 36


def read_lines(
    folder: Path,
    *,
    exec_ids: Iterable[str] = (),
    call: str = "",
    names: Iterable[str] | None = None,
) -> list[LogLine]:
    """The lines in a folder of logs, oldest first: those of executions, and of a call, if named.

    `names` are the files to look into; None: all. Files that vanish meanwhile are passed over. In
    the file of a runner of that execution alone, all that is said by nobody is the execution's.
    """
    wanted = frozenset(exec_ids)
    # Most lines are other executions': those are not even decoded.
    marks = [exec_id.encode() for exec_id in wanted] if len(wanted) <= FEW_EXECUTIONS else [b""]
    found = [
        line
        for file in _files(folder, names)
        for is_own in [_is_of(file, wanted)]
        for data in _raw_lines(file)
        if is_own or not wanted or any(mark in data for mark in marks)
        for line in _decoded(data)
        if not wanted or line.exec_id in wanted or (is_own and not line.exec_id)
        if not call or line.call == call
    ]
    return sorted(found, key=lambda line: line.at)


def read_runner_lines(folder: Path, exec_ids: Iterable[str]) -> list[LogLine]:
    """What the runners that had one of these executions have printed beside all executions.

    That is what they print while they load code, what C code and child processes print, and what
    Python says as it dies. A line without a time has that of the line before it.
    """
    wanted = frozenset(exec_ids)
    marks = {exec_id.encode() for exec_id in wanted}
    found: list[LogLine] = []
    for file in _files(folder, None):
        lines = _raw_lines(file)
        is_own = _is_of(file, wanted)
        if not is_own and all(marks.isdisjoint(_AN_ID.findall(data)) for data in lines):
            continue
        at = 0
        for line in (line for data in lines for line in _decoded(data)):
            at = line.at or at
            if not line.exec_id:
                found.append(replace(line, at=at))
    return sorted(found, key=lambda line: line.at)


def _is_of(file: Path, exec_ids: Set[str]) -> bool:
    """Whether it is the file of a runner that was started for one of these alone."""
    return file.name[:LENGTH_OF_ID] in exec_ids and file.name[LENGTH_OF_ID:].startswith("-")


_AN_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NewLines:
    """What one execution prints, from the beginning on, each line once.

    A file is known by its number, and so also when it has been set aside meanwhile.
    """

    def __init__(self, folder: Path, exec_id: str, call: str = "") -> None:
        self._folder = folder
        self._exec_id = exec_id
        self._call = call
        self._read: dict[tuple[int, str], int] = {}
        """How many bytes of each file have been read, by its number and first name."""

    def take(self) -> list[LogLine]:
        """The lines that have come since it was asked last, oldest first."""
        wanted = frozenset([self._exec_id])
        mark = self._exec_id.encode()
        found = [
            line
            for file in _files(self._folder, None)
            for is_own in [_is_of(file, wanted)]
            for data in self._whole_lines(file)
            if is_own or mark in data
            for line in _decoded(data)
            if line.exec_id == self._exec_id or (is_own and not line.exec_id)
            if not self._call or line.call == self._call
        ]
        return sorted(found, key=lambda line: line.at)

    def _whole_lines(self, file: Path) -> list[bytes]:
        try:
            with file.open("rb") as opened:
                number = os.fstat(opened.fileno()).st_ino
                key = number, file.name.removesuffix(OLDER)
                before = self._read.get(key, 0)
                opened.seek(before)
                data = opened.read()
        except OSError:
            return []
        # The rest of a line comes with the next look.
        end = data.rfind(b"\n") + 1
        self._read[key] = before + end
        return data[:end].splitlines()


def _files(folder: Path, names: Iterable[str] | None) -> Iterator[Path]:
    known = sorted(file.name for file in folder.glob(f"*{ENDING}")) if names is None else names
    for name in known:
        yield folder / f"{name}{OLDER}"
        yield folder / name


def _raw_lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError:
        return []


def _decoded(data: bytes) -> Iterator[LogLine]:
    if not data.strip():
        return
    try:
        yield msgspec.json.decode(data, type=LogLine)
    except msgspec.DecodeError:
        yield LogLine(text=data.decode("utf-8", "replace"))
