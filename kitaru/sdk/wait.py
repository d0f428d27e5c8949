"""`kitaru.wait()`: a flow asks somebody, and goes on with the answer, however late it comes."""

from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import call_site
from kitaru.engine.codec import Codec
from kitaru.engine.context import CheckpointScope, scope
from kitaru.engine.sync_runner import SyncRunner
from kitaru.engine.waits import NO_DEFAULT, Wait, WaitTerms
from kitaru.errors import KitaruContextError, KitaruUsageError

T = TypeVar("T")
Deadline = float | timedelta | datetime | None
_codec = Codec()


class WaitFunction:
    """`kitaru.wait`: a sync flow is given the answer, an async one awaits it.

    `sync` and `aio` are the same for one colour each, and typed: what they give is of the schema's
    type.
    """

    def __call__(
        self,
        *,
        schema: Any = None,
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> Any:
        """Waits for an answer: in a sync flow it returns it, in an async flow it is to be awaited.

        `schema` says of what type the answer is: a class of Python's own, a dataclass, a msgspec
        Struct, a pydantic model, or a union such as ``int | None``; without one the wait only asks
        to go on, and gives None. `name` (without ``#``) tells waits apart (default ``wait``),
        `question` and `metadata` (a dict) are shown to whoever answers. `timeout` is how many
        seconds a runner stays around (600 unless said otherwise): the wait itself goes on for as
        long as it takes. `deadline`, in seconds, as a timedelta or as an aware datetime, ends it:
        then the body gets `default` or, without one, KitaruWaitExpired.

        Raises KitaruWaitAborted when somebody ends the wait without an answer, KitaruUsageError for
        terms that make no sense, KitaruContextError outside a flow's body.
        """
        runner = _runner()
        terms = _terms(schema, name, question, timeout, metadata, deadline, default)
        site = call_site(1)
        if isinstance(runner, AsyncRunner):
            return _wait_async(runner, terms, site)
        return _wait(runner, terms, site)

    @overload
    def sync(
        self,
        *,
        schema: type[T],
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> T: ...
    @overload
    def sync(
        self,
        *,
        schema: Any = None,
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> Any: ...
    def sync(
        self,
        *,
        schema: Any = None,
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> Any:
        """In a sync flow: blocks until the answer is there. Takes and raises what a call does."""
        runner = _runner()
        if isinstance(runner, AsyncRunner):
            raise KitaruUsageError(
                "kitaru.wait.sync() would block the async flow it is called in; use "
                "`await kitaru.wait(...)`."
            )
        terms = _terms(schema, name, question, timeout, metadata, deadline, default)
        return _wait(runner, terms, call_site(1))

    @overload
    def aio(
        self,
        *,
        schema: type[T],
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def aio(
        self,
        *,
        schema: Any = None,
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> Coroutine[Any, Any, Any]: ...
    def aio(
        self,
        *,
        schema: Any = None,
        name: str | None = None,
        question: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
        deadline: Deadline = None,
        default: Any = NO_DEFAULT,
    ) -> Any:
        """In an async flow: to be awaited. Takes and raises what a call does."""
        runner = _runner()
        if isinstance(runner, SyncRunner):
            raise KitaruUsageError(
                "kitaru.wait.aio() cannot be awaited in a sync flow; use `kitaru.wait(...)`."
            )
        terms = _terms(schema, name, question, timeout, metadata, deadline, default)
        return _wait_async(runner, terms, call_site(1))


wait = WaitFunction()


def _runner() -> AsyncRunner | SyncRunner:
    here = scope.get()
    if here is None:
        raise KitaruContextError("wait() can only run inside a @flow.")
    if isinstance(here, CheckpointScope):
        raise KitaruContextError(
            "wait() cannot run inside a @checkpoint. Move the wait to flow scope, before or after "
            "checkpoint calls."
        )
    runner: AsyncRunner | SyncRunner = here.runner
    return runner


def _terms(
    schema: Any,
    name: str | None,
    question: str | None,
    timeout: float | None,
    metadata: dict[str, Any] | None,
    deadline: Deadline,
    default: Any,
) -> WaitTerms:
    return WaitTerms(
        _codec,
        schema=schema,
        name=name,
        question=question,
        timeout=timeout,
        metadata=metadata,
        deadline=deadline,
        default=default,
    )


def _wait(runner: SyncRunner, terms: WaitTerms, site: str) -> Any:
    return runner.wait(Wait(terms, runner.new_path(terms.name, None), site))


def _wait_async(runner: AsyncRunner, terms: WaitTerms, site: str) -> Coroutine[Any, Any, Any]:
    # The path is fixed by the call, not by when it is awaited.
    return runner.wait(Wait(terms, runner.new_path(terms.name), site))
