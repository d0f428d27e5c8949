"""`kitaru executions replay`: a new execution with what another one had recorded before a call."""

from contextlib import suppress

import click

from kitaru.errors import KitaruStateError
from kitaru.projections.views import Execution
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.run import json_object
from kitaru.surfaces.cli.steering import TIMEOUT, full_id, has_runners, wait_here


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option(
    "--from",
    "anchor",
    metavar="CALL",
    required=True,
    help="From which call on: its path, its id, or a name that only one call has.",
)
@click.option("--args", "arguments", metavar="JSON|@FILE", help="The flow's arguments that change.")
@click.option(
    "--overrides",
    metavar="JSON|@FILE",
    help='Other outcomes: {"checkpoint.PATH": ..., "wait.PATH": ...}.',
)
@click.option("--retries", type=click.IntRange(0), help="How often the body is run again.")
@click.option("--cache/--no-cache", default=False, help="Whether earlier results are reused.")
@click.option("--idempotency-key", metavar="KEY", help="The same key makes no second one.")
@click.option("--no-wait", is_flag=True, help="Only make it; a worker or `resume` runs it.")
@TIMEOUT
@click.pass_context
def replay(
    ctx: click.Context,
    exec_id: str,
    anchor: str,
    arguments: str | None,
    overrides: str | None,
    retries: int | None,
    cache: bool,
    idempotency_key: str | None,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Fork an execution: make a new one that runs from CALL on, and wait for its result.

    What was recorded before CALL is reused wherever the code still asks for it with the same
    arguments. The execution ID itself stays as it is; it may be running or have failed.
    """
    from kitaru.bootstrap import blocking, current_runtime
    from kitaru.operations import forks
    from kitaru.sdk.client import KitaruClient

    request = forks.ForkRequest(
        source=full_id(exec_id),
        anchor=anchor,
        overrides=json_object(overrides, "--overrides", '{"checkpoint.fetch": "text"}'),
        inputs=json_object(arguments, "--args", '{"url": "https://example.com"}'),
        idempotency_key=idempotency_key,
        is_json=True,
    )
    runtime = current_runtime()
    new_id = blocking(
        runtime, lambda: forks.fork_for_others(runtime, request, retries=retries, cache=cache)
    )
    executions = KitaruClient().executions
    execution = executions.get(new_id)
    if no_wait:
        output = Output(ctx)
        output.item(execution, lambda: execution.exec_id)
        if not output.is_json:
            output.note(_runs(execution))
        return
    # Where a worker was faster, it is waited for what that makes of it.
    with suppress(KitaruStateError):
        executions.resume(new_id)
    wait_here(ctx, execution, timeout)


def _runs(execution: Execution) -> str:
    if has_runners(execution):
        return "Made. A runner process runs it."
    return f"Made. A worker, or `kitaru executions resume {execution.exec_id}`, runs it."
