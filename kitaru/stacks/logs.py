"""What runner processes print, kept beside the journal: each line with the execution it belongs to.

A runner has one file of JSON lines. What C code prints goes there as it is, and so belongs to no
execution. A full file is set aside once, and the oldest files go: none of it grows for ever.
"""

import codecs
import contextlib
import io
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from kitaru.engine.context import CheckpointScope, scope

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_BYTES = 8 * 1024 * 1024
"""How long a file may grow before it is set aside; what was set aside before goes."""
MOST_FILES = 200
LONGEST_LINE = 64 * 1024
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


def make_room(folder: Path) -> None:
    """Removes the log files where there are too many: first those that were written longest ago."""
    files = sorted(folder.glob(f"*{ENDING}"), key=lambda file: (_changed_at(file), file.name))
    for file in files[: max(0, len(files) - MOST_FILES)]:
        for old in (file, Path(f"{file}{OLDER}")):
            with contextlib.suppress(OSError):
                old.unlink()


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
