"""Deployed flows and versions as text."""

from collections.abc import Sequence

import msgspec

from kitaru.operations.containers import Containerised
from kitaru.operations.deployed import FlowDetails
from kitaru.projections.deployments import DeployedFlow, DeployedVersion
from kitaru.surfaces.cli.tables import Column, table
from kitaru.surfaces.cli.text import clock_text, counted, escaped

SHORT_DIGEST = 12


def deployed_text(version: DeployedVersion) -> str:
    """What `kitaru deploy` says."""
    led = f", {tags_text(version)}" if version.tags else ""
    files = counted(version.files, "file")
    return (
        f"Version {version.version} of {version.flow}{led}: {files}, bundle "
        f"{version.bundle[:SHORT_DIGEST]}. `kitaru invoke {version.flow} --version "
        f"{version.version}` runs it."
    )


def containerised_text(made: Containerised) -> str:
    """What `kitaru build --containerfile` says."""
    written = f"The context of {escaped(made.image)} is in {escaped(made.folder)}."
    if made.built_with is None:
        return (
            f"{written} None of buildah, podman and docker is installed here; where one is, "
            f"`podman build --tag {escaped(made.image)} {escaped(made.folder)}` builds it."
        )
    return f"{written} {escaped(made.built_with)} has built it."


def flows_text(flows: Sequence[DeployedFlow]) -> str:
    """The flows, one on a line."""
    if not flows:
        return "No flows are deployed."
    return table(
        [Column("Flow", least=12), Column("Versions"), Column("Tags", least=10), Column("Changed")],
        [
            (flow.flow, _numbers(flow), _tags_of_flow(flow), clock_text(flow.updated_at))
            for flow in flows
        ],
    )


def versions_text(versions: Sequence[DeployedVersion]) -> str:
    """The versions, one on a line; a tag with a star leads to no other."""
    if not versions:
        return "It has no version that can be invoked."
    return table(
        [
            Column("Version", align="right"),
            Column("Tags", least=8),
            Column("Deployed"),
            Column("Bundle"),
            Column("Commit"),
        ],
        [
            (
                str(version.version),
                tags_text(version),
                clock_text(version.created_at),
                version.bundle[:SHORT_DIGEST],
                _commit(version),
            )
            for version in versions
        ],
    )


def flow_text(details: FlowDetails) -> str:
    """One flow and its versions."""
    return f"{escaped(details.flow.flow)}\n\n{versions_text(details.versions)}"


def details_text(version: DeployedVersion) -> str:
    """One version, with all that is known of it."""
    facts = [
        ("Flow", version.flow),
        ("Version", str(version.version)),
        ("Tags", tags_text(version)),
        ("Deployed", clock_text(version.created_at)),
        ("From", version.deployed_from),
        ("Commit", _commit(version)),
        ("Python", version.python),
        ("Bundle", f"{version.bundle} ({counted(version.files, 'file')}, {version.size} bytes)"),
        ("Entry point", f"{version.entry.file}:{version.entry.qualname}"),
        ("Options", _options(version)),
        ("Inputs", msgspec.json.encode(version.schema).decode()),
        ("With defaults", ", ".join(version.default_inputs)),
    ]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {escaped(text)}" for name, text in facts if text)


def _options(version: DeployedVersion) -> str:
    told = msgspec.json.encode(version.options).decode()
    return "" if told == "{}" else told


def tags_text(version: DeployedVersion) -> str:
    """The tags; one with a star leads to this version alone."""
    return ", ".join(
        f"{name}{'*' if alone else ''}" for name, alone in sorted(version.tags.items())
    )


def _numbers(flow: DeployedFlow) -> str:
    return ", ".join(map(str, flow.versions)) or "none"


def _tags_of_flow(flow: DeployedFlow) -> str:
    return ", ".join(f"{name} → {'+'.join(map(str, to))}" for name, to in flow.tags.items())


def _commit(version: DeployedVersion) -> str:
    if version.commit_sha is None:
        return ""
    return version.commit_sha[:SHORT_DIGEST] + (" and changes" if version.commit_dirty else "")
