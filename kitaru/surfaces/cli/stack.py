"""`kitaru stack …`: where flows can run, and which of these places is chosen."""

from collections.abc import Sequence

import click

from kitaru import settings
from kitaru.operations import reading, stacks
from kitaru.projections.stacks import StackInfo
from kitaru.settings import Layer
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.tables import Column, facts, table
from kitaru.surfaces.cli.text import clock_text, escaped


def _recorded() -> list[StackInfo]:
    """Read without an event loop, and without making a journal where there is none."""
    active = settings.resolve().stack
    try:
        with reading.opened_journal() as reader:
            return stacks.listed(reader.heads(stacks.ALL_STACKS), active)
    except reading.JournalMissing:
        return stacks.listed([], active)


@click.command("list", cls=Command)
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """The stacks of the journal; the one in force is marked."""
    found = _recorded()
    output = Output(ctx)
    output.items(found, lambda: _list_text(found))
    if not any(stack.is_active for stack in found):
        config = settings.resolve()
        where = escaped(config.origins["stack"].where)
        output.note(
            f"Flows that name no stack would run on {escaped(config.stack)} ({where}), which does "
            "not exist."
            if config.stack
            else f"{where} does not name a stack; choose one with `kitaru stack use NAME`."
        )


@click.command(cls=Command)
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """One stack, by its name or id."""
    stack = stacks.named(_recorded(), name)
    Output(ctx).item(stack, lambda: _facts_text(stack))


@click.command(cls=Command)
@click.pass_context
def current(ctx: click.Context) -> None:
    """The stack on which flows run that name none, and who has said so."""
    stack = stacks.in_force(_recorded())
    where = settings.resolve().origins["stack"].where
    Output(ctx).item(
        {"stack": stack, "named_by": where},
        lambda: f"{escaped(stack.name)}  ({escaped(where)})",
    )


@click.command(cls=Command)
@click.argument("name")
@click.pass_context
def use(ctx: click.Context, name: str) -> None:
    """Choose the stack NAME (or its id) for flows that name none.

    The choice is kept in the nearest .kitaru folder, else for the user.
    """
    from kitaru.sdk.stacks import use_stack

    # Looked up without writing first, so that a mistaken journal is not made by it.
    stack = use_stack(stacks.named(_recorded(), name).name)
    output = Output(ctx)
    output.item(stack, lambda: f"The active stack is {escaped(stack.name)}.")
    _note_higher_layer(output, stack)


@click.command(cls=Command)
@click.argument("name")
@click.option(
    "--type", "kind", default="local", show_default=True, help="How it runs: local or process."
)
@click.option("--no-activate", is_flag=True, help="Do not make it the active stack.")
@click.option("--label", "labels", multiple=True, metavar="NAME=TEXT", help="A text of your own.")
@click.pass_context
def create(
    ctx: click.Context, name: str, kind: str, no_activate: bool, labels: Sequence[str]
) -> None:
    """Define a stack and make it the active one.

    On a stack of type local, flows run in the process that starts them; on one of type process,
    every execution has a process of its own.
    """
    from kitaru.sdk.stacks import create_stack

    before = settings.resolve().stack
    stack = create_stack(name, type=kind, activate=not no_activate, labels=_labels(labels))
    output = Output(ctx)

    def text() -> str:
        made = f"Stack {escaped(stack.name)} of type {stack.type} is defined."
        if no_activate:
            return made
        return f"{made}\nActive stack: {escaped(before) or 'none'} → {escaped(stack.name)}"

    output.item(stack, text)
    if not no_activate:
        _note_higher_layer(output, stack)


@click.command(cls=Command)
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete it although it is the active one.")
@click.pass_context
def delete(ctx: click.Context, name: str, force: bool) -> None:
    """Take the stack NAME (or its id) away; executions that are on it go on."""
    from kitaru.sdk.stacks import delete_stack

    stack = delete_stack(stacks.named(_recorded(), name).name, force=force)
    Output(ctx).item(stack, lambda: f"Stack {escaped(stack.name)} is deleted.")


def _note_higher_layer(output: Output, stack: StackInfo) -> None:
    config = settings.resolve()
    origin = config.origins["stack"]
    if origin.layer is not Layer.ACTIVE_STACK and not stack.is_active:
        output.note(
            f"{escaped(origin.where)} stands above it: flows run on {escaped(config.stack)} here."
        )


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{text!r} is not NAME=TEXT", param_hint="--label")
        labels[name] = value
    return labels


def _list_text(found: Sequence[StackInfo]) -> str:
    return table(
        [Column("Stack", least=12), Column("Type"), Column("Active"), Column("Created")],
        [
            (
                stack.name,
                stack.type,
                "yes" if stack.is_active else "",
                clock_text(stack.created_at),
            )
            for stack in found
        ],
    )


def _facts_text(stack: StackInfo) -> str:
    labels = ", ".join(f"{name}={text}" for name, text in sorted(stack.labels.items()))
    return facts(
        [
            ("Stack", escaped(stack.name)),
            ("ID", stack.id),
            ("Type", stack.type),
            ("Active", "yes" if stack.is_active else "no"),
            ("Created", clock_text(stack.created_at)),
            ("Labels", escaped(labels)),
        ]
    )
