"""`kitaru worker`: runs executions until it is stopped."""

import click

from kitaru.surfaces.cli.commands import Command, command_name, wants_json
from kitaru.surfaces.cli.text import escaped


@click.command(cls=Command)
@click.argument("targets", metavar="[MODULE|FILE]...", nargs=-1)
@click.option(
    "--deployments", is_flag=True, help="Start runner processes for deployed versions, too."
)
@click.pass_context
def worker(ctx: click.Context, targets: tuple[str, ...], deployments: bool) -> None:
    """Run executions of the flows in these modules or files until Ctrl-C or SIGTERM.

    Without any, it runs every flow that the journal names and that can be loaded here, and starts
    runner processes for deployed versions. What another
    process has left is taken over; what this one was running is given back when it stops, so that
    others may go on at once.
    """
    from kitaru.operations.serving import serve

    def ready(flows: list[str]) -> None:
        if not wants_json(ctx):
            names = escaped(", ".join(sorted(flows)))
            click.echo(f"Serving {names}. Ctrl-C stops it." if names else "Waiting for flows.")
            return
        from kitaru.surfaces.cli.json_form import json_text

        click.echo(json_text({"command": command_name(ctx), "item": {"flows": sorted(flows)}}))

    serve(targets, ready, deployments=deployments)
