"""`kitaru runner`: what a runner process is started with. People start workers instead."""

import click
import msgspec

from kitaru.surfaces.cli.commands import Command


@click.command(cls=Command, hidden=True)
@click.option("--spec", required=True, metavar="JSON", help="What it is to run.")
def runner(spec: str) -> None:
    """Run the executions of one route until there are none."""
    from kitaru.operations.running import end_in_time, run
    from kitaru.stacks.runners import spec_from

    try:
        known = spec_from(spec)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"not a runner's spec: {error}", param_hint="--spec") from None
    run(known, at_end=end_in_time)
