"""`kitaru init`: a journal for a project."""

import click

from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import escaped


@click.command(cls=Command)
@click.argument("path", default=".", type=click.Path())
@click.pass_context
def init(ctx: click.Context, path: str) -> None:
    """Give a folder a journal of its own.

    Flows that run in PATH (this folder, unless given) or below it then share the journal in its
    .kitaru folder. Doing it again changes nothing.
    """
    from kitaru.settings import JOURNAL_FILE, initialise_project

    folder = initialise_project(path)
    file = str(folder / JOURNAL_FILE)
    Output(ctx).item(
        {"folder": str(folder), "journal": file},
        lambda: (
            f"Flows run in {escaped(str(folder.parent))} keep their journal in {escaped(file)}."
        ),
    )
