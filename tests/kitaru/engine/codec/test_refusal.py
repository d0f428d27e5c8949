"""Paths in errors read as the code that reaches the value."""

import pytest

from kitaru.engine.codec.refusal import RefusedError, key_step


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("name", ".name"),
        ("odd key", "['odd key']"),
        ("\ud800\x1b", r"['\ud800\x1b']"),
        (3, "[3]"),
        (None, "[None]"),
        ((1, 2), "[tuple]"),
        ("x y" * 100, "['" + ("x y" * 100)[:56] + "...]"),
    ],
)
def test_a_key_is_a_step(key: object, step: str) -> None:
    assert key_step(key) == step


def test_the_path_grows_on_the_way_out() -> None:
    error = RefusedError("no").at(".client").at("[3]").at(".items").as_error("result")
    assert str(error) == "result.items[3].client: no"
    assert error.path == "result.items[3].client"


def test_a_long_path_loses_its_middle() -> None:
    refusal = RefusedError("no")
    for place in range(1000):
        refusal.at(f"[{place}]")
    assert len(refusal.as_error("result").path) < 410
