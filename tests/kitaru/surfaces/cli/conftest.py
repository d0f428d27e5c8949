"""A journal with a history worth looking at, and the command line run on it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec import Raw

from journal import Append, NewEvent, open_journal
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    MetadataLogged,
    SourceReference,
)
from kitaru.domain.execution.state import ABSENT, evolve
from kitaru.domain.values import ErrorData, FrameData, StoredValue
from kitaru.engine.executions import head_of, new_event
from kitaru.engine.values import stored
from kitaru.surfaces.cli.main import cli

Run = Callable[..., Result]
Write = Callable[..., None]

COMPLETED = "aaaa0001-1d9c-4f6e-9f56-0e9a1c3f7b11"
FAILED = "aaaa0002-1d9c-4f6e-9f56-0e9a1c3f7b11"
EVIL = "\x1b]0;owned\x07\x1b[2J\u202eevil\r\nline"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, whose journal does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KITARU_JOURNAL", str(tmp_path / "journal.db"))
    return tmp_path


@pytest.fixture
def write(place: Path) -> Write:
    """Writes an execution with these events, and perhaps one of a newer version."""

    def write(
        exec_id: str,
        events: Sequence[ExecutionEvent],
        *,
        extra: NewEvent | None = None,
        blobs: tuple[bytes, ...] = (),
    ) -> None:
        asyncio.run(_append(place / "journal.db", exec_id, events, extra, blobs))

    return write


async def _append(
    file: Path,
    exec_id: str,
    events: Sequence[ExecutionEvent],
    extra: NewEvent | None,
    blobs: tuple[bytes, ...],
) -> None:
    journal = await open_journal(str(file))
    state = ABSENT
    for event in events:
        state = evolve(state, event)
    new = tuple(new_event(event) for event in events) + ((extra,) if extra else ())
    await journal.append(
        Append(
            stream=f"execution-{exec_id}",
            events=new,
            expected_version=0,
            head=head_of(state),
            blobs=blobs,
        )
    )
    await journal.close()


@pytest.fixture
def started() -> ExecutionStarted:
    return ExecutionStarted(
        flow="agent",
        source=SourceReference(module="agents", qualname="agent", file="/src/agents.py"),
        arguments=StoredValue(json=Raw(b'{"url":"https://example.com","*":[1]}')),
        arguments_digest="d",
    )


@pytest.fixture
def history(write: Write, started: ExecutionStarted) -> None:
    """One execution that completed after trouble, and one that failed."""
    boom = ErrorData(
        type="ValueError",
        message=f"boom {EVIL}",
        frames=(FrameData("/src/agents.py", 12, "think", "raise ValueError"),),
    )
    result, blobs = stored(b'"' + b"x" * 40_000 + b'"')
    completed: list[ExecutionEvent] = [
        started,
        MetadataLogged(metadata=Raw(b'{"cost":{"usd":1}}')),
        CheckpointFailed(path="fetch", name="fetch", attempt=1, error=boom, retry_at=1),
        CheckpointCompleted(
            path="fetch",
            name="fetch",
            attempt=2,
            site="agents.py:7",
            result=StoredValue(json=Raw(b'{"$":["decimal","1.50"]}')),
            duration_us=250_000,
            type="llm_call",
        ),
        ArtifactSaved(
            path="fetch",
            name="report",
            type="output",
            value=StoredValue(json=Raw(b'"draft"')),
            tags=("first",),
        ),
        ExecutionCompleted(result=result),
    ]
    failed: list[ExecutionEvent] = [
        started,
        CheckpointFailed(path="think", name="think", attempt=1, error=boom, site="agents.py:9"),
        ExecutionFailed(error=boom, origin="user_code"),
    ]
    write(COMPLETED, completed, blobs=blobs)
    write(FAILED, failed)


@pytest.fixture
def kitaru(place: Path) -> Run:
    """Runs the command line in this process."""

    def kitaru(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, prog_name="kitaru")

    return kitaru


@pytest.fixture
def kitaru_json(kitaru: Run) -> Callable[..., Any]:
    """The answer of a command, which must be one JSON object and nothing else."""

    def kitaru_json(*arguments: str) -> Any:
        result = kitaru(*arguments, "-o", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return kitaru_json


@pytest.fixture
def process(place: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command line in a process of its own."""

    def process(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "kitaru", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return process
