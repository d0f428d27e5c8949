"""A context that buildah, podman or docker make a container image of: flow, Kitaru, packages."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from kitaru.engine.bundles import BundledFile
from kitaru.errors import KitaruImageError, KitaruUsageError
from kitaru.image import ImageSettings
from kitaru.stacks.images.distributions import (
    OURS,
    copy_own_packages,
    local_path_in,
    normalised,
    own_needs,
    with_path,
)

TOOLS = ("buildah", "podman", "docker")
LAST_LINES = 20
DOCKERFILE_STANDS_ALONE = ("base_image", "apt_packages", "requirements", "environment", "user")
"""What a Containerfile of the user's own says itself."""


class Context(Struct, frozen=True):
    """A written context."""

    folder: str
    containerfile: str
    root: str
    """The folder in which the Containerfile is to be built."""
    image: str
    """The name of the image that is built."""


def write_context(
    folder: Path, files: Sequence[BundledFile], module: str, flow: str, image: ImageSettings
) -> Context:
    """Writes a Containerfile, the flow's source, Kitaru and what has to be installed into a folder.

    `module` is the file of the flow below the source's root. The folder is made; one that has
    something in it is refused, so that nobody's files are overwritten. Raises KitaruUsageError for
    what no container can be told, KitaruImageError when it cannot be written.
    """
    _check(image)
    local = [path for path in map(local_path_in, image.requirements or ()) if path is not None]
    if len({path.name for path in local}) < len(set(local)):
        raise KitaruUsageError(
            "image.requirements: two files of one name, in different folders; a container is given "
            "all of them in one."
        )
    for path in local:
        if not path.is_file():
            raise KitaruUsageError(
                f"image.requirements: {path} is not a file; a container is given wheels, so build "
                "one of it first."
            )
    try:
        if folder.exists() and any(folder.iterdir()):
            raise KitaruUsageError(f"{folder} is not empty; name a folder that is new or empty.")
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(folder / "source", files)
        copy_own_packages(folder / "runtime")
        (folder / "wheels").mkdir()
        for path in local:
            shutil.copyfile(path, folder / "wheels" / path.name)
        (folder / "requirements.txt").write_text(_requirements(image), encoding="utf-8")
        containerfile = folder / "Containerfile"
        if image.dockerfile is None:
            containerfile.write_text(containerfile_text(image, module), encoding="utf-8")
        else:
            shutil.copyfile(image.dockerfile, containerfile)
    except OSError as error:
        raise KitaruImageError(f"The context cannot be written: {error}.") from error
    return Context(
        folder=str(folder),
        containerfile=str(containerfile),
        root=os.path.abspath(image.build_context_root or folder),
        image=image_name(image, flow),
    )


def containerfile_text(image: ImageSettings, module: str) -> str:
    """The Containerfile. No value of a secret is in it: those are given to the running container"""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    lines = [f"FROM {image.base_image or f'python:{version}-slim'}"]
    if image.apt_packages:
        packages = " ".join(shlex.quote(package) for package in image.apt_packages)
        lines.append(
            "RUN apt-get update"
            f" && apt-get install --yes --no-install-recommends -- {packages}"
            " && rm -rf /var/lib/apt/lists/*"
        )
    lines += [
        "WORKDIR /kitaru",
        "COPY wheels/ wheels/",
        "COPY requirements.txt .",
        "RUN python -m pip install --no-cache-dir -r requirements.txt",
        "COPY runtime/ runtime/",
        "COPY source/ source/",
        "ENV PYTHONPATH=/kitaru/runtime",
    ]
    shown = image.storable()
    lines += [f"ENV {name}={_quoted(value)}" for name, value in (shown.environment or {}).items()]
    if shown.secret_environment_from:
        names = ", ".join(shown.secret_environment_from)
        lines.append(f"# To be given to the running container: {names}")
    if image.user:
        lines.append(f"USER {image.user}")
    command = ["python", "-m", "kitaru", "worker", module]
    lines += ["WORKDIR /kitaru/source", f"CMD {msgspec.json.encode(command).decode()}"]
    return "\n".join(lines) + "\n"


def image_name(image: ImageSettings, flow: str) -> str:
    """What the built image is called: ``repository/flow:tag``, in letters that registries take."""
    name = re.sub(r"[^a-z0-9]+", "-", flow.lower()).strip("-") or "flow"
    repository = f"{image.target_repository.rstrip('/')}/" if image.target_repository else ""
    return f"{repository}{name}:{image.image_tag or 'latest'}"


def build_tool() -> str | None:
    """The first of buildah, podman and docker that is installed."""
    return next((found for tool in TOOLS if (found := shutil.which(tool))), None)


def build(context: Context, tool: str, image: ImageSettings) -> None:
    """Builds the image. Raises KitaruImageError with the tool's last lines when it fails."""
    command = [tool, "build", "--file", context.containerfile, "--tag", context.image]
    if image.platform:
        command += ["--platform", image.platform]
    done = subprocess.run(  # noqa: S603 - our own command, without a shell
        [*command, context.root],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()][-LAST_LINES:]
        shown = "\n  ".join(lines) or "(it said nothing)"
        raise KitaruImageError(
            f"Building {context.image} failed: {Path(tool).name} ended with exit code "
            f"{done.returncode}. The context in {context.folder} is whole.\n  {shown}",
            output=done.stdout,
        )


def _check(image: ImageSettings) -> None:
    if image.dockerfile is not None:
        stored = image.storable()
        both = [name for name in DOCKERFILE_STANDS_ALONE if getattr(stored, name)]
        if both:
            raise KitaruUsageError(
                f"image.dockerfile is used as it is: say what image.{both[0]} says in it."
            )
        if not Path(image.dockerfile).is_file():
            raise KitaruUsageError(f"image.dockerfile: there is no file {image.dockerfile}.")
        if image.build_context_root is not None and not Path(image.build_context_root).is_dir():
            raise KitaruUsageError(
                f"image.build_context_root: there is no folder {image.build_context_root}."
            )
    elif image.build_context_root is not None:
        raise KitaruUsageError("image.build_context_root belongs to image.dockerfile; set both.")
    for name, value in (image.environment or {}).items():
        if "\n" in value or "\r" in value:
            raise KitaruUsageError(
                f"image.environment: {name} has several lines, which a Containerfile cannot say; "
                "give it to the running container."
            )


def _requirements(image: ImageSettings) -> str:
    lines = []
    for distribution in own_needs():
        name = normalised(distribution.metadata["Name"])
        if name != OURS:
            lines.append(f"{name}=={distribution.version}")
    for requirement in image.requirements or ():
        path = local_path_in(requirement)
        local = None if path is None else with_path(requirement, f"./wheels/{path.name}")
        lines.append(local or requirement)
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _write_files(folder: Path, files: Sequence[BundledFile]) -> None:
    folder.mkdir()
    for file in files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
