"""What every command has: ``-o text|json``, and errors without a traceback."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from journal import JournalError
from kitaru.errors import KitaruError
from kitaru.surfaces.cli.text import escaped

_FORMAT = "kitaru.format"
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_DIVERGED = 3
EXIT_INTERRUPTED = 130


class Failure(click.ClickException):
    """A command that did not do what it was asked for."""

    exit_code = EXIT_FAILURE

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        command: str,
        as_json: bool,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.facts = facts or {}
        """What JSON says beside the message."""
        self.kind = kind
        self.command = command
        self.as_json = as_json

    def show(self, file: Any = None) -> None:
        if not self.as_json:
            click.echo(f"Error: {escaped(self.message, lines=True)}", err=True)
            return
        from kitaru.surfaces.cli.json_form import json_text

        error = {"message": self.message, "type": self.kind, **self.facts}
        click.echo(json_text({"command": self.command, "error": error}), err=True)


class DivergedFailure(Failure):
    """The execution's code no longer fits its journal."""

    exit_code = EXIT_DIVERGED


class UsageFailure(Failure):
    """A command line that makes no sense."""

    exit_code = EXIT_USAGE


class Command(click.Command):
    """A command with ``-o``, whose errors are one line, or one JSON object, on stderr."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(
                ["-o", "--output"],
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                expose_value=False,
                is_eager=True,
                callback=_note_format,
                help="How the answer is written.",
            )
        )

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            context = error.ctx or click.Context(self, info_name=info_name, parent=parent)
            raise as_failure(error, context, given) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            given = ["-o", "json"] if wants_json(ctx) else []
            raise as_failure(error, ctx, given) from None
        except (KitaruError, JournalError) as error:
            raise Failure(
                str(error),
                kind=type(error).__name__,
                command=command_name(ctx),
                as_json=wants_json(ctx),
            ) from error


def as_failure(
    error: click.UsageError, ctx: click.Context, arguments: Sequence[str]
) -> click.ClickException:
    """A mistake on the command line: click's own text, or JSON where that was asked for."""
    if not _asks_for_json(arguments):
        return error
    return UsageFailure(
        error.format_message(),
        kind=type(error).__name__,
        command=command_name(error.ctx or ctx),
        as_json=True,
    )


def command_name(ctx: click.Context) -> str:
    """Such as ``executions.list``."""
    names: list[str] = []
    context: click.Context | None = ctx
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return ".".join(names)


def wants_json(ctx: click.Context) -> bool:
    """Whether the answer is to be JSON."""
    return ctx.meta.get(_FORMAT) == "json"


def _note_format(ctx: click.Context, _: click.Parameter, value: str) -> None:
    ctx.meta[_FORMAT] = value


def _asks_for_json(arguments: Sequence[str]) -> bool:
    return any(
        argument in ("-ojson", "--output=json")
        or (argument in ("-o", "--output") and list(arguments[place + 1 : place + 2]) == ["json"])
        for place, argument in enumerate(arguments)
    )
