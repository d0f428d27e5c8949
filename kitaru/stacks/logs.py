"""What runner processes print, kept beside the journal: each line with the execution it belongs to.

A runner has one file of JSON lines. What C code prints goes there as it is, and so belongs to no
execution. A full file is set aside once, and the oldest files go: none of it grows for ever.
"""

import codecs
import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kitaru.engine.context import CheckpointScope, scope

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_BYTES = 8 * 1024 * 1024
"""How long a file may grow before it is set aside; what was set aside before goes."""
MOST_FILES = 200
LONGEST_LINE = 64 * 1024
FEW_EXECUTIONS = 10
LENGTH_OF_ID = 36
ENDING = ".log"
OLDER = ".1"

Stream = Literal["stdout", "stderr"]


class LogLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line that a runner has printed."""

    text: str
    at: int = 0
    """Microseconds since the Unix epoch; 0: the process did not say."""
    stream: str = ""
    """``stdout`` or ``stderr``; empty: the process did not say."""
    exec_id: str = ""
    """The execution whose body, or checkpoint, printed it; empty: the runner itself."""
    call: str = ""
    """The path of the checkpoint call; empty: the flow's body."""


class LogFile:
    """The file of the process that runs; standard output and error lead there already."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._written = _size(path)
        self._lost = 0
        """Lines that could not be written since the last one that could."""
        self._is_torn = False
        """Whether only a part of the last line is in the file."""

    def add(self, line: LogLine) -> None:
        """Appends a line; from every thread.

        Where that fails, because the disk is full for example, the line is lost, and the next one
        that can be written says so: the step that prints it must not fail with it.
        """
        data = msgspec.json.encode(line) + b"\n"
        with self._lock:
            try:
                self._append(data)
            except OSError:
                self._lost += 1

    def _append(self, data: bytes) -> None:
        if self._written + len(data) > MOST_BYTES:
            self._set_aside()
        if self._lost:
            text = f"({self._lost} lines could not be written here)"
            told = LogLine(text=text, at=time.time_ns() // 1_000, stream="stderr")
            data = b"\n" * self._is_torn + msgspec.json.encode(told) + b"\n" + data
        written = os.write(1, data)
        self._written += written
        self._is_torn = written < len(data)
        self._lost = self._lost + 1 if self._is_torn else 0

    def _set_aside(self) -> None:
        self._written = 0
        try:
            # Somebody may have removed it.
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._path, self._path + OLDER)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            # Nor is the folder there: it goes on into the file that is open.
            return
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.close(descriptor)


class TaggedStream(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr`: whole lines, each with where it was printed."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"

    def __init__(self, file: LogFile, stream: Stream) -> None:
        self._file = file
        self._stream = stream
        self.name = f"<{stream}>"
        self.buffer = TaggedBytes(self)
        """For programs that write bytes, as they do to `sys.stdout.buffer`."""
        self._lock = threading.Lock()
        self._begun: dict[tuple[str, str], str] = {}
        """Lines that have no end yet, by where they are printed."""

    def writable(self) -> bool:
        return True

    def reconfigure(self, **options: object) -> None:
        """Takes what programs say to `sys.stdout`; lines and UTF-8 are what it writes anyhow."""

    def detach(self) -> Any:
        """What a program wraps anew; nothing is written past it."""
        return self.buffer

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        place = _place()
        with self._lock:
            *whole, rest = (self._begun.pop(place, "") + text).split("\n")
            while len(rest) > LONGEST_LINE:
                whole.append(rest[:LONGEST_LINE])
                rest = rest[LONGEST_LINE:]
            if rest:
                self._begun[place] = rest
        for line in whole:
            self._add(line, place)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, {}
        for place, line in begun.items():
            self._add(line, place)

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2

    def _add(self, line: str, place: tuple[str, str]) -> None:
        exec_id, call = place
        self._file.add(
            LogLine(
                # What UTF-8 cannot say is written as an escape.
                text=line.encode("utf-8", "backslashreplace").decode(),
                at=time.time_ns() // 1_000,
                stream=self._stream,
                exec_id=exec_id,
                call=call,
            )
        )


class TaggedBytes(io.BufferedIOBase):
    """What stands for the bytes below a stream: they become text, and lines with it."""

    def __init__(self, stream: TaggedStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._lock = threading.Lock()
        self.name = stream.name
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        raw = bytes(data)
        with self._lock:
            # A character may come in two halves.
            text = self._decoder.decode(raw)
        self._stream.write(text)
        return len(raw)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Stays open, as the stream above it does."""

    def fileno(self) -> int:
        return self._stream.fileno()


def capture(path: str) -> None:
    """From now on what this process prints goes into its log file, line by line."""
    file = LogFile(path)
    sys.stdout = TaggedStream(file, "stdout")
    sys.stderr = TaggedStream(file, "stderr")


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


def make_room(folder: Path) -> None:
    """Removes the log files where there are too many: first those that were written longest ago."""
    files = sorted(folder.glob(f"*{ENDING}"), key=lambda file: (_changed_at(file), file.name))
    for file in files[: max(0, len(files) - MOST_FILES)]:
        for old in (file, Path(f"{file}{OLDER}")):
            with contextlib.suppress(OSError):
                old.unlink()


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


def _place() -> tuple[str, str]:
    here = scope.get()
    if here is None:
        return "", ""
    return here.runner.exec_id, here.path if isinstance(here, CheckpointScope) else ""


def forget_empty(path: str) -> None:
    """A runner that has said nothing needs no file for it."""
    with contextlib.suppress(OSError):
        if os.path.getsize(path) == 0:
            os.unlink(path)


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
