"""What is installed here, and what of it a requirement names."""

from pathlib import Path

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


def test_kitarus_own_part_is_complete() -> None:
    assert sorted(folder.name for folder in own_folders()) == ["journal", "kitaru"]
    names = {distribution.metadata["Name"].lower() for distribution in own_needs()}
    assert {"kitaru", "msgspec", "aiosqlite", "anyio", "click"} <= names
    assert "pytest" not in names
    assert own_digest() == own_digest()


def test_every_package_is_pinned_once() -> None:
    frozen = frozen_packages()
    names = [name_in(each) for each in frozen]
    assert len(names) == len(set(names))
    assert all("==" in each or " @ file:" in each for each in frozen)
