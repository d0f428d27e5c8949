"""`kitaru executions resume`, `retry`, `cancel` and `input`: what changes an execution."""

import time
from contextlib import suppress
from datetime import UTC, datetime

import click

from kitaru.errors import KitaruFeatureNotAvailableError, KitaruStateError
from kitaru.operations import reading
from kitaru.projections.executions import CATEGORY
from kitaru.projections.views import Execution
from kitaru.status import ExecutionStatus
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.executions import is_owned
from kitaru.surfaces.cli.output import Output

_TIMEOUT = click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait, at most.")


def _full_id(exec_id: str) -> str:
    """Read without writing, so that a mistaken journal is not made by looking for an id in it."""
    with reading.opened_journal() as reader:
        return reading.find(reader, exec_id).stream.removeprefix(f"{CATEGORY}-")


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@_TIMEOUT
@click.pass_context
def resume(ctx: click.Context, exec_id: str, timeout: float | None) -> None:
    """Go on with an execution that nobody runs, here, and wait for its result."""
    from kitaru.sdk.client import KitaruClient

    execution = KitaruClient().executions.resume(_full_id(exec_id))
    _wait(ctx, execution, timeout)


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--no-wait", is_flag=True, help="Leave it to a worker or to `resume`.")
@_TIMEOUT
@click.pass_context
def retry(ctx: click.Context, exec_id: str, no_wait: bool, timeout: float | None) -> None:
    """Try a failed execution again: what completed is kept, what failed is done again."""
    from kitaru.sdk.client import KitaruClient

    executions = KitaruClient().executions
    execution = executions.retry(_full_id(exec_id))
    if no_wait:
        Output(ctx).item(
            execution, lambda: f"Execution {execution.exec_id} is {execution.status} again."
        )
        return
    # Where a worker was faster, it is waited for what that makes of it.
    with suppress(KitaruStateError):
        executions.resume(execution.exec_id)
    _wait(ctx, execution, timeout)


def _wait(ctx: click.Context, execution: Execution, timeout: float | None) -> None:
    from kitaru.sdk.client import KitaruClient
    from kitaru.surfaces.cli.waiting import wait_for

    output = Output(ctx)
    wait_for(
        ctx,
        output,
        KitaruClient().executions.handle(execution.exec_id),
        flow_name=execution.flow_name,
        timeout=timeout,
        told=execution.version,
    )


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--reason", default="", help="Why, for whoever looks at it later.")
@click.option("--force", is_flag=True, help="End it at once, when nobody runs it.")
@click.pass_context
def cancel(ctx: click.Context, exec_id: str, reason: str, force: bool) -> None:
    """Ask an execution to end. It is told at its next durable step, and may tidy up."""
    from kitaru.sdk.client import KitaruClient

    executions = KitaruClient().executions
    execution = executions.cancel(_full_id(exec_id), reason)
    if force and not execution.status.is_finished:
        execution = executions.force_cancel(execution.exec_id)
    now = datetime.fromtimestamp(time.time(), UTC)

    def text() -> str:
        if execution.status is ExecutionStatus.CANCELLED:
            return f"Execution {execution.exec_id} is cancelled."
        if is_owned(execution, now):
            return f"Execution {execution.exec_id} will end at its next durable step."
        return (
            f"Execution {execution.exec_id} will be cancelled by the next process that runs it; "
            "--force ends it at once."
        )

    Output(ctx).item(execution, text)


@click.command("input", cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--wait", help="Which of its waits.")
@click.option("--value", metavar="JSON", help="The answer.")
def input_command(exec_id: str, wait: str | None, value: str | None) -> None:
    """Answer an execution that waits."""
    raise KitaruFeatureNotAvailableError(
        "Waits, and inputs for them, are not available in this release."
    )
