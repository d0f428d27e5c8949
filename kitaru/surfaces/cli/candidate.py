"""`kitaru candidate`: what the process is started with that looks at code before it is deployed."""

from pathlib import Path

import click
import msgspec

from kitaru.surfaces.cli.commands import Command


@click.command(cls=Command, hidden=True)
@click.option("--spec", required=True, metavar="JSON", help="What it is to look at.")
@click.option("--answer", required=True, metavar="FILE", help="Where its answer goes.")
def candidate(spec: str, answer: str) -> None:
    """Judge unfinished executions by the code of a bundle."""
    from kitaru.operations.candidates import report
    from kitaru.stacks.candidates import CandidateSpec

    try:
        known = msgspec.json.decode(spec, type=CandidateSpec)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"not a candidate: {error}", param_hint="--spec") from None
    Path(answer).write_bytes(msgspec.json.encode(report(known)))
