"""A divergence as the text that people see."""

from collections.abc import Iterator
from shlex import quote

from msgspec import UNSET

from kitaru.divergence import DivergedCall, Divergence
from kitaru.engine.differences import shown, shown_arguments

SHOWN_DIFFERENCES = 5
SHOWN_CALLS = 3
SHOWN_HINTS = 3


def report(exec_id: str, divergence: Divergence) -> str:
    """The whole report: what has happened, what is recorded, what is asked, what to do."""
    return "\n".join(_lines(exec_id, divergence))


def _lines(exec_id: str, divergence: Divergence) -> Iterator[str]:
    yield f"The code no longer fits the journal: {divergence.summary}."
    recorded = divergence.recorded
    when = "still open" if recorded.version is None else f"event {recorded.version}"
    yield f"  recorded  {_call(recorded)}{_place(recorded)} ({when})"
    yield from _asked(divergence)
    for difference in divergence.differences[:SHOWN_DIFFERENCES]:
        before, now = shown(difference.recorded), shown(difference.now)
        yield f"  changed   {difference.path}: {before} -> {now}"
    if len(divergence.differences) > SHOWN_DIFFERENCES:
        yield f"            and {len(divergence.differences) - SHOWN_DIFFERENCES} more"
    for hint in divergence.hints[:SHOWN_HINTS]:
        yield f"  hint      {hint}"
    yield "Nothing is lost, and nothing new was run. Either"
    yield f"  - put the old code back, and `kitaru executions resume {exec_id}`, or"
    yield f"  - give it up with `kitaru executions cancel {exec_id}`, and start anew; what came"
    before = f"`kitaru executions replay {exec_id} --from {quote(recorded.path)}`"
    yield f"    before it can be taken along: {before}."


def _asked(divergence: Divergence) -> Iterator[str]:
    if not divergence.asked:
        ended = divergence.ended
        yield "  now       " + ("it returns" if ended in ("", "returned") else f"raises {ended}")
        return
    for number, call in enumerate(divergence.asked[:SHOWN_CALLS]):
        yield f"  {'now ' if number == 0 else 'also'}      {_call(call)}{_place(call)}"
    if len(divergence.asked) > SHOWN_CALLS:
        yield f"            and {len(divergence.asked) - SHOWN_CALLS} more"


def _place(call: DivergedCall) -> str:
    return f" at {call.site}" if call.site else ""


def _call(call: DivergedCall) -> str:
    """Its path, and what it was called with."""
    if call.kind != "checkpoint":
        return f"{call.kind} {call.path}" if call.path != call.kind else call.kind
    arguments = "…" if call.arguments is UNSET else shown_arguments(call.arguments)
    return f"{call.path}({arguments})"
