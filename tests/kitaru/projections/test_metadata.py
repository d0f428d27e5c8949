"""Repeated metadata adds up."""

from kitaru.projections.metadata import merged


def test_dicts_are_merged_at_every_depth() -> None:
    assert merged({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2}}}) == {"a": {"b": {"c": 1, "d": 2}}}


def test_the_last_of_two_different_shapes_counts() -> None:
    assert merged({"a": {"b": 1}, "l": [1]}, {"a": 2, "l": [2]}) == {"a": 2, "l": [2]}


def test_merging_changes_neither_side() -> None:
    earlier: dict[str, object] = {"a": {"b": 1}}
    merged(earlier, {"a": {"c": 2}})
    assert earlier == {"a": {"b": 1}}
