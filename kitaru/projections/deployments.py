"""Deployments as people see them, folded from their events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from journal import RecordedEvent
from kitaru.domain.deployment.events import EntryPoint, VersionDeployed
from kitaru.domain.deployment.state import NOTHING_DEPLOYED, DeploymentState, evolve
from kitaru.domain.execution.events import FrozenOptions
from kitaru.domain.values import StoredValue
from kitaru.engine.upcasts import decode_deployment_event
from kitaru.projections.instants import instant
from kitaru.projections.views import View


class DeployedVersion(View, frozen=True, kw_only=True):
    """One version of a flow, and where its tags stand now."""

    deployment_id: str
    """``<flow>/<version>``."""
    flow: str
    version: int
    tags: dict[str, bool]
    """By name, and whether each leads to this version alone."""
    created_at: datetime
    bundle: str
    """The hexadecimal SHA-256 of its bundle."""
    size: int
    """The bundle's bytes."""
    files: int
    entry: EntryPoint
    """Where the flow is in the bundle."""
    schema: dict[str, Any]
    """The JSON schema of its inputs."""
    default_inputs: tuple[str, ...] = ()
    """The inputs that it has a value for, from when it was deployed."""
    defaults: StoredValue | None = None
    """Those values, by name; None where there are none."""
    options: FrozenOptions
    commit_sha: str | None = None
    commit_dirty: bool | None = None
    """Whether the files were others than the commit's; None where git knew nothing."""
    deployed_from: str = ""
    python: str = ""


class DeployedFlow(View, frozen=True, kw_only=True):
    """A flow that was deployed."""

    flow: str
    latest: int
    """The last version's number, deleted or not."""
    versions: tuple[int, ...]
    """Those that can be invoked."""
    tags: dict[str, tuple[int, ...]]
    """By name, the versions that each leads to."""
    updated_at: datetime


class Deployments(msgspec.Struct, frozen=True):
    """All that is known of a flow's deployments."""

    state: DeploymentState
    facts: dict[int, tuple[VersionDeployed, int]]
    """By version, also of those that were deleted: what was deployed, and when (microseconds)."""


def deployments_of(recorded: Sequence[RecordedEvent]) -> Deployments:
    """The fold of a deployment's events. Raises UnknownEvent and DamagedEvent."""
    state = NOTHING_DEPLOYED
    facts: dict[int, tuple[VersionDeployed, int]] = {}
    for fact in recorded:
        event = decode_deployment_event(fact)
        state = evolve(state, event)
        if isinstance(event, VersionDeployed):
            facts[event.version] = event, fact.recorded_at
    return Deployments(state, facts)


def version_view(flow: str, known: Deployments, version: int) -> DeployedVersion:
    """One version as people see it."""
    facts, deployed_at = known.facts[version]
    schema = bytes(facts.schema)
    return DeployedVersion(
        deployment_id=f"{flow}/{version}",
        flow=flow,
        version=version,
        tags=known.state.tags_of(version),
        created_at=instant(deployed_at),
        bundle=facts.bundle,
        size=facts.size,
        files=facts.files,
        entry=facts.entry,
        schema=msgspec.json.decode(schema) if schema else {},
        default_inputs=facts.default_names,
        defaults=facts.defaults,
        options=facts.options,
        commit_sha=None if facts.commit is None else facts.commit.sha,
        commit_dirty=None if facts.commit is None else facts.commit.is_dirty,
        deployed_from=facts.deployed_from,
        python=facts.python,
    )


def version_views(flow: str, known: Deployments) -> list[DeployedVersion]:
    """Every version that can be invoked, newest first."""
    return [version_view(flow, known, version) for version in reversed(known.state.versions)]


def flow_view(flow: str, known: Deployments, updated_at: int) -> DeployedFlow:
    """A flow's deployments in short."""
    return DeployedFlow(
        flow=flow,
        latest=known.state.latest,
        versions=known.state.versions,
        tags={name: tag.versions for name, tag in sorted(known.state.tags.items())},
        updated_at=instant(updated_at),
    )
