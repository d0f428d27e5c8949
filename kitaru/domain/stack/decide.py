"""Which events a command leads to. All of a stack's rules are here."""

import re

from kitaru.domain.stack.commands import Command, Create, Delete
from kitaru.domain.stack.events import StackCreated, StackDeleted, StackEvent
from kitaru.domain.stack.state import StackState
from kitaru.errors import KitaruStateError, KitaruUsageError

LOCAL = "local"
"""The stack that is always there, and the type of such stacks: the process that starts a flow."""
PROCESS = "process"
"""The type of stacks on which every execution has a process of its own."""
TYPES = (LOCAL, PROCESS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def decide(state: StackState, command: Command) -> tuple[StackEvent, ...]:
    """The events that the command leads to in this state.

    Raises KitaruUsageError for a name or a type that no stack can have, KitaruStateError when the
    state forbids it.
    """
    match command:
        case Create(facts):
            return (_created(state, facts),)
        case Delete():
            if not state.exists:
                raise KitaruStateError("There is no such stack.")
            return (StackDeleted(),)


def checked_name(name: object) -> str:
    """The name, when a stack can have it. Raises KitaruUsageError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KitaruUsageError(
            f"{name!r} cannot be the name of a stack: up to 100 letters, digits, '.', '_' and '-' "
            "are, with a letter or a digit first."
        )
    return name


def _created(state: StackState, facts: StackCreated) -> StackCreated:
    checked_name(facts.name)
    if facts.name == LOCAL:
        raise KitaruStateError(f"The stack {LOCAL!r} is built in; choose another name.")
    if facts.type not in TYPES:
        raise KitaruUsageError(
            f"There are no stacks of type {facts.type!r}; the types are: {', '.join(TYPES)}."
        )
    if state.exists:
        raise KitaruStateError(
            f"The stack {facts.name!r} exists already; it is of type {state.type}."
        )
    return facts
