"""`kitaru init` gives a folder its journal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result


def test_it_makes_the_projects_folder_and_can_be_repeated(
    kitaru: Callable[..., Result], kitaru_json: Callable[..., Any], place: Path
) -> None:
    assert kitaru("init").exit_code == 0
    assert (place / ".kitaru").is_dir()
    assert kitaru_json("init")["item"]["folder"] == str(place / ".kitaru")


def test_a_folder_that_does_not_exist_is_refused(kitaru: Callable[..., Result]) -> None:
    result = kitaru("init", "nowhere")
    assert result.exit_code == 1
    assert "not a folder" in result.stderr
