"""A container image of a flow: from its project, by one command, without a version being made."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kitaru.surfaces.cli.main import cli

PROGRAM = """
from kitaru import flow

@flow(image={"apt_packages": ["git"], "environment": {"LEVEL": "low"}})
def agent() -> int:
    return 1
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "project"
    (root / "flows").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.kitaru.image]\nbase_image = 'python:3.13'\n")
    (root / "flows" / "__init__.py").touch()
    (root / "flows" / "agents.py").write_text(PROGRAM)
    (root / ".env").write_text("TOKEN=sesame")
    monkeypatch.chdir(root)
    monkeypatch.setenv("KITARU_JOURNAL", str(root / "journal.db"))
    monkeypatch.setenv("KITARU_CONFIG_PATH", str(tmp_path / "choice"))
    monkeypatch.setenv("PATH", "/nowhere")
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "flows"]:
        del sys.modules[name]
    while str(root) in sys.path:
        sys.path.remove(str(root))


@pytest.fixture
def kitaru() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(cli, arguments, prog_name="kitaru")


def test_a_context_is_written_and_no_version_is_made(
    kitaru: Callable[..., Result], project: Path, tmp_path: Path
) -> None:
    target, folder = "flows/agents.py:agent", tmp_path / "context"
    done = kitaru("build", target, "--containerfile", str(folder), "-o", "json")
    assert done.exit_code == 0, done.output
    made: Any = json.loads(done.stdout)["item"]
    assert (made["image"], made["built_with"]) == ("agent:latest", None)
    text = Path(made["containerfile"]).read_text()
    assert text.startswith("FROM python:3.13\n")
    assert "-- git" in text
    assert 'ENV LEVEL="low"' in text
    assert text.splitlines()[-1] == 'CMD ["python","-m","kitaru","worker","flows/agents.py"]'
    assert (folder / "source/flows/agents.py").read_text() == PROGRAM
    assert not (folder / "source/.env").exists()
    assert not (project / "journal.db").exists()


def test_where_nothing_can_build_it_that_is_said(
    kitaru: Callable[..., Result], tmp_path: Path
) -> None:
    image = '{"image_tag": "v2"}'
    arguments = ["build", "flows/agents.py", "--image", image]
    done = kitaru(*arguments, "--containerfile", str(tmp_path / "context"))
    assert done.exit_code == 0, done.output
    assert "None of buildah, podman and docker" in done.stdout
    assert "agent:v2" in done.stdout


def test_a_tool_that_is_installed_builds_it(
    kitaru: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "buildah"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" > "$0.said"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    folder = tmp_path / "context"
    done = kitaru("build", "flows/agents.py", "--containerfile", str(folder))
    assert f"{tool} has built it" in done.stdout, done.output
    said = Path(f"{tool}.said").read_text().split()
    assert said == [
        "build",
        "--file",
        f"{folder}/Containerfile",
        "--tag",
        "agent:latest",
        str(folder),
    ]


def test_a_folder_with_something_in_it_is_left_alone(
    kitaru: Callable[..., Result], tmp_path: Path
) -> None:
    done = kitaru("build", "flows/agents.py", "--containerfile", str(tmp_path))
    assert done.exit_code == 1
    assert "is not empty" in done.stderr
