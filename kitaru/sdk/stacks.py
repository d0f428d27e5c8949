"""Stacks: what there is, which one is chosen, and how they come and go."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from kitaru.operations import stacks as operations
from kitaru.projections.stacks import StackInfo
from kitaru.sdk.loops import block, on_runtime

T = TypeVar("T")


class AsyncStacks:
    """The stacks of the configured journal."""

    async def list(self) -> "list[StackInfo]":
        """All stacks; the built-in one, ``local``, comes first."""
        return await on_runtime(operations.list_stacks)

    async def current(self) -> StackInfo:
        """The stack of flows that name none. Raises KitaruUsageError when it does not exist."""
        return await on_runtime(operations.current_stack)

    async def get(self, name_or_id: str) -> StackInfo:
        """One stack. Raises KitaruUsageError, which lists what there is."""
        return operations.named(await self.list(), name_or_id)

    async def use(self, name_or_id: str) -> StackInfo:
        """Makes a stack the active one; see `kitaru.use_stack`."""
        return await on_runtime(lambda runtime: operations.use_stack(runtime, name_or_id))

    async def create(
        self,
        name: str,
        *,
        type: str = "local",  # noqa: A002
        activate: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> StackInfo:
        """Defines a stack; see `kitaru.create_stack`."""
        return await on_runtime(
            lambda runtime: operations.create_stack(
                runtime, name, type=type, activate=activate, labels=labels
            )
        )

    async def delete(self, name_or_id: str, *, force: bool = False) -> StackInfo:
        """Takes a stack away; see `kitaru.delete_stack`."""
        return await on_runtime(
            lambda runtime: operations.delete_stack(runtime, name_or_id, force=force)
        )


class Stacks:
    """The stacks of the configured journal."""

    def __init__(self) -> None:
        self._aio = AsyncStacks()

    def list(self) -> "list[StackInfo]":
        """All stacks; the built-in one, ``local``, comes first."""
        return _block("stacks.list()", self._aio.list)

    def current(self) -> StackInfo:
        """The stack of flows that name none. Raises KitaruUsageError when it does not exist."""
        return _block("stacks.current()", self._aio.current)

    def get(self, name_or_id: str) -> StackInfo:
        """One stack. Raises KitaruUsageError, which lists what there is."""
        return _block("stacks.get()", lambda: self._aio.get(name_or_id))

    def use(self, name_or_id: str) -> StackInfo:
        """Makes a stack the active one; see `kitaru.use_stack`."""
        return _block("stacks.use()", lambda: self._aio.use(name_or_id))

    def create(
        self,
        name: str,
        *,
        type: str = "local",  # noqa: A002
        activate: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> StackInfo:
        """Defines a stack; see `kitaru.create_stack`."""
        return _block(
            "stacks.create()",
            lambda: self._aio.create(name, type=type, activate=activate, labels=labels),
        )

    def delete(self, name_or_id: str, *, force: bool = False) -> StackInfo:
        """Takes a stack away; see `kitaru.delete_stack`."""
        return _block("stacks.delete()", lambda: self._aio.delete(name_or_id, force=force))


def list_stacks() -> list[StackInfo]:
    """All stacks of the configured journal; the built-in one, ``local``, comes first."""
    return _block("list_stacks()", AsyncStacks().list)


def current_stack() -> StackInfo:
    """The stack on which flows run that name none of their own.

    It is what `configure`, ``KITARU_STACK``, pyproject.toml or, below them, `use_stack` say. Raises
    KitaruUsageError when there is no such stack (any more).
    """
    return _block("current_stack()", AsyncStacks().current)


def use_stack(name_or_id: str) -> StackInfo:
    """Makes a stack the active one, also for later processes, and returns it.

    Kept for a project in the nearest ``.kitaru/``, else for the user. Every other layer stands
    above it: where one of them names a stack, the returned `StackInfo.is_active` is False. Raises
    KitaruUsageError for an unknown stack, KitaruBackendError when the choice cannot be written.
    """
    return _block("use_stack()", lambda: AsyncStacks().use(name_or_id))


def create_stack(
    name: str,
    *,
    type: str = "local",  # noqa: A002
    activate: bool = True,
    labels: Mapping[str, str] | None = None,
) -> StackInfo:
    """Defines a stack in the configured journal and, unless told otherwise, makes it active.

    `type` is ``local`` (flows run in the process that starts them) or ``process`` (every execution
    has a process of its own). `labels` are texts of your own. Raises KitaruUsageError for a name or
    a type that no stack can have, KitaruStateError when there is one of that name.
    """
    return _block(
        "create_stack()",
        lambda: AsyncStacks().create(name, type=type, activate=activate, labels=labels),
    )


def delete_stack(name_or_id: str, *, force: bool = False) -> StackInfo:
    """Takes a stack away and returns what it was.

    Executions that were started on it go on as they were placed. Raises KitaruUsageError for an
    unknown stack, KitaruStateError for the built-in one, and for the active one without `force`.
    """
    return _block("delete_stack()", lambda: AsyncStacks().delete(name_or_id, force=force))


def _block(what: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return block(what, "use AsyncKitaruClient().stacks", make, depth=4)
