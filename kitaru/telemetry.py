"""Every log event that Kitaru writes, by name, and the one way to write it.

``python -m kitaru.telemetry`` prints the reference page of the log events.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from kitaru.errors import KitaruUsageError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "off": 100}
VARIABLE = "KITARU_LOG_LEVEL"


class LogEvent(StrEnum):
    """The name, level, meaning and facts of each log event."""

    level: str
    meaning: str
    facts: tuple[str, ...]

    def __new__(cls, name: str, level: str, meaning: str, *facts: str) -> "LogEvent":
        event = str.__new__(cls, name)
        event._value_ = name
        event.level = level
        event.meaning = meaning
        event.facts = facts
        return event

    RUNTIME_OPENED = (
        "runtime_opened",
        "info",
        "The process opened its journal and can run flows.",
        "journal",
    )
    RUNTIME_CLOSED = (
        "runtime_closed",
        "info",
        "The process closed its journal. Unfinished executions stay in it.",
        "journal",
        "unfinished",
    )
    EXECUTION_STARTED = (
        "execution_started",
        "info",
        "An execution was started and is durable.",
        "exec_id",
        "flow",
    )
    EXECUTION_FINISHED = (
        "execution_finished",
        "info",
        "An execution completed, failed or was cancelled.",
        "exec_id",
        "flow",
        "status",
    )
    EXECUTION_TAKEN_OVER = (
        "execution_taken_over",
        "warning",
        (
            "The owner of an execution gave no sign of life for a lease time; this process goes on "
            "with it from the last recorded checkpoint."
        ),
        "exec_id",
        "flow",
        "previous_owner",
        "recoveries",
    )
    EXECUTION_RECOVERED_TOO_OFTEN = (
        "execution_recovered_too_often",
        "error",
        (
            "An execution's owners died too many times without recording progress in between; the "
            "execution was ended as failed."
        ),
        "exec_id",
        "flow",
        "recoveries",
    )
    EXECUTION_DIVERGED = (
        "execution_diverged",
        "error",
        (
            "The flow's code no longer asks for what is recorded. The execution stands still until "
            "the old code is back and it is resumed."
        ),
        "exec_id",
        "flow",
        "report",
    )
    ARGUMENTS_CHANGED = (
        "arguments_changed",
        "warning",
        (
            "A recorded call was made with other arguments, and was given its recorded outcome all "
            "the same, as its checkpoint says (`on_changed_arguments`). Told once for each call."
        ),
        "exec_id",
        "path",
        "site",
        "differences",
    )
    FLOW_ERROR_NOT_LOOKED_AT = (
        "flow_error_not_looked_at",
        "warning",
        (
            "A task or callback of a flow's body raised, and the body never looked at the error. "
            "The flow went on without it."
        ),
        "exec_id",
        "flow",
        "error",
    )
    CHECKPOINT_RETRYING = (
        "checkpoint_retrying",
        "warning",
        "An attempt of a checkpoint failed and will be made again.",
        "exec_id",
        "path",
        "attempt",
        "delay_seconds",
        "error",
    )
    CHECKPOINT_NEEDS_REVIEW = (
        "checkpoint_needs_review",
        "warning",
        (
            "An attempt of a checkpoint that may run only once was lost. Its execution waits until "
            "somebody says what came of it: `kitaru executions resolve`."
        ),
        "exec_id",
        "path",
        "site",
    )
    LEASE_LOST = (
        "lease_lost",
        "warning",
        (
            "Another process owns the execution now; this one stopped working on it, and nothing "
            "of what it still did counts."
        ),
        "exec_id",
        "epoch",
    )
    LEASE_RENEWAL_FAILED = (
        "lease_renewal_failed",
        "warning",
        "Leases could not be prolonged; it is tried again until they run out.",
        "executions",
        "error",
    )
    RUNNER_STOPPED_BY_BACKEND = (
        "runner_stopped_by_backend",
        "error",
        (
            "The journal could not be read or written, so the execution stopped where it was. It "
            "goes on when a process that can reach the journal takes it over."
        ),
        "exec_id",
        "error",
    )
    POLL_FAILED = (
        "poll_failed",
        "warning",
        "Abandoned executions could not be looked for, or one not be seen to; it is tried again.",
        "error",
    )
    LEASE_NOT_RELEASED = (
        "lease_not_released",
        "warning",
        "A lease could not be given back; others wait until it has run out.",
        "error",
    )
    CHECKPOINT_NOT_ISOLATED = (
        "checkpoint_not_isolated",
        "warning",
        (
            'A checkpoint with runtime="isolated" runs inline, because the stack of its execution '
            "has no processes for checkpoints. Told once for each checkpoint."
        ),
        "exec_id",
        "checkpoint",
    )
    FLOW_NOT_LOADABLE = (
        "flow_not_loadable",
        "error",
        (
            "The code of an execution's flow could not be loaded here; the execution was left for "
            "another process."
        ),
        "exec_id",
        "flow",
        "error",
    )
    RUNNER_STARTED = (
        "runner_started",
        "info",
        "A runner process was started for executions of a deployed version.",
        "route",
        "pid",
        "log",
    )
    RUNNER_NOT_STARTED = (
        "runner_not_started",
        "error",
        "A runner process could not be started; it is tried again, more and more seldom.",
        "route",
        "error",
    )
    EXECUTION_NOT_PLACED = (
        "execution_not_placed",
        "error",
        (
            "No runner could be started for an execution of a stack; it is tried again, more and "
            "more seldom."
        ),
        "exec_id",
        "error",
    )
    STACK_RUNNER_DIED = (
        "stack_runner_died",
        "warning",
        (
            "The runner process of an execution ended in another way than by itself. Another one "
            "takes the execution over when its lease is over."
        ),
        "exec_id",
        "where",
        "error",
        "log",
    )
    RUNNER_DIED = (
        "runner_died",
        "warning",
        (
            "A runner process ended in another way than by itself. What it was running is taken "
            "over by the next one when its leases are over."
        ),
        "route",
        "pid",
        "code",
        "log",
    )
    RUNNER_CUT_OFF = (
        "runner_cut_off",
        "warning",
        (
            "A runner process that had nothing to do any more was kept by threads or processes "
            "that a flow's code had left, and was ended."
        ),
        "threads",
    )
    WORKER_IDLE = (
        "worker_idle",
        "debug",
        "A worker looked for executions to run and found none.",
        "flows",
    )


_muted = 0


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """For the length of the block this process says nothing: what happens in it is made to."""
    global _muted
    _muted += 1
    try:
        yield
    finally:
        _muted -= 1


def report(event: LogEvent, **facts: object) -> None:
    """Writes a log event with its facts, when `KITARU_LOG_LEVEL` lets it through. Never raises."""
    number = LEVELS[event.level]
    if _muted or number < _threshold():
        return
    # Whatever is wrong with the log must not become wrong with an execution.
    with contextlib.suppress(Exception):
        logger().log(number, str(event), **facts)


def logger() -> Any:
    """The structlog logger behind `report`: the application's, once it has configured structlog.

    Otherwise it writes one line of ``key=value`` per event to standard error.
    """
    # Not at the top: it takes rich and asyncio along, and most processes never log anything.
    import structlog

    if structlog.is_configured():
        return structlog.get_logger("kitaru")
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.add_log_level,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )


def check_log_level() -> None:
    """Raises KitaruUsageError when `KITARU_LOG_LEVEL` is set to something that is not a level."""
    text = _level_text()
    if text and text not in LEVELS:
        raise KitaruUsageError(
            f"{VARIABLE}: {text!r} is not accepted; one of {', '.join(LEVELS)} is."
        )


def reference_page() -> str:
    """The reference page of the log events, in Markdown."""
    rows = [
        f"| `{event}` | {event.level} | {', '.join(f'`{fact}`' for fact in event.facts)} "
        f"| {event.meaning} |"
        for event in sorted(LogEvent)
    ]
    return "\n".join([_PAGE, *rows, ""])


_PAGE = f"""\
# Log events

<!-- Written by `python -m kitaru.telemetry`; change `kitaru/telemetry.py` instead. -->

Kitaru writes these events to standard error, one line of `key=value` each, from level `warning` on.
`{VARIABLE}` sets another level: `debug`, `info`, `warning`, `error` or `off`. An application that
configures structlog gets them through its own configuration, from the logger `kitaru`.

Whether an execution goes well is in the journal, not in the log: nothing here is needed to find out
what happened.

| event | level | facts | meaning |
|---|---|---|---|"""


def _level_text() -> str:
    return os.environ.get(VARIABLE, "").strip().lower()


def _threshold() -> int:
    return LEVELS.get(_level_text(), LEVELS["warning"])


if __name__ == "__main__":
    sys.stdout.write(reference_page())
