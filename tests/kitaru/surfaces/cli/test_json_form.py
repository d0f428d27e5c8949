"""What is shown as JSON is JSON, whatever it holds."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kitaru.domain.values import StoredValue
from kitaru.engine.codec import RecordedObject
from kitaru.surfaces.cli.json_form import json_text


def test_recorded_values_stay_in_the_codecs_form() -> None:
    inline = StoredValue(json=Raw(b'{"$":["decimal","1"]}'))
    shown = json.loads(json_text([inline, StoredValue(blob="ab", size=3), StoredValue()]))
    assert shown == [{"$": ["decimal", "1"]}, {"$": ["blob", "ab", 3]}, None]


def test_instants_and_durations_have_their_usual_form() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    assert json.loads(json_text([at, timedelta(seconds=1.5)])) == ["2026-01-02T00:00:00Z", 1.5]


def test_what_json_has_no_word_for_is_coded_or_described() -> None:
    shown = json.loads(json_text([Decimal("1.5"), {1, 2}, RecordedObject("m.A", {"x": 1}), object]))
    assert shown[0] == {"$": ["decimal", "1.5"]}
    assert len(shown) == 4


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner)))
def test_any_text_becomes_json(value: object) -> None:
    json.loads(json_text(value))
