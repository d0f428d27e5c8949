"""`kitaru executions logs`: what executions have printed in runner processes."""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from kitaru.domain.stack.decide import LOCAL
from kitaru.operations import deployed, reading
from kitaru.stacks.logs import LogLine
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import clock_text, escaped

LIMIT = click.option("--limit", type=click.IntRange(1), help="Only the last lines, so many.")


STEP, RUNNER = "step", "runner"
SOURCE = click.option(
    "--source",
    type=click.Choice([STEP, RUNNER]),
    default=STEP,
    show_default=True,
    help="What flow and checkpoints print, or what their runner processes print beside them.",
)


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--checkpoint", "call", default="", help="Only what this call has printed.")
@SOURCE
@LIMIT
@click.option("--follow", is_flag=True, help="Go on with what comes, until the execution ends.")
@click.pass_context
def logs(
    ctx: click.Context, exec_id: str, call: str, source: str, limit: int | None, follow: bool
) -> None:
    """What an execution has printed in runner processes: of a deployed version, or of a stack.

    With --source runner, what these processes have printed beside it: while they loaded the code,
    what came from C code and child processes, and what Python said when it crashed.

    With --follow the exit code is that of the execution: 0 when it has completed, 3 when it has
    diverged, else 1. As JSON each line is an object of its own then.
    """
    if source == RUNNER and (call or follow):
        given = "--checkpoint" if call else "--follow"
        raise click.UsageError(f"Give either {given} or --source runner.")
    with reading.opened_journal() as reader:
        execution = reading.get(reader, exec_id)
    if not follow:
        show_logs(ctx, [execution.exec_id], call=call, source=source, limit=limit)
    output = Output(ctx)
    options = execution.options
    stack = None if options is None else options.stack
    is_here = execution.deployment is None and (stack is None or stack.type == LOCAL)
    if is_here and not output.is_json:
        output.note(
            "It runs neither a deployed version nor on a stack with processes: it prints where the "
            "process does that runs it."
        )
    if follow:
        from kitaru.surfaces.cli import following

        line_text = None if output.is_json else functools.partial(_line, several=False)
        following.follow(ctx, execution.exec_id, call, limit, line_text)


def show_logs(
    ctx: click.Context, exec_ids: Sequence[str], *, call: str, source: str, limit: int | None
) -> None:
    """Shows the lines of these executions, oldest first."""
    if source == RUNNER:
        shown = deployed.runner_logs(exec_ids, limit=limit)
    else:
        shown = deployed.logs(exec_ids, call=call, limit=limit)
    several = len({line.exec_id for line in shown}) > 1
    output = Output(ctx)
    output.items(shown, lambda: "\n".join(_line(line, several) for line in shown) or "No lines.")


def _line(line: LogLine, several: bool) -> str:
    at = clock_text(datetime.fromtimestamp(line.at / 1_000_000, UTC)) if line.at else ""
    whose = [line.exec_id[:8]] if several else []
    parts = [at, *whose, *([line.call] if line.call else []), line.text]
    return escaped("  ".join(parts))
