"""`kitaru executions resume`, `retry`, `cancel` and `input`: what changes an execution."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from kitaru.errors import KitaruStateError, KitaruUsageError
from kitaru.operations import reading
from kitaru.projections.executions import CATEGORY
from kitaru.projections.views import Execution
from kitaru.settings import LOCAL_STACK
from kitaru.status import ExecutionStatus
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.executions import is_owned
from kitaru.surfaces.cli.output import Output

TIMEOUT = click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait, at most.")


def full_id(exec_id: str) -> str:
    """Read without writing, so that a mistaken journal is not made by looking for an id in it."""
    with reading.opened_journal() as reader:
        return reading.find(reader, exec_id).stream.removeprefix(f"{CATEGORY}-")


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@TIMEOUT
@click.pass_context
def resume(ctx: click.Context, exec_id: str, timeout: float | None) -> None:
    """Go on with an execution that nobody runs, here, and wait for its result."""
    from kitaru.sdk.client import KitaruClient

    with reading.opened_journal() as reader:
        # As it is before anything goes on, so that all of what then happens is told.
        execution = reading.get(reader, exec_id)
    KitaruClient().executions.resume(execution.exec_id)
    wait_here(ctx, execution, timeout)


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--now", is_flag=True, help="Of an unfinished one: make its next attempts at once.")
@click.option("--call", metavar="PATH", help="With --now: only that of this call.")
@click.option("--no-wait", is_flag=True, help="Leave it to a worker or to `resume`.")
@TIMEOUT
@click.pass_context
def retry(
    ctx: click.Context,
    exec_id: str,
    now: bool,
    call: str | None,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Try a failed execution again: what completed is kept, what failed is done again.

    With --now: calls that wait for the time of their next attempt make it at once.
    """
    from kitaru.sdk.client import KitaruClient

    if call is not None and not now:
        raise click.UsageError("--call goes with --now.")
    executions = KitaruClient().executions
    if now:
        execution = executions.retry_now(full_id(exec_id), call=call)
    else:
        execution = executions.retry(full_id(exec_id))
    if no_wait:
        Output(ctx).item(
            execution, lambda: f"Execution {execution.exec_id} is {execution.status} again."
        )
        return
    # Where a worker was faster, it is waited for what that makes of it.
    with suppress(KitaruStateError):
        executions.resume(execution.exec_id)
    wait_here(ctx, execution, timeout)


def wait_here(ctx: click.Context, execution: Execution, timeout: float | None) -> None:
    from kitaru.sdk.client import KitaruClient
    from kitaru.surfaces.cli.waiting import question_lines, review_lines, wait_for

    output = Output(ctx)
    for line in (*question_lines(execution), *review_lines(execution)):
        output.note(line)
    wait_for(
        ctx,
        output,
        KitaruClient().executions.handle(execution.exec_id),
        flow_name=execution.flow_name,
        timeout=timeout,
        told=execution.version,
    )


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--reason", default="", help="Why, for whoever looks at it later.")
@click.option("--force", is_flag=True, help="End it at once, when nobody runs it.")
@click.pass_context
def cancel(ctx: click.Context, exec_id: str, reason: str, force: bool) -> None:
    """Ask an execution to end. It is told at its next durable step, and may tidy up."""
    from kitaru.sdk.client import KitaruClient

    executions = KitaruClient().executions
    execution = executions.cancel(full_id(exec_id), reason)
    if force and not execution.status.is_finished:
        execution = executions.force_cancel(execution.exec_id)
    now = datetime.fromtimestamp(time.time(), UTC)

    def text() -> str:
        if execution.status is ExecutionStatus.CANCELLED:
            return f"Execution {execution.exec_id} is cancelled."
        if is_owned(execution, now):
            return f"Execution {execution.exec_id} will end at its next durable step."
        return (
            f"Execution {execution.exec_id} will be cancelled by the next process that runs it; "
            "--force ends it at once."
        )

    Output(ctx).item(execution, text)


@click.command("input", cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--wait", "name", help="Which of its waits, by id or name; not needed for one alone.")
@click.option("--value", metavar="JSON", help="The answer.")
@click.option("--abort", is_flag=True, help="End the wait without an answer.")
@click.option("--reason", default="", help="With --abort: why.")
@click.pass_context
def input_command(
    ctx: click.Context,
    exec_id: str,
    name: str | None,
    value: str | None,
    abort: bool,
    reason: str,
) -> None:
    """Answer an execution that waits; it goes on wherever a runner serves its flow.

    A wait that only asks to go on needs no --value.
    """
    from kitaru.sdk.client import KitaruClient

    if abort and value is not None:
        raise click.UsageError("Give either --value or --abort.")
    executions = KitaruClient().executions
    execution = executions.get(full_id(exec_id))
    wait = _chosen(execution, name)
    output = Output(ctx)
    if abort:
        after = executions.abort_wait(execution.exec_id, wait=wait, reason=reason)
        output.item(after, lambda: f"Wait {wait} of execution {after.exec_id} is aborted.")
        return
    answer = _answer(execution, wait, value)
    after = executions.input(execution.exec_id, wait=wait, value=answer)
    said = f"Wait {wait} of execution {after.exec_id} is answered."
    output.item(after, lambda: _goes_on(after, said))


def _chosen(execution: Execution, name: str | None) -> str:
    from kitaru.surfaces.cli.waiting import review_lines

    if name is not None:
        return name
    waits = [wait.wait_id for wait in execution.pending_waits]
    if len(waits) == 1:
        return waits[0]
    if waits:
        raise KitaruUsageError(f"It waits for several; name one with --wait: {', '.join(waits)}.")
    if any(call.needs_review for call in execution.checkpoints):
        raise KitaruStateError(
            f"Execution {execution.exec_id} does not wait for an input: "
            f"{', '.join(review_lines(execution))}"
        )
    raise KitaruStateError(
        f"Execution {execution.exec_id} is {execution.status} and does not wait for an input now. "
        "To answer a wait that it has not come to yet, name it with --wait."
    )


def _answer(execution: Execution, wait: str, text: str | None) -> Any:
    asked = next((known for known in execution.pending_waits if wait in known.names), None)
    if text is None:
        if asked is None or asked.schema is not None:
            raise KitaruUsageError(f"Wait {wait!r} needs an answer: --value JSON.")
        return None
    return _json(text, "--value")


def has_runners(execution: Execution) -> bool:
    """Whether it runs in runner processes, which whoever steers it starts."""
    return execution.deployment is not None or execution.stack_name != LOCAL_STACK


def _goes_on(execution: Execution, said: str) -> str:
    if is_owned(execution, datetime.fromtimestamp(time.time(), UTC)):
        return said
    if has_runners(execution):
        # This command has looked for one, and has started one where there was room.
        return f"{said} A runner process goes on with it."
    return (
        f"{said} It goes on with the next process that serves its flow: a worker, or "
        f"`kitaru executions resume {execution.exec_id}`."
    )


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.argument("call")
@click.option("--result", metavar="JSON", help="It has done its work, and returned this.")
@click.option("--failed", metavar="MESSAGE", help="It has failed: the flow is given this error.")
@click.option("--run-again", is_flag=True, help="Let it run again.")
@click.pass_context
def resolve(
    ctx: click.Context,
    exec_id: str,
    call: str,
    result: str | None,
    failed: str | None,
    run_again: bool,
) -> None:
    """Say what came of CALL, a checkpoint that may run only once and whose process died in it.

    CALL is the path that `kitaru executions get ID` shows under "Needs review".
    """
    from kitaru.sdk.client import KitaruClient

    if (result is not None) + (failed is not None) + run_again != 1:
        raise click.UsageError("Give one of --result, --failed and --run-again.")
    given: dict[str, Any] = {"failed": failed, "run_again": run_again}
    if result is not None:
        given["result"] = _json(result, "--result")
    after = KitaruClient().executions.resolve(full_id(exec_id), call, **given)
    said = f"Call {call} of execution {after.exec_id} is reviewed."
    Output(ctx).item(after, lambda: _goes_on(after, said))


def _json(text: str, option: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        hint = f"not valid JSON: {error}; a text needs its quotes: {option} '\"yes\"'"
        raise click.BadParameter(hint, param_hint=option) from None
