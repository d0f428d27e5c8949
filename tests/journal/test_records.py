"""Records are values: equal by content, and never changed."""

import gc
import inspect

import msgspec
import pytest

from journal import Append, Appended, Finding, HeadChange, Lease, NewEvent, records
from journal.records import GENESIS
from journal.urls import JournalUrl


def test_records_are_equal_by_content() -> None:
    assert NewEvent("A", b"x") == NewEvent("A", b"x", 1)
    assert NewEvent("A", b"x") != NewEvent("A", b"x", 2)


def test_records_are_never_changed() -> None:
    lease = Lease("ex-1", "me", 1, 2)
    with pytest.raises(AttributeError):
        lease.epoch = 2  # type: ignore[misc]


def test_records_are_not_followed_by_the_garbage_collector() -> None:
    append = Append("ex-1", (NewEvent("A", b""),), 0, HeadChange("s", "n", None))
    assert not any(map(gc.is_tracked, (append, append.events[0], append.head, Appended((), 0))))


DEFAULTS: dict[str, dict[str, object]] = {
    "NewEvent": {"schema": 1, "key": None},
    "RecordedEvent": {"payload_digest": None},
    "Lease": {},
    "Claim": {},
    "HeadChange": {"parent": None, "summary": b"", "route": ""},
    "Head": {"anchor_version": 0, "anchor_hash": b"", "route": ""},
    "Append": {"head": None, "lease": None, "claim": None, "release": False, "blobs": ()},
    "Adoption": {"blobs": ()},
    "Appended": {"lease": None},
    "HeadQuery": {
        "states": (),
        "names": (),
        "stream_prefix": "",
        "parent": None,
        "route_prefix": "",
        "claimable_at": None,
        "limit": 100,
        "cursor": None,
    },
    "KeyQuery": {},
    "ClaimQuery": {"limit": 10, "besides": (), "stream": None, "routes": ("",)},
    "Rows": {"columns": (), "rowcount": -1, "lastrowid": None},
}
FOLLOWED = {"HeadQuery", "KeyQuery", "ClaimQuery", "Rows"}
"""By the garbage collector: there are few of them."""
BY_NAME = ("HeadQuery", "ClaimQuery")


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_not_said_is_what_it_was(name: str) -> None:
    cls = getattr(records, name)
    fields = msgspec.structs.fields(cls)
    assert {it.name: it.default for it in fields if not it.required} == DEFAULTS[name]
    kinds = {it.kind for it in inspect.signature(cls).parameters.values()}
    assert (kinds == {inspect.Parameter.KEYWORD_ONLY}) == (name in BY_NAME)


def test_every_record_is_a_value() -> None:
    found: dict[str, type[msgspec.Struct]] = {
        name: value
        for name, value in vars(records).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
        if value.__module__ == records.__name__
    }
    assert set(found) == set(DEFAULTS)
    everything: list[type[msgspec.Struct]] = [*found.values(), Finding, JournalUrl]
    for cls in everything:
        assert cls.__struct_config__.frozen, cls.__name__
    assert {name for name, cls in found.items() if cls.__struct_config__.gc} == FOLLOWED
    assert len(GENESIS) == 32
