"""What all tests share: nothing from outside reaches them, and nothing of theirs gets out."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import modes

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("mutation", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=2_000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what says nothing in the engine's mode."""
    for item in items:
        if why := modes.left_out(item):
            item.add_marker(pytest.mark.skip(reason=why))


RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True, scope="session")
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No variable of the person who runs the tests, and a data folder that is not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith("KITARU_") and not variable.startswith("KITARU_TEST_"):
                patch.delenv(variable)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _engine_mode() -> Iterator[None]:
    """Puts the engine into the mode that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        modes.apply(patch)
        yield


@pytest.fixture(autouse=True)
def _nothing_left_in_the_environment() -> Iterator[None]:
    """A setting that one test leaves behind would be in force in the next."""
    yield
    left = [name for name in os.environ if name.startswith("KITARU_")]
    for name in left:
        if not name.startswith("KITARU_TEST_"):
            del os.environ[name]
    assert all(name.startswith("KITARU_TEST_") for name in left), left


@pytest.fixture
def choice_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's choice of an active stack is kept."""
    folder = tmp_path / "choice"
    monkeypatch.setenv("KITARU_CONFIG_PATH", str(folder))
    return folder


@pytest.fixture
def journal_file(tmp_path: Path) -> Path:
    """Where a journal of this test's own may be."""
    return tmp_path / "journal.db"


@pytest.fixture
def journal_url(journal_file: Path) -> str:
    """The URL of a journal of this test's own."""
    return f"sqlite:///{journal_file}"


@pytest.fixture
def run_program(tmp_path: Path, journal_url: str) -> RunProgram:
    """Runs a program in a fresh interpreter, in a folder and with a journal of this test's own."""

    def run(
        program: str | Path, *arguments: str, timeout: float = 110, name: str = "program.py"
    ) -> "subprocess.CompletedProcess[str]":
        if isinstance(program, str):
            file = tmp_path / name
            file.write_text(textwrap.dedent(program), encoding="utf-8")
            program = file
        return subprocess.run(
            [sys.executable, str(program), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={
                "KITARU_RUNNER_IDLE_SECONDS": "1",
                **os.environ,
                "KITARU_JOURNAL": journal_url,
                "KITARU_CONFIG_PATH": str(tmp_path / "choice"),
            },
            check=False,
        )

    return run
