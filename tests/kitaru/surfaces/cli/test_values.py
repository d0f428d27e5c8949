"""Recorded values are shown as Python writes them, safely and shortly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kitaru.domain.values import StoredValue
from kitaru.surfaces.cli.values import arguments_preview, preview, whole


def value(json: bytes) -> StoredValue:
    return StoredValue(json=Raw(json))


@pytest.mark.parametrize(
    ("json", "shown"),
    [
        (b"42", "42"),
        (b'"a\\nb"', r"'a\nb'"),
        (b'{"$":["decimal","1.50"]}', "Decimal('1.50')"),
        (b'{"$":["object","m.Order",{"total":1}]}', "m.Order(total=1)"),
        (b'{"$":["no such tag"]}', '{"$":["no such tag"]}'),
        (b"not json", "'not json'"),
    ],
)
def test_a_preview_is_pythons_own_text(json: bytes, shown: str) -> None:
    assert preview(value(json)).strip("'") == shown.strip("'")


@given(st.binary(max_size=200))
def test_any_bytes_have_a_short_safe_preview(data: bytes) -> None:
    for shown in (preview(value(data), 20), arguments_preview(value(data), 20)):
        assert len(shown) <= 20
        assert shown.isprintable()


def test_what_is_kept_elsewhere_is_named_by_its_size() -> None:
    assert preview(StoredValue(blob="ab", size=2048)) == "<2.0 KiB>"
    assert preview(None) == ""


def test_arguments_look_like_a_call() -> None:
    assert arguments_preview(value(b'{"url":"x","*":[1,2],"n":3}')) == "url='x', n=3, 1, 2"
    assert arguments_preview(value(b"[1]")) == "[1]"


def test_a_text_in_full_is_the_text_itself() -> None:
    assert whole(b'"two\\nlines\\u001b"') == "two\nlines\\x1b"
    assert whole(b'{"a":1}') == "{'a': 1}"
