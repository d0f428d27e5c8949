"""What is installed here, and what of it a requirement names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruImageError
from kitaru.stacks.images.distributions import (
    content_digest,
    frozen_packages,
    local_path_in,
    name_in,
    own_digest,
    own_folders,
    own_needs,
    with_path,
)


@pytest.mark.parametrize(
    ("requirement", "name", "path"),
    [
        ("httpx", "httpx", None),
        ("Httpx_2[http2]>=0.28,<1", "httpx-2", None),
        ("zope.interface ; python_version > '3'", "zope-interface", None),
        ("tiny @ file:///a/tiny-1.0-py3-none-any.whl", "tiny", "/a/tiny-1.0-py3-none-any.whl"),
        ("tiny[extra]@file:///a%20b.whl ; os_name == 'x'", "tiny", "/a b.whl"),
        ("tiny @ https://host/tiny.whl", "tiny", None),
        ("/a/project", "", "/a/project"),
        ("/a/project[extra]", "", "/a/project"),
        ("/a/me@home/x.whl", "", "/a/me@home/x.whl"),
        ("file:///a/x.whl", "", "/a/x.whl"),
    ],
)
def test_what_a_requirement_names(requirement: str, name: str, path: str | None) -> None:
    assert name_in(requirement) == name
    assert local_path_in(requirement) == (None if path is None else Path(path))


@pytest.mark.parametrize(
    ("requirement", "moved"),
    [
        ("/a/x.whl", "./x.whl"),
        ("file:///a/x.whl", "./x.whl"),
        ("/a/x.whl[b,c]; os_name == 'x'", "./x.whl[b,c] ; os_name == 'x'"),
        ("x @ file:///a/x.whl", "./x.whl"),
        ("x [b]@/a/x.whl ;os_name=='x'", "./x.whl[b] ; os_name=='x'"),
    ],
)
def test_a_file_that_is_moved_keeps_its_extras_and_its_marker(requirement: str, moved: str) -> None:
    assert with_path(requirement, "./x.whl") == moved


def test_a_folders_digest_is_that_of_its_sources(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("1")
    first = content_digest(tmp_path)
    (tmp_path / "package" / "__pycache__").mkdir()
    (tmp_path / "package" / "__pycache__" / "a.pyc").write_text("x")
    assert content_digest(tmp_path) == first
    (tmp_path / "package" / "a.py").rename(tmp_path / "package" / "b.py")
    second = content_digest(tmp_path)
    (tmp_path / "package" / "b.py").write_text("2")
    assert len({first, second, content_digest(tmp_path)}) == 3
    with pytest.raises(KitaruImageError, match="cannot be read"):
        content_digest(tmp_path / "absent")


def test_what_a_build_leaves_in_a_folder_is_not_its_source(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "a.py").write_text("1")
    first = content_digest(tmp_path)
    for left in ("tiny.egg-info", "build/lib/tiny", "build/bdist.linux-x86_64"):
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "b.py").write_text("1")
    assert content_digest(tmp_path) == first
    (tmp_path / "build" / "a.py").write_text("2")
    assert content_digest(tmp_path) != first


@pytest.mark.parametrize(
    ("origin", "pin"),
    [
        (None, "tiny==1.0"),
        ({"url": "file:///a", "dir_info": {"editable": True}}, "tiny @ file:///a"),
        ({"url": "https://host/tiny.whl", "archive_info": {}}, "tiny @ https://host/tiny.whl"),
        (
            {
                "url": "https://host/a.git",
                "vcs_info": {"vcs": "git", "commit_id": "0a1b", "requested_revision": "main"},
                "subdirectory": "python",
            },
            "tiny @ git+https://host/a.git@0a1b#subdirectory=python",
        ),
    ],
)
def test_a_package_is_pinned_to_where_it_came_from(
    origin: Any, pin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert frozen_packages() == (pin,)


def test_kitarus_own_part_is_complete() -> None:
    assert sorted(folder.name for folder in own_folders()) == ["journal", "kitaru"]
    names = {distribution.metadata["Name"].lower() for distribution in own_needs()}
    assert {"kitaru", "msgspec", "aiosqlite", "anyio", "click"} <= names
    assert "pytest" not in names
    assert own_digest() == own_digest()


FAILS = """
import pathlib, resource, sys
from kitaru.stacks.images.distributions import copy_own_packages
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    copy_own_packages(pathlib.Path(sys.argv[1]))
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of files there")
def test_a_copy_that_fails_tells_of_one_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{tmp_path}/")
    assert done.stdout.endswith("File too large\n")
    assert done.stdout.count(str(tmp_path)) == 1


def test_every_package_is_pinned_once() -> None:
    frozen = frozen_packages()
    names = [name_in(each) for each in frozen]
    assert len(names) == len(set(names))
    assert all("==" in each or " @ " in each for each in frozen)
