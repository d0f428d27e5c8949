"""How a command answers: text for people, or one JSON object on stdout."""

from collections.abc import Callable, Sequence

import click

from kitaru.surfaces.cli.commands import command_name, wants_json


class Output:
    """Where one command's answer goes."""

    def __init__(self, ctx: click.Context) -> None:
        self.command = command_name(ctx)
        self.is_json = wants_json(ctx)

    def item(self, item: object, text: Callable[[], str]) -> None:
        """Answers with one thing."""
        if self.is_json:
            self._json({"command": self.command, "item": item})
        else:
            click.echo(text())

    def items(self, items: Sequence[object], text: Callable[[], str]) -> None:
        """Answers with a list."""
        if self.is_json:
            self._json({"command": self.command, "items": items, "count": len(items)})
        else:
            click.echo(text())

    def note(self, text: str) -> None:
        """Tells people something that is not part of the answer."""
        click.echo(text, err=True)

    def _json(self, answer: dict[str, object]) -> None:
        from kitaru.surfaces.cli.json_form import json_text

        click.echo(json_text(answer))
