"""What is refused before any stream is looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal import (
    Append,
    Claim,
    ClaimQuery,
    HeadChange,
    InvalidAppend,
    InvalidQuery,
    Lease,
    NewEvent,
)
from journal.rules import category_of, check_append, check_claim_query, check_seconds

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


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e300])
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
