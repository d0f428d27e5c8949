"""Virtual environments for runners: made by uv, kept by the digest of what is in them.

One is built in a draft folder and moved to its place when it is whole, so that whoever finds it
there finds all of it.
"""

import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kitaru.errors import KitaruImageError
from kitaru.image import ImageSettings
from kitaru.stacks.images.distributions import (
    content_digest,
    copy_own,
    frozen_packages,
    local_path_in,
    name_in,
    own_digest,
    own_folders,
)
from kitaru.stacks.images.uv import run_uv, uv_command

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = "kitaru-environment-1"


def with_frozen_packages(image: ImageSettings) -> ImageSettings:
    """The same image, with what `replicate_local_python_environment` asks for written out.

    It is done once, when an execution is started: another process would find other packages.
    """
    if not image.replicate_local_python_environment:
        return image
    own = tuple(image.requirements or ())
    named = {name_in(requirement) for requirement in own}
    frozen = [package for package in frozen_packages() if name_in(package) not in named]
    return ImageSettings(
        **{
            **image.given(),
            "requirements": (*frozen, *own),
            "replicate_local_python_environment": False,
        }
    )


def python_for(image: ImageSettings, folder: Path) -> str:
    """The interpreter that has what the image asks for; built below `folder` when it is new.

    Without requirements it is this process's own. Blocks for as long as uv takes. Raises
    KitaruImageError when it cannot be made, KitaruStackIntegrationDependencyError without uv.
    """
    requirements = tuple(image.requirements or ())
    if image.requirements is None and not image.replicate_local_python_environment:
        return sys.executable
    environment = folder / digest_of(requirements)
    python = _python_in(environment)
    if python.exists():
        return str(python)
    uv_command()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{environment.name}.lock"):
            if not python.exists():
                _remove_drafts(environment)
                _build(requirements, environment)
    except OSError as error:
        raise KitaruImageError(f"The environment {environment} cannot be made: {error}.") from error
    return str(python)


def digest_of(requirements: Sequence[str]) -> str:
    """What an environment is found by: all that decides on what is in it.

    Raises KitaruImageError for a requirement that names a file which is not there.
    """
    paths = [local_path_in(requirement) for requirement in requirements]
    parts = [
        FORMAT,
        sys.implementation.name,
        platform.python_version(),
        platform.machine(),
        sys.platform,
        sys.base_prefix,
        own_digest(),
        list(requirements),
        [content_digest(path) for path in paths if path is not None],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _build(requirements: Sequence[str], environment: Path) -> None:
    draft = environment.with_name(f".{environment.name}.{os.getpid()}-{secrets.token_hex(4)}")
    draft.mkdir()
    try:
        made = draft / "environment"
        run_uv(
            [
                "venv",
                "--no-project",
                "--no-python-downloads",
                # Its scripts must not know the draft's name.
                "--relocatable",
                "--python",
                sys.executable,
                str(made),
            ],
            folder=draft,
            doing="Making a virtual environment",
        )
        copy_own(_site_packages(made))
        if requirements:
            listed = draft / "requirements.txt"
            listed.write_text("\n".join(requirements) + "\n", encoding="utf-8")
            _install(made, listed, draft)
        # One that is there and has no interpreter is what is left of a Python that was removed.
        if environment.exists():
            shutil.rmtree(environment)
        made.rename(environment)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_drafts(environment: Path) -> None:
    """What builders have left that were killed: whoever has the lock is the only one that builds"""
    if fcntl is not None:
        for draft in environment.parent.glob(f".{environment.name}.*"):
            shutil.rmtree(draft, ignore_errors=True)


def _install(made: Path, listed: Path, folder: Path) -> None:
    python = str(_python_in(made))
    doing = "Installing image.requirements"
    run_uv(["pip", "install", "--python", python, "-r", str(listed)], folder=folder, doing=doing)
    run_uv(
        ["pip", "check", "--python", python],
        folder=folder,
        doing="Checking that image.requirements fit together, and fit Kitaru,",
    )
    _check_own(_site_packages(made))


def _check_own(site_packages: Path) -> None:
    """Kitaru is still the one that was copied: a requirement may have brought another one."""
    for folder in own_folders():
        there = site_packages / folder.name
        if not there.is_dir() or content_digest(there) != content_digest(folder):
            raise KitaruImageError(
                f"image.requirements: one of them, or something that one needs, replaces the "
                f"package {folder.name!r} of Kitaru itself. Every runner has the Kitaru that "
                "starts it; take it out of the list."
            )


def _python_in(environment: Path) -> Path:
    if sys.platform == "win32":
        return environment / "Scripts" / "python.exe"
    return environment / "bin" / "python"


def _site_packages(environment: Path) -> Path:
    if sys.platform == "win32":
        return environment / "Lib" / "site-packages"
    return (
        environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    )


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Waits until no other process, and no other thread, builds the same."""
    if fcntl is None:
        # Windows: two may build at once, and the first one's is kept.
        yield
        return
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
