"""Reading without an event loop, and finding damage in a whole file."""

import hashlib
import inspect
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from journal import (
    Append,
    BlobNotFound,
    CorruptJournal,
    HeadChange,
    HeadQuery,
    InvalidQuery,
    Journal,
    JournalError,
    JournalUnavailable,
    NewEvent,
    open_journal,
    open_reader,
)
from journal.backends.sqlite import queries
from journal.backends.sqlite import reader as reading
from journal.backends.sqlite.connections import connect_reader

RUNNING = HeadChange("running", "order", None)
DONE = HeadChange("done", "order", None)

Damage = Callable[[sqlite3.Connection], object]


@pytest.fixture
async def path(tmp_path: Path) -> str:
    """A journal with two streams: ex-1 with five events, finished, and ex-2 with three."""
    path = str(tmp_path / "journal.db")
    journal = await open_journal(path)
    for stream, count, last in (("ex-1", 5, DONE), ("ex-2", 3, None)):
        for version in range(count):
            events = (NewEvent("Happened", b"payload %d" % version),)
            head = RUNNING if version == 0 else last if version == count - 1 else None
            await journal.append(Append(stream, events, version, head, blobs=(b"blob",)))
    await journal.close()
    return path


def damaged(path: str, damage: Damage) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER events_are_never_changed")
    connection.execute("DROP TRIGGER events_are_never_deleted")
    damage(connection)
    connection.close()


def change(sql: str) -> Damage:
    return lambda connection: connection.executescript(sql)


def flip_a_bit(connection: sqlite3.Connection) -> None:
    (payload,) = connection.execute("SELECT payload FROM events WHERE position = 3").fetchone()
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    connection.execute("UPDATE events SET payload = ? WHERE position = 3", (flipped,))


SWAP = """
UPDATE events SET version = 99 WHERE position = 2;
UPDATE events SET version = 2 WHERE position = 3;
UPDATE events SET version = 3 WHERE position = 2;
"""


def test_the_reader_reads_what_was_written(path: str) -> None:
    with open_reader(path) as reader:
        assert [event.version for event in reader.read_stream("ex-1", after=1, limit=2)] == [2, 3]
        assert len(reader.read_all(after=2)) == 6
        heads = reader.heads(HeadQuery(category="ex"))
        assert [(head.stream, head.state) for head in heads] == [
            ("ex-2", "running"),
            ("ex-1", "done"),
        ]
        assert reader.heads(HeadQuery(category="ex", cursor="ex-2")) == heads[1:]
        assert reader.head("ex-1") == heads[1]
        assert reader.head("ex-\udc80") is None
        digest = "fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8"
        assert reader.get_blob(digest) == b"blob"
        assert reader.location == path
        with pytest.raises(BlobNotFound):
            reader.get_blob("00" * 32)
        with pytest.raises(InvalidQuery):
            reader.heads(HeadQuery(category="ex", cursor="ex-9"))


def test_what_is_not_given_is_as_in_the_journal() -> None:
    for name in ("read_stream", "read_all"):
        own, ports = (
            {
                each.name: each.default
                for each in inspect.signature(getattr(of, name)).parameters.values()
            }
            for of in (reading.SqliteReader, Journal)
        )
        assert own == ports, name


def test_a_whole_journal_has_no_findings(path: str) -> None:
    with open_reader(path) as reader:
        assert reader.verify() == []
        assert reader.verify("ex-1") == []
        assert reader.verify("ex-unknown") == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (flip_a_bit, ("ex-1", 3, "altered")),
        (change("UPDATE events SET type = 'Other' WHERE position = 7"), ("ex-2", 2, "altered")),
        (change("DELETE FROM events WHERE position = 3"), ("ex-1", 3, "missing")),
        (change("DELETE FROM events WHERE position = 1"), ("ex-1", 1, "missing")),
        (change("DELETE FROM events WHERE position = 5"), ("ex-1", 5, "missing")),
        (change("DELETE FROM events WHERE position <= 5"), ("ex-1", 1, "missing")),
        (change(SWAP), ("ex-1", 2, "swapped")),
        (change("DELETE FROM heads WHERE stream = 'ex-1'"), ("(number 1)", 1, "missing")),
        (change("UPDATE events SET payload = 'text' WHERE position = 2"), ("ex-1", 2, "altered")),
        (change("UPDATE events SET payload = NULL WHERE position = 2"), ("ex-1", 2, "altered")),
        (change("UPDATE events SET version = 1.5 WHERE position = 2"), ("ex-1", 2, "missing")),
        (
            change("UPDATE events SET stream = 2, version = 9 WHERE position = 5"),
            ("ex-2", 4, "missing"),
        ),
    ],
)
def test_damage_is_found_and_named(path: str, damage: Damage, found: tuple[str, int, str]) -> None:
    damaged(path, damage)
    with open_reader(path) as reader:
        findings = [(f.stream, f.version, f.kind) for f in reader.verify()]
    assert found in findings


def test_a_cut_tail_before_other_streams_events_leaves_a_gap(path: str) -> None:
    """Without a head that was written with them: the positions tell that events are gone."""
    damaged(path, change("UPDATE events SET position = 20 WHERE position = 8"))
    with open_reader(path) as reader:
        assert [f.what for f in reader.verify()] == ["the events at the positions 8 to 19 are gone"]


def test_text_that_is_no_text_is_damage_and_no_crash(path: str) -> None:
    damaged(path, change("UPDATE events SET type = CAST(x'ff' AS TEXT) WHERE position = 2"))
    with open_reader(path) as reader:
        assert reader.verify() != []
        with pytest.raises(CorruptJournal):
            reader.read_stream("ex-1")


@pytest.mark.parametrize(("position", "version"), [(6, 1), (7, 2), (8, 3)])
def test_an_event_that_cannot_even_be_read_is_named(path: str, position: int, version: int) -> None:
    sql = f"UPDATE events SET type = CAST(x'ff' AS TEXT) WHERE position = {position}"
    damaged(path, change(sql))
    with open_reader(path) as reader:
        found = [(it.stream, it.version, it.kind) for it in reader.verify()]
    assert found == [("ex-2", version, "unreadable")]


@pytest.mark.parametrize("question", ["_ORPHANS", "_GAPS"])
def test_what_cannot_be_asked_of_the_whole_journal_is_a_finding(
    path: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, question, "SELECT * FROM absent")
    with open_reader(path) as reader:
        found = [(it.stream, it.version, it.kind) for it in reader.verify()]
    assert found == [("(unknown)", 0, "unreadable")]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events WHERE position = 3",
        "DELETE FROM events WHERE position = 1",
        "UPDATE events SET previous_hash = zeroblob(32) WHERE position = 3",
        "UPDATE events SET payload = 'text' WHERE position = 3",
        "UPDATE events SET payload = NULL WHERE position = 3",
        "UPDATE events SET payload = 'text', payload_digest = zeroblob(32) WHERE position = 3",
        "UPDATE events SET previous_hash = randomblob(32) WHERE position = 1",
    ],
)
async def test_reading_a_damaged_stream_says_where(path: str, sql: str) -> None:
    damaged(path, change(sql))
    with open_reader(path) as reader, pytest.raises(CorruptJournal, match="ex-1"):
        reader.read_stream("ex-1")
    journal = await open_journal(path)
    with pytest.raises(CorruptJournal, match="ex-1"):
        await journal.read_stream("ex-1")
    await journal.close()


def test_reading_names_the_version_that_is_damaged(path: str) -> None:
    damaged(path, change("UPDATE events SET payload = 'text' WHERE position = 7"))
    with open_reader(path) as reader:
        with pytest.raises(CorruptJournal) as of_stream:
            reader.read_stream("ex-2")
        with pytest.raises(CorruptJournal) as of_all:
            reader.read_all()
    for refused in (of_stream.value, of_all.value):
        assert (refused.stream, refused.version) == ("ex-2", 2)


async def test_an_empty_payload_that_is_gone_is_damage(path: str) -> None:
    journal = await open_journal(path)
    await journal.append(Append("ex-3", (NewEvent("Happened", b""),), 0, RUNNING))
    await journal.close()
    damaged(path, change("UPDATE events SET payload = NULL WHERE payload = x''"))
    with open_reader(path) as reader:
        assert [(it.stream, it.version, it.kind) for it in reader.verify()] == [
            ("ex-3", 1, "altered")
        ]


def test_an_erased_event_is_read_and_verified(path: str) -> None:
    digest = hashlib.sha256(b"payload 2").digest()
    erase = "UPDATE events SET payload = NULL, payload_digest = ? WHERE position = 3"
    damaged(path, lambda connection: connection.execute(erase, (digest,)))
    with open_reader(path) as reader:
        assert reader.verify() == []
        event = reader.read_stream("ex-1")[2]
        assert (event.payload, event.payload_digest) == (b"", digest)


def test_an_event_without_its_head_is_named_by_its_version_and_its_position(path: str) -> None:
    damaged(path, change("DELETE FROM heads WHERE id = 2"))
    with open_reader(path) as reader, pytest.raises(CorruptJournal, match="position 7 ") as refused:
        reader.read_all(after=6)
    assert (refused.value.stream, refused.value.version) == ("?", 2)


async def test_a_stream_without_its_head_or_its_events_is_damage(path: str) -> None:
    damaged(path, change("DELETE FROM heads WHERE id = 1; DELETE FROM events WHERE stream = 2"))
    journal = await open_journal(path)
    with pytest.raises(CorruptJournal, match="position 1 ") as headless:
        await journal.read_all()
    assert (headless.value.stream, headless.value.version) == ("?", 1)
    with pytest.raises(CorruptJournal, match="position 3 ") as later:
        await journal.read_all(after=2)
    assert later.value.version == 3
    with pytest.raises(CorruptJournal) as empty:
        await journal.head("ex-2")
    assert (empty.value.stream, empty.value.version) == ("ex-2", 1)
    with pytest.raises(CorruptJournal):
        await journal.append(Append("ex-2", (NewEvent("Happened", b""),), 0, RUNNING))
    await journal.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE blobs SET data = x'00'",
        "UPDATE blobs SET size = 9",
        "UPDATE blobs SET codec = 'zlib'",
        "UPDATE blobs SET codec = 'unknown'",
    ],
)
def test_a_blob_is_checked_when_it_is_read(path: str, sql: str) -> None:
    damaged(path, change(sql))
    digest = "fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8"
    with open_reader(path) as reader, pytest.raises(CorruptJournal, match=digest):
        reader.get_blob(digest)


@pytest.mark.parametrize("sql", ["UPDATE events SET payload = x''", "DELETE FROM events"])
def test_events_can_be_neither_changed_nor_deleted(path: str, sql: str) -> None:
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="events are never"):
        connection.execute(sql)
    connection.close()


def test_every_damaged_page_is_an_error_of_the_journal(path: str) -> None:
    """A page full of noise, each in turn: `verify` finds it, or a typed error says so."""
    whole = Path(path).read_bytes()
    for page in range(len(whole) // 4096):
        noise = bytes((page * 7 + n * 31) % 256 for n in range(4096))
        Path(path).write_bytes(whole[: page * 4096] + noise + whole[(page + 1) * 4096 :])
        try:
            with open_reader(path) as reader:
                assert reader.verify(), f"page {page + 1}"
                reader.read_all()
                reader.heads(HeadQuery(category="ex"))
        except JournalError:
            pass
    Path(path).write_bytes(whole[:6000])
    with pytest.raises(JournalError), open_reader(path) as reader:
        reader.read_all()


def test_an_index_that_leads_to_no_head_is_damage(path: str) -> None:
    with open_reader(path) as reader:
        [finding] = reader._stream_findings(99, "ex-99")
    assert (finding.stream, finding.kind) == ("ex-99", "unreadable")


async def test_nothing_is_appended_to_a_stream_whose_events_are_gone(path: str) -> None:
    damaged(path, change("DELETE FROM events WHERE stream = 1"))
    journal = await open_journal(path)
    for version in (0, 5):
        head = RUNNING if version == 0 else None
        with pytest.raises(CorruptJournal, match="a head and no events") as refused:
            await journal.append(Append("ex-1", (NewEvent("Happened", b""),), version, head))
        assert refused.value.version == 1
    await journal.close()


def test_one_stream_is_verified_by_itself(path: str) -> None:
    damaged(path, change("UPDATE events SET payload = x'00' WHERE position = 3"))
    with open_reader(path) as reader:
        assert [finding.stream for finding in reader.verify("ex-1")] == ["ex-1"]
        assert reader.verify("ex-2") == []
        assert reader.verify("ex-9") == []
        assert reader.verify() == reader.verify("ex-1")


def test_events_without_a_head_and_gaps_are_findings_of_the_whole_journal(path: str) -> None:
    damaged(
        path,
        change(
            "PRAGMA foreign_keys = OFF; DELETE FROM heads WHERE stream = 'ex-2';"
            "UPDATE events SET position = position + 5 WHERE position > 6"
        ),
    )
    with open_reader(path) as reader:
        found = [(it.stream, it.version, it.kind, it.what) for it in reader.verify()]
    assert found == [
        ("(number 2)", 1, "missing", "the head of these 3 events is gone"),
        ("(unknown)", 0, "missing", "the events at the positions 7 to 11 are gone"),
    ]


def test_a_reader_that_is_left_or_cannot_be_made_leaves_nothing_open(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []

    def connecting(path: str) -> sqlite3.Connection:
        opened.append(connect_reader(path))
        return opened[-1]

    monkeypatch.setattr(reading, "connect_reader", connecting)
    with open_reader(path) as reader:
        assert reader.verify() == []
    (tmp_path / "empty.db").touch()
    with pytest.raises(JournalUnavailable, match="is empty"):
        open_reader(str(tmp_path / "empty.db"))
    assert len(opened) == 2
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalUnavailable, match="there is no journal at"):
        open_reader(str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


def test_an_empty_file_has_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(JournalUnavailable, match="empty"):
        open_reader(str(tmp_path / "empty.db"))


def test_reading_needs_no_event_loop() -> None:
    program = (
        "import sys, journal, journal.backends.sqlite.reader; "
        "print(sorted({'asyncio', 'aiosqlite', 'hashlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# A lookup by parent walks the few heads that have one, and not all heads of the category.


def test_heads_are_looked_up_by_parent_through_the_index(path: str) -> None:
    query = queries.heads(HeadQuery(category="ex", parent="ex-1", cursor="ex-2"))
    connection = sqlite3.connect(path)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query.statement}", query.parameters).fetchall()
    connection.close()
    assert any("heads_by_parent" in detail for *_, detail in plan), plan
