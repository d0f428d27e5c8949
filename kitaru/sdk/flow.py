"""`@flow`: an ordinary function becomes a durable one."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

from msgspec import Struct
from msgspec.structs import asdict, replace

from kitaru import settings
from kitaru.bootstrap import Runtime, blocking, current_runtime
from kitaru.domain.deployment.state import DEFAULT_TAG
from kitaru.domain.execution.events import FrozenOptions, SourceReference
from kitaru.domain.execution.retry import checked_retries
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.source import fingerprint_of, reference_of
from kitaru.errors import (
    KitaruUsageError,
)
from kitaru.image import NO_IMAGE, ImageSetting, ImageSettings, image_settings
from kitaru.operations import deployments, executions, forks, packaging, placing
from kitaru.operations.backend import backend_errors
from kitaru.projections.deployments import DeployedVersion
from kitaru.sdk.blocking import refuse_on_event_loop
from kitaru.sdk.deployments import (
    AsyncDeployment,
    Deployment,
    found,
    invoke_blocking,
    invoke_soon,
)
from kitaru.sdk.handle import AsyncFlowHandle, FlowHandle
from kitaru.sdk.loops import block, on_runtime, soon
from kitaru.sdk.places import check_place

P = ParamSpec("P")
R = TypeVar("R")

RUN_OPTIONS = ("stack", "image", "cache", "retries", "idempotency_key")


class RunOptions(Struct, frozen=True):
    """What a run may be told beside the flow's own arguments."""

    stack: str | None = None
    image: ImageSettings | None = None
    cache: bool | None = None
    retries: int | None = None
    idempotency_key: str | None = None

    def check(self, flow: str) -> None:
        """Raises KitaruUsageError."""
        if self.stack is not None and (not isinstance(self.stack, str) or not self.stack.strip()):
            raise KitaruUsageError(
                f"Flow {flow!r}: stack must be the name of a stack, not {self.stack!r}."
            )
        if self.cache is not None and not isinstance(self.cache, bool):
            raise KitaruUsageError(
                f"Flow {flow!r}: cache must be True or False, not {self.cache!r}."
            )
        if self.retries is not None:
            checked_retries(self.retries, whose="Flow")


class _Source:
    """A flow's function, what was said at its decoration, and how its executions start."""

    __kitaru_flow__ = True

    def __init__(self, definition: FlowDefinition, options: RunOptions) -> None:
        self.definition = definition
        self._options = options
        self._reference: SourceReference | None = None
        self._fingerprint = ""
        functools.update_wrapper(cast("Any", self), definition.function)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def name(self) -> str:
        """The flow's name: that of its function."""
        return self.definition.name

    @property
    def reference(self) -> SourceReference:
        """Where the flow's code is."""
        if self._reference is None:
            self._reference = reference_of(self.definition.function)
            self._fingerprint = fingerprint_of(self.definition.function)
        return self._reference

    @property
    def image(self) -> ImageSettings:
        """What its runs ask their stack for: all layers merged."""
        return _wanted(self.name, self._options).image

    def _prepare(
        self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[executions.Prepared, placing.Wanted]:
        options = self._options
        given = {name: kwargs.pop(name) for name in RUN_OPTIONS if name in kwargs}
        if given:
            options = _overridden(self.name, options, given)
        config = settings.in_force()
        prepared = executions.prepare(
            runtime,
            self.definition,
            self.reference,
            self._fingerprint,
            self.definition.binder.name_all(args, kwargs),
            _frozen(options, config),
            options.idempotency_key,
        )
        return prepared, _wanted(self.name, options, config)

    def _prepare_fork(
        self, exec_id: str, anchor: str, overrides: Any, given: dict[str, Any], inputs: Any
    ) -> tuple[str, forks.ForkRequest, forks.Target]:
        # What is run anew is not to be served from where it ran before.
        given["cache"] = given["cache"] is not None and given["cache"]
        options = _overridden(self.name, self._options, given)
        check_place(self.name)
        request = forks.checked_request(
            forks.ForkRequest(
                source=exec_id,
                anchor=anchor,
                overrides={} if overrides is None else overrides,
                inputs=inputs,
                idempotency_key=options.idempotency_key,
            )
        )
        target = forks.Target(
            definition=self.definition,
            reference=self.reference,
            fingerprint=self._fingerprint,
            options=_frozen(options),
            wanted=_wanted(self.name, options),
        )
        return executions.new_exec_id(self.name, options.idempotency_key), request, target

    def _start_blocking(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlowHandle[Any]:
        check_place(self.name)
        runtime = current_runtime()
        prepared, wanted = self._prepare(runtime, args, kwargs)
        has_key = prepared.event.idempotency_key is not None
        if (has_key or not wanted.is_local) and runtime.on_own_loop:
            # A key that is known and a stack must be read about, which needs this very loop.
            what = "an idempotency key" if has_key else f"the stack {wanted.stack!r}"
            raise KitaruUsageError(
                f"{self.name}.run() with {what} would block the event loop that runs "
                f"Kitaru here; use `await {self.name}.aio.run(...)` instead."
            )
        if wanted.is_local:
            executions.start_blocking(runtime, prepared)
        else:
            blocking(runtime, lambda: placing.start(runtime, prepared, wanted))
        return FlowHandle(runtime, prepared.exec_id, self.definition.types)

    def _start_soon(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncFlowHandle[Any]:
        check_place(self.name)
        runtime = current_runtime()
        prepared, wanted = self._prepare(runtime, args, kwargs)
        started = soon(runtime, placing.start(runtime, prepared, wanted))
        return AsyncFlowHandle(runtime, prepared.exec_id, self.definition.types, started)

    async def _deploy(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: RunOptions,
        tags: Mapping[str, bool] | None,
        default_on_first: bool,
    ) -> AsyncDeployment[Any]:
        led_by = {DEFAULT_TAG: True} if tags is None else tags

        async def deploy(runtime: Runtime) -> DeployedVersion:
            # Packing reads a whole tree, and git has its say: not on the loop.
            made = await asyncio.to_thread(self.packaged, runtime, args, kwargs, options)
            return await deployments.deploy(
                runtime, self.name, made, tags=led_by, default_on_first=default_on_first
            )

        return AsyncDeployment(await on_runtime(deploy), self.definition.types)

    async def _deployments(self) -> list[AsyncDeployment[Any]]:
        views = await on_runtime(lambda runtime: deployments.listed(runtime, self.name))
        return [AsyncDeployment(view, self.definition.types) for view in views]

    def _invocation(
        self,
        version: int | None,
        tag: str | None,
        idempotency_key: str | None,
        inputs: dict[str, Any],
    ) -> deployments.Invocation:
        return deployments.Invocation(
            flow=self.name,
            version=version,
            tag=tag,
            inputs=inputs,
            idempotency_key=idempotency_key,
        )

    def packaged(
        self,
        runtime: Runtime,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: RunOptions,
        *,
        needs_inputs: bool = True,
    ) -> packaging.Package:
        """The flow's project as a version that could be deployed; for the command line.

        On a thread that may block: its image is made when it is new.
        """
        options = _overridden(self.name, self._options, asdict(options))
        wanted = _wanted(self.name, options)
        placement = blocking(runtime, lambda: placing.find(runtime, wanted))
        return packaging.package(
            self.definition,
            self.reference,
            self._fingerprint,
            placement.onto(_frozen(options)),
            args,
            kwargs,
            runtime.url,
            needs_inputs=needs_inputs,
        )

    def _refuse_call(self) -> NoReturn:
        name = self.name
        raise KitaruUsageError(
            f"Direct flow calls are not supported. Use {name}.run(...) to start an execution, and "
            f"{name}.run(...).wait() for its result."
        )


class Flow(_Source, Generic[P, R]):
    """A durable function. `run` starts an execution of it; `aio` is the same for async code."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """Raises KitaruUsageError: a flow is started with `run`."""
        self._refuse_call()

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> FlowHandle[R]:
        """Starts an execution in the background and returns once the start is durable.

        Beside the flow's own arguments it takes ``stack=``, ``image=``, ``retries=``, ``cache=``
        and ``idempotency_key=`` (`with_options` is the way that type checkers follow). Raises
        KitaruUsageError for arguments that do not fit, for a stack that does not exist and for what
        of the image it cannot honour, KitaruSerializationError for an argument that cannot be kept,
        KitaruStateError for an idempotency key that was used with other arguments,
        KitaruBackendError when the journal cannot be written.
        """
        return self._start_blocking(args, dict(kwargs))

    def replay(
        self,
        exec_id: str,
        /,
        *,
        from_: str,
        overrides: Mapping[str, Any] | None = None,
        stack: str | None = None,
        image: ImageSetting | None = None,
        cache: bool | None = None,
        retries: int | None = None,
        idempotency_key: str | None = None,
        **flow_inputs: Any,
    ) -> FlowHandle[R]:
        """Starts a new execution that takes over what another one had recorded before a call.

        From the call `from_` on (its path, its id, or a name that only one call has) everything
        runs, with this flow's code; what was recorded before is reused wherever the body still asks
        for the same call with the same arguments. `overrides` replaces outcomes, wherever they are:
        ``{"checkpoint.fetch#2": ..., "wait.approve": ...}``. `flow_inputs` are the flow's arguments
        that are to be others. The source, which may be running, failed or abandoned, stays as it
        is. The options are those of `run`.

        Raises KitaruStateError for an unknown execution, or an idempotency key that was used for
        something else; KitaruUsageError for an execution of another flow, a call that is unknown or
        ambiguous, a bad override or input; KitaruWaitValidationError for an answer that does not
        fit its wait; KitaruSerializationError for a value that cannot be kept; KitaruBackendError
        when the journal cannot be written.
        """
        refuse_on_event_loop(f"{self.name}.replay()", f"use `await {self.name}.aio.replay(...)`")
        given = _given(stack, image, cache, retries, idempotency_key)
        new_id, request, target = self._prepare_fork(exec_id, from_, overrides, given, flow_inputs)
        runtime = current_runtime()
        blocking(runtime, lambda: _fork(runtime, new_id, request, target))
        return FlowHandle(runtime, new_id, self.definition.types)

    def deploy(
        self,
        /,
        *args: Any,
        stack: str | None = None,
        image: Any = None,
        cache: bool | None = None,
        retries: int | None = None,
        tags: Mapping[str, bool] | None = None,
        publish_default_on_first_deploy: bool = True,
        **kwargs: Any,
    ) -> Deployment[R]:
        """Makes the flow's project, as it is in its files now, the flow's next version.

        The arguments are what `invoke` uses where it is given no other. The tag ``default`` moves
        to the new version, unless `tags` says otherwise: names, and whether each leads to one
        version alone. The first version gets ``default`` in any case, unless
        `publish_default_on_first_deploy` is False.

        Raises KitaruDeploymentInputValuesError for inputs that are missing or do not fit,
        KitaruUsageError for a flow or a project that cannot be deployed and for a bad tag,
        KitaruSerializationError for an input that cannot be kept, KitaruBackendError when the
        journal cannot be written. Nothing is deployed then.
        """
        refuse_on_event_loop(f"{self.name}.deploy()", f"use `await {self.name}.aio.deploy(...)`")
        check_place(self.name)
        options = _overridden(self.name, self._options, _given(stack, image, cache, retries, None))
        made = block(
            f"{self.name}.deploy()",
            "",
            lambda: self._deploy(args, kwargs, options, tags, publish_default_on_first_deploy),
        )
        return made.sync

    def deployments(self) -> list[Deployment[R]]:
        """Every version of this flow that can be invoked, newest first."""
        instead = f"use `await {self.name}.aio.deployments()`"
        made = block(f"{self.name}.deployments()", instead, self._deployments)
        return [deployment.sync for deployment in made]

    def deployment(self, *, version: int | None = None, tag: str | None = None) -> Deployment[R]:
        """The version that a number or a tag stands for; without either, the tag ``default``.

        Raises KitaruDeploymentNotFoundError (a LookupError) where there is none, KitaruStateError
        when the tag leads to several, KitaruUsageError when both are given.
        """
        instead = f"use `await {self.name}.aio.deployment(...)`"
        made = block(
            f"{self.name}.deployment()",
            instead,
            lambda: found(self.name, version, tag, self.definition.types),
        )
        return made.sync

    def invoke(
        self,
        *,
        version: int | None = None,
        tag: str | None = None,
        idempotency_key: str | None = None,
        **flow_inputs: Any,
    ) -> FlowHandle[R]:
        """Starts an execution of a deployed version, and returns once the start is durable.

        It runs in a runner process that loads that version's code and nothing of this one's. By
        `version`, by `tag`, or, without either, by the tag ``default``. `flow_inputs` take the
        place of those that the version was deployed with.

        Raises KitaruDeploymentInputValuesError for inputs that do not fit, and what `deployment`
        does.
        """
        refuse_on_event_loop(f"{self.name}.invoke()", f"use `await {self.name}.aio.invoke(...)`")
        invocation = self._invocation(version, tag, idempotency_key, flow_inputs)
        return invoke_blocking(f"{self.name}.invoke()", invocation, self.definition.types)

    def with_options(
        self,
        *,
        retries: int | None = None,
        cache: bool | None = None,
        stack: str | None = None,
        image: ImageSetting | None = None,
        idempotency_key: str | None = None,
    ) -> "Flow[P, R]":
        """The same flow with other options for its runs; the original stays as it is.

        An image is laid over the one that the flow has, field by field.
        """
        given = _given(stack, image, cache, retries, idempotency_key)
        return Flow(self.definition, _overridden(self.name, self._options, given))

    @property
    def aio(self) -> "AsyncFlow[P, R]":
        """The same flow for async code: its `run` returns an `AsyncFlowHandle`."""
        return AsyncFlow(self.definition, self._options)

    @property
    def sync(self) -> "Flow[P, R]":
        """This flow itself."""
        return self


class AsyncFlow(_Source, Generic[P, R]):
    """A durable coroutine function. `sync` is the same for code that may block."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """Raises KitaruUsageError: a flow is started with `run`."""
        self._refuse_call()

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncFlowHandle[R]:
        """Submits an execution at once; ``await`` the handle to be sure that the start is durable.

        Takes and raises what `Flow.run` does; what only the journal can tell is raised by the
        handle when it is awaited.
        """
        return self._start_soon(args, dict(kwargs))

    def replay(
        self,
        exec_id: str,
        /,
        *,
        from_: str,
        overrides: Mapping[str, Any] | None = None,
        stack: str | None = None,
        image: ImageSetting | None = None,
        cache: bool | None = None,
        retries: int | None = None,
        idempotency_key: str | None = None,
        **flow_inputs: Any,
    ) -> AsyncFlowHandle[R]:
        """Submits a fork of another execution; ``await`` the handle to be sure that it is durable.

        Takes what `Flow.replay` does. What only the journal can tell (an unknown execution or call,
        a bad override) is raised by the handle when it is awaited.
        """
        given = _given(stack, image, cache, retries, idempotency_key)
        new_id, request, target = self._prepare_fork(exec_id, from_, overrides, given, flow_inputs)
        runtime = current_runtime()
        started = soon(runtime, _fork(runtime, new_id, request, target))
        return AsyncFlowHandle(runtime, new_id, self.definition.types, started)

    async def deploy(
        self,
        /,
        *args: Any,
        stack: str | None = None,
        image: Any = None,
        cache: bool | None = None,
        retries: int | None = None,
        tags: Mapping[str, bool] | None = None,
        publish_default_on_first_deploy: bool = True,
        **kwargs: Any,
    ) -> AsyncDeployment[R]:
        """Makes the flow's project the flow's next version; as `Flow.deploy`."""
        check_place(self.name)
        options = _overridden(self.name, self._options, _given(stack, image, cache, retries, None))
        return await self._deploy(args, kwargs, options, tags, publish_default_on_first_deploy)

    async def deployments(self) -> list[AsyncDeployment[R]]:
        """Every version of this flow that can be invoked, newest first."""
        return await self._deployments()

    async def deployment(
        self, *, version: int | None = None, tag: str | None = None
    ) -> AsyncDeployment[R]:
        """The version that a number or a tag stands for; as `Flow.deployment`."""
        return await found(self.name, version, tag, self.definition.types)

    def invoke(
        self,
        *,
        version: int | None = None,
        tag: str | None = None,
        idempotency_key: str | None = None,
        **flow_inputs: Any,
    ) -> AsyncFlowHandle[R]:
        """Submits an execution of a deployed version; ``await`` the handle to be sure of it.

        Takes what `Flow.invoke` does, and the handle raises what that does when it is awaited.
        """
        invocation = self._invocation(version, tag, idempotency_key, flow_inputs)
        return invoke_soon(invocation, self.definition.types)

    def with_options(
        self,
        *,
        retries: int | None = None,
        cache: bool | None = None,
        stack: str | None = None,
        image: ImageSetting | None = None,
        idempotency_key: str | None = None,
    ) -> "AsyncFlow[P, R]":
        """The same flow with other options for its runs; the original stays as it is.

        An image is laid over the one that the flow has, field by field.
        """
        given = _given(stack, image, cache, retries, idempotency_key)
        return AsyncFlow(self.definition, _overridden(self.name, self._options, given))

    @property
    def aio(self) -> "AsyncFlow[P, R]":
        """This flow itself."""
        return self

    @property
    def sync(self) -> Flow[P, R]:
        """The same flow for code that may block: its `run` returns a `FlowHandle`."""
        return Flow(self.definition, self._options)


class FlowDecorator:
    """``@flow(...)`` with options, waiting for its function."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> AsyncFlow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R]) -> Flow[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        """Makes the function a flow."""
        return _define(function, self._options)


@overload
def flow(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFlow[P, R]: ...  # type: ignore[overload-overlap]
@overload
def flow(function: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(
    *,
    stack: str | None = None,
    image: ImageSetting | None = None,
    cache: bool | None = None,
    retries: int | None = None,
) -> FlowDecorator: ...
def flow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    stack: str | None = None,
    image: ImageSetting | None = None,
    cache: bool | None = None,
    retries: int | None = None,
) -> Any:
    """Makes a function a durable flow, bare or with options.

    A ``def`` becomes a `Flow`, an ``async def`` an `AsyncFlow`. `retries` is how often the body is
    run again in the same execution after it raised (calls that completed are kept), `cache` whether
    results of earlier executions may be reused, `stack` where it runs, `image` what its runners are
    to have (a base image's name, a mapping or `ImageSettings`). Raises KitaruUsageError for a bad
    option, for what is not a function, and for a parameter whose name is one of `run`'s options.
    """
    name = getattr(function, "__name__", "flow")
    options = _overridden(name, RunOptions(), _given(stack, image, cache, retries, None))
    return FlowDecorator(options) if function is None else _define(function, options)


async def _fork(
    runtime: Runtime, exec_id: str, request: forks.ForkRequest, target: forks.Target
) -> None:
    with backend_errors():
        await forks.fork(runtime, exec_id, request, target)


def _define(function: Callable[..., Any], options: RunOptions) -> Any:
    check_function(function, "flow", RUN_OPTIONS)
    asynchronous = inspect.iscoroutinefunction(function)
    definition = FlowDefinition(function, asynchronous=asynchronous)
    return AsyncFlow(definition, options) if asynchronous else Flow(definition, options)


def check_function(function: object, decorator: str, reserved: tuple[str, ...]) -> None:
    """Raises KitaruUsageError for what cannot be decorated."""
    if not inspect.isfunction(function):
        raise KitaruUsageError(f"@{decorator} needs a function, not {function!r}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise KitaruUsageError(
            f"@{decorator} {function.__name__}: a generator cannot be recorded; return a list."
        )
    taken = [name for name in reserved if name in inspect.signature(function).parameters]
    if taken:
        raise KitaruUsageError(
            f"@{decorator} {function.__name__}: the parameter {taken[0]!r} has the name of an "
            "option of the call; rename it."
        )


def _given(
    stack: str | None,
    image: ImageSetting | None,
    cache: bool | None,
    retries: int | None,
    idempotency_key: str | None,
) -> dict[str, Any]:
    return {
        "stack": stack,
        "image": image,
        "cache": cache,
        "retries": retries,
        "idempotency_key": idempotency_key,
    }


def _overridden(flow: str, options: RunOptions, given: dict[str, Any]) -> RunOptions:
    # None is an option that was not given, so that wrappers can pass theirs on.
    changes = {name: value for name, value in given.items() if value is not None}
    if "image" in changes:
        image = image_settings(changes["image"], f"Flow {flow!r}")
        changes["image"] = image.over(options.image or NO_IMAGE)
    changed = replace(options, **changes)
    changed.check(flow)
    return changed


def _wanted(
    flow: str, options: RunOptions, config: settings.KitaruConfig | None = None
) -> placing.Wanted:
    """Where a run is to go: what it and its flow say stands above all other layers."""
    config = config or settings.in_force()
    image = config.image if options.image is None else options.image.over(config.image)
    if options.stack is None:
        return placing.Wanted(config.stack, config.origins["stack"], image)
    origin = settings.Origin(settings.Layer.CALL, f"asked for by flow {flow!r} or its run")
    return placing.Wanted(options.stack.strip(), origin, image)


def _frozen(options: RunOptions, config: settings.KitaruConfig | None = None) -> FrozenOptions:
    config = config or settings.in_force()
    return FrozenOptions(
        retries=config.retries if options.retries is None else options.retries,
        cache=_cache(config) if options.cache is None else options.cache,
    )


def _cache(config: settings.KitaruConfig) -> bool | None:
    """What was said of the cache outside the code; None: nothing, so that checkpoints decide."""
    is_said = config.origins["cache"].layer is not settings.Layer.BUILT_IN
    return config.cache if is_said else None
