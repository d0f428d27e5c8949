"""`kitaru executions logs --follow`: lines as they come, until the execution has ended."""

import time
from collections.abc import Callable, Mapping, Sequence

import click

from kitaru.operations import deployed, reading
from kitaru.projections.executions import summary_of
from kitaru.projections.views import Execution
from kitaru.stacks.logs import LogLine
from kitaru.status import ExecutionStatus
from kitaru.surfaces.cli.commands import EXIT_DIVERGED, EXIT_FAILURE, EXIT_INTERRUPTED
from kitaru.surfaces.cli.json_form import json_text
from kitaru.surfaces.cli.text import escaped
from kitaru.surfaces.cli.waiting import question_lines

LOOK_SECONDS = 0.25

LineText = Callable[[LogLine], str]


def follow(
    ctx: click.Context, exec_id: str, call: str, limit: int | None, line_text: LineText | None
) -> None:
    """Shows an execution's lines until it has ended, beginning with what was printed before.

    `line_text` writes a line for people; None: each line is a JSON object of its own, with its
    ``event``: ``log``, ``waiting``, ``terminal`` or ``interrupted``. The exit code says how the
    execution has ended; one that has diverged counts as ended.
    """
    teller = _Teller(line_text)
    try:
        status = _to_its_end(teller, exec_id, call, limit)
    except KeyboardInterrupt:
        teller.tell("interrupted", {"exec_id": exec_id}, ["Stopped looking; it goes on."])
        ctx.exit(EXIT_INTERRUPTED)
    if status is ExecutionStatus.DIVERGED:
        ctx.exit(EXIT_DIVERGED)
    ctx.exit(0 if status.is_successful else EXIT_FAILURE)


def _to_its_end(teller: "_Teller", exec_id: str, call: str, limit: int | None) -> ExecutionStatus:
    new = deployed.new_lines(exec_id, call)
    asked: set[str] = set()
    version = 0
    with reading.opened_journal() as reader:
        while True:
            # Looked at before the lines: what was printed before its end is among them.
            head = reading.find(reader, exec_id)
            status = summary_of(head).status
            lines = new.take()
            teller.lines(lines if limit is None else lines[-limit:])
            limit = None
            if status is ExecutionStatus.WAITING and head.version != version:
                teller.questions(reading.get(reader, exec_id), asked)
            version = head.version
            if status.is_finished or status is ExecutionStatus.DIVERGED:
                facts = {"exec_id": exec_id, "status": status}
                teller.tell("terminal", facts, [f"The execution is {status}."])
                return status
            time.sleep(LOOK_SECONDS)


class _Teller:
    def __init__(self, line_text: LineText | None) -> None:
        self._line_text = line_text

    def lines(self, lines: Sequence[LogLine]) -> None:
        for line in lines:
            if self._line_text is None:
                click.echo(json_text({"event": "log", "item": line}))
            else:
                click.echo(self._line_text(line))

    def questions(self, execution: Execution, asked: set[str]) -> None:
        """Says what the execution waits for, each wait once."""
        new = [wait for wait in execution.pending_waits if wait.wait_id not in asked]
        asked.update(wait.wait_id for wait in new)
        if new:
            facts = {"exec_id": execution.exec_id, "waits": new}
            self.tell("waiting", facts, question_lines(execution))

    def tell(self, event: str, facts: Mapping[str, object], lines: Sequence[str]) -> None:
        """Says what is no line of the execution's."""
        if self._line_text is None:
            click.echo(json_text({"event": event, "item": facts}))
        else:
            for line in lines:
                click.echo(escaped(line), err=True)
