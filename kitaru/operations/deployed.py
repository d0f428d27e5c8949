"""Looking at deployed versions and at what runners have printed, without an event loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from journal import HeadQuery
from kitaru import settings
from kitaru.domain.deployment.decide import version_of
from kitaru.domain.execution.state import route_of
from kitaru.engine.deployments import CATEGORY, flow_of, stream_of
from kitaru.errors import KitaruDeploymentNotFoundError, KitaruUsageError
from kitaru.projections.deployments import (
    DeployedFlow,
    DeployedVersion,
    Deployments,
    deployments_of,
    flow_view,
    version_view,
    version_views,
)
from kitaru.projections.executions import CATEGORY as EXECUTIONS
from kitaru.projections.executions import summary_of
from kitaru.stacks.log_reading import NewLines, read_lines, read_runner_lines
from kitaru.stacks.logs import LogLine

if TYPE_CHECKING:
    from journal import SqliteReader

MOST_FLOWS = 10_000
MOST_EXECUTIONS = 10_000


class FlowDetails(Struct, frozen=True):
    """A flow that was deployed, with its versions, newest first."""

    flow: DeployedFlow
    versions: Sequence[DeployedVersion]


def flows(reader: "SqliteReader") -> list[DeployedFlow]:
    """Every flow that was deployed, by name."""
    heads = reader.heads(HeadQuery(category=CATEGORY, limit=MOST_FLOWS))
    return [flow(reader, name).flow for name in sorted(flow_of(head.stream) for head in heads)]


def flow(reader: "SqliteReader", name: str) -> FlowDetails:
    """One flow and its versions. Raises KitaruDeploymentNotFoundError."""
    recorded = reader.read_stream(stream_of(name))
    if not recorded:
        raise KitaruDeploymentNotFoundError(
            f"No deployments found for flow {name!r} in {reader.location}. `kitaru flow list` "
            "shows what there is."
        )
    known = deployments_of(recorded)
    return FlowDetails(flow_view(name, known, recorded[-1].recorded_at), version_views(name, known))


def version(
    reader: "SqliteReader", name: str, number: int | None, tag: str | None
) -> DeployedVersion:
    """The version that a number or a tag stands for; without either, the tag ``default``."""
    known = _known(reader, name)
    return version_view(name, known, version_of(known.state, name, number, tag))


def executions_of(reader: "SqliteReader", deployed: DeployedVersion) -> list[str]:
    """The ids of the executions that run a version now, or ran it last; newest first."""
    query = HeadQuery(
        category=EXECUTIONS,
        names=(deployed.flow,),
        route_prefix=route_of(deployed.bundle),
        limit=MOST_EXECUTIONS,
    )
    found = [summary_of(head) for head in reader.heads(query)]
    return [
        execution.exec_id
        for execution in found
        if execution.deployment is not None and execution.deployment.version == deployed.version
    ]


def logs(exec_ids: Sequence[str], *, call: str = "", limit: int | None = None) -> list[LogLine]:
    """What executions have printed in runner processes, the last `limit` lines, oldest first."""
    lines = read_lines(_folder(), exec_ids=exec_ids, call=call) if exec_ids else []
    return lines if limit is None else lines[-limit:]


def runner_logs(exec_ids: Sequence[str], *, limit: int | None = None) -> list[LogLine]:
    """What the runner processes that had these executions have printed beside all executions."""
    lines = read_runner_lines(_folder(), exec_ids) if exec_ids else []
    return lines if limit is None else lines[-limit:]


def new_lines(exec_id: str, call: str = "") -> NewLines:
    """What an execution prints in runner processes, from the beginning on."""
    return NewLines(_folder(), exec_id, call)


def _known(reader: "SqliteReader", name: str) -> Deployments:
    recorded = reader.read_stream(stream_of(name))
    if not recorded:
        flow(reader, name)
    return deployments_of(recorded)


def _folder() -> Path:
    folder = settings.runner_folder(settings.resolve().journal)
    if folder is None:
        raise KitaruUsageError("A journal in memory has no runner processes, and so no logs.")
    return folder
