"""Which backend a URL names."""

from typing import Literal

from msgspec import Struct

from journal.errors import InvalidJournalUrl

ACCEPTED = "sqlite:////absolute/path.db, sqlite:///relative.db, memory:// or a plain path"


class JournalUrl(Struct, frozen=True):
    """A backend and where its data is."""

    backend: Literal["sqlite", "memory"]
    path: str = ""


def parse_url(url: str) -> JournalUrl:
    """The backend and path that a URL names. Raises InvalidJournalUrl, naming what is accepted."""
    scheme, separator, rest = url.partition("://")
    if "\0" in url:
        raise _invalid(url)
    if not separator:
        return _plain_path(url)
    if scheme == "memory" and not rest:
        return JournalUrl("memory")
    if scheme == "sqlite" and rest.startswith("/") and _names_a_file(rest[1:]):
        return JournalUrl("sqlite", rest[1:])
    raise _invalid(url)


def _plain_path(path: str) -> JournalUrl:
    # SQLite would read these two as something other than a file's name.
    if not _names_a_file(path) or path.startswith(("file:", ":memory:", "sqlite:", "memory:")):
        raise _invalid(path)
    return JournalUrl("sqlite", path)


def _names_a_file(path: str) -> bool:
    return bool(path.strip()) and not path.endswith("/") and "?" not in path


def _invalid(url: str) -> InvalidJournalUrl:
    # Not the whole URL: one of another kind may hold a password.
    scheme, separator, _ = url.partition("://")
    shown = f"{scheme}://…" if separator else url
    return InvalidJournalUrl(f"no journal is named by {shown!r}; accepted are {ACCEPTED}")
