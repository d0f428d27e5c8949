"""`kitaru journal show` and `verify`: what is recorded, and whether it is whole."""

from collections.abc import Iterator
from datetime import timedelta

import click

from kitaru.operations import reading
from kitaru.operations.reading import Problem, Verification
from kitaru.projections.timeline import TimelineEntry
from kitaru.surfaces.cli.commands import EXIT_FAILURE, Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.tables import Column, indented, table
from kitaru.surfaces.cli.text import clock_text, counted, duration_text, escaped, site_text


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.option("--full", is_flag=True, help="Values and tracebacks in full, below each event.")
@click.pass_context
def show(ctx: click.Context, exec_id: str, full: bool) -> None:
    """The history of an execution, event by event."""
    with reading.opened_journal() as reader:
        entries = reading.timeline(reader, exec_id)
        blobs = _blobs(reader, entries) if full else {}
    Output(ctx).items(entries, lambda: _full_text(entries, blobs) if full else _text(entries))


def _blobs(reader: "reading.SqliteReader", entries: list[TimelineEntry]) -> dict[str, bytes]:
    values = [value for entry in entries for value in (entry.arguments, entry.value) if value]
    return {
        value.blob: reading.value_of(reader, value) for value in values if value.blob is not None
    }


def _text(entries: list[TimelineEntry]) -> str:
    first = entries[0]
    title = f"{escaped(first.name or '')} {first.exec_id}, started {clock_text(first.recorded_at)}"
    columns = [
        Column("#", align="right"),
        Column("Time", align="right"),
        Column("Event", least=29),
        Column("Call", least=8),
        Column("Try", align="right"),
        Column("Took", align="right"),
        Column("Site", least=10, keep="end", room=100),
        Column("Value", least=12),
    ]
    return f"{title.strip()}\n{table(columns, [_row(entry) for entry in entries])}"


def _row(entry: TimelineEntry) -> tuple[str, ...]:
    return (
        str(entry.version),
        f"+{entry.since_start_us / 1_000_000:.3f}",
        _event_text(entry),
        entry.path or "",
        str(entry.attempt) if entry.path and entry.attempt else "",
        _took(entry),
        site_text(entry.site),
        _value(entry),
    )


def _event_text(entry: TimelineEntry) -> str:
    known = entry.readable
    return entry.text if known else f"{entry.kind} (schema {entry.schema}): {entry.text}"


def _took(entry: TimelineEntry) -> str:
    if entry.duration_us is None:
        return ""
    return duration_text(timedelta(microseconds=entry.duration_us))


def _value(entry: TimelineEntry) -> str:
    from kitaru.surfaces.cli.values import arguments_preview, preview

    if entry.failure is not None:
        kind = entry.failure.exception_type.rpartition(".")[2]
        return f"{kind}: {entry.failure.message}"
    if entry.value is not None:
        return preview(entry.value)
    if entry.arguments is not None:
        return f"({arguments_preview(entry.arguments)})"
    return f"due {clock_text(entry.due_at)}" if entry.due_at else ""


def _full_text(entries: list[TimelineEntry], blobs: dict[str, bytes]) -> str:
    return "\n\n".join("\n".join(_full_entry(entry, blobs)) for entry in entries)


def _full_entry(entry: TimelineEntry, blobs: dict[str, bytes]) -> Iterator[str]:
    from kitaru.surfaces.cli.values import whole

    head = f"{entry.version}  {clock_text(entry.recorded_at)}  +{entry.since_start_us / 1e6:.3f}"
    yield click.style(f"{head}  {escaped(_event_text(entry))}", bold=True)
    facts = {
        "call": entry.path,
        "attempt": entry.attempt,
        "took": _took(entry),
        "site": entry.site,
        "due": clock_text(entry.due_at),
    }
    told = [f"{name} {fact}" for name, fact in facts.items() if fact]
    if told:
        yield f"  {escaped(', '.join(told))}"
    for name, value in (("arguments", entry.arguments), ("value", entry.value)):
        if value is not None:
            data = bytes(value.json) if value.blob is None else blobs[value.blob]
            yield f"  {name}:\n{indented(whole(data), '    ')}"
    if entry.failure is not None:
        failure = entry.failure
        yield indented(escaped((failure.traceback or failure.message).rstrip(), lines=True), "    ")


@click.command(cls=Command)
@click.argument("exec_id", metavar="[ID]", required=False)
@click.pass_context
def verify(ctx: click.Context, exec_id: str | None) -> None:
    """Check one execution, or the whole journal: that no event was altered, lost or swapped, and
    that each state is what its events lead to. Damage ends it with exit code 1."""
    with reading.opened_journal() as reader:
        verification = reading.verify(reader, exec_id)
    item = {
        "sound": verification.is_sound,
        "streams": verification.streams,
        "events": verification.events,
        "flows": verification.flows,
        "stacks": verification.stacks,
        "problems": verification.problems,
    }
    Output(ctx).item(item, lambda: _verification_text(verification))
    if not verification.is_sound:
        ctx.exit(EXIT_FAILURE)


def _verification_text(verification: Verification) -> str:
    parts = [counted(verification.streams, "execution")]
    if verification.flows:
        parts.append(counted(verification.flows, "deployed flow"))
    if verification.stacks:
        parts.append(counted(verification.stacks, "stack"))
    checked = ", ".join([*parts, counted(verification.events, "event")])
    damage = [problem for problem in verification.problems if problem.is_damage]
    newer = [problem for problem in verification.problems if not problem.is_damage]
    lines = [
        f"{checked}: {counted(len(damage), 'problem')}." if damage else f"{checked}: all is well."
    ]
    lines += [_problem_text(problem) for problem in damage]
    if newer:
        lines.append("Written by a newer version, and so not checked beyond their hashes:")
        lines += [_problem_text(problem) for problem in newer]
    return "\n".join(lines)


def _problem_text(problem: Problem) -> str:
    where = problem.stream.removeprefix("execution-")
    event = f", event {problem.version}" if problem.version else ""
    return escaped(f"  {where}{event}: {problem.kind}: {problem.what}")
