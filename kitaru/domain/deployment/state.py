"""Which versions of a flow there are, and where its tags lead: the fold of the events."""

from msgspec import Struct
from msgspec.structs import replace

from kitaru.domain.deployment.events import (
    Event,
    TagMoved,
    TagRemoved,
    VersionDeleted,
    VersionDeployed,
)

DEFAULT_TAG = "default"


class TagState(Struct, frozen=True, omit_defaults=True):
    """Where a tag leads."""

    versions: tuple[int, ...]
    """Rising; an exclusive tag has one."""
    exclusive: bool = True


class DeploymentState(Struct, frozen=True, omit_defaults=True):
    """What a deployment's rules decide on."""

    latest: int = 0
    """The last version that was deployed, deleted or not; 0: none was."""
    versions: tuple[int, ...] = ()
    """Those that are not deleted, rising."""
    tags: dict[str, TagState] = {}

    def tags_of(self, version: int) -> dict[str, bool]:
        """The tags that lead to a version, by name, and whether each is exclusive."""
        return {name: tag.exclusive for name, tag in self.tags.items() if version in tag.versions}


NOTHING_DEPLOYED = DeploymentState()


def evolve(state: DeploymentState, event: Event) -> DeploymentState:
    """The state after an event."""
    match event:
        case VersionDeployed(version=version):
            return replace(state, latest=version, versions=(*state.versions, version))
        case TagMoved(tag=tag, version=version, exclusive=exclusive):
            known = state.tags.get(tag)
            before = () if exclusive or known is None else known.versions
            versions = tuple(sorted({*before, version}))
            return replace(state, tags={**state.tags, tag: TagState(versions, exclusive)})
        case TagRemoved(tag=tag, version=version):
            return replace(state, tags=_without(state.tags, tag, version))
        case VersionDeleted(version=version):
            tags = state.tags
            for tag in state.tags_of(version):
                tags = _without(tags, tag, version)
            left = tuple(known for known in state.versions if known != version)
            return replace(state, versions=left, tags=tags)


def _without(tags: dict[str, TagState], tag: str, version: int) -> dict[str, TagState]:
    known = tags.get(tag)
    if known is None:
        return tags
    left = tuple(each for each in known.versions if each != version)
    others = {name: state for name, state in tags.items() if name != tag}
    return {**others, tag: replace(known, versions=left)} if left else others
