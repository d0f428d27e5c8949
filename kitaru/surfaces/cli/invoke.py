"""`kitaru invoke`: starts an execution of a deployed version and waits for its result."""

import click

from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.run import json_object
from kitaru.surfaces.cli.steering import TIMEOUT


@click.command(cls=Command)
@click.argument("flow")
@click.option("--version", type=click.IntRange(1), help="Which version.")
@click.option("--tag", help="Which tag leads to the version; default, when neither is given.")
@click.option(
    "--input", "inputs", metavar="JSON|@FILE", help="Inputs in the place of the version's own."
)
@click.option("--idempotency-key", metavar="KEY", help="The same key starts no second one.")
@click.option("--no-wait", is_flag=True, help="Only start it; a runner process goes on with it.")
@TIMEOUT
@click.pass_context
def invoke(
    ctx: click.Context,
    flow: str,
    version: int | None,
    tag: str | None,
    inputs: str | None,
    idempotency_key: str | None,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Start an execution of a deployed version of FLOW, and wait for its result.

    It runs in a runner process that loads that version; the flow's source is not needed here.
    """
    from kitaru.bootstrap import blocking, current_runtime
    from kitaru.operations import reading
    from kitaru.operations.executions import wake_runners
    from kitaru.sdk.client import KitaruClient
    from kitaru.surfaces.cli.waiting import wait_for

    given = json_object(inputs, "--input", '{"url": "https://example.com"}')
    # Read without writing, so that a mistaken journal is not made by invoking from it.
    with reading.opened_journal():
        pass
    handle = KitaruClient().deployments.invoke(
        flow=flow, version=version, tag=tag, inputs=given, idempotency_key=idempotency_key
    )
    output = Output(ctx)
    if no_wait:
        # Before this process ends, with its pool.
        runtime = current_runtime()
        blocking(runtime, lambda: wake_runners(runtime))
        output.item({"exec_id": handle.exec_id, "flow_name": flow}, lambda: str(handle.exec_id))
        return
    wait_for(ctx, output, handle, flow_name=flow, timeout=timeout)
