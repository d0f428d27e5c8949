"""What is asked of the file, with which index, and rows that may hold anything."""

import contextlib
import hashlib
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journal import Claim, ClaimQuery, CorruptJournal, HeadQuery
from journal.backends.sqlite.connections import connect_writer
from journal.backends.sqlite.queries import (
    Query,
    _after_prefix,
    _opened,
    all_events,
    begun_at,
    claimable,
    event_at,
    head,
    heads,
    is_any_claimable,
    raw_head,
    stream_events,
)

CONTENT = b"some content " * 100
KEY = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "journal.db").touch()
    return str(tmp_path / "journal.db")


@pytest.mark.parametrize(("codec", "data"), [("plain", CONTENT), ("zlib", zlib.compress(CONTENT))])
def test_a_blob_is_what_was_put(codec: str, data: bytes) -> None:
    assert _opened(KEY.hex(), KEY, codec, len(CONTENT), data) == CONTENT


@pytest.mark.parametrize(
    ("codec", "size", "data"),
    [
        ("zlib", len(CONTENT), CONTENT),
        ("zlib", len(CONTENT), zlib.compress(CONTENT)[:-9]),
        ("zlib", len(CONTENT) - 1, zlib.compress(CONTENT)),
        ("zlib", -1, zlib.compress(CONTENT)),
        ("zlib", 2**80, zlib.compress(CONTENT)),
        ("zlib", "many", zlib.compress(CONTENT)),
        ("zlib", None, zlib.compress(CONTENT)),
        ("zlib", len(CONTENT), None),
        ("plain", len(CONTENT), None),
        ("lzma", len(CONTENT), CONTENT),
        (None, len(CONTENT), CONTENT),
        ("plain", len(CONTENT), CONTENT[:-1] + b"!"),
    ],
)
def test_what_is_not_what_was_put_is_damage(codec: Any, size: Any, data: Any) -> None:
    with pytest.raises(CorruptJournal, match="blob") as damage:
        _opened(KEY.hex(), KEY, codec, size, data)
    assert damage.value.version == 0


@pytest.mark.parametrize("size", [10, -1, 0])
def test_a_few_bytes_that_stand_for_many_take_no_memory(size: int) -> None:
    bomb = zlib.compress(bytes(200_000_000))
    assert len(bomb) < 250_000
    tracemalloc.start()
    try:
        with pytest.raises(CorruptJournal):
            _opened(KEY.hex(), KEY, "zlib", size, bomb)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        ("ex-", "ex."),
        ("a\ud7ff", "a\ue000"),  # what comes between the two is no text
        ("a\U0010ffff", "b"),
        ("\U0010ffff\U0010ffff", None),
        ("", None),
    ],
)
def test_the_first_text_after_all_with_a_prefix(prefix: str, after: str | None) -> None:
    assert _after_prefix(prefix) == after
    if after is not None:
        assert (prefix + "\U0010ffff").encode() < after.encode()


def ex(**asked: Any) -> HeadQuery:
    return HeadQuery(category="ex", **asked)


def claims(*routes: str, **asked: Any) -> ClaimQuery:
    return ClaimQuery(category="ex", claim=Claim("me", 1), routes=routes, **asked)


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        (lambda: heads(ex()), "heads_newest (category=?)"),
        (lambda: heads(ex(states=["failed"])), "heads_by_state (category=? AND state=?)"),
        (lambda: heads(ex(parent="ex-1")), "heads_by_parent (parent=?)"),
        (
            lambda: heads(ex(route_prefix="stack:", claimable_at=1)),
            "heads_by_route (route>? AND route<?)",
        ),
        (lambda: heads(ex(route_prefix="stack:")), "heads_newest (category=?)"),
        (lambda: heads(ex(claimable_at=1)), "heads_newest (category=?)"),
        (lambda: heads(ex(stream_prefix="ex-")), "heads_newest (category=?)"),
        (
            lambda: heads(ex(stream_prefix="ex-1")),
            "sqlite_autoindex_heads_1 (stream>? AND stream<?)",
        ),
        (
            lambda: claimable(claims("", names=["order"]), 1)[0],
            "heads_claimable (category=? AND name=? ",
        ),
        (
            lambda: claimable(claims("r", names=["order"]), 1)[0],
            "heads_claimable (category=? AND name=? ",
        ),
        (
            lambda: claimable(claims("r", names=None), 1)[0],
            "heads_by_route (route=? AND claimable_at<?)",
        ),
        (lambda: claimable(claims("", names=None), 1)[0], "heads_newest (category=?)"),
        # Where a state is asked for as well, the narrower of the two.
        (lambda: heads(ex(parent="ex-1", states=["failed"])), "heads_by_parent (parent=?)"),
        (
            lambda: heads(ex(route_prefix="stack:", claimable_at=1, states=["failed"])),
            "heads_by_route (route>? AND route<?)",
        ),
        (
            lambda: heads(ex(stream_prefix="ex-1", states=["failed"])),
            "sqlite_autoindex_heads_1 (stream>? AND stream<?)",
        ),
        (
            lambda: heads(ex(route_prefix="stack:", states=["failed"])),
            "heads_by_state (category=? AND state=?)",
        ),
        (
            lambda: heads(ex(stream_prefix="ex-", states=["failed"])),
            "heads_by_state (category=? AND state=?)",
        ),
    ],
)
def test_each_question_walks_the_narrowest_index(
    asked: Callable[[], Query[Any]], index: str, path: str
) -> None:
    query = asked()
    with contextlib.closing(connect_writer(path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query.statement}", query.parameters)
        assert index in plan.fetchone()[3]


def test_each_route_and_each_name_is_asked_for_once() -> None:
    asked = claims("r", "", "r", names=["a", "b", "a"], limit=7)
    assert [query.parameters[1:3] for query in claimable(asked, 1)] == [
        ("a", "r"),
        ("a", ""),
        ("b", "r"),
        ("b", ""),
    ]
    assert {query.parameters[-1] for query in claimable(asked, 1)} == {7}
    assert {query.parameters[-1] for query in is_any_claimable(asked, 1)} == {1}
    none = claims("r", names=None, limit=0)
    assert [query.parameters[-1] for query in is_any_claimable(none, 1)] == [0]


def test_what_is_gone_is_damage_and_named() -> None:
    with pytest.raises(CorruptJournal, match="position 7") as gone:
        event_at(7).meaning([])
    assert gone.value.version == 0
    with pytest.raises(CorruptJournal, match="an index leads to no head") as lost:
        raw_head(7).meaning([])
    assert lost.value.version == 0


def test_a_number_that_is_too_large_is_the_largest_that_can_be_stored() -> None:
    everything = stream_events("ex-1", 2**70, None)
    assert everything.parameters == ("ex-1", 2**63 - 1, 2**63 - 1)
    assert all_events(-1, 2**63).parameters == (0, 2**63 - 1)
    for instant, stored in ((2**70, 2**63 - 1), (-(2**70), -(2**63) + 1), (7, 7)):
        assert heads(ex(claimable_at=instant)).parameters[1] == stored


def test_a_question_stays_as_it_is() -> None:
    query = begun_at("ex-1")
    with pytest.raises(AttributeError):
        query.statement = "SELECT 1"  # type: ignore[misc]


HEAD_ALONE = """
INSERT INTO heads (id, stream, category, state, name, due_at, created_at, updated_at,
    anchor_version, anchor_hash, summary)
VALUES (7, 'ex-1', 'ex', 's', 'order', 0, 0, 0, 1, x'', x'')
"""


@pytest.mark.parametrize(
    "asked",
    [
        lambda: head("ex-1"),
        lambda: heads(ex()),
        lambda: claimable(claims("", names=["order"]), 1)[0],
        lambda: claimable(claims("", names=None), 1)[0],
        lambda: claimable(claims("", names=[], stream="ex-1"), 1)[0],
    ],
)
def test_a_head_without_events_is_damage_and_not_absent(
    asked: Callable[[], Query[Any]], path: str
) -> None:
    query = asked()
    with contextlib.closing(connect_writer(path)) as connection:
        connection.execute(HEAD_ALONE)
        rows = connection.execute(query.statement, query.parameters).fetchall()
        with pytest.raises(CorruptJournal, match="a head and no events") as damage:
            query.meaning(rows)
        assert (damage.value.stream, damage.value.version) == ("ex-1", 1)
        found = raw_head(7)
        assert found.meaning(connection.execute(found.statement, (7,)).fetchall()).stream == "ex-1"
