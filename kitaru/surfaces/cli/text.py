"""Texts for people: safe to print, times and amounts as one would say them."""

from datetime import datetime, timedelta

_DIGEST_LENGTH = 64
_BREAKS = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def escaped(text: str, *, lines: bool = False) -> str:
    """The text with every character escaped that a terminal would obey; `lines` keeps new lines.

    Names, values and messages come from the journal, and so from anybody.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else _escape(char) for char in text
    )


def _escape(char: str) -> str:
    import unicodedata

    if char in _BREAKS:
        return _BREAKS[char]
    if unicodedata.category(char) == "Zs":  # a wide or non-breaking space does no harm
        return char
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def site_text(site: str) -> str:
    """``file:line`` as one would say it: in a deployed version, from the root of its project."""
    head, found, rest = site.partition("/bundles/")
    digest, _, path = rest.partition("/")
    return path if found and head and len(digest) == _DIGEST_LENGTH else site


def clock_text(instant: datetime | None) -> str:
    """An instant in the local time zone, to the second."""
    if instant is None:
        return ""
    try:
        return instant.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):
        return instant.isoformat()


def duration_text(duration: timedelta | None) -> str:
    """Such as ``0.4 ms``, ``250 ms``, ``3.2 s``, ``2 min 3 s``, ``1 h 4 min``, ``2 d 3 h``."""
    if duration is None:
        return ""
    seconds = duration.total_seconds()
    if seconds < 0:
        return f"-{duration_text(-duration)}"
    if seconds < 0.00005:
        return "<0.1 ms"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size_text(size: int) -> str:
    """Bytes, such as ``68 KiB``."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def counted(count: int, thing: str) -> str:
    """Such as ``1 execution`` and ``2 executions``."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
