"""Which events a command leads to. All rules of versions and tags are here."""

from msgspec.structs import replace

from kitaru.domain.deployment.commands import (
    Command,
    DeleteVersion,
    Deploy,
    MoveTag,
    RemoveTag,
)
from kitaru.domain.deployment.events import (
    Event,
    TagMoved,
    TagRemoved,
    VersionDeleted,
)
from kitaru.domain.deployment.state import DEFAULT_TAG, DeploymentState
from kitaru.errors import KitaruDeploymentNotFoundError, KitaruStateError, KitaruUsageError

Events = tuple[Event, ...]
RESERVED_TAGS = "kitaru:"
LONGEST_TAG = 128


def decide(state: DeploymentState, command: Command) -> Events:
    """The events that the command leads to in this state.

    Raises KitaruUsageError for a bad tag, KitaruDeploymentNotFoundError for a version that does not
    exist, and KitaruStateError when the state forbids it.
    """
    match command:
        case Deploy():
            return _deploy(state, command)
        case MoveTag(tag=tag, version=version, exclusive=exclusive):
            _check_version(state, version)
            return _move(state, tag, version, exclusive=exclusive)
        case RemoveTag():
            return _remove(state, command)
        case DeleteVersion(version=version):
            return _delete(state, version)


def version_of(state: DeploymentState, flow: str, version: int | None, tag: str | None) -> int:
    """The version that a number or a tag stands for; without either, the tag ``default``.

    Raises KitaruUsageError when both are given, KitaruDeploymentNotFoundError when there is no such
    version or tag, KitaruStateError when the tag leads to several.
    """
    if version is not None and tag is not None:
        raise KitaruUsageError("`version` and `tag` are mutually exclusive; give one of them.")
    if not state.versions:
        raise KitaruDeploymentNotFoundError(
            f"No deployments found for flow {flow!r}. Deploy this flow first, then invoke it by "
            "version or tag."
        )
    if version is not None:
        _check_version(state, version, flow)
        return version
    return _tagged(state, flow, DEFAULT_TAG if tag is None else checked_tag(tag))


def checked_tag(tag: object) -> str:
    """A tag's name. Raises KitaruUsageError for what is none."""
    if not isinstance(tag, str) or not tag or tag != tag.strip() or len(tag) > LONGEST_TAG:
        raise KitaruUsageError(
            f"{tag!r} is no tag: it must be text of 1 to {LONGEST_TAG} characters, without spaces "
            "around it."
        )
    if not tag.isprintable():
        raise KitaruUsageError(f"{tag!r} is no tag: it has characters that cannot be printed.")
    if tag.startswith(RESERVED_TAGS):
        raise KitaruUsageError(
            f"{tag!r} is no tag of yours: names that begin with {RESERVED_TAGS!r} are reserved."
        )
    return tag


def checked_version(version: object) -> int:
    """A version's number. Raises KitaruUsageError for what is none."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise KitaruUsageError(f"version={version!r}: a whole number from 1 on is needed.")
    return version


def _deploy(state: DeploymentState, command: Deploy) -> Events:
    version = state.latest + 1
    tags = dict(command.tags)
    if not state.latest and command.default_on_first:
        tags.setdefault(DEFAULT_TAG, True)
    moves = [
        event
        for tag, exclusive in tags.items()
        for event in _move(state, tag, version, exclusive=exclusive)
    ]
    return (replace(command.facts, version=version), *moves)


def _move(state: DeploymentState, tag: str, version: int, *, exclusive: bool) -> Events:
    checked_tag(tag)
    if not isinstance(exclusive, bool):
        raise KitaruUsageError(
            f"tags={{{tag!r}: {exclusive!r}}}: True for an exclusive tag, False for a shared one."
        )
    if tag == DEFAULT_TAG and not exclusive:
        raise KitaruUsageError(f"The tag {DEFAULT_TAG!r} is always exclusive.")
    known = state.tags.get(tag)
    if known is not None and known.exclusive and not exclusive:
        raise KitaruStateError(
            f"The tag {tag!r} is exclusive and leads to version {known.versions[0]}: move it as an "
            "exclusive one, or remove it first."
        )
    if (
        known is not None
        and known.exclusive == exclusive
        and _leads(known.versions, version, exclusive)
    ):
        return ()
    return (TagMoved(tag=tag, version=version, exclusive=exclusive),)


def _leads(versions: tuple[int, ...], version: int, exclusive: bool) -> bool:
    return versions == (version,) if exclusive else version in versions


def _remove(state: DeploymentState, command: RemoveTag) -> Events:
    tag, version = checked_tag(command.tag), command.version
    _check_version(state, version)
    if tag == DEFAULT_TAG:
        raise KitaruStateError(
            f"The tag {DEFAULT_TAG!r} cannot be removed, only moved to another version."
        )
    if tag not in state.tags_of(version):
        there = ", ".join(state.tags_of(version)) or "none"
        raise KitaruDeploymentNotFoundError(
            f"Version {version} has no tag {tag!r}; its tags: {there}."
        )
    return (TagRemoved(tag=tag, version=version),)


def _delete(state: DeploymentState, version: int) -> Events:
    _check_version(state, version)
    held = [tag for tag, exclusive in state.tags_of(version).items() if exclusive]
    if held:
        raise KitaruStateError(
            f"Version {version} cannot be deleted while it holds exclusive tag(s): "
            f"{', '.join(held)}. Move them to another version first."
        )
    return (VersionDeleted(version=version),)


def _check_version(state: DeploymentState, version: int, flow: str = "") -> None:
    checked_version(version)
    if version not in state.versions:
        there = ", ".join(map(str, state.versions)) or "none"
        gone = "was deleted" if version <= state.latest else "does not exist"
        of = f" of flow {flow!r}" if flow else ""
        raise KitaruDeploymentNotFoundError(f"Version {version}{of} {gone}; there are: {there}.")


def _tagged(state: DeploymentState, flow: str, tag: str) -> int:
    known = state.tags.get(tag)
    if known is None and tag == DEFAULT_TAG:
        raise KitaruStateError(
            f"Flow {flow!r} has no version with the tag {DEFAULT_TAG!r}: name a version or another "
            f"tag, or move it with `kitaru flow tag {flow} {DEFAULT_TAG} --version N`."
        )
    if known is None:
        there = ", ".join(sorted(state.tags)) or "none"
        raise KitaruDeploymentNotFoundError(
            f"Flow {flow!r} has no tag {tag!r}; there are: {there}."
        )
    if len(known.versions) > 1:
        listed = ", ".join(map(str, known.versions))
        raise KitaruStateError(
            f"The tag {tag!r} of flow {flow!r} is ambiguous: it leads to versions {listed}. Name "
            "one of them."
        )
    return known.versions[0]
