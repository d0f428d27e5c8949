"""Texts are safe to print, and say times and amounts as people do."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.surfaces.cli.text import (
    clock_text,
    counted,
    duration_text,
    escaped,
    site_text,
    size_text,
)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    for shown in (escaped(text), escaped(text, lines=True).replace("\n", "")):
        assert not any(
            char < " " or "\x7f" <= char <= "\x9f" or char in "\u202e\u2066\u2028" for char in shown
        )
        shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 漢字", "plain ünïcode 漢字"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        ("a\u3000b\xa0c", "a\u3000b\xa0c"),
    ],
)
def test_escapes_are_those_of_python(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_new_lines_stay_where_they_are_wanted() -> None:
    assert escaped("a\n\tb", lines=True) == "a\n\\tb"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "<0.1 ms"),
        (0.0004, "0.4 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (3.21, "3.2 s"),
        (59.96, "1 min 0 s"),
        (123, "2 min 3 s"),
        (3600 + 240, "1 h 4 min"),
        (2 * 86_400 + 3 * 3600, "2 d 3 h"),
        (-3, "-3.0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


def test_instants_are_local_and_never_fail() -> None:
    assert clock_text(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone()).endswith(":04:05")
    assert clock_text(datetime.max.replace(tzinfo=UTC))
    assert clock_text(datetime.min.replace(tzinfo=UTC))
    assert clock_text(None) == ""


def test_sizes_and_counts() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 MiB",
        "3072.0 GiB",
    ]
    assert [counted(n, "event") for n in (0, 1, 2000)] == ["0 events", "1 event", "2,000 events"]


def test_places_in_a_deployed_version_are_told_from_its_root() -> None:
    cache = f"/var/cache/kitaru/bundles/{'0f' * 32}"
    assert site_text(f"{cache}/agents/first.py:17") == "agents/first.py:17"
    for other in ("", "agent.py:3", "/src/bundles/agent.py:3", "/bundles/0f/agent.py:3"):
        assert site_text(other) == other
