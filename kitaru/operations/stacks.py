"""Stacks: defining them, choosing one, and finding the one that a flow is to run on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from journal import Append, Head, HeadQuery, JournalError, WrongExpectedVersion
from kitaru import choice, settings
from kitaru.domain.execution.events import StackReference
from kitaru.domain.stack.commands import Command, Create, Delete
from kitaru.domain.stack.decide import LOCAL, checked_name, decide
from kitaru.domain.stack.events import StackCreated
from kitaru.domain.stack.state import StackState, evolve
from kitaru.engine.stacks import (
    CATEGORY,
    EXISTS,
    head_of_stack,
    new_stack_event,
    stack_state_in,
    stack_state_of,
    stream_of_stack,
)
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError
from kitaru.projections.stacks import StackInfo, local_stack, stack_of
from kitaru.settings import Layer, Origin

if TYPE_CHECKING:
    from kitaru.bootstrap import Runtime

MOST_STACKS = 1_000
ATTEMPTS_AT_A_RACE = 20
ALL_STACKS = HeadQuery(category=CATEGORY, states=(EXISTS,), limit=MOST_STACKS)


# reading


def listed(heads: Sequence[Head], active: str) -> list[StackInfo]:
    """All stacks, the built-in one first, then by name; `active` is the name of the one in force"""
    found = [stack_of(head, active) for head in heads]
    return [local_stack(active), *sorted(found, key=lambda stack: stack.name)]


def named(stacks: Sequence[StackInfo], name_or_id: str) -> StackInfo:
    """The stack with this name or id. Raises KitaruUsageError, which lists what there is."""
    for stack in stacks:
        if stack.name == name_or_id:
            return stack
    for stack in stacks:
        if stack.id == name_or_id:
            return stack
    raise KitaruUsageError(f"There is no stack {name_or_id!r}; {_there_are(stacks)}.")


def in_force(stacks: Sequence[StackInfo]) -> StackInfo:
    """The stack of flows that name none. Raises KitaruUsageError when it does not exist."""
    config = settings.resolve()
    found = [stack for stack in stacks if stack.name == config.stack]
    if found:
        return found[0]
    raise _unknown(config.stack, config.origins["stack"], stacks)


async def list_stacks(runtime: Runtime) -> list[StackInfo]:
    """All stacks of the journal, and the one that is always there."""
    return listed(await runtime.journal.heads(ALL_STACKS), settings.resolve().stack)


async def current_stack(runtime: Runtime) -> StackInfo:
    """The stack of flows that name none. Raises KitaruUsageError when it does not exist."""
    return in_force(await list_stacks(runtime))


async def find(runtime: Runtime, name: str, origin: Origin) -> StackReference | None:
    """The stack that a start names; None for the local one.

    `origin` is who named it. Raises KitaruUsageError, which lists what there is, when there is no
    such stack, also when it is the active one: never is another taken in its place.
    """
    if name == LOCAL:
        return None
    try:
        head = await runtime.journal.head(stream_of_stack(name)) if _is_name(name) else None
        if head is not None and head.state == EXISTS:
            state = stack_state_in(head)
            return StackReference(state.name, state.type)
        stacks = await list_stacks(runtime)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    raise _unknown(name, origin, stacks)


def _is_name(name: str) -> bool:
    try:
        checked_name(name)
    except KitaruUsageError:
        return False
    return True


def _unknown(name: str, origin: Origin, stacks: Sequence[StackInfo]) -> KitaruUsageError:
    if origin.layer is Layer.ACTIVE_STACK and not name:
        return KitaruUsageError(
            f"{origin.where} does not name a stack; {_there_are(stacks)}. Choose one with `kitaru "
            "stack use NAME`."
        )
    if origin.layer is Layer.ACTIVE_STACK:
        return KitaruUsageError(
            f"The active stack {name!r}, chosen in {origin.where}, does not exist (any more); "
            f"{_there_are(stacks)}. Choose one with `kitaru stack use NAME`."
        )
    return KitaruUsageError(
        f"There is no stack {name!r} ({origin.where}); {_there_are(stacks)}. `kitaru stack create "
        "NAME` makes one."
    )


def _there_are(stacks: Sequence[StackInfo]) -> str:
    return f"there are: {', '.join(stack.name for stack in stacks)}"


# changing


async def create_stack(
    runtime: Runtime,
    name: str,
    *,
    type: str = LOCAL,  # noqa: A002
    activate: bool = True,
    labels: Mapping[str, str] | None = None,
) -> StackInfo:
    """Defines a stack, and makes it the active one unless told otherwise.

    Raises KitaruUsageError for a name or type that no stack can have, KitaruStateError when there
    is one of that name, KitaruBackendError when it cannot be written.
    """
    facts = StackCreated(
        name=checked_name(name),
        stack_id=f"stack_{secrets.token_hex(8)}",
        type=type,
        labels=_labels(labels),
    )
    await _append_decided(runtime, name, Create(facts))
    if activate:
        _choose(name)
    return named(await list_stacks(runtime), name)


async def delete_stack(runtime: Runtime, name_or_id: str, *, force: bool = False) -> StackInfo:
    """Takes a stack away; executions that were started on it keep it as it was. Returns what it was

    Raises KitaruUsageError for an unknown one, KitaruStateError for the built-in one and, without
    `force`, for the active one; with it, nothing is chosen any more.
    """
    stack = named(await list_stacks(runtime), name_or_id)
    if stack.name == LOCAL:
        raise KitaruStateError(f"The stack {LOCAL!r} is built in and cannot be deleted.")
    chosen = choice.chosen_stack()
    is_chosen = chosen is not None and chosen.stack == stack.name
    if is_chosen and not force:
        raise KitaruStateError(
            f"The stack {stack.name!r} is the active one; choose another one first (`kitaru stack "
            "use NAME`), or delete it by force, and nothing is chosen then."
        )
    await _append_decided(runtime, stack.name, Delete())
    if is_chosen:
        choice.forget_choice()
        settings.forget_files()
    return stack


async def use_stack(runtime: Runtime, name_or_id: str) -> StackInfo:
    """Makes a stack the active one, for flows that no higher layer gives a stack; returns it.

    Raises KitaruUsageError for an unknown one.
    """
    stack = named(await list_stacks(runtime), name_or_id)
    _choose(stack.name)
    return named(await list_stacks(runtime), stack.name)


def _choose(name: str) -> None:
    choice.choose_stack(name)
    settings.forget_files()


def _labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    given = {} if labels is None else labels
    if not isinstance(given, Mapping) or not all(
        isinstance(text, str) for pair in given.items() for text in pair
    ):
        raise KitaruUsageError(f"labels={labels!r}: a mapping of texts to texts is needed.")
    try:
        "".join(text for pair in given.items() for text in pair).encode()
    except UnicodeEncodeError as error:
        raise KitaruUsageError(f"labels={labels!r}: {error.reason}.") from None
    return dict(given)


async def _append_decided(runtime: Runtime, name: str, command: Command) -> None:
    stream = stream_of_stack(name)
    try:
        for _ in range(ATTEMPTS_AT_A_RACE):
            recorded = await runtime.journal.read_stream(stream)
            state: StackState = stack_state_of(recorded)
            events = decide(state, command)
            for event in events:
                state = evolve(state, event)
            append = Append(
                stream=stream,
                events=tuple(map(new_stack_event, events)),
                expected_version=recorded[-1].version if recorded else 0,
                head=head_of_stack(state),
            )
            try:
                await runtime.journal.append(append)
            except WrongExpectedVersion:
                continue
            return
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    raise KitaruBackendError(f"The stack {name!r} changes too fast; try again.")
