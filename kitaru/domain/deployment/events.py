"""What can happen to a flow's deployments, as stored. Tags and schemas stand in `EVENT_TYPES`."""

from typing import Any

from msgspec import Raw, Struct

from kitaru.domain.execution.events import FrozenOptions
from kitaru.domain.values import NO_JSON, StoredValue


class DeploymentEvent(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The root of a deployment's events."""


class EntryPoint(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where the flow is in its bundle; paths are relative to the bundle's root."""

    module: str
    qualname: str
    file: str
    root: str = ""
    """The folder from which `module` can be imported."""
    import_roots: tuple[str, ...] = ()
    """The folders that modules are looked for in, the first one first."""


class Commit(Struct, frozen=True, omit_defaults=True):
    """What git said of the project when it was deployed."""

    sha: str
    is_dirty: bool = False
    """Whether its files were others than the commit's."""


class VersionDeployed(DeploymentEvent, frozen=True, kw_only=True):
    version: int
    """From 1, without gaps."""
    entry: EntryPoint
    bundle: str
    """The hexadecimal SHA-256 of the bundle, which is a blob of the journal."""
    size: int
    """The bundle's bytes."""
    files: int
    """How many files it has."""
    asynchronous: bool = False
    fingerprint: str = ""
    schema: Raw = NO_JSON
    """The JSON schema of the inputs."""
    defaults: StoredValue | None = None
    """The inputs that were given when it was deployed, by name."""
    default_names: tuple[str, ...] = ()
    options: FrozenOptions = FrozenOptions()
    commit: Commit | None = None
    deployed_from: str = ""
    """The project's folder on the machine that deployed it, for people."""
    python: str = ""
    """The version of Python that deployed it."""


class TagMoved(DeploymentEvent, frozen=True, kw_only=True):
    """The tag leads to this version: to it alone when it is exclusive, else to it as well."""

    tag: str
    version: int
    exclusive: bool = True


class TagRemoved(DeploymentEvent, frozen=True, kw_only=True):
    tag: str
    version: int


class VersionDeleted(DeploymentEvent, frozen=True, kw_only=True):
    """The version can no longer be invoked. Executions that run it go on."""

    version: int


EVENT_TYPES: dict[str, tuple[type[Any], int]] = {
    "version_deployed": (VersionDeployed, 1),
    "tag_moved": (TagMoved, 1),
    "tag_removed": (TagRemoved, 1),
    "version_deleted": (VersionDeleted, 1),
}
"""Tag → the event's class and the schema that this version writes."""

TAGS: dict[type[Any], tuple[str, int]] = {
    cls: (tag, schema) for tag, (cls, schema) in EVENT_TYPES.items()
}

Event = VersionDeployed | TagMoved | TagRemoved | VersionDeleted
