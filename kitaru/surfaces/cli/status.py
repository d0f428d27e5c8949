"""`kitaru status`: where the journal is, what it stands on and what it holds."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from kitaru.operations.reading import JournalStatus, journal_status
from kitaru.surfaces.cli.commands import Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.tables import COLOURS, facts, status_text
from kitaru.surfaces.cli.text import clock_text, counted, escaped, size_text


@click.command(cls=Command)
@click.pass_context
def status(ctx: click.Context) -> None:
    """Where the journal is, what it holds and who runs executions now."""
    found = journal_status(int(time.time() * 1_000_000))
    Output(ctx).item(found, lambda: facts(list(_facts(found))))


def _facts(found: JournalStatus) -> Iterator[tuple[str, str]]:
    yield "Journal", escaped(found.place.file)
    yield "Named by", escaped(found.place.origin)
    yield "SQLite", _sqlite_text(found)
    if not found.exists:
        yield "Size", "there is none yet: the first flow that runs makes it"
        return
    yield "Size", size_text(found.bytes)
    yield "Schema", str(found.schema)
    yield "Executions", _counts_text(found.executions)
    owners = [
        f"{escaped(owner.name)} ({counted(owner.executions, 'execution')}, lease until "
        f"{clock_text(datetime.fromtimestamp(owner.lease_until / 1e6, UTC))})"
        for owner in found.owners
    ]
    yield "Run by", ", ".join(owners) or "nobody at the moment"


def _counts_text(counts: dict[str, int]) -> str:
    known = [*COLOURS, *(word for word in counts if word not in COLOURS)]
    shown = [f"{counts[word]:,} {status_text(word)}" for word in known if word in counts]
    return ", ".join(shown) or "none"


def _sqlite_text(found: JournalStatus) -> str:
    if not found.has_wal_reset_bug:
        return found.sqlite_version
    return (
        f"{found.sqlite_version}, which has the WAL-reset bug (mended in 3.51.3).\n"
        "Kitaru is safe from it: it empties the log under the write lock."
    )
