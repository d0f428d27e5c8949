"""`kitaru worker`: runs executions until it is stopped."""

import click

from kitaru.surfaces.cli.commands import Command


@click.command(cls=Command)
@click.argument("targets", metavar="[MODULE|FILE]...", nargs=-1)
@click.pass_context
def worker(ctx: click.Context, targets: tuple[str, ...]) -> None:
    """Run executions of the flows in these modules or files until Ctrl-C or SIGTERM.

    It takes over what another process has left, too; what it was running itself is given back when
    it stops, so that others may go on at once.
    """
    from kitaru.operations.executions import serve

    serve(targets)
