"""Stacks as people see them, folded from their heads."""

from datetime import datetime

from msgspec import Struct

from journal import Head
from kitaru.domain.stack.decide import LOCAL
from kitaru.engine.stacks import stack_state_in
from kitaru.projections.instants import instant


class StackInfo(Struct, frozen=True, kw_only=True):
    """Where flow code can run."""

    id: str
    """Tells a stack from one of the same name that was deleted before it."""
    name: str
    type: str
    """``local``: the process that starts a flow; ``process``: one for each execution."""
    is_active: bool = False
    """Whether flows run on it that name no stack of their own."""
    labels: dict[str, str] = {}
    created_at: datetime | None = None
    """None for the built-in one."""


def local_stack(active: str) -> StackInfo:
    """The stack that is always there."""
    return StackInfo(id=LOCAL, name=LOCAL, type=LOCAL, is_active=active == LOCAL)


def stack_of(head: Head, active: str) -> StackInfo:
    """A stack as its head tells it; `active` is the name of the one in force."""
    state = stack_state_in(head)
    return StackInfo(
        id=state.stack_id,
        name=state.name,
        type=state.type,
        is_active=state.name == active,
        labels=state.labels,
        created_at=instant(head.updated_at),
    )
