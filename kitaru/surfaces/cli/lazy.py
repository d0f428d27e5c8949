"""A group of commands that imports only the one that is used."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from kitaru.surfaces.cli.commands import as_failure


class Entry(NamedTuple):
    """Where a command is, and its line in the group's help."""

    module: str
    name: str
    help: str
    hidden: bool = False
    """Whether the group's help leaves it out."""


class LazyGroup(click.Group):
    """Finds a command in its module when it is asked for; the help needs none of them."""

    def __init__(self, *arguments: Any, entries: Mapping[str, Entry], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(import_module(entry.module), entry.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            shown = [(n, entry.help) for n, entry in self.entries.items() if not entry.hidden]
            formatter.write_dl(shown)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise as_failure(error, ctx, args) from None
