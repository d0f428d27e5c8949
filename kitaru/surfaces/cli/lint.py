"""`kitaru lint`: what in the bodies of flows a replay cannot repeat."""

import click

from kitaru.surfaces.cli.commands import EXIT_FAILURE, Command
from kitaru.surfaces.cli.output import Output
from kitaru.surfaces.cli.text import counted, escaped


@click.command(cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.pass_context
def lint(ctx: click.Context, paths: tuple[str, ...]) -> None:
    """Find what in the bodies of flows gives something else in a replay.

    Each PATH is a Python file or a folder. Looked at are the bodies of flows, and the functions of
    the same project that they call; checkpoints may do what they want. A comment
    `# kitaru: ignore[KIT101]` silences a line. Findings end it with exit code 1.
    """
    from kitaru.engine.lint import CODES, lint

    findings = lint(paths)
    output = Output(ctx)
    if output.is_json:
        items = [
            {
                **{name: getattr(finding, name) for name in finding.__struct_fields__},
                "title": CODES[finding.code].title,
                "why": CODES[finding.code].why,
                "instead": CODES[finding.code].instead,
            }
            for finding in findings
        ]
        output.items(items, str)
    else:
        for finding in findings:
            place = f"{finding.file}:{finding.line}:{finding.column}"
            click.echo(escaped(f"{place}: {finding.code} {finding.message}"))
        output.note(f"{counted(len(findings), 'finding')}." if findings else "All is well.")
    if findings:
        ctx.exit(EXIT_FAILURE)
