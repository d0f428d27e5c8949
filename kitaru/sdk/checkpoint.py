"""`@checkpoint`: an ordinary function whose result is recorded."""

import asyncio
import functools
import inspect
import itertools
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, cast, overload

from msgspec import Struct
from msgspec.structs import replace

from kitaru.domain.execution.retry import Retry, retry_policy
from kitaru.domain.ids import checked_id
from kitaru.engine.arguments_policy import OnChangedArguments, checked_policy
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import Call, call_site
from kitaru.engine.context import FlowScope, flow_scope, scope
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.engine.sync_futures import CallFuture, FutureLike
from kitaru.engine.sync_runner import SyncRunner
from kitaru.engine.transactions import Database, path_of
from kitaru.errors import (
    KitaruContextError,
    KitaruUsageError,
)
from kitaru.sdk.flow import check_function

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

CALL_OPTIONS = ("id", "after")
RUNTIMES = ("inline", "isolated")
Location = str | os.PathLike[str]
TransactionTarget = bool | Location | Callable[[], Location | Literal[True]] | None


class CheckpointFuture(FutureLike, Generic[R]):
    """The outcome of a checkpoint that a sync flow has submitted.

    It may be passed as an argument, alone or in a list, to other checkpoints.
    """

    __slots__ = ()

    @property
    def invocation_id(self) -> str:
        """The call's path in its execution."""
        return self.call_future.call.path

    def result(self) -> R:
        """Blocks until the checkpoint has ended; returns its value or raises its error."""
        value: R = self.call_future.runner.result_of(self.call_future)
        return value

    def load(self) -> R:
        """The same as `result`."""
        return self.result()

    def wait(self) -> None:
        """Blocks until the checkpoint has ended, whichever way."""
        self.call_future.runner.wait_for(self.call_future)

    def done(self) -> NoReturn:
        """Raises KitaruUsageError: the answer would be another one in a replay."""
        self._refuse("done")

    def running(self) -> NoReturn:
        """Raises KitaruUsageError: the answer would be another one in a replay."""
        self._refuse("running")

    def _refuse(self, name: str) -> NoReturn:
        raise KitaruUsageError(
            f"future.{name}() depends on how fast things are, so a replay could take another "
            "branch. Use future.result() or future.wait()."
        )

    def __repr__(self) -> str:
        return f"CheckpointFuture({self.invocation_id!r})"


class CallOptions(Struct, frozen=True):
    """What one call may be told beside its arguments."""

    id: str | None = None
    after: Any = None


class _Source:
    """A checkpoint's function and the options of its calls."""

    __kitaru_checkpoint__ = True

    def __init__(self, definition: CheckpointDefinition, options: CallOptions) -> None:
        self.definition = definition
        self._options = options
        functools.update_wrapper(cast("Any", self), definition.function)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def name(self) -> str:
        """The checkpoint's name: that of its function."""
        return self.definition.name

    def _runner(self, how: str) -> AsyncRunner | SyncRunner:
        here = scope.get()
        if type(here) is FlowScope:
            runner: AsyncRunner | SyncRunner = here.runner
            return runner
        what = f"{self.name}{how}"
        if here is None:
            raise KitaruContextError(f"Checkpoints can only run inside a @flow ({what} was not).")
        within: AsyncRunner | SyncRunner = flow_scope(what).runner
        return within

    def _sync_runner(self, how: str) -> SyncRunner:
        runner = self._runner(how)
        if isinstance(runner, AsyncRunner):
            what = f"{self.name}{how}"
            fix = f"await {self.name}.aio(...)"
            raise KitaruUsageError(
                f"{what} would block the async flow it is called in; use `{fix}` instead."
            )
        return runner

    def _async_runner(self, how: str) -> AsyncRunner:
        runner = self._runner(how)
        if isinstance(runner, SyncRunner):
            what = f"{self.name}{how}"
            raise KitaruUsageError(
                f"{what} cannot be awaited in a sync flow; use `{self.name}.sync(...)` instead."
            )
        return runner

    def _call_options(self, kwargs: dict[str, Any]) -> CallOptions:
        given = kwargs and {name: kwargs.pop(name) for name in CALL_OPTIONS if name in kwargs}
        options = replace(self._options, **given) if given else self._options
        if options.id is not None:
            checked_id(options.id, "A call's id")
        return options

    def _perform(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        runner = self._sync_runner("()")
        options = self._call_options(kwargs)
        named = self.definition.binder.name_all(args, kwargs)
        path = runner.new_path(self.name, options.id)
        for future in _after(options.after):
            runner.result_of(future)
        return runner.perform(Call(self.definition, path, call_site(2), named))

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], site: str) -> CallFuture:
        runner = self._sync_runner(".submit()")
        options = self._call_options(kwargs)
        named = self.definition.binder.name_all(args, kwargs)
        path = runner.new_path(self.name, options.id)
        return runner.submit(Call(self.definition, path, site, named), _after(options.after))

    def _perform_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], site: str
    ) -> Coroutine[Any, Any, Any]:
        runner = self._async_runner("()")
        options = self._call_options(kwargs)
        named = self.definition.binder.name_all(args, kwargs)
        call = Call(self.definition, runner.new_path(self.name, options.id), site, named)
        needed = _after_async(options.after)
        return _after_all(runner, call, needed) if needed else runner.perform(call)

    def _submit_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], site: str
    ) -> "asyncio.Task[Any]":
        runner = self._async_runner(".submit()")
        return runner.submit(self._perform_async(args, kwargs, site))


class Checkpoint(_Source, Generic[P, R]):
    """A recorded function. In a sync flow it is called directly; `aio` is for async flows."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function once for this place in the flow, and for ever after gives its result.

        Beside the function's own arguments it takes ``id=`` (the call's path, unique in the
        execution) and ``after=`` (futures to wait for first); `with_options` is the way that type
        checkers follow. Raises what the function raised; KitaruContextError outside a flow or
        inside another checkpoint; KitaruSerializationError for values that cannot be kept.
        """
        result: R = self._perform(args, dict(kwargs))
        return result

    def submit(self, /, *args: Any, **kwargs: Any) -> CheckpointFuture[R]:
        """Starts the call on another thread and returns a future; arguments may be futures."""
        return CheckpointFuture(self._submit(args, kwargs, call_site(1)))

    def map(self, /, *args: Any, after: Any = None, **kwargs: Any) -> list[CheckpointFuture[R]]:
        """Submits one call for each item of the positional arguments, taken in step.

        Keyword arguments, texts, bytes and dicts are the same for every call. Raises
        KitaruUsageError when the arguments have different lengths, or none can be iterated.
        """
        site = call_site(1)
        return [
            CheckpointFuture(self._submit(row, {**kwargs, **_given(after)}, site))
            for row in _in_step(self.name, _loaded(args))
        ]

    def product(self, /, *args: Any, after: Any = None, **kwargs: Any) -> list[CheckpointFuture[R]]:
        """Submits one call for each combination of the items of the positional arguments."""
        site = call_site(1)
        return [
            CheckpointFuture(self._submit(row, {**kwargs, **_given(after)}, site))
            for row in _combined(self.name, _loaded(args))
        ]

    def with_options(self, *, id: str | None = None, after: Any = None) -> "Checkpoint[P, R]":  # noqa: A002
        """The same checkpoint for a call with this id, or after these futures."""
        return Checkpoint(self.definition, CallOptions(id, after))

    @property
    def aio(self) -> "AsyncCheckpoint[P, R]":
        """The same checkpoint for async flows; the function runs on a worker thread."""
        return AsyncCheckpoint(self.definition, self._options)

    @property
    def sync(self) -> "Checkpoint[P, R]":
        """This checkpoint itself."""
        return self


class AsyncCheckpoint(_Source, Generic[P, R]):
    """A recorded coroutine function. In an async flow it is awaited; `sync` is for sync flows."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Fixes the call's place in the flow; awaiting it runs the function, or gives its result.

        Takes and raises what `Checkpoint` does.
        """
        return self._perform_async(args, dict(kwargs), call_site(1))

    def submit(self, /, *args: Any, **kwargs: Any) -> "asyncio.Task[R]":
        """Starts the call and returns a task; arguments may be tasks."""
        return self._submit_async(args, kwargs, call_site(1))

    def map(self, /, *args: Any, after: Any = None, **kwargs: Any) -> "list[asyncio.Task[R]]":
        """Submits one call for each item of the positional arguments, taken in step.

        Keyword arguments, texts, bytes and dicts are the same for every call. Raises
        KitaruUsageError when the arguments have different lengths, or none can be iterated.
        """
        site = call_site(1)
        return [
            self._submit_async(row, {**kwargs, **_given(after)}, site)
            for row in _in_step(self.name, args)
        ]

    def product(self, /, *args: Any, after: Any = None, **kwargs: Any) -> "list[asyncio.Task[R]]":
        """Submits one call for each combination of the items of the positional arguments."""
        site = call_site(1)
        return [
            self._submit_async(row, {**kwargs, **_given(after)}, site)
            for row in _combined(self.name, args)
        ]

    def with_options(
        self,
        *,
        id: str | None = None,  # noqa: A002
        after: Any = None,
    ) -> "AsyncCheckpoint[P, R]":
        """The same checkpoint for a call with this id, or after these tasks."""
        return AsyncCheckpoint(self.definition, CallOptions(id, after))

    @property
    def aio(self) -> "AsyncCheckpoint[P, R]":
        """This checkpoint itself."""
        return self

    @property
    def sync(self) -> Checkpoint[P, R]:
        """The same checkpoint for sync flows; the coroutine runs on the runtime's loop."""
        return Checkpoint(self.definition, self._options)


class CheckpointOptions(Struct, frozen=True):
    """What was said at a checkpoint's decoration."""

    policy: Retry
    type: str | None
    record_inputs: bool | None
    cache: bool | None
    on_changed_arguments: OnChangedArguments
    once: bool
    transaction: Database | None
    isolated: bool


class CheckpointDecorator:
    """``@checkpoint(...)`` with options, waiting for its function."""

    def __init__(self, options: CheckpointOptions) -> None:
        self._options = options

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> AsyncCheckpoint[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R]) -> Checkpoint[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        """Makes the function a checkpoint."""
        return _define(function, self._options)


@overload
def checkpoint(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCheckpoint[P, R]: ...  # type: ignore[overload-overlap]
@overload
def checkpoint(function: Callable[P, R], /) -> Checkpoint[P, R]: ...
@overload
def checkpoint(
    *,
    retries: int | Retry = 0,
    type: str | None = None,
    runtime: str | None = None,
    cache: bool | None = None,
    effect: str | None = None,
    record_inputs: str | None = None,
    on_changed_arguments: OnChangedArguments = "diverge",
    transaction: TransactionTarget = None,
) -> CheckpointDecorator: ...
def checkpoint(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retries: int | Retry = 0,
    type: str | None = None,  # noqa: A002 - the seed's name
    runtime: str | None = None,
    cache: bool | None = None,
    effect: str | None = None,
    record_inputs: str | None = None,
    on_changed_arguments: OnChangedArguments = "diverge",
    transaction: TransactionTarget = None,
) -> Any:
    """Makes a function a checkpoint, bare or with options.

    `retries` is how often it is tried again after it raised, or a `Retry` policy; `type` a free
    label such as ``llm_call``; `cache` whether later executions of the flow may reuse its results
    (they do, unless this or the execution says no). `effect` is None or ``"once"``: then the start
    is on disk before the body begins, and an attempt whose process died is not repeated before
    somebody has said so; such a call is never reused.
    `record_inputs` is ``"always"``, ``"never"`` or None (arguments of up to 2 KiB are kept).
    `on_changed_arguments` is what happens when a recorded call is made with other arguments in a
    replay: ``"diverge"`` stops the execution, ``"warn"`` gives the recorded outcome and says so
    once, in the log and in the journal, ``"ignore"`` gives it silently. `transaction` is where the
    body writes with `kitaru.transaction()`: True for the journal's own database, the absolute path
    of another SQLite database, or a function that returns one; what it writes is there exactly once
    if the outcome is recorded, and not at all otherwise. `runtime` is ``"inline"``, or
    ``"isolated"`` for a process of its own for every attempt on stacks of type ``process``;
    elsewhere it runs inline, and a log event says so. Raises KitaruUsageError for a bad option or
    for what is not a function.
    """
    options = CheckpointOptions(
        policy=retry_policy(retries, whose="Checkpoint"),
        type=type,
        record_inputs=_record_inputs(record_inputs),
        cache=cache,
        on_changed_arguments=checked_policy(on_changed_arguments),
        once=_effect(effect, cache),
        transaction=_database(transaction, effect, cache),
        isolated=_is_isolated(runtime, transaction),
    )
    if cache is not None and not isinstance(cache, bool):
        raise KitaruUsageError(f"Checkpoint cache must be True, False or None, not {cache!r}.")
    return CheckpointDecorator(options) if function is None else _define(function, options)


def _define(function: Callable[..., Any], options: CheckpointOptions) -> Any:
    check_function(function, "checkpoint", CALL_OPTIONS)
    asynchronous = inspect.iscoroutinefunction(function)
    definition = CheckpointDefinition(
        function,
        asynchronous=asynchronous,
        policy=options.policy,
        type=options.type,
        record_inputs=options.record_inputs,
        cache=options.cache,
        on_changed_arguments=options.on_changed_arguments,
        once=options.once,
        transaction=options.transaction,
        isolated=options.isolated,
    )
    wrapper = AsyncCheckpoint if asynchronous else Checkpoint
    return wrapper(definition, CallOptions())


def _record_inputs(given: str | None) -> bool | None:
    known = {None: None, "always": True, "never": False}
    if given not in known:
        raise KitaruUsageError(
            f'Checkpoint record_inputs must be "always", "never" or None, not {given!r}.'
        )
    return known[given]


def _effect(effect: str | None, cache: bool | None) -> bool:
    if effect not in (None, "once"):
        raise KitaruUsageError(f'Checkpoint effect must be "once" or None, not {effect!r}.')
    if effect == "once" and cache:
        raise KitaruUsageError('A checkpoint with effect="once" is never reused: leave out cache=.')
    return effect == "once"


def _database(given: TransactionTarget, effect: str | None, cache: bool | None) -> Database | None:
    if given is None or given is False:
        return None
    if effect is not None:
        raise KitaruUsageError(
            "A transactional checkpoint leaves nothing behind when its attempt is lost, so that it "
            "is simply run again: leave out effect=, or put the other effect into a checkpoint of "
            "its own."
        )
    if cache:
        raise KitaruUsageError(
            "A checkpoint with transaction= is there for its writes and never reused: leave out "
            "cache=."
        )
    if given is True:
        return Database()
    if callable(given):
        return Database(given)
    path = path_of(given)
    return Database(lambda: path)


def _is_isolated(runtime: str | None, transaction: TransactionTarget) -> bool:
    if runtime is None:
        return False
    if not isinstance(runtime, str) or runtime.lower() not in RUNTIMES:
        raise KitaruUsageError(
            f"Unsupported checkpoint runtime {runtime!r}. Expected one of: {', '.join(RUNTIMES)}."
        )
    isolated = runtime.lower() == "isolated"
    if isolated and transaction:
        raise KitaruUsageError(
            "A checkpoint with transaction= writes in its runner's process: leave out "
            'runtime="isolated".'
        )
    return isolated


def _given(after: Any) -> dict[str, Any]:
    return {} if after is None else {"after": after}


def _after(after: Any) -> list[CallFuture]:
    if after is None:
        return []
    futures = after if isinstance(after, list | tuple) else [after]
    if not all(isinstance(future, FutureLike) for future in futures):
        raise KitaruUsageError("`after` must be a future or a sequence of futures, from .submit().")
    return [future.call_future for future in futures]


def _after_async(after: Any) -> "list[asyncio.Future[Any]]":
    if after is None:
        return []
    futures = after if isinstance(after, list | tuple) else [after]
    if not all(isinstance(future, asyncio.Future) for future in futures):
        raise KitaruUsageError("`after` must be a task or a sequence of tasks, from .submit().")
    return list(futures)


async def _after_all(runner: AsyncRunner, call: Call, needed: "list[asyncio.Future[Any]]") -> Any:
    for future in needed:
        await future
    return await runner.perform(call)


def _loaded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        arg.call_future.runner.result_of(arg.call_future) if isinstance(arg, FutureLike) else arg
        for arg in args
    )


def _columns(name: str, args: tuple[Any, ...]) -> list[list[Any] | None]:
    """The positional arguments as lists of items; None for one that is the same in every call."""
    columns = [list(arg) if _is_iterated(arg) else None for arg in args]
    if all(column is None for column in columns):
        raise KitaruUsageError(f"{name}.map() and .product() need a list, or another iterable.")
    return columns


def _is_iterated(arg: Any) -> bool:
    return isinstance(arg, Iterable) and not isinstance(
        arg, str | bytes | bytearray | dict | asyncio.Future | set | frozenset
    )


def _in_step(name: str, args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    columns = _columns(name, args)
    lengths = {len(column) for column in columns if column is not None}
    if len(lengths) > 1:
        raise KitaruUsageError(f"{name}.map() needs lists of one length, not of {sorted(lengths)}.")
    count = lengths.pop()
    return list(
        zip(
            *(
                itertools.repeat(arg, count) if column is None else column
                for arg, column in zip(args, columns, strict=True)
            ),
            strict=True,
        )
    )


def _combined(name: str, args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    columns = _columns(name, args)
    return list(
        itertools.product(
            *(
                [arg] if column is None else column
                for arg, column in zip(args, columns, strict=True)
            )
        )
    )
