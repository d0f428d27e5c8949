"""Which URL names which journal, and that nothing else names one."""

from pathlib import Path

import pytest

from journal import Append, HeadChange, InvalidJournalUrl, NewEvent, open_journal, open_reader
from journal.urls import JournalUrl, parse_url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/journal.db", "/var/journal.db"),
        ("sqlite:///journal.db", "journal.db"),
        ("sqlite:///j", "j"),
        ("sqlite:///a folder/jour#nal%20.db", "a folder/jour#nal%20.db"),
        ("/var/journal.db", "/var/journal.db"),
        ("journal.db", "journal.db"),
        ("./a/b", "./a/b"),
    ],
)
def test_a_file_is_named_by_url_or_path(url: str, path: str) -> None:
    assert parse_url(url) == JournalUrl("sqlite", path)


def test_memory_is_named_by_url() -> None:
    assert parse_url("memory://") == JournalUrl("memory")


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "postgresql://me:secret@host/db",
        "postgresql:///var/journal.db",
        "memory:",
        "memory:///",
        "sqlite://journal.db",
        "sqlite:///",
        "sqlite://",
        "sqlite:/journal.db",
        "sqlite:///journal.db?mode=ro",
        "memory://x",
        ":memory:",
        "file:journal.db",
        "folder/",
        "a\0b",
    ],
)
def test_anything_else_is_refused_and_told_what_is_accepted(url: str) -> None:
    with pytest.raises(InvalidJournalUrl) as refused:
        parse_url(url)
    assert "sqlite:////absolute/path.db" in str(refused.value)
    assert "memory://" in str(refused.value)
    assert "secret" not in str(refused.value)
    shown = f"{url.partition('://')[0]}://…" if "://" in url else url
    assert f"no journal is named by {shown!r};" in str(refused.value)


async def test_memory_is_a_new_journal_each_time() -> None:
    one, other = await open_journal("memory://"), await open_journal("memory://")
    await one.append(Append("ex-1", (NewEvent("A", b""),), 0, HeadChange("s", "n", None)))
    assert await other.read_all() == []
    await one.close()
    await other.close()


@pytest.mark.parametrize("name", ["a#b.db", "a%20b.db", "a b.db", "日本.db", "it's.db", "a&b=c.db"])
async def test_any_file_name_is_opened_as_it_is(tmp_path: Path, name: str) -> None:
    journal = await open_journal(f"sqlite:///{tmp_path / name}")
    await journal.append(Append("ex-1", (NewEvent("A", b""),), 0, HeadChange("s", "n", None)))
    assert await journal.head("ex-1") is not None
    assert journal.location == str(tmp_path / name)
    await journal.close()
    assert (tmp_path / name).exists()
    with open_reader(str(tmp_path / name)) as reader:
        assert reader.head("ex-1") is not None


def test_memory_cannot_be_read_from_outside() -> None:
    with pytest.raises(InvalidJournalUrl):
        open_reader("memory://")
