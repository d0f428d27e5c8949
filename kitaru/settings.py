"""What a process was told about its journal and its runs: each value, and which layer it came from.

The precedence, highest first, is one and the same for every option:

1. ``my_flow.run(..., retries=2)``     2. ``@flow(retries=2)``     (both applied by the SDK)
3. `configure`     4. the environment, ``KITARU_RETRIES``
5. ``[tool.kitaru]`` in the nearest pyproject.toml that has it, upwards from the working directory
6. what holds when nobody has said anything: for the stack the active one, which is chosen with
   ``kitaru stack use``; for the journal the nearest ``.kitaru/`` folder, else the user's data
   folder; for the rest the built-in value

An image is put together field by field, and its variables one by one: each comes from the highest
layer that sets it. Nothing here reads the journal: a stack is a name until an operation looks it
up.
"""

import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from kitaru import choice
from kitaru.errors import KitaruBackendError, KitaruUsageError
from kitaru.folders import (
    PROJECT_FOLDER,
    folders_upwards,
    project_folder,
    user_cache_folder,
    user_data_folder,
)
from kitaru.image import (
    NO_IMAGE,
    ImageSetting,
    ImageSettings,
    image_from_text,
    image_settings,
)

JOURNAL_FILE = "journal.db"
LOCAL_STACK = "local"
"""The stack that is always there: this very process."""
MOST_LEASE_SECONDS = 31_536_000.0
REMEMBERED_SECONDS = 1.0


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Says that an option was not given; None says that it is cleared."""


class Layer(StrEnum):
    """Who decided on a value, highest first."""

    CALL = "call"
    """The call itself, such as ``kitaru.runtime(journal=...)``."""
    CONFIGURE = "configure"
    ENVIRONMENT = "environment"
    PYPROJECT = "pyproject"
    PROJECT_FOLDER = "project_folder"
    """The nearest ``.kitaru/``; for the journal only."""
    ACTIVE_STACK = "active_stack"
    """``kitaru stack use``; for the stack only."""
    BUILT_IN = "built_in"


class Origin(NamedTuple):
    """Where a value came from."""

    layer: Layer
    where: str
    """For people: ``KITARU_RETRIES``, ``/project/pyproject.toml: [tool.kitaru] retries``."""


@dataclass(frozen=True, kw_only=True)
class KitaruConfig:
    """The options in force, without what a decorator or a single run says."""

    journal: str
    """``memory://``, or ``sqlite:///`` and the absolute path of the file, written as it is."""
    cache: bool
    retries: int
    lease_seconds: float
    """How long an execution stays with a runner that gives no sign of life."""
    stack: str
    """The name of the stack that flows run on; empty where the file of the active one names none:
    then only a flow that names one can run."""
    image: ImageSettings
    """What that stack is to give their runners; all layers merged."""
    runners: int
    """How many runner processes one deployed bundle has at most on this machine."""
    runner_idle_seconds: float
    """How long a runner process stays without work."""
    origins: Mapping[str, Origin] = field(hash=False)
    """For each of the above, the layer it came from; for the image also for each field that is set,
    as ``image.requirements``, and each variable, as ``image.environment.NAME``."""


def configure(
    *,
    journal: str | os.PathLike[str] | Literal[Unset.UNSET] | None = UNSET,
    cache: bool | Literal[Unset.UNSET] | None = UNSET,
    retries: int | Literal[Unset.UNSET] | None = UNSET,
    lease_seconds: float | Literal[Unset.UNSET] | None = UNSET,
    stack: str | Literal[Unset.UNSET] | None = UNSET,
    image: ImageSetting | Literal[Unset.UNSET] | None = UNSET,
    runners: int | Literal[Unset.UNSET] | None = UNSET,
    runner_idle_seconds: float | Literal[Unset.UNSET] | None = UNSET,
) -> KitaruConfig:
    """Sets options for the whole process and returns what is in force now.

    An option that is not given stays as it is; None clears it, so that the lower layers decide
    again. A relative `journal` is relative to the working directory of this call. All of it
    applies or, when an error is raised, none.

    Whether there is such a stack is not looked up here but when a flow is run. Raises
    KitaruUsageError for a bad value, here or in a lower layer.
    """
    given = {
        "journal": journal,
        "cache": cache,
        "retries": retries,
        "lease_seconds": lease_seconds,
        "stack": stack,
        "image": image,
        "runners": runners,
        "runner_idle_seconds": runner_idle_seconds,
    }
    changes = {
        name: None if value is None else _checked(name, value, f"configure({name}=...)", Path.cwd)
        for name, value in given.items()
        if value is not UNSET
    }
    global _configured
    with _lock:
        merged = {**_configured, **changes}
        candidate = {name: value for name, value in merged.items() if value is not None}
        config = _resolve(candidate)
        _configured = candidate
    return config


def resolve() -> KitaruConfig:
    """The options in force here and now.

    Raises KitaruUsageError for a bad value in any layer, even one that a higher layer hides.
    """
    return _resolve(_configured)


def in_force() -> KitaruConfig:
    """What `resolve` says, with files read at most once a second.

    For callers that ask at every start of a flow. Raises what `resolve` raises.
    """
    global _remembered
    key = (_configured, _working_directory(), *_variables())
    now = time.monotonic()
    if _remembered is not None and _remembered[0] == key and now < _remembered[1]:
        return _remembered[2]
    config = resolve()
    _remembered = (key, now + REMEMBERED_SECONDS, config)
    return config


def _variables() -> tuple[object, ...]:
    """What decides in the environment, as it is kept: decoding it is most of what a start costs."""
    kept = getattr(os.environ, "_data", None)
    if kept is None:
        return tuple(map(os.environ.get, _VARIABLES))
    return tuple(map(kept.get, _KEPT_VARIABLES))


def forget_files() -> None:
    """The next `in_force` reads the files again: this process has changed one."""
    global _remembered
    _remembered = None


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def resolve_with(
    where: str,
    *,
    journal: str | os.PathLike[str] | None = None,
    lease_seconds: float | None = None,
) -> KitaruConfig:
    """The options in force, with those that are given here above every layer.

    `where` names the call for people. Raises KitaruUsageError for a bad value.
    """
    given = {"journal": journal, "lease_seconds": lease_seconds}
    changes = {
        name: _checked(name, value, f"{where}({name}=...)", Path.cwd)
        for name, value in given.items()
        if value is not None
    }
    config = _resolve(_configured)
    origins = {name: Origin(Layer.CALL, f"{where}({name}=...)") for name in changes}
    return replace(config, **changes, origins={**config.origins, **origins})


def initialise_project(path: str | os.PathLike[str]) -> Path:
    """Makes ``.kitaru/`` in a folder, so that flows run below it share a journal; returns it.

    Raises KitaruUsageError when there is no such folder, KitaruBackendError when it cannot be
    written. Doing it again changes nothing.
    """
    root = Path(path).absolute()
    if not root.is_dir():
        raise KitaruUsageError(f"{root} is not a folder; make it first.")
    folder = root / PROJECT_FOLDER
    if folder.exists() and not folder.is_dir():
        raise KitaruUsageError(f"{folder} exists and is not a folder; move it away.")
    try:
        folder.mkdir(exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Kitaru's journal stays on this machine.\n*\n", encoding="utf-8")
    except OSError as error:
        raise KitaruBackendError(f"{folder} cannot be made: {error}") from error
    return folder


def bundle_folder() -> Path:
    """Where bundles are unpacked, each in a folder that is named by its digest."""
    return user_cache_folder(sys.platform, os.environ) / "bundles"


def environment_folder() -> Path:
    """Where the environments of runners are, each in a folder that is named by its digest."""
    return user_cache_folder(sys.platform, os.environ) / "environments"


def runner_folder(journal: str) -> Path | None:
    """Where the logs and locks of a journal's runners are: beside it; None where it has no file."""
    if not journal.startswith("sqlite:///"):
        return None
    # Whoever names the journal by a link to it means the same runners.
    return Path(f"{os.path.realpath(journal.removeprefix('sqlite:///'))}-runners")


def journal_url(file: str | os.PathLike[str]) -> str:
    """The URL of a journal in a file, which is given by its absolute path."""
    return f"sqlite:///{Path(file).as_posix()}"


_OPTIONS = (
    "journal",
    "cache",
    "retries",
    "lease_seconds",
    "stack",
    "image",
    "runners",
    "runner_idle_seconds",
)
_VARIABLES = (
    *(f"KITARU_{name.upper()}" for name in _OPTIONS),
    choice.VARIABLE,
    "HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "LOCALAPPDATA",
    "APPDATA",
)
"""The variables that decide on a value."""
_KEPT_VARIABLES = tuple(map(os.environ.encodekey, _VARIABLES))
"""The same as the environment keeps them."""
_BUILT_IN: dict[str, object] = {
    "cache": True,
    "retries": 0,
    "lease_seconds": 30.0,
    "stack": LOCAL_STACK,
    "image": NO_IMAGE,
    "runners": min(4, os.cpu_count() or 1),
    "runner_idle_seconds": 60.0,
}
_ENVIRONMENT_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

_lock = threading.Lock()
_configured: dict[str, Any] = {}
_remembered: tuple[tuple[object, ...], float, KitaruConfig] | None = None


class _Pyproject(NamedTuple):
    file: Path | None
    table: Mapping[str, object]

    def where(self, name: str) -> str:
        return f"{self.file}: [tool.kitaru] {name}"


_NO_PYPROJECT = _Pyproject(None, {})


def _resolve(configured: Mapping[str, Any]) -> KitaruConfig:
    layers = [
        {name: (value, _configure_origin(name)) for name, value in configured.items()},
        _environment_layer(),
        _pyproject_layer(),
    ]
    chosen: dict[str, tuple[Any, Origin]] = {}
    image = NO_IMAGE
    parts: dict[str, Origin] = {}
    for layer in reversed(layers):
        chosen.update(layer)
        if "image" in layer:
            said, origin = layer["image"]
            image = said.over(image)
            parts.update(_parts(said, origin))
    for name in _OPTIONS:
        if name not in chosen:
            chosen[name] = _built_in(name)
    values = {name: value for name, (value, _) in chosen.items()}
    values["image"] = image
    origins = {name: chosen[name][1] for name in _OPTIONS}
    return KitaruConfig(**values, origins={**origins, **parts})


def _parts(image: ImageSettings, origin: Origin) -> dict[str, Origin]:
    """What of an image this layer decides on."""
    given = image.given()
    variables = given.pop("environment", None)
    parts = {f"image.{name}": origin for name in given}
    if variables is not None:
        parts["image.environment"] = origin
        parts |= {f"image.environment.{name}": origin for name in variables}
    return parts


def _configure_origin(name: str) -> Origin:
    return Origin(Layer.CONFIGURE, f"configure({name}=...)")


def _environment_layer() -> dict[str, tuple[Any, Origin]]:
    layer = {}
    for name in _OPTIONS:
        variable = _variable(name)
        if (text := _environment(variable)) is not None:
            value = _checked(name, _parsed(name, text, variable), variable, Path.cwd)
            layer[name] = (value, Origin(Layer.ENVIRONMENT, variable))
    return layer


def _pyproject_layer() -> dict[str, tuple[Any, Origin]]:
    project = _pyproject()
    return {
        name: (
            _checked(name, value, project.where(name), lambda: _folder_of(project)),
            Origin(Layer.PYPROJECT, project.where(name)),
        )
        for name, value in project.table.items()
    }


def _folder_of(project: _Pyproject) -> Path:
    assert project.file is not None
    return project.file.parent


def _built_in(name: str) -> tuple[Any, Origin]:
    if name == "stack" and (chosen := choice.chosen_stack()) is not None:
        return chosen.stack, Origin(Layer.ACTIVE_STACK, str(chosen.file))
    if name != "journal":
        return _BUILT_IN[name], Origin(Layer.BUILT_IN, "built-in")
    if (marker := project_folder()) is not None:
        return journal_url(marker / JOURNAL_FILE), Origin(Layer.PROJECT_FOLDER, str(marker))
    data = user_data_folder(sys.platform, os.environ)
    return journal_url(data / JOURNAL_FILE), Origin(Layer.BUILT_IN, "the user's data folder")


def _variable(name: str) -> str:
    return f"KITARU_{name.upper()}"


def _environment(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


def _parsed(name: str, text: str, variable: str) -> object:
    """What an environment variable says; the text itself when it makes no sense, to be refused."""
    match name:
        case "cache":
            return _ENVIRONMENT_WORDS.get(text.lower(), text)
        case "retries" | "runners":
            return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text
        case "lease_seconds" | "runner_idle_seconds":
            return _number(text)
        case "image":
            return image_from_text(text, variable)
        case _:
            return text


def _number(text: str) -> float | str:
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def _checked(name: str, value: object, where: str, base: Callable[[], Path]) -> Any:
    match name:
        case "journal":
            return _journal(value, where, base)
        case "cache":
            if isinstance(value, bool):
                return value
            words = ", ".join(_ENVIRONMENT_WORDS)
            accepted = f"one of {words}" if where == "KITARU_CACHE" else "true or false"
        case "retries":
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
            accepted = "a whole number >= 0"
        case "stack":
            if isinstance(value, str) and value.strip():
                return value.strip()
            accepted = "the name of a stack"
        case "image":
            return image_settings(value, where)
        case "runners":
            if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
                return value
            accepted = "a whole number >= 1"
        case "runner_idle_seconds":
            if isinstance(value, int | float) and _is_duration(value):
                return float(value)
            accepted = f"a number of seconds from 0 to {MOST_LEASE_SECONDS:.0f}"
        case _:
            if isinstance(value, int | float) and _is_lease(value):
                return float(value)
            accepted = f"a number of seconds from 1 to {MOST_LEASE_SECONDS:.0f}"
    raise KitaruUsageError(f"{where}: {value!r} is not accepted; {accepted} is.")


def _is_duration(value: float) -> bool:
    return not isinstance(value, bool) and 0 <= value <= MOST_LEASE_SECONDS


def _is_lease(value: float) -> bool:
    return not isinstance(value, bool) and 1 <= value <= MOST_LEASE_SECONDS


def _journal(value: object, where: str, base: Callable[[], Path]) -> str:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise _bad_journal(repr(value), where)
    if text == "memory://":
        return text
    scheme, separator, _ = text.partition("://")
    if separator and not text.startswith("sqlite:///"):
        # Not the whole URL: one of another kind may hold a password.
        raise _bad_journal(repr(f"{scheme}://..."), where)
    path = text.removeprefix("sqlite:///")
    looks_special = path.startswith((":memory:", "sqlite:", "memory:", "file:"))
    if looks_special or not path.strip() or "\0" in path or "?" in path:
        raise _bad_journal(repr(text), where)
    return journal_url(_absolute_file(path, where, base))


def _absolute_file(path: str, where: str, base: Callable[[], Path]) -> str:
    try:
        expanded = os.path.expanduser(path)
        file = expanded if os.path.isabs(expanded) else os.path.join(base(), expanded)
    except FileNotFoundError:
        raise KitaruUsageError(
            f"{where}: {path!r} is relative, and the working directory is gone; "
            "name an absolute path."
        ) from None
    if path.endswith(("/", os.sep)) or os.path.isdir(file):
        raise KitaruUsageError(f"{where}: {path!r} is a folder; name a file in it.")
    return os.path.normpath(file)


def _bad_journal(shown: str, where: str) -> KitaruUsageError:
    return KitaruUsageError(
        f"{where}: {shown} is not accepted; the path of a file, sqlite:////absolute/path.db, "
        "sqlite:///relative.db or memory:// is."
    )


def _pyproject() -> _Pyproject:
    for folder in folders_upwards():
        file = folder / "pyproject.toml"
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise KitaruUsageError(f"{file} cannot be read: {error}.") from error
        project = _parse_pyproject(file, content)
        if project.file is not None:
            return project
    return _NO_PYPROJECT


@functools.lru_cache(maxsize=16)
def _parse_pyproject(file: Path, content: bytes) -> _Pyproject:
    table = _parse_toml(file, content).get("tool", {})
    table = table.get("kitaru") if isinstance(table, dict) else None
    if table is None:
        return _NO_PYPROJECT
    if not isinstance(table, dict):
        raise KitaruUsageError(
            f"{file}: tool.kitaru is {table!r}; a table [tool.kitaru] is needed."
        )
    known = sorted(_OPTIONS)
    for name in table:
        if name not in known:
            raise KitaruUsageError(
                f"{file}: [tool.kitaru] has no key {name!r}; it knows {', '.join(known)}."
            )
    return _Pyproject(file, table)


def _parse_toml(file: Path, content: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{file}:{line[1]}" if line else f"{file}, at its end"
        raise KitaruUsageError(f"{place}: not valid TOML: {error}.") from None
    except UnicodeDecodeError as error:
        line_number = content[: error.start].count(b"\n") + 1
        raise KitaruUsageError(f"{file}:{line_number}: not valid TOML: not UTF-8.") from None
