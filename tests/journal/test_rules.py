"""What is refused before any stream is looked at."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from journal import (
    Adoption,
    Append,
    Claim,
    ClaimQuery,
    HeadChange,
    InvalidAppend,
    InvalidQuery,
    Lease,
    NewEvent,
    RecordedEvent,
)
from journal.hashing import hash_of
from journal.records import GENESIS
from journal.rules import (
    category_of,
    check_adoption,
    check_append,
    check_claim_query,
    check_seconds,
)

HEAD = HeadChange("running", "order", None)
EVENT = NewEvent("Happened", b"")


@given(st.text(min_size=1).filter(lambda text: "-" not in text), st.text(min_size=1))
def test_a_stream_is_a_category_and_an_id(category: str, identity: str) -> None:
    stream = f"{category}-{identity}"
    check_append(Append(stream, (EVENT,), 0, HEAD))
    assert category_of(stream) == category


@pytest.mark.parametrize("stream", ["", "-", "a-", "-a", "a", "a-\ud800"])
def test_anything_else_is_no_stream(stream: str) -> None:
    with pytest.raises(InvalidAppend):
        check_append(Append(stream, (EVENT,), 0, HEAD))


@pytest.mark.parametrize(
    "append",
    [
        Append("ex-1", (EVENT,), 0),
        Append("ex-1", (), 0, HEAD),
        Append("ex-1", (NewEvent("Happened", memoryview(b"")),), 0, HEAD),  # type: ignore[arg-type]
        Append("ex-1", (NewEvent(b"Happened", b""),), 0, HEAD),  # type: ignore[arg-type]
        Append("ex-1", (NewEvent("Happened", b"", True),), 0, HEAD),
        Append("ex-1", (EVENT,), 0, HeadChange("s", "n", 2**63)),
        Append("ex-1", (EVENT,), 0, HeadChange("s", "n", -(2**63) - 1)),
        Append("ex-1", (EVENT,), 0, HeadChange("\ud800", "n", None)),
        Append("ex-1", (EVENT,), 0, HeadChange("s", "\ud800", None)),
        Append("ex-1", (EVENT,), 0, HeadChange("s", "n", None, "\udfff")),
        Append("ex-1", (EVENT,), 0, HeadChange("s", "n", None, route="\udfff")),
        Append("ex-1", (EVENT,), 0, HeadChange("s", "n", None, None, "text")),  # type: ignore[arg-type]
        Append("ex-1", (EVENT,), 0, HEAD, blobs=("text",)),  # type: ignore[arg-type]
        Append("ex-1", (EVENT,), 0, HEAD, claim=Claim("\ud800", 1)),
        Append("ex-1", (EVENT,), 0, HEAD, claim=Claim("me", float("nan"))),
        Append("ex-1", (EVENT,), 0, HEAD, claim=Claim("me", float("inf"))),
        Append("ex-1", (EVENT,), 0, HEAD, claim=Claim("me", 1e300)),
        Append("ex-1", (EVENT,), 1, lease=Lease("ex-2", "me", 1, 0)),
        Append("ex-1", (EVENT,), 1, release=True),
    ],
)
def test_what_no_stream_could_accept_is_refused(append: Append) -> None:
    with pytest.raises(InvalidAppend):
        check_append(append)


@pytest.mark.parametrize("number", [-(2**63), 0, 2**63 - 1])
def test_every_number_of_64_bits_can_be_stored(number: int) -> None:
    check_append(Append("ex-1", (NewEvent("A", b"", number),), 0, HeadChange("s", "n", number)))


@pytest.mark.parametrize("seconds", [0, 0.5, 1e12])
def test_a_lease_may_be_of_no_time_and_very_long(seconds: float) -> None:
    check_seconds(seconds)
    check_append(Append("ex-1", (EVENT,), 0, HEAD, claim=Claim("me", seconds)))
    check_claim_query(ClaimQuery(category="ex", names=None, claim=Claim("me", seconds)))


@pytest.mark.parametrize("seconds", [-1, 1e12 + 1, float("nan"), float("inf"), 1e300])
def test_no_lease_is_that_long(seconds: float) -> None:
    with pytest.raises(InvalidQuery):
        check_seconds(seconds)
    with pytest.raises(InvalidQuery):
        check_claim_query(ClaimQuery(category="ex", names=["order"], claim=Claim("me", seconds)))


@pytest.mark.parametrize("place", ["category", "names", "owner", "stream", "routes"])
def test_a_claim_asks_for_what_can_be_stored(place: str) -> None:
    text = {
        "category": "ex",
        "names": "order",
        "owner": "me",
        "stream": "ex-1",
        "routes": "r",
        place: "\ud800",
    }
    query = ClaimQuery(
        category=text["category"],
        names=[text["names"]],
        claim=Claim(text["owner"], 1),
        stream=text["stream"],
        routes=[text["routes"]],
    )
    with pytest.raises(InvalidQuery):
        check_claim_query(query)


def sound(stream: str = "ex-1") -> RecordedEvent:
    return signed(RecordedEvent(stream, 1, 1, "Happened", 1, 7, 0, b"x", GENESIS, b""))


def signed(event: RecordedEvent) -> RecordedEvent:
    return replace(event, hash=hash_of(event) or b"")


@pytest.mark.parametrize(
    "adoption",
    [
        Adoption((), HEAD),
        Adoption((sound("nohyphen"),), HEAD),
        Adoption((sound(),), HeadChange("\ud800", "n", None)),
        Adoption((sound(),), HeadChange("s", "n", 2**63)),
        Adoption((sound(), sound("ex-2")), HEAD),
        Adoption((signed(replace(sound(), schema=True)),), HEAD),
        Adoption((signed(replace(sound(), recorded_at=True)),), HEAD),
        Adoption((signed(replace(sound(), epoch=True)),), HEAD),
        Adoption((replace(sound(), type="\ud800"),), HEAD),
        Adoption((replace(sound(), payload=bytearray(b"x")),), HEAD),
        Adoption((replace(sound(), payload_digest=GENESIS),), HEAD),
        Adoption((replace(sound(), payload=b"y"),), HEAD),
        Adoption((sound(),), HEAD, ("text",)),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_whole_and_sound_stream_is_not_adopted(adoption: Adoption) -> None:
    check_adoption(Adoption((sound(),), HEAD, (b"blob",)))
    with pytest.raises(InvalidAppend):
        check_adoption(adoption)


class Tag(str):
    """Text that is also something else, as the members of many an enumeration are."""


def test_only_plain_text_is_stored_as_a_type() -> None:
    tagged = replace(sound(), type=Tag("Happened"))
    assert hash_of(tagged) == tagged.hash
    with pytest.raises(InvalidAppend, match="text is needed, not Tag"):
        check_adoption(Adoption((tagged,), HEAD))
    with pytest.raises(InvalidAppend, match="text is needed, not Tag"):
        check_append(Append("ex-1", (NewEvent(Tag("Happened"), b""),), 0, HEAD))


@pytest.mark.parametrize("stream", [b"ex-1", Tag("ex-1"), 7, None])
def test_only_plain_text_is_a_streams_name(stream: Any) -> None:
    with pytest.raises(InvalidAppend, match="text is needed"):
        check_append(Append(stream, (EVENT,), 0, HEAD))


def test_a_damaged_chain_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidAppend, match="event 1 of 'ex-1' is altered"):
        check_adoption(Adoption((replace(sound(), payload=b"y"),), HEAD))
