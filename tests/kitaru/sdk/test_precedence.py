"""The six layers of a run's options: each alone, and each against the next one below it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import flow
from kitaru.bootstrap import current_runtime
from kitaru.choice import choose_stack

LAYERS = ("run", "decorator", "configure", "environment", "pyproject", "active")
"""Highest first."""
VALUES: dict[str, tuple[Any, ...]] = {
    "stack": LAYERS,
    "retries": (1, 2, 3, 4, 5),
    "cache": (True, False, True, False, True),
    "image": tuple(
        {"base_image": layer, "environment": {"SAID_BY": layer}} for layer in LAYERS[:5]
    ),
}
"""Option → what each layer says; only the stack has a sixth."""
BUILT_IN: dict[str, Any] = {"stack": "local", "retries": 0, "cache": None, "image": {}}
CASES = [(option, layer) for option, values in VALUES.items() for layer in range(len(values))]


def body() -> int:
    return 1


@pytest.fixture(autouse=True)
def _nothing_said(
    tmp_path: Path, choice_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    kitaru.configure(stack=None, image=None, retries=None, cache=None)


def say(layer: int, option: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Lets a layer say its value; returns what the decorator, or the run, is to be given."""
    value = VALUES[option][layer]
    match LAYERS[layer]:
        case "configure":
            kitaru.configure(**{option: value})
        case "environment":
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"KITARU_{option.upper()}", text)
        case "pyproject":
            Path("pyproject.toml").write_text(f"[tool.kitaru]\n{option} = {toml(value)}\n")
        case "active":
            choose_stack(value)
        case given:
            return {given: {option: value}}
    return {}


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


def asked_for(option: str, given: dict[str, dict[str, Any]]) -> Any:
    """What a start of a flow would ask for."""
    decorated: Any = flow(**given.get("decorator", {}))(body)
    prepared, wanted = decorated._prepare(current_runtime(), (), dict(given.get("run", {})))
    if option == "stack":
        return wanted.stack
    return wanted.image.given() if option == "image" else getattr(prepared.event.options, option)


@pytest.mark.parametrize("option", VALUES)
def test_where_no_layer_says_anything_it_is_built_in(option: str) -> None:
    assert asked_for(option, {}) == BUILT_IN[option]


@pytest.mark.parametrize(("option", "layer"), CASES)
def test_each_layer_is_heard_alone(
    option: str, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked_for(option, say(layer, option, monkeypatch)) == VALUES[option][layer]


@pytest.mark.parametrize(("option", "layer"), [case for case in CASES if case[1] > 0])
def test_each_layer_gives_way_to_the_next_above(
    option: str, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = say(layer, option, monkeypatch)
    higher = say(layer - 1, option, monkeypatch)
    assert asked_for(option, {**lower, **higher}) == VALUES[option][layer - 1]
    # Binding a run has changed nothing for the next one.
    if LAYERS[layer - 1] == "run":
        assert asked_for(option, lower) == VALUES[option][layer]


def test_an_image_is_put_together_from_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        VALUES,
        "image",
        tuple(
            {"environment": {"SAID_BY": layer, layer.upper(): "x"}, "requirements": [layer]}
            for layer in LAYERS[:5]
        ),
    )
    given: dict[str, Any] = {}
    for layer in reversed(range(5)):
        given |= say(layer, "image", monkeypatch)
        found = asked_for("image", given)
        assert found["requirements"] == (LAYERS[layer],)
        heard = {each.upper(): "x" for each in LAYERS[layer:5]}
        assert found["environment"] == {"SAID_BY": LAYERS[layer], **heard}
