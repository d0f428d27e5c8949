"""`kitaru flow ...`: deployed flows, their versions and tags."""

from collections.abc import Sequence

import click

from kitaru.operations import deployed, reading
from kitaru.projections.deployments import DeployedFlow
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.deployment_text import (
    details_text,
    flow_text,
    flows_text,
    versions_text,
)
from kitaru.surfaces.cli.logs import LIMIT, SOURCE, show_logs
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import escaped

VERSION = click.option("--version", type=click.IntRange(1), help="Which version.")
TAG = click.option("--tag", help="Which tag leads to the version; default, when neither is given.")
NEEDED = click.option("--version", type=click.IntRange(1), required=True, help="Which version.")


@click.command("list", cls=Command)
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """The flows that were deployed."""
    output = Output(ctx)
    found: Sequence[DeployedFlow] = ()
    try:
        with reading.opened_journal() as reader:
            found = deployed.flows(reader)
    except reading.JournalMissing as missing:
        output.note(escaped(str(missing)))
    output.items(found, lambda: flows_text(found))


@click.command(cls=Command)
@click.argument("flow")
@click.pass_context
def show(ctx: click.Context, flow: str) -> None:
    """One flow: its tags and versions."""
    with reading.opened_journal() as reader:
        found = deployed.flow(reader, flow)
    Output(ctx).item(found, lambda: flow_text(found))


@click.command(cls=Command)
@click.argument("flow")
@click.argument("tag")
@NEEDED
@click.option("--exclusive", is_flag=True, help="The tag leads to this version alone.")
@click.pass_context
def tag(ctx: click.Context, flow: str, tag: str, version: int, exclusive: bool) -> None:
    """Let TAG lead to a version of FLOW."""
    from kitaru.sdk.client import KitaruClient

    _check_journal()
    moved = KitaruClient().deployments.tag(flow=flow, version=version, tag=tag, exclusive=exclusive)
    Output(ctx).item(
        moved.details, lambda: f"Tag {escaped(tag)} of {flow} leads to version {version}."
    )


@click.command(cls=Command)
@click.argument("flow")
@click.argument("tag")
@NEEDED
@click.pass_context
def untag(ctx: click.Context, flow: str, tag: str, version: int) -> None:
    """Let TAG no longer lead to a version of FLOW."""
    from kitaru.sdk.client import KitaruClient

    _check_journal()
    left = KitaruClient().deployments.untag(flow=flow, version=version, tag=tag)
    Output(ctx).item(
        left.details, lambda: f"Tag {escaped(tag)} of {flow} no longer leads to version {version}."
    )


@click.command("list", cls=Command)
@click.argument("flow")
@click.pass_context
def list_deployments(ctx: click.Context, flow: str) -> None:
    """The versions of FLOW, newest first."""
    with reading.opened_journal() as reader:
        found = deployed.flow(reader, flow).versions
    Output(ctx).items(found, lambda: versions_text(found))


@click.command("show", cls=Command)
@click.argument("flow")
@VERSION
@TAG
@click.pass_context
def show_deployment(ctx: click.Context, flow: str, version: int | None, tag: str | None) -> None:
    """One version of FLOW."""
    with reading.opened_journal() as reader:
        found = deployed.version(reader, flow, version, tag)
    Output(ctx).item(found, lambda: details_text(found))


@click.command("logs", cls=Command)
@click.argument("flow")
@VERSION
@TAG
@click.option("--exec-id", metavar="ID", help="Only what this execution has printed.")
@SOURCE
@LIMIT
@click.pass_context
def deployment_logs(
    ctx: click.Context,
    flow: str,
    version: int | None,
    tag: str | None,
    exec_id: str | None,
    source: str,
    limit: int | None,
) -> None:
    """What executions of a version of FLOW have printed."""
    with reading.opened_journal() as reader:
        found = deployed.version(reader, flow, version, tag)
        ids = deployed.executions_of(reader, found)
        if exec_id is not None:
            ids = [reading.get(reader, exec_id).exec_id]
    show_logs(ctx, ids, call="", source=source, limit=limit)


@click.command("delete", cls=Command)
@click.argument("flow")
@NEEDED
@click.pass_context
def delete_deployment(ctx: click.Context, flow: str, version: int) -> None:
    """Let a version of FLOW no longer be invoked; executions that run it go on."""
    from kitaru.sdk.client import KitaruClient

    _check_journal()
    KitaruClient().deployments.delete(flow=flow, version=version)
    Output(ctx).item(
        {"flow": flow, "version": version},
        lambda: f"Version {version} of {flow} is deleted; executions that run it go on.",
    )


def _check_journal() -> None:
    """So that a mistaken journal is not made by looking for a flow in it."""
    with reading.opened_journal():
        pass
