"""`kitaru candidate`: what the process is started with that looks at code before it is deployed."""

import click
import msgspec

from kitaru.surfaces.cli.commands import Command


@click.command(cls=Command, hidden=True)
@click.option("--spec", required=True, metavar="JSON", help="What it is to look at.")
def candidate(spec: str) -> None:
    """Judge unfinished executions by the code of a bundle."""
    from kitaru.operations.candidates import answer
    from kitaru.stacks.candidates import CandidateSpec

    try:
        known = msgspec.json.decode(spec, type=CandidateSpec)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"not a candidate: {error}", param_hint="--spec") from None
    answer(known)
