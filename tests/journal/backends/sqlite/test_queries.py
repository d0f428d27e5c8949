"""Blobs as rows hold them, which may hold anything."""

import hashlib
import tracemalloc
import zlib
from typing import Any

import pytest

from journal import CorruptJournal
from journal.backends.sqlite.queries import _after_prefix, _opened

CONTENT = b"some content " * 100
KEY = hashlib.sha256(CONTENT).digest()


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
    with pytest.raises(CorruptJournal, match="blob"):
        _opened(KEY.hex(), KEY, codec, size, data)


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
