"""Each platform has its folders, and a project the nearest one."""

from pathlib import Path

import pytest

from kitaru.folders import (
    project_folder,
    user_cache_folder,
    user_config_folder,
    user_data_folder,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_each_platform_has_its_data_folder(home: Path) -> None:
    assert user_data_folder("linux", {}) == home / ".local/share/kitaru"
    assert user_data_folder("linux", {"XDG_DATA_HOME": "/data"}) == Path("/data/kitaru")
    assert user_data_folder("linux", {"XDG_DATA_HOME": "data"}) == home / ".local/share/kitaru"
    assert user_data_folder("darwin", {}) == home / "Library/Application Support/kitaru"
    assert user_data_folder("win32", {}) == home / "AppData/Local/kitaru"
    assert user_data_folder("win32", {"LOCALAPPDATA": "/local"}) == Path("/local/kitaru")


def test_each_platform_has_its_configuration_folder(home: Path) -> None:
    assert user_config_folder("linux", {}) == home / ".config/kitaru"
    assert user_config_folder("linux", {"XDG_CONFIG_HOME": "/conf"}) == Path("/conf/kitaru")
    assert user_config_folder("darwin", {}) == home / "Library/Application Support/kitaru"
    assert user_config_folder("win32", {"APPDATA": "/roaming"}) == Path("/roaming/kitaru")


def test_each_platform_has_its_cache_folder(home: Path) -> None:
    assert user_cache_folder("linux", {}) == home / ".cache/kitaru"
    assert user_cache_folder("linux", {"XDG_CACHE_HOME": "/cache"}) == Path("/cache/kitaru")
    assert user_cache_folder("darwin", {}) == home / "Library/Caches/kitaru"
    assert user_cache_folder("win32", {"LOCALAPPDATA": "/l"}) == Path("/l/kitaru/cache")


def test_the_nearest_project_folder_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = home / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert project_folder() is None
    (home / ".kitaru").mkdir()
    assert project_folder() == home / ".kitaru"
    (home / "a" / ".kitaru").touch()
    assert project_folder() == home / ".kitaru"
    (inner / ".kitaru").mkdir()
    assert project_folder() == inner / ".kitaru"
