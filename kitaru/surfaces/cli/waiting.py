"""Waiting for an execution in front of a terminal: progress, the result, Ctrl-C."""

import shlex
import threading
from datetime import timedelta
from types import TracebackType
from typing import Any

import click
from msgspec import Raw

from kitaru.domain.execution.wait_ids import wait_id
from kitaru.errors import (
    KitaruDivergenceError,
    KitaruError,
    KitaruExecutionError,
    KitaruTimeoutError,
)
from kitaru.operations import reading
from kitaru.projections.timeline import TimelineEntry, timeline_of
from kitaru.projections.views import Execution, PendingWait
from kitaru.sdk.client import KitaruClient
from kitaru.status import ExecutionStatus
from kitaru.surfaces.cli.commands import EXIT_INTERRUPTED, DivergedFailure, Failure
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import duration_text, escaped, site_text

_POLL_SECONDS = 0.1
_SHOWN = frozenset(
    {
        "code_not_loaded",
        "checkpoint_completed",
        "checkpoint_failed",
        "flow_attempt_failed",
        "offers_taken",
        "timer_started",
        "wait_requested",
        "review_requested",
        "checkpoint_resolved",
        "retry_hastened",
        "input_given",
        "input_rejected",
        "wait_aborted",
        "wait_expired",
        "execution_recovered",
    }
)


def announce(output: Output, exec_id: str) -> None:
    """Says which execution it is, before anything can go wrong with it."""
    click.echo(exec_id, err=output.is_json)


def wait_for(
    ctx: click.Context,
    output: Output,
    handle: Any,
    *,
    flow_name: str,
    timeout: float | None,
    told: int = 0,
) -> None:
    """Waits for an execution's end and shows its result, or how it failed.

    Its progress is told from the event after `told` on.
    """
    try:
        announce(output, handle.exec_id)
        with Progress(handle.exec_id, after=told, quiet=output.is_json):
            result = handle.wait(timeout)
    except KeyboardInterrupt:
        output.note(_interrupted_text(handle.exec_id))
        ctx.exit(EXIT_INTERRUPTED)
    except KitaruTimeoutError as error:
        raise _failure(output, error, _timeout_text(error)) from error
    except KitaruExecutionError as error:
        raise _failure(output, error, _failure_text(error)) from error
    item = {
        "exec_id": handle.exec_id,
        "flow_name": flow_name,
        "status": ExecutionStatus.COMPLETED,
        "result": _json(result),
    }

    def text() -> str:
        from kitaru.surfaces.cli.values import whole_value

        return whole_value(result)

    output.item(item, text)


def _interrupted_text(exec_id: str) -> str:
    return (
        f"\nStopped waiting. Execution {exec_id} is not cancelled: what it has done is kept.\n"
        f"`kitaru executions resume {exec_id}` or a worker goes on with it, "
        f"`kitaru executions cancel {exec_id}` ends it."
    )


def _json(result: object) -> object:
    from kitaru.engine.codec import Codec, TypeScope
    from kitaru.errors import KitaruSerializationError

    try:
        return Raw(Codec().encode(result, where="result", types=TypeScope.of(type(result))))
    except KitaruSerializationError:
        return repr(result)


def _failure(
    output: Output, error: KitaruExecutionError | KitaruTimeoutError, text: str
) -> Failure:
    kind, facts = Failure, dict[str, object](exec_id=error.exec_id)
    if isinstance(error, KitaruExecutionError):
        facts["status"] = error.status
    if isinstance(error, KitaruDivergenceError):
        kind, facts["divergence"] = DivergedFailure, error.divergence
    return kind(
        text,
        kind=type(error).__name__,
        command=output.command,
        as_json=output.is_json,
        facts=facts,
    )


def _timeout_text(error: KitaruTimeoutError) -> str:
    return (
        f"Execution {error.exec_id} is still {error.last_status} after {error.elapsed_seconds:.3g} "
        f"s. What it has done is kept: `kitaru executions resume {error.exec_id}` or a worker goes "
        "on with it."
    )


def _failure_text(error: KitaruExecutionError) -> str:
    if isinstance(error, KitaruDivergenceError):
        return str(error)
    execution = KitaruClient().executions.get(error.exec_id)
    hint = f"`kitaru executions get {error.exec_id}` shows it all"
    if error.status is ExecutionStatus.FAILED:
        hint += f", `kitaru executions retry {error.exec_id}` tries again"
    return f"{_what_went_wrong(execution, error)}\n{hint}."


def _what_went_wrong(execution: Execution, error: KitaruExecutionError) -> str:
    failure = execution.failure
    if failure is None or execution.status is not ExecutionStatus.FAILED:
        return str(error)
    call = f" in checkpoint {failure.call_id}" if failure.call_id else ""
    site = f" at {site_text(failure.site)}" if failure.site else ""
    what = f"{failure.exception_type}: {failure.message}"
    return f"The execution has failed{call}{site}: {what}"


class Progress:
    """Tells on stderr what an execution does while somebody waits for it."""

    def __init__(self, exec_id: str, *, after: int, quiet: bool) -> None:
        self._exec_id = exec_id
        self._quiet = quiet
        self._stop = threading.Event()
        self._version = after
        self._thread = threading.Thread(target=self._follow, name="kitaru-progress", daemon=True)

    def __enter__(self) -> "Progress":
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if not self._quiet:
            self._thread.join(1.0)

    def _follow(self) -> None:
        try:
            with reading.opened_journal() as reader:
                while not self._stop.wait(_POLL_SECONDS):
                    self._tell(reader)
                self._tell(reader)
        except (KitaruError, OSError):
            return  # progress is a courtesy: whoever waits is told what matters

    def _tell(self, reader: "reading.SqliteReader") -> None:
        events = reading.events_after(reader, self._exec_id, self._version)
        for entry in timeline_of(events):
            self._version = entry.version
            if entry.kind in _SHOWN:
                click.echo(f"  {_line(entry)}", err=True)
            if entry.kind == "wait_requested":
                wait = wait_id(entry.path or "", entry.name or "")
                click.echo(f"    {_how_to_answer(entry.exec_id, wait)}", err=True)
            if entry.kind == "review_requested":
                click.echo(f"    {_how_to_resolve(entry.exec_id, entry.path or '')}", err=True)


def question_lines(execution: Execution) -> list[str]:
    """The answers that an execution waits for already, and how they are given."""
    return [
        f"It waits for {escaped(_asked(wait))}; {_how_to_answer(execution.exec_id, wait.wait_id)}"
        for wait in execution.pending_waits
    ]


def _asked(wait: PendingWait) -> str:
    return f"{wait.wait_id}: {wait.question}" if wait.question else wait.wait_id


def review_lines(execution: Execution) -> list[str]:
    """The calls that somebody has to review, and how that is done."""
    return [
        f"{escaped(call.call_id)} needs review; {_how_to_resolve(execution.exec_id, call.call_id)}"
        for call in execution.checkpoints
        if call.needs_review
    ]


def _how_to_answer(exec_id: str, wait: str) -> str:
    quoted = shlex.quote(wait)
    return escaped(
        f"answer it with: kitaru executions input {exec_id} --wait {quoted} --value JSON"
    )


def _how_to_resolve(exec_id: str, call: str) -> str:
    how = "--result JSON | --failed TEXT | --run-again"
    return escaped(
        f"say what came of it with: kitaru executions resolve {exec_id} {shlex.quote(call)} {how}"
    )


def _line(entry: TimelineEntry) -> str:
    parts = [entry.path or "", entry.text.removeprefix("checkpoint ")]
    if entry.duration_us is not None:
        parts.append(f"({duration_text(timedelta(microseconds=entry.duration_us))})")
    if entry.failure is not None:
        parts.append(f"{entry.failure.exception_type}: {entry.failure.message}")
    return escaped("  ".join(filter(None, parts)))
