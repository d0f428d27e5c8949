"""What can be asked of a flow's deployments."""

from msgspec import Struct

from kitaru.domain.deployment.events import VersionDeployed


class Deploy(Struct, frozen=True):
    """Make these facts the next version, and move tags to it."""

    facts: VersionDeployed
    """Its version is set when it is decided."""
    tags: dict[str, bool]
    """By name, and whether each is exclusive."""
    default_on_first: bool = True
    """Whether the first version gets the tag ``default`` whatever `tags` says."""


class MoveTag(Struct, frozen=True):
    """Let a tag lead to a version."""

    tag: str
    version: int
    exclusive: bool = False


class RemoveTag(Struct, frozen=True):
    """Let a tag no longer lead to a version."""

    tag: str
    version: int


class DeleteVersion(Struct, frozen=True):
    """Let a version no longer be invoked."""

    version: int


Command = Deploy | MoveTag | RemoveTag | DeleteVersion
