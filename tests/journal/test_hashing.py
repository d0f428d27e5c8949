"""The chain: no two events share their bytes, and damage is found where it is."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from journal import Head, RecordedEvent, verify_stream
from journal.hashing import canonical_bytes, event_hash, hash_of
from journal.records import GENESIS

numbers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=5)
digests = st.binary(min_size=32, max_size=32)
fields = st.tuples(texts, numbers, texts, numbers, numbers, numbers, digests, digests)


def chain(length: int) -> list[RecordedEvent]:
    made: list[RecordedEvent] = []
    previous = GENESIS
    for version in range(1, length + 1):
        event = RecordedEvent(
            "ex-1", version, version, "Happened", 1, 7, 0, b"%d" % version, previous, b""
        )
        previous = hash_of(event) or b""
        made.append(replace(event, hash=previous))
    return made


def head_at(event: RecordedEvent) -> Head:
    return Head(
        stream=event.stream,
        category="ex",
        version=event.version,
        hash=event.hash,
        state="done",
        name="order",
        due_at=None,
        parent=None,
        summary=b"",
        created_at=0,
        updated_at=0,
        owner=None,
        epoch=0,
        lease_until=0,
        anchor_version=event.version,
        anchor_hash=event.hash,
    )


@given(fields, fields)
def test_no_two_events_share_their_bytes(one: Any, other: Any) -> None:
    assert (canonical_bytes(*one) == canonical_bytes(*other)) == (one == other)


def test_the_hash_is_fixed_for_ever() -> None:
    """Stored journals hold such hashes: this value may never change."""
    digest = sha256(b"payload").digest()
    made = event_hash("ex-1", 1, "Began", 1, 1_800_000_000_000_000, 3, digest, GENESIS)
    assert made.hex() == "889872f471bb8f038d0ed3a2e7530351724636ec47357327bcefe3e7a7acb22a"


def test_the_position_is_no_part_of_it() -> None:
    [event] = chain(1)
    assert hash_of(replace(event, position=99)) == event.hash


def test_a_whole_chain_is_found_whole() -> None:
    events = chain(5)
    assert verify_stream(events, head=head_at(events[-1])) == []
    assert verify_stream([]) == []


@given(st.integers(0, 4), st.data())
def test_a_flipped_bit_is_found_where_it_is(place: int, data: st.DataObject) -> None:
    events = chain(5)
    field = data.draw(st.sampled_from(["payload", "hash", "previous_hash"]))
    value = bytearray(getattr(events[place], field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    events[place] = replace(events[place], **{field: bytes(value)})
    findings = verify_stream(events)
    assert findings[0].stream == "ex-1"
    assert place + 1 in {finding.version for finding in findings}


@pytest.mark.parametrize("changed", ["type", "schema", "recorded_at", "epoch", "stream"])
def test_a_changed_field_is_found(changed: str) -> None:
    events = chain(3)
    value = "ex-2" if changed in ("type", "stream") else 5
    events[1] = replace(events[1], **{changed: value})
    assert [(f.version, f.kind) for f in verify_stream(events)] == [(2, "altered")]


@given(st.sets(st.integers(0, 3), min_size=1, max_size=4))
def test_missing_events_are_found(gone: set[int]) -> None:
    events = chain(5)
    kept = [event for place, event in enumerate(events) if place not in gone]
    findings = verify_stream(kept)
    assert {f.kind for f in findings} == {"missing"}
    assert findings[0].version == min(gone) + 1


def test_swapped_events_are_named_as_such() -> None:
    events = chain(5)
    second, fourth = events[1], events[3]
    events[1] = replace(fourth, version=2)
    events[3] = replace(second, version=4)
    found = [(f.version, f.kind) for f in verify_stream(events)]
    assert (2, "swapped") in found
    assert (4, "swapped") in found


def test_events_out_of_order_are_found() -> None:
    events = chain(3)
    assert verify_stream([events[1], events[0], events[2]]) != []
    assert verify_stream([events[0], events[0], events[1]]) != []


def test_what_is_gone_is_named_exactly() -> None:
    events = chain(6)
    (one,) = verify_stream([*events[:2], *events[3:]])
    assert (one.version, one.kind, one.what) == (3, "missing", "the event is gone")
    (more,) = verify_stream([events[0], *events[4:]])
    assert (more.version, more.what) == (2, "the events 2 to 4 are gone")
    first, *_ = verify_stream([events[0], events[0]])
    assert (first.version, first.what) == (2, "events are out of order or there twice")
    (begun,) = verify_stream(events[1:])
    assert (begun.version, begun.what) == (1, "the event is gone")


def test_an_event_that_follows_another_one_is_altered() -> None:
    events = chain(2)
    other = replace(events[1], previous_hash=bytes([1] * 32))
    (found,) = verify_stream([events[0], replace(other, hash=hash_of(other) or b"")])
    assert (found.version, found.kind) == (2, "altered")
    assert found.what == "it does not follow the event before it"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_digest_of_another_length_has_no_form(length: int) -> None:
    (event,) = chain(1)
    assert hash_of(replace(event, payload=b"", payload_digest=bytes(length))) is None
    assert hash_of(replace(event, previous_hash=bytes(length))) is None
    assert hash_of(event) == event.hash


def test_a_cut_tail_is_found_up_to_where_the_head_was_written() -> None:
    events = chain(5)
    findings = verify_stream(events[:3], head=head_at(events[4]))
    assert [(f.version, f.kind) for f in findings] == [(4, "missing")]
    assert "4 to 5" in findings[0].what
    assert [f.version for f in verify_stream([], head=head_at(events[4]))] == [1]


def test_a_chain_made_anew_is_found_by_its_head() -> None:
    events = chain(3)
    other = replace(events[2], payload=b"forged")
    forged = [*events[:2], replace(other, hash=hash_of(other) or b"")]
    assert verify_stream(forged) == []
    found = verify_stream(forged, head=head_at(events[2]))
    assert [(f.version, f.kind) for f in found] == [(3, "altered")]


def test_an_erased_payload_leaves_the_chain_whole() -> None:
    events = chain(3)
    digest = sha256(events[1].payload).digest()
    events[1] = replace(events[1], payload=b"", payload_digest=digest)
    assert verify_stream(events) == []


@pytest.mark.parametrize("payload", [b"forged", "", "text", 0])
def test_what_was_erased_has_no_payload(payload: Any) -> None:
    """Else a payload of anybody's could stand beside the digest of the one that was hashed."""
    (event,) = chain(1)
    digest = sha256(event.payload).digest()
    erased = replace(event, payload=None, payload_digest=digest)
    assert verify_stream([erased]) == []
    (found,) = verify_stream([replace(erased, payload=payload)])
    assert (found.version, found.kind) == (1, "altered")


@pytest.mark.parametrize(
    "damage",
    [
        {"payload": None},
        {"payload": "text"},
        {"type": b"bytes"},
        {"type": "\ud800"},
        {"schema": 2**70},
        {"epoch": "x"},
        {"recorded_at": None},
        {"previous_hash": None},
        {"previous_hash": b"short"},
        {"payload_digest": b"short"},
        {"hash": None},
    ],
)
def test_whatever_a_damaged_row_holds_is_a_finding(damage: dict[str, Any]) -> None:
    events = chain(2)
    events[1] = replace(events[1], **damage)
    assert verify_stream(events)[0].version == 2


def test_verification_needs_no_list() -> None:
    assert verify_stream(iter(chain(3))) == []
