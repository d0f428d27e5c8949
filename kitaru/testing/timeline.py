"""An execution's journal as a text that people read."""

from collections.abc import Sequence

from journal import RecordedEvent
from kitaru.domain.values import StoredValue
from kitaru.engine.codec import Codec, RecordedObject, TypeScope
from kitaru.errors import KitaruSerializationError
from kitaru.projections.timeline import TimelineEntry, timeline_of

WIDEST = 60
_codec = Codec()
_plain = TypeScope.of()


def timeline_text(recorded: Sequence[RecordedEvent], marked: int = 0) -> str:
    """One line for each event; `marked` is the version of the last event before a crash."""
    entries = timeline_of(recorded)
    width = max((len(entry.path or "") for entry in entries), default=0)
    lines: list[str] = []
    for entry in entries:
        lines.append(_line(entry, width))
        if entry.version == marked:
            lines.append("      ─── here ───")
    return "\n".join(lines)


def _line(entry: TimelineEntry, width: int) -> str:
    facts = [entry.text]
    if entry.arguments is not None and entry.kind in _WITH_ARGUMENTS:
        facts.append(f"({shown_arguments(entry.arguments)})")
    if entry.value is not None:
        facts.append(f"→ {shown(entry.value)}")
    if entry.failure is not None:
        kind = entry.failure.exception_type or ""
        first = entry.failure.message.partition("\n")[0]
        facts.append(f"→ {shortened(f'{kind}: {first}' if kind else first)}")
    owner = f"owner {entry.epoch}" if entry.epoch else "client"
    when = _since(entry.since_start_us)
    path = (entry.path or "").ljust(width)
    return f"{entry.version:4}  {when:>9}  {owner:8}  {path}  {' '.join(facts)}".rstrip()


_WITH_ARGUMENTS = ("execution_started", "checkpoint_completed", "checkpoint_failed")


def _since(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    if days:
        return f"+{days}d {hours:02}:{minutes:02}"
    if hours or minutes:
        return f"+{hours:02}:{minutes:02}:{seconds:02}"
    return f"+{seconds + rest / 1_000_000:g}s"


def shown(value: StoredValue) -> str:
    """A recorded value in one short line."""
    if value.blob is not None:
        return f"<{value.size} bytes>"
    return shortened(_python(_decoded(value)))


def shown_arguments(value: StoredValue) -> str:
    """Recorded arguments as they stand in a call."""
    if value.blob is not None:
        return f"<{value.size} bytes>"
    arguments = _decoded(value)
    if not isinstance(arguments, dict):
        return shortened(_python(arguments))
    return shortened(", ".join(f"{name}={_python(item)}" for name, item in arguments.items()))


def shortened(text: str) -> str:
    """At most so many characters."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _decoded(value: StoredValue) -> object:
    try:
        return _codec.decode(value.json, _plain)
    except KitaruSerializationError as error:
        return f"<unreadable: {error}>"


def _python(value: object) -> str:
    if isinstance(value, RecordedObject):
        return str(value)
    return repr(value)
