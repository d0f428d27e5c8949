"""Attempts of isolated checkpoints: each in a process of its own, which ends with its runner.

Only the runner records what came of one, under its lease: a process whose runner has lost the
execution can do nothing that counts, and is ended.
"""

import codecs
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from kitaru.domain.execution.events import EVENT_TYPES, SourceReference
from kitaru.engine.calls import Call, Delivery
from kitaru.engine.codec import Codec
from kitaru.engine.context import Recorder
from kitaru.engine.failures import revive
from kitaru.engine.isolated_frames import (
    LENGTH,
    Answer,
    Failed,
    Noted,
    Request,
    Returned,
    decode_answer,
    framed,
)
from kitaru.engine.source import reference_of
from kitaru.errors import (
    KitaruCheckpointProcessError,
    KitaruFeatureNotAvailableError,
    KitaruRuntimeError,
    KitaruUsageError,
)

LOOK_SECONDS = 0.1
ENDING_SECONDS = 5.0
READ_AT_ONCE = 1 << 20


class IsolatedAttempt:
    """One attempt of a call in a process of its own. `run` blocks; `kill` comes from any thread."""

    def __init__(self, call: Call, codec: Codec, recorder: Recorder) -> None:
        self._call = call
        self._codec = codec
        self._recorder = recorder
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = ""
        self._buffer = bytearray()

    def kill(self, why: str) -> None:
        """Ends the attempt's process, and all that it has started, at once."""
        self._killed = self._killed or why

    def run(self, should_end: Callable[[], str]) -> Delivery:
        """What the body returned or raised.

        `should_end` is asked again and again, and says why the attempt is to end early; empty while
        it is not. A process that dies without an answer gives KitaruCheckpointProcessError.
        """
        try:
            function = _reference(self._call)
        except (KitaruUsageError, KitaruFeatureNotAvailableError) as error:
            return Delivery(error=error)
        request = Request(
            function,
            self._recorder.exec_id,
            self._call.path,
            self._call.attempt,
            self._call.identity,
            Raw(self._call.encoded),
        )
        with contextlib.ExitStack() as opened:
            try:
                requests_read, requests_write = _pipe(opened)
                answers_read, answers_write = _pipe(opened)
                process = _start(requests_read.fd, answers_write.fd)
            except OSError as error:
                problem = f"The process of checkpoint {self._call.path!r} cannot be started"
                return Delivery(error=KitaruCheckpointProcessError(f"{problem}: {error}"))
            requests_read.close()
            answers_write.close()
            printed = _Printed(process)
            try:
                return self._converse(
                    process,
                    printed,
                    framed(request),
                    requests_write.fd,
                    answers_read.fd,
                    should_end,
                )
            finally:
                _end(process)
                printed.close()

    def _converse(
        self,
        process: "subprocess.Popen[bytes]",
        printed: "_Printed",
        request: bytes,
        writing: int,
        reading: int,
        should_end: Callable[[], str],
    ) -> Delivery:
        left = memoryview(request)
        os.set_blocking(writing, False)
        while True:
            self._killed = self._killed or should_end()
            if self._killed:
                return Delivery(
                    error=KitaruRuntimeError(
                        f"The process of checkpoint {self._call.path!r} was ended: {self._killed}."
                    )
                )
            # All ways at once: a large request must not wait for a body that talks already.
            wanted = [writing] if left else []
            ready = _ready([reading, *printed.open], wanted, LOOK_SECONDS)
            if writing in ready:
                try:
                    left = left[os.write(writing, left) :]
                except BrokenPipeError:
                    left = left[:0]
            printed.pass_on(ready)
            if reading not in ready:
                # Something that it has started may keep the pipes open.
                if _has_ended(process) and not _ready([reading]):
                    return Delivery(error=self._died(process))
                continue
            data = os.read(reading, READ_AT_ONCE)
            if not data:
                return Delivery(error=self._died(process))
            self._buffer += data
            for answer in self._answers():
                if isinstance(answer, Noted):
                    self._note(answer)
                else:
                    return self._delivery(answer)

    def _answers(self) -> "list[Answer]":
        found: list[Answer] = []
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < LENGTH.size + length:
                break
            found.append(decode_answer(bytes(self._buffer[LENGTH.size : LENGTH.size + length])))
            del self._buffer[: LENGTH.size + length]
        return found

    def _note(self, noted: Noted) -> None:
        event_type, _ = EVENT_TYPES[noted.event_tag]
        event: Any = msgspec.json.decode(noted.event, type=event_type)
        self._recorder.note(event, noted.blobs)

    def _delivery(self, answer: Returned | Failed) -> Delivery:
        if answer.is_unshared:
            self._recorder.unshared.add(self._call.path)
        if isinstance(answer, Failed):
            # With its traceback, which an exception that is made anew has not.
            self._call.described = answer.error
            return Delivery(error=revive(answer.error, self._codec))
        value = self._codec.decode(answer.result, self._call.definition.types)
        return Delivery(value)

    def _died(self, process: "subprocess.Popen[bytes]") -> KitaruCheckpointProcessError:
        end = time.monotonic() + ENDING_SECONDS
        while not _has_ended(process) and time.monotonic() < end:
            time.sleep(0.002)
        _end(process)
        code = process.wait()
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return KitaruCheckpointProcessError(
            f"The process of checkpoint {self._call.path!r} {how} before it had a result. What it "
            "has done outside is not undone."
        )


def _reference(call: Call) -> SourceReference:
    if sys.platform == "win32":
        raise KitaruFeatureNotAvailableError(
            'checkpoint(runtime="isolated") does not exist on Windows yet.'
        )
    reference = reference_of(call.definition.function)
    if "<locals>" in reference.qualname or not reference.file:
        raise KitaruUsageError(
            f"The checkpoint {reference.qualname!r} is isolated, and its process cannot find it: "
            "move it to the top level of a file."
        )
    return reference


class _Printed:
    """What the process prints is printed here, where it is known which call it belongs to."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._pipes = (process.stdout, process.stderr)
        self._open: dict[int, tuple[codecs.IncrementalDecoder, str]] = {
            pipe.fileno(): (codecs.getincrementaldecoder("utf-8")("replace"), name)
            for pipe, name in zip(self._pipes, ("stdout", "stderr"), strict=True)
        }

    @property
    def open(self) -> list[int]:
        """The pipes in which something may come."""
        return list(self._open)

    def pass_on(self, ready: Collection[int]) -> None:
        """Prints what has come in these pipes."""
        for fd in [fd for fd in self._open if fd in ready]:
            decoder, name = self._open[fd]
            data = os.read(fd, READ_AT_ONCE)
            if not data:
                del self._open[fd]
            getattr(sys, name).write(decoder.decode(data, final=not data))

    def close(self) -> None:
        """Prints what is left; the process has ended."""
        while ready := _ready(self.open):
            self.pass_on(ready)
        for pipe in self._pipes:
            pipe.close()
        sys.stdout.flush()
        sys.stderr.flush()


def _ready(reading: Sequence[int], writing: Sequence[int] = (), seconds: float = 0.0) -> set[int]:
    """Those of the files that can be read from, or written to, within so many seconds."""
    # No select(): it knows no file above number 1023, and a process may well have more open.
    waiting = select.poll()
    for files, kind in ((reading, select.POLLIN), (writing, select.POLLOUT)):
        for fd in files:
            waiting.register(fd, kind)
    return {fd for fd, _ in waiting.poll(seconds * 1_000)}


class _End:
    """One end of a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Closes it; twice is as good as once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _pipe(opened: contextlib.ExitStack) -> tuple[_End, _End]:
    ends = tuple(map(_End, os.pipe()))
    for end in ends:
        opened.callback(end.close)
    return ends[0], ends[1]


def _start(reading: int, writing: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own command, without a shell
        [sys.executable, "-P", "-m", "kitaru.engine.isolated_child", str(reading), str(writing)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(reading, writing),
        # So that all that it starts can be ended with it.
        start_new_session=True,
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Leaves nothing of it behind: it has answered, or is to be ended."""
    if process.returncode is not None:
        return
    end = time.monotonic() + LOOK_SECONDS
    while not _has_ended(process) and time.monotonic() < end:
        time.sleep(0.002)
    # Before it is reaped: until then nobody else can have its number.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has ended; it is not reaped by this."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
