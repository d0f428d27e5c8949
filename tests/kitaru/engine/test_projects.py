"""What is deployed with a flow is its project, and a flow that no file holds is refused by name."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru.domain.execution.events import SourceReference
from kitaru.engine.bundles import NotBundled
from kitaru.engine.projects import (
    check_root,
    commit_of,
    defines_flow,
    defines_still,
    deployable,
    entry_point,
    project_root,
    start_at_top_level,
)
from kitaru.engine.source import SourceNotLoadable


def make(folder: Path, *files: str) -> None:
    for file in files:
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("")


def test_the_root_is_what_init_has_marked_before_any_pyproject(tmp_path: Path) -> None:
    make(tmp_path, "pyproject.toml", "a/pyproject.toml", "a/b/c/flows.py")
    file = str(tmp_path / "a/b/c/flows.py")
    assert project_root(file) == str(tmp_path / "a")
    (tmp_path / ".kitaru").mkdir()
    assert project_root(file) == str(tmp_path)


def test_without_a_mark_the_root_is_the_folder_or_the_packages_own(tmp_path: Path) -> None:
    make(tmp_path, "script.py", "lib/pkg/__init__.py", "lib/pkg/sub/__init__.py")
    make(tmp_path, "lib/pkg/sub/flows.py")
    assert project_root(str(tmp_path / "script.py")) == str(tmp_path)
    assert project_root(str(tmp_path / "lib/pkg/sub/flows.py")) == str(tmp_path / "lib")


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (SourceReference("m", "make.<locals>.agent", __file__), "inside a function"),
        (SourceReference("__main__", "agent"), "notebook"),
        (SourceReference("__main__", "agent", "/nowhere/gone.py"), "notebook"),
    ],
)
def test_a_flow_that_no_file_holds_is_refused(reference: SourceReference, text: str) -> None:
    with pytest.raises(SourceNotLoadable, match=text):
        deployable(reference, "agent")


def test_the_entry_is_relative_to_the_root_with_the_folders_that_were_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "src/pkg/__init__.py", "src/pkg/flows.py", "lib/helper.py")
    monkeypatch.setattr(
        sys, "path", ["/usr/lib", str(tmp_path / "lib"), str(tmp_path / "none"), str(tmp_path)]
    )
    file = str(tmp_path / "src/pkg/flows.py")
    reference = SourceReference("pkg.flows", "agent", file, str(tmp_path / "src"))
    paths = ["src/pkg/__init__.py", "src/pkg/flows.py", "lib/helper.py"]
    entry = entry_point(reference, str(tmp_path), paths)
    assert (entry.file, entry.root) == ("src/pkg/flows.py", "src")
    assert entry.import_roots == ("src", "lib", "")


def test_a_module_that_is_imported_from_above_its_project_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "services/a/pyproject.toml", "services/a/flows.py")
    file = str(tmp_path / "services/a/flows.py")
    reference = SourceReference("services.a.flows", "agent", file, str(tmp_path))
    told = rf"services\.a\.flows is imported from {tmp_path}, which is above its project"
    with pytest.raises(SourceNotLoadable, match=told):
        entry_point(reference, project_root(file), ["flows.py"])
    (tmp_path / ".kitaru").mkdir()
    entry = entry_point(reference, project_root(file), ["services/a/flows.py"])
    assert (entry.file, entry.root) == ("services/a/flows.py", "")


def loaded(a, b=1, /, c=2, *d, e, f=3, **g):  # type: ignore[no-untyped-def]
    """A flow's function, as it was loaded."""


@pytest.mark.parametrize(
    ("now", "still"),
    [
        ("def loaded(a, b=1, /, c=2, *d, e, f=3, **g): return a", True),
        (
            "if x:\n  def loaded(): ...\nelse:\n  def loaded(a, b=9, /, c=9, *d, e, f=9, **g): 1",
            True,
        ),
        ("def loaded(a, b, /, c=2, *d, e, f=3, **g): ...", False),
        ("def loaded(a, b=1, c=2, *d, e, f=3, **g): ...", False),
        ("def loaded(a, b=1, /, c=2, *h, e, f=3, **g): ...", False),
        ("def loaded(a, b=1, /, c=2, *d, e=1, f=3, **g): ...", False),
        ("def loaded(a, b=1, /, c=2, *d, e, f=3): ...", False),
        ("async def loaded(a, b=1, /, c=2, *d, e, f=3, **g): ...", False),
        ("def renamed(a, b=1, /, c=2, *d, e, f=3, **g): ...", False),
        ("class A:\n  def loaded(a, b=1, /, c=2, *d, e, f=3, **g): ...", False),
        ("", False),
    ],
)
def test_an_edited_file_is_told_by_the_parameters(now: str, still: bool) -> None:
    assert defines_still(now.encode(), loaded) == still


class Holder:
    @staticmethod
    def flow(n: int) -> int:
        return n


def stood_for(function: Any) -> Any:
    """What a decorator makes that copies the names by hand."""

    def other(*args: Any) -> Any:
        return function(*args)

    other.__name__, other.__qualname__ = function.__name__, function.__name__
    return other


def test_what_cannot_be_told_of_a_file_is_let_be() -> None:
    assert defines_still(b"class Holder:\n  def flow(n): ...", Holder.flow)
    assert not defines_still(b"class Holder:\n  def flow(m): ...", Holder.flow)
    assert defines_still(b"", functools.wraps(loaded)(lambda *args: None))
    stand_in = stood_for(loaded)
    assert "<locals>" not in stand_in.__qualname__
    assert defines_still(b"", stand_in)
    namespace: dict[str, Any] = {}
    exec("def made(a): ...", namespace)
    assert defines_still(b"", namespace["made"])
    with pytest.raises(SyntaxError):
        defines_still(b"no Python", loaded)


def test_a_flow_whose_file_is_left_out_is_named_with_the_rules(tmp_path: Path) -> None:
    make(tmp_path, "flows.py")
    reference = SourceReference("flows", "agent", str(tmp_path / "flows.py"), str(tmp_path))
    with pytest.raises(SourceNotLoadable, match=r"flows\.py is not among .*\.kitaruignore"):
        entry_point(reference, str(tmp_path), ["other.py"])


def test_the_commit_and_its_dirtiness_are_gits_word(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def dirty(*paths: str) -> bool:
        commit = commit_of(str(tmp_path), paths)
        assert commit is not None
        assert commit.sha == git("rev-parse", "HEAD")
        return commit.is_dirty

    assert commit_of(str(tmp_path), []) is None
    make(tmp_path, "flows.py", "lib/\u00fc.py")
    git("init", "-q")
    assert commit_of(str(tmp_path), ["flows.py"]) is None
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert not dirty("flows.py", "lib/\u00fc.py")
    # What git does not know, or was told to pass over, is not in the commit.
    make(tmp_path, "new.py", ".git/info/exclude")
    (tmp_path / ".git/info/exclude").write_text("ignored.py")
    assert not dirty("flows.py")
    assert dirty("flows.py", "new.py")
    assert dirty("ignored.py")
    (tmp_path / "flows.py").write_text("x = 1")
    assert dirty("flows.py")
    (tmp_path / ".git/index").write_bytes(b"damaged")
    assert commit_of(str(tmp_path), ["flows.py"]) is None


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("agent.run()", 1),
        ("x = 1\nprint(agent.aio.deploy(1).wait())", 2),
        ("with_it = [agent.invoke(n) for n in range(3)]", 1),
        ("try:\n    agent.replay('e')\nfinally:\n    pass", 2),
        ("class A:\n    handle = agent.run(1).wait()", 2),
        ('if __name__ == "__main__":\n    agent.run()', 0),
        ("def main():\n    agent.run()", 0),
        ("agent.with_options(retries=1)\nother.run()\nrun()\nagent.name", 0),
        ("this is no Python", 0),
    ],
)
def test_what_loading_a_file_would_start_is_found(program: str, line: int) -> None:
    assert start_at_top_level(program.encode(), "agent") == line


def test_a_file_defines_a_flow_when_it_decorates_a_function_of_its_name() -> None:
    assert defines_flow(b"@flow\ndef agent(): ...", "agent")
    assert defines_flow(b"class A:\n    @flow\n    async def agent(): ...", "A.agent")
    assert not defines_flow(b"def agent(): ...", "agent")
    assert not defines_flow(b"@flow\ndef other(): ...", "agent")
    assert not defines_flow(b"\xff", "agent")


def test_a_home_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for everything in (str(tmp_path), "/"):
        with pytest.raises(NotBundled, match="far more than a project"):
            check_root(everything)
    check_root(str(tmp_path / "project"))
