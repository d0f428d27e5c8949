"""`kitaru journal export` and `import`: executions as files; `kitaru check`: code against them."""

import sys
from collections import Counter
from pathlib import Path

import click

from kitaru.engine.history_file import SUFFIX
from kitaru.errors import KitaruUsageError
from kitaru.operations import histories, reading
from kitaru.operations.histories import Checked
from kitaru.surfaces.cli.commands import EXIT_DIVERGED, Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import counted, escaped, size_text
from kitaru.verdicts import Judgement

EXIT_UNKNOWN = 4
_WORDS = {
    Judgement.SAFE: "safe",
    Judgement.DIVERGES: "diverging",
    Judgement.UNKNOWN: "unknown",
}


@click.command(cls=Command)
@click.argument("exec_id", metavar="ID")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.pass_context
def export(ctx: click.Context, exec_id: str, file: str | None, force: bool) -> None:
    """Write an execution into FILE: every event and value, byte for byte.

    FILE is ID.history.jsonl in the working directory when it is left out, and stdout when it is -.
    It may be compared, kept beside the code for `kitaru check`, and read into another journal. The
    source of a fork does not come along.
    """
    with reading.opened_journal() as reader:
        exported = histories.export(reader, exec_id)
    output = Output(ctx)
    if file == "-":
        sys.stdout.buffer.write(exported.content)
        return
    target = Path(file or f"{exported.exec_id}{SUFFIX}")
    _write(target, exported.content, force=force)
    item = {
        "exec_id": exported.exec_id,
        "flow_name": exported.flow,
        "file": str(target),
        "events": exported.events,
        "bytes": len(exported.content),
        "missing": exported.missing,
    }
    told = f"{target}: {counted(exported.events, 'event')}, {size_text(len(exported.content))}."
    output.item(item, lambda: escaped(told))
    if exported.missing and not output.is_json:
        gone = counted(len(exported.missing), "value")
        output.note(f"{gone} that the events name is not in this journal any more.")


def _write(target: Path, content: bytes, *, force: bool) -> None:
    try:
        with target.open("wb" if force else "xb") as file:
            file.write(content)
    except FileExistsError:
        raise KitaruUsageError(
            f"{target} is there already; name another file, or say --force."
        ) from None
    except OSError as error:
        raise KitaruUsageError(f"{target} cannot be written: {error.strerror}.") from error


@click.command(cls=Command)
@click.argument("file", metavar="FILE")
@click.pass_context
def import_command(ctx: click.Context, file: str) -> None:
    """Take the execution of a file that `export` has written into this journal, as it was recorded.

    FILE is stdin when it is -. An execution that has not ended goes on here only when it is
    resumed: it may be going on where it comes from.
    """
    from kitaru.bootstrap import blocking, current_runtime

    content = _content(file)
    source = "stdin" if file == "-" else file
    runtime = current_runtime()
    imported = blocking(runtime, lambda: histories.take_in(runtime, content, source))
    what = "was here already" if imported.was_there else "is here now"
    told = f"Execution {imported.exec_id} ({imported.flow}, {imported.status}) {what}."
    Output(ctx).item(imported, lambda: escaped(told))


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise KitaruUsageError(f"{file} cannot be read: {error.strerror}.") from error


@click.command(cls=Command)
@click.argument("places", metavar="DIR|FILE... [TARGET]...", nargs=-1, required=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long a flow's body may take to its next call.",
)
@click.pass_context
def check(ctx: click.Context, places: tuple[str, ...], seconds: float) -> None:
    """Replay recorded histories against today's code, without any effect.

    DIR and FILE are what `kitaru journal export` has written; each TARGET is a file or module with
    flows, or one flow of it (flows.py:agent). Without a target, each flow is looked for where it
    was when it was recorded. Each history is told safe, diverging at a place in the code, or
    unknown beyond an event. The exit code is 0 when all are safe, 3 when one diverges, and 4 when
    none does and one is unknown.
    """
    recorded = [place for place in places if Path(place).is_dir() or place.endswith(SUFFIX)]
    targets = [place for place in places if place not in recorded]
    find = histories.flows_among(targets)
    output = Output(ctx)
    checked = []
    for file in histories.history_files(recorded):
        found = histories.check(file, find, seconds=seconds)
        checked.append(found)
        if not output.is_json:
            click.echo(_line(found))
    judgements = {each.verdict.judgement for each in checked}
    if output.is_json:
        output.items(checked, str)
    else:
        output.note(_sum(checked))
    if Judgement.DIVERGES in judgements:
        ctx.exit(EXIT_DIVERGED)
    if Judgement.UNKNOWN in judgements:
        ctx.exit(EXIT_UNKNOWN)


def _line(checked: Checked) -> str:
    verdict = checked.verdict
    match verdict.judgement:
        case Judgement.SAFE:
            told = f"safe: {checked.flow}, {counted(checked.events, 'event')}; {verdict.summary}"
        case Judgement.DIVERGES:
            place = f" at {verdict.place}" if verdict.place else ""
            told = f"diverges{place}, event {verdict.version}: {verdict.summary}"
        case Judgement.UNKNOWN:
            place = f" ({verdict.place})" if verdict.place else ""
            told = f"unknown beyond event {verdict.version}{place}: {verdict.summary}"
    return escaped(f"{checked.file}: {told}")


def _sum(checked: list[Checked]) -> str:
    counts = Counter(each.verdict.judgement for each in checked)
    return ", ".join(f"{counts[each]} {_WORDS[each]}" for each in Judgement if counts[each]) + "."
