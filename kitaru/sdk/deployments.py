"""Deployed versions of flows: looking at them, leading tags to them, and invoking them.

The blocking classes and the async ones have the same methods; the docs stand at the async ones.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from kitaru.bootstrap import Runtime, current_runtime
from kitaru.engine.codec import TypeScope
from kitaru.errors import KitaruUsageError
from kitaru.operations import deployments as operations
from kitaru.operations import executions
from kitaru.projections.deployments import DeployedFlow, DeployedVersion
from kitaru.sdk.handle import AsyncFlowHandle, FlowHandle
from kitaru.sdk.loops import block, on_runtime, soon
from kitaru.sdk.places import check_place

R = TypeVar("R")
_IN_CLIENT = "use AsyncKitaruClient"
_IN_DEPLOYMENT = "use its `aio`"


class _Deployment(Generic[R]):
    """One version of a flow, as it was when it was read."""

    def __init__(self, view: DeployedVersion, types: TypeScope) -> None:
        self._view = view
        self._types = types

    def __repr__(self) -> str:
        tags = "".join(f", {name}{'*' if alone else ''}" for name, alone in self.tags.items())
        return f"{type(self).__name__}({self.flow!r}, version {self.version}{tags})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Deployment) and self._view == other._view

    def __hash__(self) -> int:
        return hash(self.deployment_id)

    @property
    def details(self) -> DeployedVersion:
        """All that is known of it."""
        return self._view

    @property
    def deployment_id(self) -> str:
        """``<flow>/<version>``."""
        return self._view.deployment_id

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self._view.flow

    @property
    def version(self) -> int:
        """Its number, from 1."""
        return self._view.version

    @property
    def tags(self) -> dict[str, bool]:
        """The tags that lead to it, by name, and whether each leads to it alone."""
        return dict(self._view.tags)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its inputs."""
        return self._view.schema

    @property
    def created_at(self) -> datetime:
        """When it was deployed, in UTC."""
        return self._view.created_at

    @property
    def commit_sha(self) -> str | None:
        """The git commit that the project stood at; None where git did not know."""
        return self._view.commit_sha

    @property
    def commit_dirty(self) -> bool | None:
        """Whether the project's files were others than the commit's."""
        return self._view.commit_dirty


class AsyncDeployment(_Deployment[R]):
    """One version of a flow, for async code. Its `sync` is the same for code that may block."""

    def invoke(self, **inputs: Any) -> AsyncFlowHandle[R]:
        """Submits an execution of exactly this version; ``await`` the handle to be sure of it."""
        return invoke_soon(
            operations.Invocation(flow=self.flow, version=self.version, inputs=inputs), self._types
        )

    async def add_tag(self, tag: str, exclusive: bool = False) -> "AsyncDeployment[R]":
        """Lets a tag lead to this version too, or, when it is exclusive, to this one alone."""
        view = await on_runtime(
            lambda runtime: operations.move_tag(
                runtime, self.flow, self.version, tag, exclusive=exclusive
            )
        )
        return AsyncDeployment(view, self._types)

    async def remove_tag(self, tag: str) -> "AsyncDeployment[R]":
        """Lets a tag no longer lead to this version."""
        view = await on_runtime(
            lambda runtime: operations.remove_tag(runtime, self.flow, self.version, tag)
        )
        return AsyncDeployment(view, self._types)

    async def delete(self) -> None:
        """Lets this version no longer be invoked; executions that run it go on.

        Raises KitaruStateError while it holds an exclusive tag.
        """
        await on_runtime(lambda runtime: operations.delete(runtime, self.flow, self.version))

    @property
    def sync(self) -> "Deployment[R]":
        """The same for code that may block."""
        return Deployment(self._view, self._types)


class Deployment(_Deployment[R]):
    """One version of a flow. Its `aio` is the same for async code."""

    def invoke(self, **inputs: Any) -> FlowHandle[R]:
        """Starts an execution of exactly this version, and returns once the start is durable."""
        return invoke_blocking(
            "deployment.invoke()",
            operations.Invocation(flow=self.flow, version=self.version, inputs=inputs),
            self._types,
        )

    def add_tag(self, tag: str, exclusive: bool = False) -> "Deployment[R]":
        """Lets a tag lead to this version too, or, when it is exclusive, to this one alone."""
        made = block(
            "deployment.add_tag()", _IN_DEPLOYMENT, lambda: self.aio.add_tag(tag, exclusive)
        )
        return made.sync

    def remove_tag(self, tag: str) -> "Deployment[R]":
        """Lets a tag no longer lead to this version."""
        made = block("deployment.remove_tag()", _IN_DEPLOYMENT, lambda: self.aio.remove_tag(tag))
        return made.sync

    def delete(self) -> None:
        """Lets this version no longer be invoked; executions that run it go on.

        Raises KitaruStateError while it holds an exclusive tag.
        """
        block("deployment.delete()", _IN_DEPLOYMENT, self.aio.delete)

    @property
    def aio(self) -> AsyncDeployment[R]:
        """The same for async code."""
        return AsyncDeployment(self._view, self._types)


class AsyncDeployments:
    """What can be asked of deployed versions, without the flows' code."""

    async def list(self, *, flow: str | None = None) -> list[AsyncDeployment[Any]]:
        """Every version that can be invoked, of one flow or of all, newest first."""
        views = await on_runtime(lambda runtime: operations.listed(runtime, flow))
        return [AsyncDeployment(view, TypeScope.of()) for view in views]

    async def get(
        self, *, flow: str, version: int | None = None, tag: str | None = None
    ) -> AsyncDeployment[Any]:
        """The version that a number or a tag stands for; without either, the tag ``default``.

        Raises KitaruDeploymentNotFoundError (a LookupError) where there is none, KitaruStateError
        when the tag leads to several, KitaruUsageError when both are given.
        """
        return await found(flow, version, tag, TypeScope.of())

    def invoke(
        self,
        *,
        flow: str,
        version: int | None = None,
        tag: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncFlowHandle[Any]:
        """Submits an execution of a deployed version; ``await`` the handle to be sure of it.

        `inputs` take the place of those that the version was deployed with. What is wrong with
        them, or with the version or tag, the handle raises when it is awaited. Classes that only
        the flow knows come as `RecordedObject` in its result.
        """
        invocation = operations.Invocation(
            flow=flow,
            version=version,
            tag=tag,
            inputs=_mapping(inputs),
            idempotency_key=idempotency_key,
        )
        return invoke_soon(invocation, TypeScope.of())

    async def tag(
        self, *, flow: str, version: int, tag: str, exclusive: bool = False
    ) -> AsyncDeployment[Any]:
        """Lets a tag lead to a version too, or, when it is exclusive, to that one alone."""
        exclusive = exclusive or tag == "default"
        view = await on_runtime(
            lambda runtime: operations.move_tag(runtime, flow, version, tag, exclusive=exclusive)
        )
        return AsyncDeployment(view, TypeScope.of())

    async def untag(self, *, flow: str, version: int, tag: str) -> AsyncDeployment[Any]:
        """Lets a tag no longer lead to a version. The tag ``default`` can only be moved."""
        view = await on_runtime(lambda runtime: operations.remove_tag(runtime, flow, version, tag))
        return AsyncDeployment(view, TypeScope.of())

    async def delete(self, *, flow: str, version: int) -> None:
        """Lets a version no longer be invoked; executions that run it go on.

        Raises KitaruStateError while it holds an exclusive tag.
        """
        await on_runtime(lambda runtime: operations.delete(runtime, flow, version))

    async def flows(self) -> "tuple[DeployedFlow, ...]":
        """Every flow that was deployed, by name."""
        return tuple(await on_runtime(operations.flows))


class Deployments:
    """What can be asked of deployed versions, without the flows' code."""

    def __init__(self) -> None:
        self._aio = AsyncDeployments()

    def list(self, *, flow: str | None = None) -> list[Deployment[Any]]:
        """Every version that can be invoked, of one flow or of all, newest first."""
        made = block("deployments.list()", _IN_CLIENT, lambda: self._aio.list(flow=flow))
        return [deployment.sync for deployment in made]

    def get(
        self, *, flow: str, version: int | None = None, tag: str | None = None
    ) -> Deployment[Any]:
        """The version that a number or a tag stands for; see `AsyncDeployments.get`."""
        made = block(
            "deployments.get()",
            _IN_CLIENT,
            lambda: self._aio.get(flow=flow, version=version, tag=tag),
        )
        return made.sync

    def invoke(
        self,
        *,
        flow: str,
        version: int | None = None,
        tag: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> FlowHandle[Any]:
        """Starts an execution of a deployed version, and returns once the start is durable.

        `inputs` take the place of those that the version was deployed with. Raises
        KitaruDeploymentInputValuesError for inputs that do not fit, and what `get` does. Classes
        that only the flow knows come as `RecordedObject` in the handle's result.
        """
        invocation = operations.Invocation(
            flow=flow,
            version=version,
            tag=tag,
            inputs=_mapping(inputs),
            idempotency_key=idempotency_key,
        )
        return invoke_blocking("deployments.invoke()", invocation, TypeScope.of())

    def tag(self, *, flow: str, version: int, tag: str, exclusive: bool = False) -> Deployment[Any]:
        """Lets a tag lead to a version; see `AsyncDeployments.tag`."""
        made = block(
            "deployments.tag()",
            _IN_CLIENT,
            lambda: self._aio.tag(flow=flow, version=version, tag=tag, exclusive=exclusive),
        )
        return made.sync

    def untag(self, *, flow: str, version: int, tag: str) -> Deployment[Any]:
        """Lets a tag no longer lead to a version; see `AsyncDeployments.untag`."""
        made = block(
            "deployments.untag()",
            _IN_CLIENT,
            lambda: self._aio.untag(flow=flow, version=version, tag=tag),
        )
        return made.sync

    def delete(self, *, flow: str, version: int) -> None:
        """Lets a version no longer be invoked; see `AsyncDeployments.delete`."""
        block(
            "deployments.delete()",
            _IN_CLIENT,
            lambda: self._aio.delete(flow=flow, version=version),
        )

    def flows(self) -> tuple[DeployedFlow, ...]:
        """Every flow that was deployed, by name."""
        return block("deployments.flows()", _IN_CLIENT, self._aio.flows)


async def found(
    flow: str, version: int | None, tag: str | None, types: TypeScope
) -> AsyncDeployment[Any]:
    """One version of a flow whose results have these types."""
    view = await on_runtime(lambda runtime: operations.get(runtime, flow, version=version, tag=tag))
    return AsyncDeployment(view, types)


def invoke_soon(invocation: operations.Invocation, types: TypeScope) -> AsyncFlowHandle[Any]:
    """Submits an invocation at once."""
    runtime, exec_id = _new(invocation)
    started = soon(runtime, operations.invoke(runtime, exec_id, invocation))
    return AsyncFlowHandle(runtime, exec_id, types, started)


def invoke_blocking(
    what: str, invocation: operations.Invocation, types: TypeScope
) -> FlowHandle[Any]:
    """Starts an invocation, and returns once it is durable."""
    runtime, exec_id = _new(invocation)
    block(
        what, "use its async form", lambda: operations.invoke(runtime, exec_id, invocation), depth=4
    )
    return FlowHandle(runtime, exec_id, types)


def _new(invocation: operations.Invocation) -> tuple[Runtime, str]:
    flow = operations.checked_flow(invocation.flow)
    check_place(flow)
    return current_runtime(), executions.new_exec_id(flow, invocation.idempotency_key)


def _mapping(inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise KitaruUsageError(f"inputs={inputs!r}: a dict is needed, such as {{'url': '...'}}.")
    return inputs
