"""Making a version of a flow: its project's source in a bundle, and what is known of it."""

import os
import platform
from typing import Any

import msgspec
from msgspec import Raw, Struct

from kitaru.domain.deployment.events import VersionDeployed
from kitaru.domain.execution.events import FrozenOptions, SourceReference
from kitaru.engine.bundles import Bundle, bundle_of
from kitaru.engine.codec import Codec
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.projects import (
    check_root,
    commit_of,
    defines_still,
    deployable,
    entry_point,
    project_root,
    start_at_top_level,
)
from kitaru.engine.schema import input_schema
from kitaru.engine.source import SourceNotLoadable
from kitaru.engine.values import Blobs, stored
from kitaru.errors import KitaruDeploymentInputValuesError, KitaruUsageError

RESERVED_INPUTS = (
    "stack",
    "image",
    "cache",
    "retries",
    "idempotency_key",
    "version",
    "tag",
    "tags",
    "publish_default_on_first_deploy",
)
"""The options of `deploy` and `invoke`, which no input can have the name of."""
JOURNAL_FILES = ("", "-wal", "-shm", "-journal", "-runners")


class Package(Struct, frozen=True):
    """A version that is ready to be deployed."""

    facts: VersionDeployed
    """Without its number."""
    bundle: Bundle
    blobs: Blobs


def package(
    definition: FlowDefinition,
    reference: SourceReference,
    fingerprint: str,
    options: FrozenOptions,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    journal: str,
    *,
    needs_inputs: bool = True,
) -> Package:
    """A version of this flow as it is in its files now; the arguments are its default inputs.

    Raises SourceNotLoadable for a flow that is in no file, NotBundled for a project that cannot be
    packed, KitaruDeploymentInputValuesError for inputs that are missing or do not fit,
    KitaruSerializationError for one that cannot be kept.
    """
    flow = definition.name
    _check_parameters(definition)
    deployable(reference, flow)
    _check_file(reference, definition)
    named = _named(definition, args, kwargs) if needs_inputs else {}
    data = Codec().encode(named, where="arguments", types=definition.types)
    defaults, blobs = stored(data)
    root, bundle = project_bundle(reference, journal)
    facts = VersionDeployed(
        version=0,
        entry=entry_point(reference, root, bundle.paths),
        bundle=bundle.digest,
        size=len(bundle.data),
        files=len(bundle.paths),
        asynchronous=definition.asynchronous,
        fingerprint=fingerprint,
        schema=Raw(msgspec.json.encode(input_schema(definition.function))),
        defaults=defaults if named else None,
        default_names=tuple(named),
        options=options,
        commit=commit_of(root, bundle.paths),
        deployed_from=root,
        python=platform.python_version(),
    )
    return Package(facts, bundle, (bundle.data, *blobs))


def _check_parameters(definition: FlowDefinition) -> None:
    taken = [name for name in RESERVED_INPUTS if name in definition.binder.signature.parameters]
    if taken:
        raise KitaruUsageError(
            f"Flow {definition.name!r} cannot be deployed: its parameter {taken[0]!r} has the name "
            "of an option of deploy() or invoke(); rename it."
        )


def _check_file(reference: SourceReference, definition: FlowDefinition) -> None:
    """A runner loads the file as it is now, and all of it."""
    flow = definition.name
    with open(reference.file, "rb") as file:
        content = file.read()
    # What a file starts when it is loaded, it would start in every runner that loads it.
    if line := start_at_top_level(content, reference.qualname):
        raise KitaruUsageError(
            f"Flow {flow!r} cannot be deployed: {reference.file}:{line} starts or deploys it "
            "whenever the file is loaded, and so in every runner. Put that behind "
            '`if __name__ == "__main__":`, or into a file of its own.'
        )
    try:
        is_still_there = defines_still(content, definition.function)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise SourceNotLoadable(
            f"Flow {flow!r} cannot be deployed: {reference.file} was edited after it was loaded, "
            f"and cannot be read as Python now: {error}.",
            target=f"{reference.file}:{reference.qualname}",
            file=reference.file,
        ) from error
    if not is_still_there:
        raise KitaruUsageError(
            f"Flow {flow!r} cannot be deployed: {reference.file} was edited after it was loaded, "
            f"and no longer defines it with these parameters. Load it anew, in a new process."
        )


def _named(
    definition: FlowDefinition, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    try:
        return definition.binder.name_all(args, kwargs)
    except KitaruUsageError as error:
        raise KitaruDeploymentInputValuesError(
            f"{error} deploy() takes an input for every parameter without a default: they are what "
            "invoke() uses where it is given no other."
        ) from error


def project_bundle(reference: SourceReference, journal: str) -> tuple[str, Bundle]:
    """The root of a flow's project, and all that is deployed of it. Raises NotBundled."""
    root = project_root(reference.file)
    check_root(root)
    return root, bundle_of(root, without=_journal_in(root, journal))


def _journal_in(root: str, journal: str) -> list[str]:
    """The journal's own files, where they are in the project."""
    if not journal.startswith("sqlite:///"):
        return []
    file = os.path.realpath(journal.removeprefix("sqlite:///"))
    relative = os.path.relpath(file, root)
    if relative.startswith(os.pardir):
        return []
    return [relative.replace(os.sep, "/") + ending for ending in JOURNAL_FILES]
