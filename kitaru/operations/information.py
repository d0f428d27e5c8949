"""What is in force here and who has said so, fit to be shown: no secret's value is in it."""

import platform
import sqlite3
import sys
from typing import Any

from msgspec import Struct

from kitaru import settings
from kitaru.settings import KitaruConfig

OPTIONS = (
    "journal",
    "stack",
    "cache",
    "retries",
    "lease_seconds",
    "runners",
    "runner_idle_seconds",
)


class Setting(Struct, frozen=True):
    """One option's value, and the layer that it came from."""

    name: str
    value: Any
    layer: str
    where: str


class Information(Struct, frozen=True):
    """What one wants to know of an installation when something is wrong."""

    version: str
    python: str
    executable: str
    platform: str
    sqlite_version: str
    settings: tuple[Setting, ...]


def information() -> Information:
    """What is in force here and now. Raises KitaruUsageError for a bad value in any layer."""
    return Information(
        version=_version(),
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        sqlite_version=sqlite3.sqlite_version,
        settings=tuple(_settings(settings.resolve())),
    )


def _settings(config: KitaruConfig) -> list[Setting]:
    found = [_setting(config, name, getattr(config, name)) for name in OPTIONS]
    image = config.image.masked()
    variables = image.pop("environment", {})
    found += [_setting(config, f"image.{name}", value) for name, value in image.items()]
    found += [
        _setting(config, f"image.environment.{name}", value) for name, value in variables.items()
    ]
    return found


def _setting(config: KitaruConfig, name: str, value: Any) -> Setting:
    origin = config.origins[name]
    return Setting(name, value, origin.layer.value, origin.where)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("kitaru")
    except metadata.PackageNotFoundError:
        return "not installed: run from its source"
