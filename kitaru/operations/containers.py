"""Making a container image of a flow: its project, Kitaru, and what its image asks for."""

from pathlib import Path

from msgspec import Struct

from kitaru.domain.execution.events import SourceReference
from kitaru.engine.bundles import opened
from kitaru.engine.projects import deployable, entry_point
from kitaru.image import ImageSettings
from kitaru.operations.packaging import project_bundle
from kitaru.stacks.images.containers import build, build_tool, write_context
from kitaru.stacks.images.environments import with_frozen_packages


class Containerised(Struct, frozen=True):
    """A written context, and what was built of it."""

    flow: str
    folder: str
    containerfile: str
    image: str
    """The name of the image."""
    built_with: str | None
    """The tool; None where none is installed: then the context is for you to build."""


def containerise(
    flow: str, reference: SourceReference, image: ImageSettings, folder: str, journal: str
) -> Containerised:
    """Writes the context into a folder, and builds it where a tool is installed.

    Raises KitaruUsageError for a project or an image that cannot be put into a container and for a
    folder that is not empty, KitaruImageError when writing or building fails.
    """
    deployable(reference, flow)
    root, bundle = project_bundle(reference, journal)
    entry = entry_point(reference, root, bundle.paths)
    frozen = with_frozen_packages(image)
    files = opened(bundle.data, bundle.digest)
    context = write_context(Path(folder).absolute(), files, entry.file, flow, frozen)
    tool = build_tool()
    if tool is not None:
        build(context, tool, frozen)
    return Containerised(
        flow=flow,
        folder=context.folder,
        containerfile=context.containerfile,
        image=context.image,
        built_with=tool,
    )
