"""Reading works without an event loop, finds what is meant and tells what is wrong."""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import Raw

from journal import Append, Claim, NewEvent, open_journal
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    SourceReference,
)
from kitaru.domain.execution.state import ABSENT, evolve
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.executions import head_of, new_event
from kitaru.engine.values import stored
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError
from kitaru.operations import reading
from kitaru.status import ExecutionStatus

FIRST = "5f0c8a52-1d9c-4f6e-9f56-0e9a1c3f7b11"
SECOND = "5f0c9b00-1d9c-4f6e-9f56-0e9a1c3f7b12"
THIRD = "77777777-1d9c-4f6e-9f56-0e9a1c3f7b13"
RESULT = StoredValue(json=Raw(b"42"))


def started(flow: str) -> ExecutionStarted:
    return ExecutionStarted(
        flow=flow,
        source=SourceReference(module="m", qualname=flow),
        arguments=StoredValue(json=Raw(b"{}")),
        arguments_digest="d",
    )


COMPLETED: list[ExecutionEvent] = [
    started("agent"),
    CheckpointCompleted(path="f", name="f", attempt=1, result=RESULT),
    ExecutionCompleted(result=RESULT),
]
FAILED: list[ExecutionEvent] = [
    started("agent"),
    ExecutionFailed(error=ErrorData(type="ValueError", message="boom"), origin="user_code"),
]
RUNNING: list[ExecutionEvent] = [started("other")]


def write(
    file: Path,
    exec_id: str,
    events: Sequence[ExecutionEvent],
    *,
    extra: NewEvent | None = None,
    claim: Claim | None = None,
    blobs: tuple[bytes, ...] = (),
) -> None:
    async def scenario() -> None:
        journal = await open_journal(str(file))
        state = ABSENT
        for event in events:
            state = evolve(state, event)
        new = [new_event(event) for event in events]
        await journal.append(
            Append(
                stream=f"execution-{exec_id}",
                events=(*new, extra) if extra else tuple(new),
                expected_version=0,
                head=head_of(state),
                claim=claim,
                blobs=blobs,
            )
        )
        await journal.close()

    asyncio.run(scenario())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the configured journal is; it does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KITARU_JOURNAL", "journal.db")
    return tmp_path / "journal.db"


@pytest.fixture
def three(file: Path) -> Path:
    write(file, FIRST, COMPLETED)
    write(file, SECOND, FAILED)
    write(file, THIRD, RUNNING)
    return file


def alter(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    connection.executescript(
        "DROP TRIGGER events_are_never_changed; DROP TRIGGER events_are_never_deleted;"
    )
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.usefixtures("three")
def test_an_unambiguous_beginning_finds_its_execution() -> None:
    with reading.opened_journal() as reader:
        assert reading.find(reader, "7777").stream.endswith(THIRD)
        assert reading.find(reader, f" {FIRST} ").stream.endswith(FIRST)


@pytest.mark.usefixtures("three")
def test_an_ambiguous_beginning_lists_who_it_could_be() -> None:
    with reading.opened_journal() as reader, pytest.raises(KitaruUsageError) as caught:
        reading.find(reader, "5f0c")
    assert f"{FIRST} (agent, completed)" in str(caught.value)
    assert f"{SECOND} (agent, failed)" in str(caught.value)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("text", ["5", "5f0"])
def test_a_beginning_that_is_too_short_is_refused(text: str) -> None:
    with reading.opened_journal() as reader, pytest.raises(KitaruUsageError, match="too short"):
        reading.find(reader, text)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("text", ["abcdef", "5f0c%", "x" * 500])
def test_an_unknown_id_names_the_journal_that_was_searched(text: str) -> None:
    with reading.opened_journal() as reader, pytest.raises(KitaruStateError, match=r"journal\.db"):
        reading.find(reader, text)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("text", ["", "   ", "\ud800\ud800\ud800\ud800", "5f0c\0", "x" * 10_000])
def test_what_can_be_no_id_is_refused(text: str) -> None:
    with reading.opened_journal() as reader, pytest.raises(KitaruUsageError, match="An execution"):
        reading.find(reader, text)


@pytest.mark.usefixtures("three")
def test_lists_are_newest_first_filtered_and_paged() -> None:
    with reading.opened_journal() as reader:
        everything = reading.list_executions(reader)
        assert [execution.exec_id for execution in everything] == [THIRD, SECOND, FIRST]
        agents = reading.list_executions(reader, flow="agent")
        assert [execution.exec_id for execution in agents] == [SECOND, FIRST]
        failed = reading.list_executions(reader, status=ExecutionStatus.FAILED)
        assert [execution.exec_id for execution in failed] == [SECOND]
        page = reading.list_executions(reader, skip=1, count=1)
        assert [execution.exec_id for execution in page] == [SECOND]


@pytest.mark.usefixtures("three")
def test_the_latest_comes_with_its_checkpoints() -> None:
    with reading.opened_journal() as reader:
        latest = reading.latest(reader, status=ExecutionStatus.COMPLETED)
        assert [call.call_id for call in latest.checkpoints] == ["f"]
        with pytest.raises(KitaruStateError, match="matches"):
            reading.latest(reader, flow="none such")


@pytest.mark.usefixtures("three")
def test_a_timeline_has_every_event() -> None:
    with reading.opened_journal() as reader:
        kinds = [entry.kind for entry in reading.timeline(reader, FIRST)]
    assert kinds == ["execution_started", "checkpoint_completed", "execution_completed"]


def test_a_missing_journal_is_said_and_not_made(file: Path) -> None:
    with pytest.raises(reading.JournalMissing, match="KITARU_JOURNAL"), reading.opened_journal():
        pass
    assert os.listdir(file.parent) == []


def test_another_file_is_no_journal(file: Path) -> None:
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(KitaruBackendError, match="not a journal"), reading.opened_journal():
        pass


def test_a_journal_in_memory_cannot_be_read_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_JOURNAL", "memory://")
    with pytest.raises(KitaruUsageError, match="nobody else"):
        reading.journal_place()


@pytest.mark.usefixtures("three")
def test_a_sound_journal_verifies() -> None:
    with reading.opened_journal() as reader:
        everything = reading.verify(reader)
        assert (everything.streams, everything.events, everything.problems) == (3, 6, ())
        assert reading.verify(reader, "7777").events == 1


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE events SET payload = '{}' WHERE version = 2 AND stream = 1", "unreadable"),
        ("UPDATE events SET payload = x'7b7d' WHERE version = 2 AND stream = 1", "altered"),
        ("DELETE FROM events WHERE version = 2 AND stream = 1", "missing"),
        ("DELETE FROM events WHERE stream = 1", "missing"),
        ("UPDATE heads SET state = 'failed' WHERE id = 1", "head"),
        ("UPDATE heads SET name = 'else' WHERE id = 1", "head"),
        ("UPDATE heads SET summary = x'7b' WHERE id = 1", "head"),
    ],
)
def test_damage_is_found_and_named(three: Path, statement: str, kind: str) -> None:
    alter(three, statement)
    with reading.opened_journal() as reader:
        found = reading.verify(reader)
        assert not found.is_sound
        mine = [problem for problem in found.problems if problem.stream == f"execution-{FIRST}"]
        if kind != "unreadable":
            assert kind in {problem.kind for problem in mine}
        assert mine
        assert reading.verify(reader, "7777").is_sound


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("DELETE FROM blobs", "missing"),
        ("UPDATE blobs SET data = x'00'", "altered"),
        ("UPDATE blobs SET size = size + 1", "altered"),
    ],
)
def test_a_value_beside_its_event_is_checked_too(file: Path, statement: str, kind: str) -> None:
    value = b"5" * 40_000
    result, blobs = stored(value)
    large = CheckpointCompleted(path="f", name="f", attempt=1, result=result)
    write(file, FIRST, [started("agent"), large], blobs=blobs)
    write(file, THIRD, RUNNING)
    with reading.opened_journal() as reader:
        assert reading.verify(reader).is_sound
    alter(file, statement)
    with reading.opened_journal() as reader:
        for only in (None, FIRST):
            [problem] = reading.verify(reader, only).problems
            assert problem.stream == f"execution-{FIRST}"
            assert (problem.version, problem.kind) == (2, kind)
        assert reading.verify(reader, "7777").is_sound


def test_events_of_a_newer_version_are_no_damage(file: Path) -> None:
    extra = NewEvent(type="wait_requested", payload=b"{}", schema=3)
    write(file, FIRST, RUNNING, extra=extra)
    with reading.opened_journal() as reader:
        found = reading.verify(reader)
        assert found.is_sound
        assert [(problem.kind, problem.version) for problem in found.problems] == [("newer", 2)]
        assert reading.get(reader, FIRST).unknown


def test_the_status_counts_executions_and_living_owners(file: Path) -> None:
    write(file, FIRST, RUNNING, claim=Claim(owner="host:1", seconds=3600))
    write(file, SECOND, RUNNING, claim=Claim(owner="host:1", seconds=7200))
    write(file, THIRD, FAILED)
    status = reading.journal_status(0)
    assert status.executions == {"running": 2, "failed": 1}
    ((owner),) = status.owners
    assert (owner.name, owner.executions) == ("host:1", 2)
    assert status.schema is not None
    assert status.bytes > 0
    assert reading.journal_status(owner.lease_until).owners == ()


def test_the_status_of_a_missing_journal_makes_none(file: Path) -> None:
    status = reading.journal_status(0)
    assert (status.exists, status.executions, status.place.file) == (False, {}, str(file))
    assert not file.exists()


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 54, 0), False),
    ],
)
def test_which_sqlite_has_the_wal_reset_bug(version: tuple[int, ...], has_it: bool) -> None:
    assert reading.has_wal_reset_bug(version) is has_it
