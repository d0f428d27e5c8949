"""The packages of this process's own environment: what is installed, and Kitaru's part of it."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kitaru.errors import KitaruImageError

OURS = "kitaru"
_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_NOT_SOURCE = frozenset({"__pycache__", ".git", ".venv", "node_modules", ".mypy_cache"})


def normalised(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_in(requirement: str) -> str:
    """The normalised name that a requirement begins with; empty for a path or a bare URL."""
    if "/" in requirement.partition("@")[0] or requirement.startswith(("/", "file:")):
        return ""
    found = _NAME.match(requirement)
    return normalised(found[1]) if found else ""


def frozen_packages() -> tuple[str, ...]:
    """Every package of this environment as a requirement that only its own version fits.

    Kitaru itself is not among them: each runner has it anyway.
    """
    found = {}
    for distribution in metadata.distributions():
        name = normalised(distribution.metadata["Name"] or "")
        if name and name != OURS and name not in found:
            found[name] = f"{name}{_pin(distribution)}"
    return tuple(found[name] for name in sorted(found))


def _pin(distribution: metadata.Distribution) -> str:
    text = distribution.read_text("direct_url.json")
    origin: dict[str, Any] = json.loads(text) if text else {}
    if not origin.get("url"):
        return f"=={distribution.version}"
    # It came from no index, or need not be what an index has under this version.
    version = origin.get("vcs_info")
    folder = f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    if version is None:
        return f" @ {origin['url']}{folder}"
    return f" @ {version['vcs']}+{origin['url']}@{version['commit_id']}{folder}"


def local_path_in(requirement: str) -> Path | None:
    """The file or folder of this machine that a requirement names; None when it names none."""
    given = requirement.partition(";")[0].strip()
    if "@" in given and not given.startswith("/"):
        given = given.partition("@")[2].strip()
    if given.startswith("file:"):
        return Path(url2pathname(urlsplit(given).path))
    given = re.sub(r"\[[^\]]*\]$", "", given)
    return Path(given) if os.path.isabs(given) else None


def with_path(requirement: str, path: str) -> str:
    """The same requirement of a file, with its extras and its marker, at another path."""
    given, separator, marker = requirement.partition(";")
    name = given.strip() if given.strip().startswith(("/", "file:")) else given.partition("@")[0]
    extras = re.search(r"\[[^\]]*\]$", name.strip())
    return f"{path}{extras[0] if extras else ''}{f' ; {marker.strip()}' if separator else ''}"


def content_digest(path: Path) -> str:
    """The digest of a file, or of all in a folder. Raises KitaruImageError when it is not there."""
    hashed = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(_files_below(path))
        if not path.exists():
            raise FileNotFoundError(path)
        for file in files:
            hashed.update(str(file.relative_to(path)).encode(errors="surrogateescape") + b"\0")
            hashed.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise KitaruImageError(f"image.requirements: {path} cannot be read: {error}.") from error
    return hashed.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _is_source(Path(root), name)]
        yield from (Path(root, name) for name in files if not name.endswith(".pyc"))


def _is_source(parent: Path, name: str) -> bool:
    # What setuptools leaves in a project's folder when it builds a wheel of it.
    in_build = parent.name == "build" and name.startswith(("lib", "bdist.", "temp"))
    return name not in _NOT_SOURCE and not name.endswith(".egg-info") and not in_build


@lru_cache(maxsize=1)
def own_digest() -> str:
    """The digest of Kitaru's code, as this process has it, and of what it needs."""
    hashed = hashlib.sha256()
    for folder in own_folders():
        hashed.update(content_digest(folder).encode())
    for distribution in own_needs():
        hashed.update(f"{distribution.metadata['Name']}=={distribution.version}\n".encode())
    return hashed.hexdigest()


def own_folders() -> list[Path]:
    """The folders of the packages `kitaru` and `journal`."""
    specs = [importlib.util.find_spec(name) for name in ("journal", "kitaru")]
    return [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]


@lru_cache(maxsize=1)
def own_needs() -> tuple[metadata.Distribution, ...]:
    """What Kitaru needs, and what that needs, as it is installed here.

    Raises KitaruImageError where something is not.
    """
    found: dict[str, metadata.Distribution] = {}
    left = [OURS]
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise KitaruImageError(
                f"The package {name}, which Kitaru needs, is not installed here, so that no "
                "runner's environment can be given it. Install Kitaru with its dependencies."
            ) from None
        left += _needed_by(found[name])
    return tuple(found[name] for name in sorted(found))


def _needed_by(distribution: metadata.Distribution) -> Iterator[str]:
    for requirement in distribution.requires or ():
        package, _, marker = requirement.partition(";")
        name = name_in(package)
        if "extra" in marker or not name:
            continue
        # Whether a marker fits is told by what is there: what does not fit was not installed.
        if not marker.strip() or _is_installed(name):
            yield name


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def copy_own(site_packages: Path) -> None:
    """Puts Kitaru, and what it needs, into another environment of the same Python.

    They are copied as they are installed here, so that no package index is needed for them.
    """
    copy_own_packages(site_packages)
    for distribution in own_needs():
        _copy(distribution, site_packages)


def copy_own_packages(target: Path) -> None:
    """Copies the packages `kitaru` and `journal` into a folder. Raises OSError."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in own_folders():
        try:
            shutil.copytree(folder, target / folder.name, ignore=ignored)
        except shutil.Error as error:
            # It tells of every single file; the first one is enough.
            [(_, place, problem), *_] = error.args[0]
            # "[Errno 28] No space left on device: 'one' -> 'other'"
            raise OSError(f"{place}: {problem.partition(': ')[0]}") from error


def _copy(distribution: metadata.Distribution, target: Path) -> None:
    editable = normalised(distribution.metadata["Name"]) == OURS
    for file in distribution.files or ():
        # Scripts and data stand outside, and begin with dots; a runner needs none of them.
        if ".." in file.parts or file.is_absolute() or file.suffix == ".pyc":
            continue
        is_metadata = file.parts[0].endswith(".dist-info")
        if editable and not is_metadata:
            # Its code is copied from where this process has it; an editable one has none here.
            continue
        place = target.joinpath(*file.parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), place)
