"""A process of its own that judges by a bundle: the asker never loads the bundle's code.

It reads the journal and writes nothing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kitaru.domain.deployment.events import EntryPoint
from kitaru.errors import KitaruBackendError
from kitaru.stacks.runners import NOT_PASSED_ON
from kitaru.verdicts import Verdict

LOAD_SECONDS = 60.0
"""How long loading a bundle's code may take."""
READING_SECONDS = 30.0
"""How long one execution may take beside what its body may."""
MOST_PROCESSES = 10
"""How many processes the code may end, or hold up for ever, before it is judged no further."""
LOOK_SECONDS = 0.02


class CandidateSpec(Struct, frozen=True, kw_only=True):
    """What such a process is told."""

    journal: str
    flow: str
    folder: str
    """Where the bundle lies, in a file named by its digest, and may be unpacked."""
    digest: str
    entry: EntryPoint
    seconds: float
    """How long a body may take to its next call."""
    lifeline: int = -1
    """The open file that ends when the asker does; -1: none."""


class Judged(Struct, frozen=True, kw_only=True):
    """What the candidate's code makes of one unfinished execution."""

    exec_id: str
    status: str
    deployed: int | None
    """The version that it runs; None: it was started with run()."""
    is_running: bool
    """Whether a process has it now."""
    events: int
    """How many of its events were looked at."""
    verdict: Verdict


class CandidateReport(Struct, frozen=True, kw_only=True):
    """What is known in the end."""

    problem: str = ""
    """Why the code could not be loaded; empty: it was."""
    judged: tuple[Judged, ...] = ()
    """Oldest first."""


class _Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    is_loaded: bool = False
    problem: str = ""
    judged: Judged | None = None
    begins: bool = False
    is_done: bool = False


_LAST = b'"is_done":true}\n'


class Answer:
    """The file that such a process answers in, line by line, so that its end loses nothing.

    A file, because what the code prints is on its standard output.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self.is_loaded = False
        self.is_done = False
        self.problem = ""
        self.judged: dict[str, Judged] = {}
        """By execution; one that is being judged is there already, as unknown."""
        self.begun: Judged | None = None
        """The one that is being judged."""
        for data in self._lines():
            self._take(data)

    def add(
        self,
        *,
        is_loaded: bool = False,
        problem: str = "",
        judged: Judged | None = None,
        begins: bool = False,
        is_done: bool = False,
    ) -> None:
        """Writes a line: it is there, whatever happens to this process next."""
        line = _Line(
            is_loaded=is_loaded, problem=problem, judged=judged, begins=begins, is_done=is_done
        )
        with open(self._file, "ab", buffering=0) as file:
            file.write(msgspec.json.encode(line) + b"\n")

    @property
    def size(self) -> int:
        """How long it is now, which tells whether the process still comes on."""
        try:
            return os.path.getsize(self._file)
        except OSError:
            return 0

    def has_end(self) -> bool:
        """Whether all is there now: a look at the last line, however many there are."""
        with open(self._file, "rb") as file:
            file.seek(max(0, self.size - len(_LAST)))
            return file.read() == _LAST

    def _lines(self) -> list[bytes]:
        try:
            return Path(self._file).read_bytes().splitlines()
        except FileNotFoundError:
            return []

    def _take(self, data: bytes) -> None:
        try:
            line = msgspec.json.decode(data, type=_Line)
        except msgspec.DecodeError:
            # Its writer was killed in the middle of it.
            return
        self.is_loaded |= line.is_loaded
        self.is_done |= line.is_done
        self.problem = self.problem or line.problem
        if line.judged is not None:
            self.begun = line.judged if line.begins else None
            self.judged[line.judged.exec_id] = line.judged


def judge_candidate(
    journal: str, flow: str, data: bytes, digest: str, entry: EntryPoint, *, seconds: float
) -> CandidateReport:
    """Loads a bundle in a process of its own, and lets it judge all unfinished executions.

    Blocks until it has. An execution over which the process ends, or does not come on, is unknown,
    and another process judges those that are left. Raises KitaruBackendError when a process ends
    without having loaded the code, the code ends one process after the other, or there is no room
    for the bundle.
    """
    try:
        return _judged_in_folder(journal, flow, data, digest, entry, seconds)
    except OSError as error:
        raise KitaruBackendError(f"There is no process to judge by the code: {error}") from error


def _judged_in_folder(
    journal: str, flow: str, data: bytes, digest: str, entry: EntryPoint, seconds: float
) -> CandidateReport:
    with tempfile.TemporaryDirectory(prefix="kitaru-candidate-") as folder:
        Path(folder, digest).write_bytes(data)
        spec = CandidateSpec(
            journal=journal,
            flow=flow,
            folder=folder,
            digest=digest,
            entry=entry,
            seconds=seconds,
        )
        return _report(spec)


def answer_of(spec: CandidateSpec) -> Answer:
    """The file for what the process of this spec answers."""
    return Answer(str(Path(spec.folder, "answer")))


def _report(spec: CandidateSpec) -> CandidateReport:
    how = ""
    for _ in range(MOST_PROCESSES):
        how = _one_process(spec)
        answer = answer_of(spec)
        if answer.is_done:
            return CandidateReport(problem=answer.problem, judged=tuple(answer.judged.values()))
        if not answer.is_loaded:
            raise KitaruBackendError(f"The process that was to load the code {how}.{_said(spec)}")
        if answer.begun is not None:
            verdict = replace(answer.begun.verdict, summary=f"the process that judged it {how}")
            answer.add(judged=replace(answer.begun, verdict=verdict))
    raise KitaruBackendError(
        f"The code ended {MOST_PROCESSES} processes that judged executions by it; the last one "
        f"{how}.{_said(spec)}"
    )


def _one_process(spec: CandidateSpec) -> str:
    """Lets a process judge what is not judged yet; returns how it ended."""
    command = [sys.executable, "-P", "-m", "kitaru", "candidate"]
    environment = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
    with _lifeline() as lifeline, open(_words(spec), "wb") as words:
        told = replace(spec, lifeline=-1 if lifeline is None else lifeline)
        process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
            [*command, "--spec", msgspec.json.encode(told).decode()],
            cwd=spec.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            pass_fds=() if lifeline is None else (lifeline,),
            start_new_session=True,
        )
        try:
            return _ending(process, spec)
        finally:
            # With all that the code has started: nothing of a check goes on.
            _kill(process)


def _ending(process: "subprocess.Popen[bytes]", spec: CandidateSpec) -> str:
    answer = answer_of(spec)
    size, allowed = answer.size, LOAD_SECONDS
    moved_at = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(LOOK_SECONDS)
            return f"ended with exit code {code}"
        now = time.monotonic()
        if answer.size != size:
            size, moved_at, allowed = answer.size, now, spec.seconds + READING_SECONDS
            if answer.has_end():
                return "is done"
        elif now - moved_at > allowed:
            return f"did not come on for {allowed:g} s"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        # It has ended, and left nothing in its session.
        pass
    process.wait()


def _words(spec: CandidateSpec) -> str:
    return str(Path(spec.folder, "words"))


def _said(spec: CandidateSpec) -> str:
    text = Path(_words(spec)).read_bytes()[-10_000:].decode("utf-8", "replace").strip()
    last = "\n".join(text.splitlines()[-5:])
    return f" Its last words:\n{last}" if last else ""


@contextlib.contextmanager
def _lifeline() -> Iterator[int | None]:
    if os.name != "posix":
        yield None
        return
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def end_with_asker(spec: CandidateSpec) -> None:
    """Ends this process, with all that it has started, when the one that asks has ended."""
    if spec.lifeline >= 0:
        os.set_inheritable(spec.lifeline, False)
        threading.Thread(target=_watch, args=(spec.lifeline,), daemon=True).start()


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
