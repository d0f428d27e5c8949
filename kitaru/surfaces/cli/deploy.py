"""`kitaru deploy` and `kitaru build`: a flow's project becomes its next version."""

from typing import Any, NamedTuple

import click

from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.run import image_option, json_object


class Options(NamedTuple):
    """What invocations of the version are run with."""

    retries: int | None
    cache: bool | None
    stack: str | None
    image: str | None


_INPUT = click.option(
    "--input", "inputs", metavar="JSON|@FILE", help="The inputs that invocations begin with."
)
_RETRIES = click.option("--retries", type=click.IntRange(0), help="How often a body is run again.")
_STACK = click.option("--stack", help="Where invocations run.")
_IMAGE = click.option("--image", metavar="TEXT|JSON|@FILE", help="What their runners are to have.")
_CACHE = click.option("--cache/--no-cache", default=None, help="Whether results may be reused.")


@click.command(cls=Command)
@click.argument("target")
@click.option("--tag", default="default", show_default=True, help="What leads to the version.")
@click.option("--exclusive", is_flag=True, help="The tag leads to this version alone.")
@_INPUT
@_RETRIES
@_CACHE
@_STACK
@_IMAGE
@click.option("--check", is_flag=True, help="Deploy nothing; tell which executions this code fits.")
@click.option("--move-safe", is_flag=True, help="Move unfinished executions that this code fits.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="With these two: how long a flow's body may take to its next call.",
)
@click.pass_context
def deploy(
    ctx: click.Context,
    target: str,
    tag: str,
    exclusive: bool,
    inputs: str | None,
    retries: int | None,
    cache: bool | None,
    stack: str | None,
    image: str | None,
    check: bool,
    move_safe: bool,
    seconds: float,
) -> None:
    """Deploy a flow as its next version, and let a tag lead to it.

    TARGET is path/to/file.py:flow or module:flow. The whole project is deployed: the folder that
    `kitaru init` has marked, or that has a pyproject.toml, without what .kitaruignore names.

    With --check every unfinished execution of the flow is replayed against this code, in a process
    of its own and without any effect: each is told safe, diverging at a place in the code, or
    unknown beyond an event. The exit code is 0 when all are safe, 3 when one diverges, and 4 when
    none does and one is unknown.
    """
    from kitaru.domain.deployment.state import DEFAULT_TAG

    tags = {tag: exclusive or tag == DEFAULT_TAG}
    options = Options(retries, cache, stack, image)
    if check and move_safe:
        raise click.UsageError("Give either --check, which changes nothing, or --move-safe.")
    if not check and not move_safe:
        _deploy(ctx, target, inputs, options, tags, default_on_first=True)
        return
    from kitaru.surfaces.cli.rollout import check_only, deploy_and_move

    flow = _flow(target, options)
    given = json_object(inputs, "--input", '{"url": "https://example.com"}')
    if check:
        check_only(ctx, flow, seconds)
    else:
        deploy_and_move(ctx, flow, _bound(flow, given), tags, seconds)


@click.command(cls=Command)
@click.argument("target")
@_INPUT
@_RETRIES
@_CACHE
@_STACK
@_IMAGE
@click.option(
    "--containerfile",
    metavar="DIR",
    type=click.Path(),
    help="Make no version but a container's context in DIR, and build it.",
)
@click.pass_context
def build(
    ctx: click.Context,
    target: str,
    inputs: str | None,
    retries: int | None,
    cache: bool | None,
    stack: str | None,
    image: str | None,
    containerfile: str | None,
) -> None:
    """Make a flow's next version without a tag; it is invoked by its number.

    TARGET is path/to/file.py:flow or module:flow. With --containerfile no version is made, but the
    context of a container image that runs a worker of the flow; it is built where buildah, podman
    or docker is installed.
    """
    if containerfile is not None:
        _containerise(ctx, target, image, containerfile)
        return
    options = Options(retries, cache, stack, image)
    _deploy(ctx, target, inputs, options, {}, default_on_first=False)


def _containerise(ctx: click.Context, target: str, image: str | None, folder: str) -> None:
    from kitaru import settings
    from kitaru.operations.containers import containerise
    from kitaru.surfaces.cli.deployment_text import containerised_text

    flow = _flow(target, Options(None, None, None, image))
    journal = settings.resolve().journal
    made = containerise(flow.name, flow.reference, flow.image, folder, journal)
    Output(ctx).item(made, lambda: containerised_text(made))


def _deploy(
    ctx: click.Context,
    target: str,
    inputs: str | None,
    options: Options,
    tags: dict[str, bool],
    *,
    default_on_first: bool,
) -> None:
    from kitaru.surfaces.cli.deployment_text import deployed_text

    given = json_object(inputs, "--input", '{"url": "https://example.com"}')
    flow = _flow(target, options)
    deployment = flow.deploy(
        **_bound(flow, given), tags=tags, publish_default_on_first_deploy=default_on_first
    )
    Output(ctx).item(deployment.details, lambda: deployed_text(deployment.details))


def _flow(target: str, options: Options) -> Any:
    from kitaru.engine.source import load_target

    return load_target(target).sync.with_options(
        retries=options.retries,
        cache=options.cache,
        stack=options.stack,
        image=image_option(options.image),
    )


def _bound(flow: Any, given: dict[str, Any]) -> dict[str, Any]:
    from kitaru.engine.schema import bind_json
    from kitaru.errors import KitaruDeploymentInputValuesError, KitaruUsageError

    try:
        return bind_json(flow.definition.function, given)
    except KitaruUsageError as error:
        raise KitaruDeploymentInputValuesError(
            f"Flow {flow.name!r}: {error}. --input gives a value for every parameter without a "
            "default; invocations may give others."
        ) from error
