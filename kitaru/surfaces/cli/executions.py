"""`kitaru executions list` and `get`: what there is and how it stands."""

import time
from datetime import UTC, datetime

import click

from kitaru.operations import reading
from kitaru.projections.views import Execution
from kitaru.settings import LOCAL_STACK
from kitaru.status import ExecutionStatus
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.tables import Column, table, terminal_width
from kitaru.surfaces.cli.text import clock_text, duration_text, escaped

SHORT_ID = 13
ROOM_FOR_IDS = 120
SIZE = 20


@click.command("list", cls=Command)
@click.option("--flow", help="Only those of this flow.")
@click.option(
    "--status", type=click.Choice([str(status) for status in ExecutionStatus]), help="Only these."
)
@click.option("--limit", type=click.IntRange(1), help="How many, at most.")
@click.option("--page", type=click.IntRange(1), help="Which page, from 1.")
@click.option("--size", type=click.IntRange(1), help=f"How many on a page.  [default: {SIZE}]")
@click.pass_context
def list_command(
    ctx: click.Context,
    flow: str | None,
    status: str | None,
    limit: int | None,
    page: int | None,
    size: int | None,
) -> None:
    """The newest executions, newest first."""
    if limit is not None and (page is not None or size is not None):
        raise click.UsageError("Give either --limit, or --page and --size.")
    count = limit or size or SIZE
    skip = ((page or 1) - 1) * count
    output = Output(ctx)
    try:
        with reading.opened_journal() as reader:
            found = reading.list_executions(
                reader,
                flow=flow,
                status=None if status is None else ExecutionStatus(status),
                skip=skip,
                count=count + 1,
            )
    except reading.JournalMissing as missing:
        output.note(escaped(str(missing)))
        found = []
    shown = found[:count]
    output.items([_listed(execution) for execution in shown], lambda: _list_text(shown))
    if len(found) > count and not output.is_json:
        output.note(f"There are more: --page {(page or 1) + 1} --size {count}.")


def _listed(execution: Execution) -> dict[str, object]:
    """What a list says of an execution: only what its head knows."""
    names = (
        "exec_id flow_name stack_name status started_at ended_at status_reason attempt recoveries "
        "owner lease_until due_at cancel_requested version unknown"
    )
    row: dict[str, object] = {name: getattr(execution, name) for name in names.split()}
    row["duration_seconds"] = execution.duration
    return row


def _list_text(executions: list[Execution]) -> str:
    if not executions:
        return "No executions."
    width = terminal_width()
    id_length = SHORT_ID if width is not None and width < ROOM_FOR_IDS else None
    now = datetime.fromtimestamp(time.time(), UTC)
    return table(
        [
            Column("ID"),
            Column("Flow", least=12),
            Column("Status", coloured=True),
            Column("Stack", least=8, room=ROOM_FOR_IDS),
            Column("Started"),
            Column("Duration", align="right"),
            Column("Note", least=10),
        ],
        [
            (
                execution.exec_id[:id_length],
                execution.flow_name,
                execution.status.value,
                "" if execution.stack_name == LOCAL_STACK else execution.stack_name,
                clock_text(execution.started_at),
                duration_text(execution.duration),
                note_text(execution, now),
            )
            for execution in executions
        ],
    )


def note_text(execution: Execution, now: datetime) -> str:
    """What else one wants to know of an execution at first sight."""
    if execution.unknown:
        return "read-only here: of a newer version"
    if execution.load_failures:
        return f"no worker has it: {execution.status_reason}"
    match execution.status:
        case ExecutionStatus.RUNNING:
            doing = "cancelling, " if execution.cancel_requested else ""
            if is_owned(execution, now):
                return f"{doing}run by {execution.owner}"
            return f"{doing}nobody runs it"
        case ExecutionStatus.WAITING:
            due = clock_text(execution.due_at)
            return f"until {due}" if due else execution.status_reason or ""
        case ExecutionStatus.FAILED if execution.failure is not None:
            return ": ".join(filter(None, (_short_type(execution), execution.failure.message)))
        case ExecutionStatus.DIVERGED:
            return (execution.status_reason or "").partition("\n")[0]
        case _:
            return execution.status_reason or ""


def is_owned(execution: Execution, now: datetime) -> bool:
    """Whether some process runs it now."""
    return execution.lease_until is not None and execution.lease_until > now


def _short_type(execution: Execution) -> str:
    assert execution.failure is not None
    return execution.failure.exception_type.rpartition(".")[2]


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.pass_context
def get(ctx: click.Context, exec_id: str) -> None:
    """One execution: its state, checkpoints, artifacts and failure."""
    with reading.opened_journal() as reader:
        execution = reading.get(reader, exec_id)
    now = datetime.fromtimestamp(time.time(), UTC)

    def text() -> str:
        from kitaru.surfaces.cli.execution_text import execution_text

        return execution_text(execution, now)

    Output(ctx).item(execution, text)
