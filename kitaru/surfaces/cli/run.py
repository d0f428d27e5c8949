"""`kitaru run`: starts a flow and waits for its result."""

from typing import Any

import click
import msgspec

from kitaru.errors import KitaruUsageError
from kitaru.image import ImageSettings, image_from_text
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import escaped


@click.command(cls=Command)
@click.argument("target")
@click.option("--args", "arguments", metavar="JSON|@FILE", help="The flow's arguments by name.")
@click.option("--no-wait", is_flag=True, help="Only start it; a worker or `resume` runs it.")
@click.option("--retries", type=click.IntRange(0), help="How often the body is run again.")
@click.option("--cache/--no-cache", default=None, help="Whether earlier results are reused.")
@click.option("--stack", help="Where it runs; without it, where `kitaru stack current` says.")
@click.option("--image", metavar="TEXT|JSON|@FILE", help="What its runners are to have.")
@click.option("--idempotency-key", metavar="KEY", help="The same key starts no second one.")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait, at most.")
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    arguments: str | None,
    no_wait: bool,
    retries: int | None,
    cache: bool | None,
    stack: str | None,
    image: str | None,
    idempotency_key: str | None,
    timeout: float | None,
) -> None:
    """Start a flow and wait for its result.

    TARGET is path/to/file.py:flow or module:flow; the flow's name may be left out where there is
    only one. The execution's id is printed first, then the result; progress goes to stderr.
    """
    from kitaru.engine.schema import bind_json
    from kitaru.engine.source import load_target
    from kitaru.surfaces.cli.waiting import wait_for

    given = json_object(arguments, "--args", '{"url": "https://example.com"}')
    flow = load_target(target)
    bound = bind_json(flow.definition.function, given)
    options = flow.sync.with_options(
        retries=retries,
        cache=cache,
        stack=stack,
        image=image_option(image),
        idempotency_key=idempotency_key,
    )
    handle = options.run(**bound)
    output = Output(ctx)
    if no_wait:
        item = {"exec_id": handle.exec_id, "flow_name": flow.name}
        output.item(item, lambda: str(handle.exec_id))
        if not output.is_json:
            output.note(_started_text(handle.exec_id))
        return
    wait_for(ctx, output, handle, flow_name=flow.name, timeout=timeout)


def _started_text(exec_id: str) -> str:
    from kitaru.domain.stack.decide import LOCAL
    from kitaru.sdk.client import KitaruClient

    options = KitaruClient().executions.get(exec_id).options
    stack = None if options is None else options.stack
    if stack is None or stack.type == LOCAL:
        return f"Started. A worker, or `kitaru executions resume {exec_id}`, runs it."
    return f"Started on the stack {escaped(stack.name)}, which runs it."


def image_option(text: str | None) -> ImageSettings | None:
    """The image that an option, or the file that it names, describes; None without one."""
    if text is None:
        return None
    return image_from_text(_content(text[1:]) if text.startswith("@") else text, "--image")


def json_object(text: str | None, option: str, example: str) -> dict[str, Any]:
    """The object that an option's JSON, or the file that it names, holds; empty without one."""
    if text is None:
        return {}
    if text.startswith("@"):
        text = _content(text[1:])
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise click.BadParameter(f"not valid JSON: {error}", param_hint=option) from None
    if not isinstance(found, dict):
        raise click.BadParameter(f"an object is needed, such as {example}", param_hint=option)
    return found


def _content(file: str) -> str:
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            return str(stream.read())
    except (OSError, UnicodeDecodeError) as error:
        raise KitaruUsageError(f"What is in {file} cannot be read: {error}") from error
