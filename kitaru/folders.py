"""Where a project's and a user's own files are, on each platform."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from kitaru.errors import KitaruUsageError

PROJECT_FOLDER = ".kitaru"


def folders_upwards() -> Iterator[Path]:
    """The working directory and all above it; nothing when it is gone."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return
    yield here
    yield from here.parents


def project_folder() -> Path | None:
    """The nearest ``.kitaru/``, upwards from the working directory."""
    for folder in folders_upwards():
        if (marker := folder / PROJECT_FOLDER).is_dir():
            return marker
    return None


def user_data_folder(platform: str, environment: Mapping[str, str]) -> Path:
    """Where a user's own data belongs on this platform (`sys.platform`)."""
    if platform == "win32":
        return _windows(environment, "LOCALAPPDATA", "Local") / "kitaru"
    if platform == "darwin":
        return _home() / "Library" / "Application Support" / "kitaru"
    return _xdg(environment, "XDG_DATA_HOME", ".local/share") / "kitaru"


def user_config_folder(platform: str, environment: Mapping[str, str]) -> Path:
    """Where what a user has chosen belongs on this platform."""
    if platform == "win32":
        return _windows(environment, "APPDATA", "Roaming") / "kitaru"
    if platform == "darwin":
        return _home() / "Library" / "Application Support" / "kitaru"
    return _xdg(environment, "XDG_CONFIG_HOME", ".config") / "kitaru"


def user_cache_folder(platform: str, environment: Mapping[str, str]) -> Path:
    """Where what can be made again belongs on this platform."""
    if platform == "win32":
        return _windows(environment, "LOCALAPPDATA", "Local") / "kitaru" / "cache"
    if platform == "darwin":
        return _home() / "Library" / "Caches" / "kitaru"
    return _xdg(environment, "XDG_CACHE_HOME", ".cache") / "kitaru"


def _windows(environment: Mapping[str, str], variable: str, name: str) -> Path:
    given = environment.get(variable)
    return Path(given) if given else _home() / "AppData" / name


def _xdg(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    given = environment.get(variable, "")
    # The XDG specification says that a relative path there is to be ignored.
    return Path(given) if os.path.isabs(given) else _home() / below_home


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise KitaruUsageError(
            "There is no home directory to keep the journal in; set KITARU_JOURNAL to a file."
        ) from None
