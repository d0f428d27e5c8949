"""What a name or an id that a person gives can be."""

from kitaru.errors import KitaruUsageError

LONGEST_ID = 500
"""Characters."""


LONGEST_PATH = 5_000
"""Characters: a call's path has its name in it, and the tasks around it."""


def checked_id(given: object, what: str, longest: int = LONGEST_ID) -> str:
    """A name that a person gave, when it can be one. Raises KitaruUsageError."""
    if not isinstance(given, str) or not given.strip():
        raise KitaruUsageError(f"{what} must be a text that is not empty, not {_shown(given)}.")
    if len(given) > longest:
        raise KitaruUsageError(
            f"{what} must not be longer than {longest:,} characters; this has {len(given):,}."
        )
    if not given.isprintable():
        raise KitaruUsageError(f"{what} must not hold control characters: {given!r}.")
    return given


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= LONGEST_ID else f"{text[:LONGEST_ID]}…"
