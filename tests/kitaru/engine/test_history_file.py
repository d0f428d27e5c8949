"""The law of a history file: what is read is what was written, or it is refused and the place is
named."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from journal import Append, HeadChange, NewEvent, RecordedEvent, open_journal
from kitaru.engine.history_file import (
    DamagedHistory,
    History,
    NewerHistory,
    blobs_named,
    read,
    written,
)
from kitaru.errors import KitaruStateError

HEAD = HeadChange(state="running", name="agent", due_at=None)
payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b" {}", b"{}\n", b'{"a":1}', b'{"a": 1 }', b'1,"x":2', b"null", b"{", b"\xff"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
)


async def recorded(contents: list[bytes], exec_id: str = "one") -> tuple[RecordedEvent, ...]:
    journal = await open_journal("memory://")
    events = tuple(NewEvent(f"type{n}", content, n) for n, content in enumerate(contents))
    await journal.append(Append(f"execution-{exec_id}", events, 0, head=HEAD))
    found = tuple(await journal.read_stream(f"execution-{exec_id}"))
    await journal.close()
    return found


def bare(history: History) -> list[RecordedEvent]:
    return [replace(event, position=0) for event in history.events]


def with_digests(*contents: bytes) -> dict[str, bytes]:
    return {sha256(content).hexdigest(): content for content in contents}


@given(contents=st.lists(payloads, min_size=1, max_size=5), blobs=st.lists(payloads, max_size=3))
async def test_what_is_read_is_what_was_written(contents: list[bytes], blobs: list[bytes]) -> None:
    history = History(await recorded(contents), with_digests(*blobs), ("f" * 64,))
    content = written(history, flow="agent", written_by="somebody")
    again = read(content, "a file")
    assert bare(again) == bare(history)
    assert again.blobs == history.blobs
    assert again.missing == ("f" * 64,)
    assert again.exec_id == "one"
    assert content.count(b"\n") == 2 + len(contents) + len(history.blobs)


async def test_an_erased_event_stays_erased() -> None:
    first, second = await recorded([b"{}", b"secret"])
    erased = replace(second, payload=b"", payload_digest=sha256(b"secret").digest())
    content = written(History((first, erased), {}))
    assert b"secret" not in content
    assert bare(read(content, "a file")) == bare(History((first, erased), {}))


async def a_file() -> bytes:
    events = await recorded([b'{"a":1}', b"\xff\xfe", b'{"b":[2,3]}', b"{}"])
    return written(History(events, with_digests(b'"large"', b"\x00")), flow="agent")


@given(place=st.integers(0, 10_000), to=st.integers(0, 255))
async def test_no_changed_byte_goes_unnoticed(place: int, to: int) -> None:
    """Only what is there for people, in the head, may change without changing the execution."""
    content = await a_file()
    place %= len(content)
    changed = content[:place] + bytes([to]) + content[place + 1 :]
    _check_refused_or_the_same(content, changed)


@given(start=st.integers(0, 10_000), length=st.integers(1, 200))
async def test_no_missing_bytes_go_unnoticed(start: int, length: int) -> None:
    content = await a_file()
    start %= len(content)
    _check_refused_or_the_same(content, content[:start] + content[start + length :])


@given(order=st.permutations(range(8)), kept=st.integers(0, 8))
async def test_no_line_can_be_moved_or_left_out(order: list[int], kept: int) -> None:
    content = await a_file()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 8
    _check_refused_or_the_same(content, b"".join(lines[n] for n in order[:kept]))


def _check_refused_or_the_same(content: bytes, changed: bytes) -> None:
    was = read(content, "a file")
    try:
        now = read(changed, "a file")
    except (DamagedHistory, NewerHistory):
        return
    assert bare(now) == bare(was)
    assert now.blobs == was.blobs


def lines_of(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


async def _forged(line: int, **fields: Any) -> bytes:
    lines = (await a_file()).splitlines()
    forged = {**json.loads(lines[line - 1]), **fields}
    lines[line - 1] = msgspec.json.encode(forged)
    return b"".join(each + b"\n" for each in lines)


@pytest.mark.parametrize(
    ("line", "fields", "told"),
    [
        (1, {"kitaru_history": "one"}, "this is no history"),
        (1, {"exec_id": ""}, "it names no execution"),
        (1, {"__class__": "os.system"}, "unknown field"),
        (2, {"payload": {"a": 2}}, "event 1 is altered"),
        (2, {"recorded_at": 1}, "event 1 is altered"),
        (2, {"recorded_at": 2**80}, ""),
        (3, {"type": "type0"}, "event 2 is altered"),
        (4, {"epoch": 7}, "event 3 is altered"),
        (4, {"version": 4}, "event 3 is missing"),
        (4, {"base64": "AAAA"}, "one payload"),
        (4, {"erased": "00"}, "one payload"),
        (5, {"hash": "zz"}, "is no hash"),
        (5, {"extra": 1}, "unknown field"),
        (6, {"content": "other"}, "is not what its hash says"),
        (8, {"events": 3}, "does not hold what its end says"),
        (8, {"blobs": 0}, "does not hold what its end says"),
    ],
)
async def test_what_is_wrong_is_named_with_its_line(
    line: int, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(DamagedHistory) as raised:
        read(await _forged(line, **fields), "bad.history.jsonl")
    assert raised.value.line == line, str(raised.value)
    assert f"bad.history.jsonl:{line}: " in str(raised.value)
    assert told in str(raised.value)


async def test_an_execution_cannot_be_given_another_id() -> None:
    with pytest.raises(DamagedHistory, match="event 1 is altered"):
        read(await _forged(1, exec_id="another"), "bad.history.jsonl")


async def test_a_file_of_a_later_form_is_told_apart() -> None:
    with pytest.raises(NewerHistory, match="has the form 2 of a history"):
        read(await _forged(1, kitaru_history=2, colours=["red"]), "new.history.jsonl")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}", b"{}\n", b"[]\n[]\n", b"\xff\n", b"[" * 10_000]
)
def test_what_is_no_history_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedHistory):
        read(content, "a file")


async def test_reading_makes_nothing_of_what_it_reads(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = json.dumps({"$": ["object", "os.system", f"touch {canary}"], "py/reduce": "os"}).encode()
    content = written(History(await recorded([evil]), with_digests(evil)))
    history = read(content, "a file")
    assert history.events[0].payload == evil
    assert not canary.exists()


async def test_values_beside_the_events_are_known_by_their_place_not_by_their_look() -> None:
    real, quoted = "a" * 64, "b" * 64
    completed = {
        "path": "p",
        "name": "p",
        "attempt": 1,
        "arguments": {"blob": real, "size": 1},
        "result": {"json": {"blob": quoted}},
    }
    journal = await open_journal("memory://")
    events = (
        NewEvent("checkpoint_completed", msgspec.json.encode(completed)),
        NewEvent("checkpoint_dreamt", b'{"value":{"blob":"%s"}}' % (b"c" * 64)),
    )
    await journal.append(Append("execution-x", events, 0, head=HEAD))
    found = await journal.read_stream("execution-x")
    await journal.close()
    assert blobs_named(found) == [real, "c" * 64]


def test_the_error_is_one_that_callers_know() -> None:
    assert issubclass(DamagedHistory, KitaruStateError)
