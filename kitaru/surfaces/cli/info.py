"""`kitaru info`: each option with the layer that it came from, and what Kitaru stands on."""

from typing import Any

import click
import msgspec

from kitaru.operations.information import Information, information
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.tables import Column, facts, table
from kitaru.surfaces.cli.text import escaped


@click.command(cls=Command)
@click.pass_context
def info(ctx: click.Context) -> None:
    """Every option in force, and who has said so; the values of secrets are not shown."""
    found = information()
    Output(ctx).item(found, lambda: _text(found))


def _text(found: Information) -> str:
    above = facts(
        [
            ("Kitaru", found.version),
            ("Python", f"{found.python}, {escaped(found.executable)}"),
            ("Platform", escaped(found.platform)),
            ("SQLite", found.sqlite_version),
        ]
    )
    rows = [(each.name, _shown(each.value), each.where) for each in found.settings]
    return f"{above}\n\n{table([Column('Option'), Column('Value'), Column('From')], rows)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
