"""`kitaru stack` and `kitaru info` say what there is, and what is in force."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_choice(place: Path, choice_folder: Path) -> Any:
    yield
    from kitaru.bootstrap import close_background

    close_background()


def test_a_stack_comes_is_chosen_and_goes(kitaru: Run, kitaru_json: Callable[..., Any]) -> None:
    made = kitaru_json("stack", "create", "iso", "--type", "process", "--label", "team=red")["item"]
    assert (made["type"], made["is_active"], made["labels"]) == ("process", True, {"team": "red"})
    listed = kitaru_json("stack", "list")
    assert [(item["name"], item["is_active"]) for item in listed["items"]] == [
        ("local", False),
        ("iso", True),
    ]
    assert "Active stack: iso → dev" in kitaru("stack", "create", "dev").stdout
    assert kitaru_json("stack", "current")["item"]["stack"]["name"] == "dev"
    assert kitaru("stack", "use", "local").stdout == "The active stack is local.\n"
    shown = kitaru("stack", "show", made["id"]).stdout
    assert "iso" in shown
    assert "team=red" in shown
    assert kitaru("stack", "delete", "iso").stdout == "Stack iso is deleted.\n"
    assert kitaru("stack", "list").stdout.split()[:3] == ["Stack", "Type", "Active"]
    assert "iso" not in kitaru("stack", "list").stdout


def test_a_broken_choice_is_said_and_mended(kitaru: Run, choice_folder: Path) -> None:
    file = choice_folder / "active-stack.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{", encoding="utf-8")
    assert "does not name a stack; choose one" in kitaru("stack", "list").stderr
    assert "does not name a stack; there are: local" in kitaru("stack", "current").stderr
    assert str(file) in kitaru("info").stdout
    assert "Active stack: none → dev" in kitaru("stack", "create", "dev").stdout
    file.write_text("{", encoding="utf-8")
    assert kitaru("stack", "use", "dev").stdout == "The active stack is dev.\n"
    assert kitaru("stack", "current").stdout.startswith("dev ")


def test_looking_makes_no_journal(kitaru: Run, place: Path) -> None:
    assert "local" in kitaru("stack", "list").stdout
    assert "local" in kitaru("stack", "current").stdout
    for command in ("show", "use", "delete"):
        failed = kitaru("stack", command, "nope")
        assert failed.exit_code == 1
        assert failed.stderr == "Error: There is no stack 'nope'; there are: local.\n"
    assert not (place / "journal.db").exists()


def test_bad_words_are_refused(kitaru: Run) -> None:
    assert "the types are: local, process" in kitaru("stack", "create", "a", "--type", "x").stderr
    assert "cannot be the name" in kitaru("stack", "create", "a b").stderr
    assert kitaru("stack", "create", "a", "--label", "b").exit_code == 2
    failed = kitaru("stack", "create", "a", "--type", "x", "-o", "json")
    assert json.loads(failed.stderr)["error"]["type"] == "KitaruUsageError"


def test_what_stands_above_a_choice_is_said(kitaru: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kitaru("stack", "create", "iso", "--no-activate")
    monkeypatch.setenv("KITARU_STACK", "local")
    used = kitaru("stack", "use", "iso")
    assert used.stdout == "The active stack is iso.\n"
    assert used.stderr == "KITARU_STACK stands above it: flows run on local here.\n"
    assert kitaru("stack", "current").stdout == "local  (KITARU_STACK)\n"


def test_a_stale_choice_is_said(kitaru: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_STACK", "gone")
    assert (
        "would run on gone (KITARU_STACK), which does not exist" in kitaru("stack", "list").stderr
    )
    current = kitaru("stack", "current")
    assert current.exit_code == 1
    assert "There is no stack 'gone' (KITARU_STACK); there are: local" in current.stderr


def test_the_active_stack_is_deleted_by_force_only(kitaru: Run) -> None:
    kitaru("stack", "create", "iso")
    assert "is the active one" in kitaru("stack", "delete", "iso").stderr
    assert kitaru("stack", "delete", "iso", "--force").exit_code == 0
    assert kitaru("stack", "current").stdout == "local  (built-in)\n"


def test_info_names_the_layer_of_each_value_and_masks_secrets(
    kitaru: Run,
    kitaru_json: Callable[..., Any],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = place / "pyproject.toml"
    file.write_text(
        "[tool.kitaru]\nretries = 2\n"
        "[tool.kitaru.image]\nrequirements = ['httpx']\n"
        "[tool.kitaru.image.environment]\nMY_TOKEN = 'sesame'\nLEVEL = 'low'\n"
    )
    monkeypatch.setenv("KITARU_CACHE", "off")
    monkeypatch.setenv("KITARU_RUNNERS", "3")
    answer = kitaru_json("info")["item"]
    found = {each["name"]: (each["value"], each["layer"]) for each in answer["settings"]}
    assert found == {
        "journal": (f"sqlite:///{place / 'journal.db'}", "environment"),
        "stack": ("local", "built_in"),
        "cache": (False, "environment"),
        "retries": (2, "pyproject"),
        "lease_seconds": (30.0, "built_in"),
        "runners": (3, "environment"),
        "runner_idle_seconds": (60.0, "built_in"),
        "image.requirements": (["httpx"], "pyproject"),
        "image.environment.MY_TOKEN": ("***", "pyproject"),
        "image.environment.LEVEL": ("low", "pyproject"),
    }
    assert answer["sqlite_version"]
    assert answer["python"]
    text = kitaru("info").stdout
    assert "sesame" not in text
    assert "KITARU_CACHE" in text
    assert f"{file}: [tool.kitaru] retries" in text


def test_a_flow_is_run_with_a_stack_and_an_image(
    kitaru: Run, kitaru_json: Callable[..., Any], place: Path
) -> None:
    (place / "agents.py").write_text(
        "from kitaru import flow\n\n@flow\ndef agent() -> int:\n    return 1\n"
    )
    kitaru("stack", "create", "dev", "--no-activate")
    done = kitaru_json("run", "agents.py", "--stack", "dev", "--no-cache")["item"]
    found = kitaru_json("executions", "get", done["exec_id"])["item"]
    assert (found["stack_name"], found["options"]["cache"]) == ("dev", False)
    assert "dev" in kitaru("executions", "list").stdout
    refused = kitaru("run", "agents.py", "--image", '{"base_image": "python:3.12"}')
    assert "image.base_image: the stack 'local'" in refused.stderr
    (place / "image.json").write_text('{"apt_packages": ["git"]}')
    refused = kitaru("run", "agents.py", "--image", "@image.json")
    assert "image.apt_packages" in refused.stderr
    assert "unknown" not in kitaru("run", "agents.py", "--stack", "nope").stdout
