"""`kitaru lint` names places, and ends with an exit code for scripts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

FLOWS = """\
import time
from kitaru import flow

@flow
def agent():
    return time.time()
"""


@pytest.fixture
def flows(place: Path) -> Path:
    file = place / "flows.py"
    file.write_text(FLOWS, encoding="utf-8")
    return file


@pytest.mark.usefixtures("flows")
def test_a_finding_has_a_place_a_code_and_a_way_out(kitaru: Run) -> None:
    result = kitaru("lint", "flows.py")
    assert result.exit_code == 1
    assert result.stdout == (
        "flows.py:6:12: KIT101 the time of the clock: time.time() in flow agent; instead: "
        "`kitaru.now()`, or take it in a @checkpoint\n"
    )
    assert result.stderr == "1 finding.\n"
    as_json = kitaru("lint", ".", "-o", "json")
    assert as_json.exit_code == 1
    (item,) = json.loads(as_json.stdout)["items"]
    assert (item["file"], item["line"], item["column"]) == ("flows.py", 6, 12)
    assert (item["code"], item["flow"], item["found"]) == ("KIT101", "agent", "time.time()")
    assert item["instead"].startswith("`kitaru.now()`")


def test_a_clean_project_is_told_so(kitaru: Run, flows: Path) -> None:
    flows.write_text(FLOWS.replace("time.time()", "1"), encoding="utf-8")
    result = kitaru("lint", ".")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "All is well.\n")
    empty = kitaru("lint", ".", "-o", "json")
    assert json.loads(empty.stdout) == {"command": "lint", "items": [], "count": 0}


def test_a_path_that_is_not_there_is_a_mistake(kitaru: Run) -> None:
    result = kitaru("lint", "nowhere")
    assert result.exit_code == 1
    assert "There is no file or folder nowhere" in result.stderr
