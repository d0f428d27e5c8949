"""One execution as text."""

from collections.abc import Iterator
from datetime import datetime

import click

from kitaru.engine.forks import listed
from kitaru.projections.views import (
    ArtifactRef,
    CheckpointAttempt,
    CheckpointCall,
    Execution,
    FailureInfo,
    ForkInfo,
)
from kitaru.settings import LOCAL_STACK
from kitaru.status import ExecutionStatus, FailureOrigin
from kitaru.surfaces.cli.executions import SHORT_ID, is_owned
from kitaru.surfaces.cli.tables import Column, facts, indented, status_text, table
from kitaru.surfaces.cli.text import clock_text, counted, duration_text, escaped, site_text
from kitaru.surfaces.cli.values import (
    arguments_preview,
    one_line,
    one_line_json,
    preview,
    shortened,
)

_LONG = 200


def execution_text(execution: Execution, now: datetime) -> str:
    """All that is known of an execution."""
    return "\n\n".join(_sections(execution, now))


def _sections(execution: Execution, now: datetime) -> Iterator[str]:
    yield facts(_facts(execution, now))
    if execution.failure is not None:
        yield failure_text(execution.failure)
    if execution.pending_waits:
        yield _titled("Waits for", _wait_table(execution))
    doubtful = [call for call in execution.checkpoints if call.needs_review]
    if doubtful:
        yield _titled("Needs review", _review_table(execution.exec_id, doubtful))
    if execution.checkpoints:
        yield _titled("Checkpoints", _checkpoint_table(execution.checkpoints))
    retried = [call for call in execution.checkpoints if len(call.attempts) > 1]
    if retried:
        yield _titled("Attempts", _attempt_table(retried))
    reused = [call for call in execution.checkpoints if call.cached_from is not None]
    if reused:
        yield _titled("Reused", _reuse_table(reused))
    if execution.artifacts:
        yield _titled("Artifacts", _artifact_table(execution.artifacts))
    if metadata := list(_metadata(execution)):
        yield _titled("Metadata", _metadata_table(metadata))
    if execution.unknown:
        yield _titled(
            "Not understood here", indented(escaped("\n".join(execution.unknown), lines=True))
        )
    if execution.failure is not None and execution.failure.traceback:
        yield indented(escaped(execution.failure.traceback.rstrip(), lines=True))


def _titled(title: str, text: str) -> str:
    return f"{click.style(title, bold=True)}\n{text}"


def _facts(execution: Execution, now: datetime) -> list[tuple[str, str]]:
    reason = execution.status_reason if execution.failure is None else None
    status = status_text(execution.status.value)
    return [
        ("Execution", execution.exec_id),
        ("Flow", escaped(execution.flow_name)),
        ("Version", _version(execution)),
        ("Status", f"{status} ({escaped(reason)})" if reason else status),
        ("Stack", _stack(execution)),
        ("Started", clock_text(execution.started_at)),
        ("Ended", clock_text(execution.ended_at)),
        ("Duration", duration_text(execution.duration or now - execution.started_at)),
        ("Goes on", clock_text(execution.due_at)),
        ("Attempt", _attempt(execution)),
        ("Recoveries", _recoveries(execution)),
        ("Run by", _owner(execution, now)),
        ("Source", _source(execution)),
        ("Forked from", _forked_from(execution.forked_from)),
        ("Reused", _reused(execution.forked_from)),
        ("Forks", "\n".join(execution.forks)),
        ("Arguments", arguments_preview(execution.arguments, _LONG)),
        ("Result", preview(execution.result, _LONG)),
    ]


def _stack(execution: Execution) -> str:
    return "" if execution.stack_name == LOCAL_STACK else escaped(execution.stack_name)


def _attempt(execution: Execution) -> str:
    retries = execution.options.retries if execution.options else 0
    return (
        f"{execution.attempt} ({counted(retries, 'retry').replace('retrys', 'retries')} allowed)"
        if retries
        else str(execution.attempt)
    )


def _recoveries(execution: Execution) -> str:
    if not execution.takeovers:
        return "0"
    return f"{execution.takeovers}, {execution.recoveries} of them since the last progress"


def _owner(execution: Execution, now: datetime) -> str:
    if is_owned(execution, now):
        return (
            f"{escaped(execution.owner or '')}, until {clock_text(execution.lease_until)} at least"
        )
    if execution.load_failures:
        return "no worker has it"
    if execution.status is ExecutionStatus.RUNNING and execution.deployment is not None:
        return "nobody; a process that invokes, or `kitaru worker`, starts a runner for it"
    if execution.status is ExecutionStatus.RUNNING:
        return "nobody; `kitaru executions resume` or a worker goes on with it"
    return ""


def _version(execution: Execution) -> str:
    deployment = execution.deployment
    return "" if deployment is None else f"{deployment.version}, bundle {deployment.bundle[:12]}"


def _source(execution: Execution) -> str:
    source = execution.source
    if source is None:
        return ""
    return escaped(f"{source.file or source.module}:{source.qualname}")


def _forked_from(fork: ForkInfo | None) -> str:
    if fork is None:
        return ""
    inputs = [f"argument {name}" for name in fork.inputs]
    changed = ", ".join(escaped(each) for each in (*fork.overrides, *inputs))
    return f"{fork.exec_id}, from {escaped(fork.from_)} on" + (
        f"; changed: {changed}" if changed else ""
    )


def _reused(fork: ForkInfo | None) -> str:
    return "" if fork is None or not fork.reused else escaped(listed(fork.reused))


def failure_text(failure: FailureInfo) -> str:
    """What went wrong, and where."""
    if failure.origin is FailureOrigin.DIVERGENCE:
        title = click.style("Divergence", bold=True, fg="magenta")
        return f"{title}\n{indented(escaped(failure.message, lines=True))}"
    kind = f"{failure.exception_type}: " if failure.exception_type else ""
    message = escaped(kind + failure.message, lines=True)
    where = [f"at {site_text(failure.site)}" if failure.site else ""]
    where.append(f"in checkpoint {failure.call_id}" if failure.call_id else "")
    place = escaped(", ".join(filter(None, where)))
    title = click.style("Failure", bold=True, fg="red")
    return f"{title}\n{indented(message)}" + (f"\n  {place}" if place else "")


def _wait_table(execution: Execution) -> str:
    columns = [
        Column("Wait", least=12),
        Column("Question", least=20),
        Column("Answer", least=12),
        Column("Since"),
        Column("Until"),
    ]
    rows = [
        (
            wait.wait_id,
            wait.question or "",
            "none: it only asks to go on" if wait.schema is None else one_line_json(wait.schema),
            clock_text(wait.entered_waiting_at),
            clock_text(wait.deadline_at),
        )
        for wait in execution.pending_waits
    ]
    told = [
        f"  last answer to {wait.wait_id} not taken: {wait.rejected}"
        for wait in execution.pending_waits
        if wait.rejected
    ]
    answer = f"  kitaru executions input {execution.exec_id} --wait ID --value JSON"
    return "\n".join([table(columns, rows, "  "), *map(escaped, told), answer])


def _checkpoint_table(calls: tuple[CheckpointCall, ...]) -> str:
    columns = [
        Column("Path", least=12),
        Column("Type", least=6),
        Column("Status", coloured=True),
        Column("Attempts", align="right"),
        Column("Duration", align="right"),
        Column("Result", least=12),
        Column("Reused"),
    ]
    rows = [_call_row(call) for call in calls]
    if not any(row[-1] for row in rows):
        return table(columns[:-1], [row[:-1] for row in rows], "  ")
    return table(columns, rows, "  ")


def _call_row(call: CheckpointCall) -> tuple[str, ...]:
    return (
        call.call_id,
        call.checkpoint_type or "",
        call.status.value,
        str(len(call.attempts)),
        duration_text(call.duration),
        _outcome(call.failure) or preview(call.result),
        _origin(call),
    )


def _origin(call: CheckpointCall) -> str:
    if call.is_overridden:
        return "override"
    return "" if call.original_exec_id is None else f"from {call.original_exec_id[:SHORT_ID]}"


def _outcome(failure: FailureInfo | None) -> str:
    if failure is None:
        return ""
    kind = failure.exception_type.rpartition(".")[2]
    return f"{kind}: {failure.message}" if kind else failure.message


def _attempt_table(calls: list[CheckpointCall]) -> str:
    columns = [
        Column("Path", least=12),
        Column("Attempt", align="right"),
        Column("Status", coloured=True),
        Column("Started"),
        Column("Duration", align="right"),
        Column("Failure", least=12),
    ]
    rows = [_attempt_row(call.call_id, attempt) for call in calls for attempt in call.attempts]
    return table(columns, rows, "  ")


def _review_table(exec_id: str, calls: list[CheckpointCall]) -> str:
    columns = [Column("Path", least=12), Column("Arguments", least=20), Column("Called at")]
    rows = [(call.call_id, preview(call.arguments), site_text(call.site)) for call in calls]
    how = f"  kitaru executions resolve {exec_id} PATH --result JSON | --failed TEXT | --run-again"
    return "\n".join([table(columns, rows, "  "), how])


def _reuse_table(calls: list[CheckpointCall]) -> str:
    columns = [Column("Path", least=12), Column("From execution"), Column("Path there", least=12)]
    rows = [(call.call_id, call.cached_from or "", call.cached_call_id or "") for call in calls]
    return table(columns, rows, "  ")


def _attempt_row(path: str, attempt: CheckpointAttempt) -> tuple[str, ...]:
    return (
        path,
        str(attempt.number),
        attempt.status.value,
        clock_text(attempt.started_at),
        duration_text(attempt.duration),
        _outcome(attempt.failure),
    )


def _artifact_table(artifacts: tuple[ArtifactRef, ...]) -> str:
    columns = [
        Column("Name", least=12),
        Column("Kind", least=6),
        Column("Saved by", least=10),
        Column("Tags", least=6),
        Column("Value", least=12),
    ]
    rows = [
        (a.name, a.kind, a.producing_call, ", ".join(a.tags), preview(a.value)) for a in artifacts
    ]
    return table(columns, rows, "  ")


def _metadata_table(rows: list[tuple[str, str, str]]) -> str:
    columns = [Column("Of", least=10), Column("Name", least=10), Column("Value", least=12)]
    return table(columns, rows, "  ")


def _metadata(execution: Execution) -> Iterator[tuple[str, str, str]]:
    for name, value in execution.metadata.items():
        yield "execution", str(name), shortened(one_line(value), _LONG)
    for call in execution.checkpoints:
        for name, value in call.metadata.items():
            yield call.call_id, str(name), shortened(one_line(value), _LONG)
