"""Deploying versions of flows, leading tags to them, and invoking them without their source."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from journal import (
    Append,
    HeadQuery,
    JournalError,
    StaleLease,
    WrongExpectedVersion,
)
from kitaru.bootstrap import Runtime
from kitaru.domain.deployment.commands import (
    Command,
    DeleteVersion,
    Deploy,
    MoveTag,
    RemoveTag,
)
from kitaru.domain.deployment.decide import decide, version_of
from kitaru.domain.deployment.events import Event, VersionDeployed
from kitaru.domain.deployment.state import NOTHING_DEPLOYED, DeploymentState
from kitaru.domain.execution.commands import Start
from kitaru.domain.execution.decide import decide as decide_execution
from kitaru.domain.execution.events import (
    DeploymentReference,
    ExecutionStarted,
    SourceReference,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine import executions as engine
from kitaru.engine.bundles import opened
from kitaru.engine.deployments import (
    CATEGORY,
    flow_of,
    fold,
    head_of,
    new_event,
    state_of,
    stream_of,
)
from kitaru.engine.projects import defines_flow
from kitaru.engine.values import Blobs
from kitaru.errors import (
    KitaruBackendError,
    KitaruDeploymentInputValuesError,
    KitaruDeploymentNotFoundError,
    KitaruUsageError,
)
from kitaru.operations import executions
from kitaru.operations.inputs import merged
from kitaru.operations.packaging import Package
from kitaru.projections.deployments import (
    DeployedFlow,
    DeployedVersion,
    Deployments,
    deployments_of,
    flow_view,
    version_view,
    version_views,
)

ATTEMPTS_AT_A_RACE = 200
MOST_FLOWS = 10_000


class Invocation(Struct, frozen=True, kw_only=True):
    """What somebody wants of a deployed flow."""

    flow: str
    inputs: Mapping[str, Any]
    version: int | None = None
    tag: str | None = None
    idempotency_key: str | None = None


# versions and tags


async def deploy(
    runtime: Runtime,
    flow: str,
    package: Package,
    *,
    tags: Mapping[str, bool],
    default_on_first: bool = True,
) -> DeployedVersion:
    """Makes the package the flow's next version; returns once it is durable.

    The version, its bundle and its tags are one append: another process sees all of them or none.
    Raises KitaruUsageError and KitaruStateError for tags that cannot be moved so.
    """
    if not isinstance(tags, Mapping):
        raise KitaruUsageError(f"tags={tags!r}: a dict is needed, such as {{'stable': True}}.")
    await _check_name(runtime, flow, package)
    command = Deploy(package.facts, dict(tags), default_on_first)
    made, *_ = await _decided(runtime, flow, lambda _: command, package.blobs, known=False)
    assert isinstance(made, VersionDeployed)
    return version_view(flow, await _deployments(runtime, flow), made.version)


async def _check_name(runtime: Runtime, flow: str, package: Package) -> None:
    """Raises KitaruUsageError where the project has another flow of this name that was deployed.

    A flow that was moved to another file is still itself.
    """
    recorded = await _recorded(runtime, flow)
    if not recorded:
        return
    known = deployments_of(recorded)
    before, now = known.facts[known.state.latest][0].entry, package.facts.entry
    if (before.file, before.qualname) == (now.file, now.qualname):
        return
    files = {file.path: file.content for file in opened(package.bundle.data, package.bundle.digest)}
    if before.file in files and defines_flow(files[before.file], before.qualname):
        raise KitaruUsageError(
            f"There are two flows of the name {flow!r}: the one of {before.file}, which was "
            f"deployed, and the one of {now.file}. A flow's versions go by its name; rename one."
        )


async def move_tag(
    runtime: Runtime, flow: str, version: int, tag: str, *, exclusive: bool
) -> DeployedVersion:
    """Lets a tag lead to a version; an exclusive one leaves the others in the same event."""
    await _decided(runtime, flow, lambda _: MoveTag(tag, version, exclusive))
    return await get(runtime, flow, version=version)


async def remove_tag(runtime: Runtime, flow: str, version: int, tag: str) -> DeployedVersion:
    """Lets a tag no longer lead to a version."""
    await _decided(runtime, flow, lambda _: RemoveTag(tag, version))
    return await get(runtime, flow, version=version)


async def delete(runtime: Runtime, flow: str, version: int) -> None:
    """Lets a version no longer be invoked; executions that run it go on."""
    await _decided(runtime, flow, lambda _: DeleteVersion(version))


async def get(
    runtime: Runtime, flow: str, *, version: int | None = None, tag: str | None = None
) -> DeployedVersion:
    """The version that a number or a tag stands for; without either, the tag ``default``."""
    known = await _deployments(runtime, flow)
    return version_view(flow, known, version_of(known.state, flow, version, tag))


async def listed(runtime: Runtime, flow: str | None = None) -> list[DeployedVersion]:
    """Every version that can be invoked, of one flow or of all, newest first."""
    if flow is not None:
        recorded = await _recorded(runtime, flow)
        return version_views(flow, deployments_of(recorded))
    found = [
        view
        for name in await _flows(runtime)
        for view in version_views(name, await _deployments(runtime, name))
    ]
    return sorted(found, key=lambda view: view.created_at, reverse=True)


async def flows(runtime: Runtime) -> list[DeployedFlow]:
    """Every flow that was deployed, by name."""
    return [await flow(runtime, name) for name in sorted(await _flows(runtime))]


async def flow(runtime: Runtime, name: str) -> DeployedFlow:
    """One flow's deployments in short. Raises KitaruDeploymentNotFoundError."""
    recorded = await _recorded(runtime, name)
    if not recorded:
        raise _never_deployed(name)
    return flow_view(name, deployments_of(recorded), recorded[-1].recorded_at)


async def facts_of(runtime: Runtime, flow: str, version: int) -> VersionDeployed:
    """What was deployed as a version, deleted or not. Raises KitaruDeploymentNotFoundError."""
    known = await _deployments(runtime, flow)
    if version not in known.facts:
        raise KitaruDeploymentNotFoundError(f"Flow {flow!r} has no version {version}.")
    return known.facts[version][0]


# invoking


async def invoke(runtime: Runtime, exec_id: str, invocation: Invocation) -> None:
    """Starts an execution of a deployed version, which a runner process runs; returns once it is
    durable.

    Raises KitaruDeploymentNotFoundError, KitaruStateError for an ambiguous tag,
    KitaruDeploymentInputValuesError for inputs that do not fit, KitaruUsageError for a journal that
    no other process can open.
    """
    pool = runtime.pool
    known = await _deployments(runtime, invocation.flow)
    event = None
    if invocation.idempotency_key is not None:
        event = await _started_before(runtime, exec_id, invocation, known)
    if event is None:
        event = await _start(runtime, exec_id, invocation, known)
    if event.options.stack is None:
        pool.look_now()
    else:
        await executions.wake_runners(runtime)


async def _start(
    runtime: Runtime, exec_id: str, invocation: Invocation, known: Deployments
) -> ExecutionStarted:
    version = version_of(known.state, invocation.flow, invocation.version, invocation.tag)
    event, blobs = await _started(runtime, invocation, known.facts[version][0])
    (event,) = decide_execution(ABSENT, Start(event))  # type: ignore[assignment]
    append = Append(
        stream=engine.stream_of(exec_id),
        events=(engine.new_event(event),),
        expected_version=0,
        head=engine.head_of(engine.fold(ABSENT, [event])),
        blobs=blobs,
    )
    try:
        await runtime.journal.append(append)
    except (WrongExpectedVersion, StaleLease):
        # Another one with the same key was faster, perhaps with another version.
        before = await _started_before(runtime, exec_id, invocation, known)
        assert before is not None
        return before
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    return event


async def _started_before(
    runtime: Runtime, exec_id: str, invocation: Invocation, known: Deployments
) -> ExecutionStarted | None:
    """The start that the invocation's key has led to before; None: none has.

    Whoever asks again may find that the tag leads to another version by now: what the first start
    left to its version is compared with what that version has. Raises KitaruStateError when
    something else was asked for under the key.
    """
    first = await executions.first_start(runtime, exec_id)
    if first is None:
        return None
    facts = _facts_of(first, invocation, known)
    try:
        event, blobs = await _started(runtime, invocation, facts)
    except KitaruDeploymentInputValuesError as error:
        raise executions.key_taken(
            first.idempotency_key, invocation.flow, exec_id, f"with other inputs. {error}"
        ) from error
    await executions.check_same_start(runtime, exec_id, event, blobs)
    if invocation.version not in (None, facts.version):
        raise executions.key_taken(
            first.idempotency_key, invocation.flow, exec_id, f"on version {facts.version}."
        )
    return first


def _facts_of(
    first: ExecutionStarted, invocation: Invocation, known: Deployments
) -> VersionDeployed:
    """What was deployed as the version that an execution was started on.

    One that no version of here was started on is compared with the version that is asked for.
    """
    version = None if first.deployment is None else first.deployment.version
    if version is None or version not in known.facts:
        version = version_of(known.state, invocation.flow, invocation.version, invocation.tag)
    return known.facts[version][0]


async def _started(
    runtime: Runtime, invocation: Invocation, facts: VersionDeployed
) -> tuple[ExecutionStarted, Blobs]:
    given = await merged(runtime, invocation.flow, facts, facts.defaults, (), invocation.inputs)
    event = ExecutionStarted(
        flow=invocation.flow,
        source=source_of(facts),
        arguments=given.value,
        arguments_digest=given.digest,
        asynchronous=facts.asynchronous,
        fingerprint=facts.fingerprint,
        options=facts.options,
        idempotency_key=invocation.idempotency_key,
        seed=secrets.token_hex(16),
        deployment=reference_of(invocation.flow, facts),
        plain=given.plain,
    )
    return event, given.blobs


def source_of(facts: VersionDeployed) -> SourceReference:
    """Where the flow is in the version's bundle."""
    entry = facts.entry
    return SourceReference(
        module=entry.module, qualname=entry.qualname, file=entry.file, root=entry.root
    )


def reference_of(flow: str, facts: VersionDeployed) -> DeploymentReference:
    """What an execution says of the version that it runs."""
    return DeploymentReference(
        flow=flow,
        version=facts.version,
        bundle=facts.bundle,
        import_roots=facts.entry.import_roots,
    )


# the stream


async def _decided(
    runtime: Runtime,
    flow: str,
    command: Callable[[DeploymentState], Command],
    blobs: Blobs = (),
    *,
    known: bool = True,
) -> Sequence[Event]:
    """Appends what a command leads to, whoever else deploys meanwhile, and returns it."""
    stream = stream_of(checked_flow(flow))
    for _ in range(ATTEMPTS_AT_A_RACE):
        recorded = await _recorded(runtime, flow)
        if known and not recorded:
            raise _never_deployed(flow)
        state = state_of(recorded) if recorded else NOTHING_DEPLOYED
        events = decide(state, command(state))
        if not events:
            return ()
        append = Append(
            stream=stream,
            events=tuple(map(new_event, events)),
            expected_version=recorded[-1].version if recorded else 0,
            head=head_of(flow, fold(state, events)),
            blobs=blobs,
        )
        try:
            await runtime.journal.append(append)
        except WrongExpectedVersion:
            continue
        except JournalError as error:
            raise KitaruBackendError(str(error)) from error
        return events
    raise KitaruBackendError(f"The deployments of {flow!r} change too fast; try again.")


async def _recorded(runtime: Runtime, flow: str) -> Any:
    try:
        return await runtime.journal.read_stream(stream_of(checked_flow(flow)))
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error


async def _deployments(runtime: Runtime, flow: str) -> Deployments:
    """Raises KitaruDeploymentNotFoundError for a flow that was never deployed."""
    recorded = await _recorded(runtime, flow)
    if not recorded:
        raise _never_deployed(flow)
    return deployments_of(recorded)


async def _flows(runtime: Runtime) -> list[str]:
    query = HeadQuery(category=CATEGORY, limit=MOST_FLOWS)
    return [flow_of(head.stream) for head in await runtime.journal.heads(query)]


def checked_flow(flow: object) -> str:
    """A flow's name. Raises KitaruUsageError for what is none."""
    if not isinstance(flow, str) or not flow.isidentifier():
        raise KitaruUsageError(f"{flow!r} is no flow's name: it is that of a function.")
    return flow


def _never_deployed(flow: str) -> KitaruDeploymentNotFoundError:
    return KitaruDeploymentNotFoundError(
        f"No deployments found for flow {flow!r}. Deploy this flow first, then invoke it by "
        "version or tag."
    )
