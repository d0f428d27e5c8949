"""A process of its own that judges by a bundle: the asker never loads the bundle's code.

It reads the journal and writes nothing.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from kitaru.domain.deployment.events import EntryPoint
from kitaru.errors import KitaruBackendError
from kitaru.stacks.runners import NOT_PASSED_ON
from kitaru.verdicts import Verdict


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
    """What such a process answers."""

    problem: str = ""
    """Why the code could not be loaded; empty: it was."""
    judged: tuple[Judged, ...] = ()
    """Oldest first."""


def judge_candidate(
    journal: str, flow: str, data: bytes, digest: str, entry: EntryPoint, *, seconds: float
) -> CandidateReport:
    """Loads a bundle in a process of its own, and lets it judge all unfinished executions.

    Blocks until it has. Raises KitaruBackendError when the process ends without an answer.
    """
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
        return _answer(spec, folder)


def _answer(spec: CandidateSpec, folder: str) -> CandidateReport:
    command = [sys.executable, "-P", "-m", "kitaru", "candidate"]
    environment = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
    file = Path(folder, "answer")
    done = subprocess.run(  # noqa: S603 - our own command, without a shell
        [*command, "--answer", str(file), "--spec", msgspec.json.encode(spec).decode()],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    try:
        # In a file, because what the code prints is on its standard output.
        return msgspec.json.decode(file.read_bytes(), type=CandidateReport)
    except (OSError, msgspec.DecodeError):
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise KitaruBackendError(
            f"The process that was to load the code ended with exit code {done.returncode} and "
            f"without an answer. Its last words:\n{last}"
        ) from None
