"""The reference page of the lint: ``python -m kitaru.engine.lint.page`` writes it."""

import sys
from collections.abc import Iterator

from kitaru.engine.lint.codes import CALLS, CODES, READS

_BEFORE = """\
# Lint codes

<!-- Written by `python -m kitaru.engine.lint.page` from `kitaru/engine/lint/codes.py`. -->

`kitaru lint PATH...` reads the source of flows and runs none of it. It looks at the body of each
function that Kitaru's `flow` decorates, however that was imported or named, and at the functions
of the same project which a body names: those, and no deeper. What is in a `@checkpoint` is left
alone. It tells what it can see in the source; that nothing is found proves nothing. `kitaru
check` [replays histories](../how-to/check-before-deploy.md).

A comment `# kitaru: ignore[KIT101]` silences these codes on its line; several are separated by
commas. The exit code is 1 when there are findings, and 0 when there are none. `-o json` gives
each with `file`, `line`, `column`, `code`, `title`, `found`, `flow`, `function`, `why` and
`instead`.

| code | what is found | what goes wrong | instead |
|---|---|---|---|
"""

_AFTER = """
Sets are known by how they are made in the same body, or by an annotation of a parameter; paths
likewise. A set that is sorted, counted, summed or looked into is fine. A list, dict or set of the
module is found when it is changed in a body, or read in one while some function of the module
changes it.

## The names

| code | calls, and all that begins with a name that ends in a dot |
|---|---|
"""


def reference_page() -> str:
    """The page, as it is in the documentation."""
    return "".join([_BEFORE, *_code_rows(), _AFTER, *_name_rows()])


def _code_rows() -> Iterator[str]:
    for code in CODES.values():
        yield f"| `{code.code}` | {code.title} | {code.why} | {code.instead} |\n"


def _name_rows() -> Iterator[str]:
    for code in CODES:
        names = [*_of(CALLS, code), *_of(READS, code)]
        if names:
            yield f"| `{code}` | {' '.join(f'`{name}`' for name in names)} |\n"


def _of(table: dict[str, str], code: str) -> list[str]:
    return [name for name, known in table.items() if known == code]


if __name__ == "__main__":
    sys.stdout.write(reference_page())
