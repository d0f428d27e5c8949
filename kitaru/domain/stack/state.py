"""Where a stack stands: the fold of its events. Total: every event has its case."""

from msgspec import Struct

from kitaru.domain.stack.events import StackCreated, StackDeleted, StackEvent


class StackState(Struct, frozen=True, omit_defaults=True):
    """What the rules of stacks decide on."""

    name: str = ""
    """Empty: there never was such a stack."""
    stack_id: str = ""
    type: str = ""
    labels: dict[str, str] = {}
    exists: bool = False


ABSENT = StackState()


def evolve(state: StackState, event: StackEvent) -> StackState:
    """The state after an event."""
    match event:
        case StackCreated(name=name, stack_id=stack_id, type=kind, labels=labels):
            return StackState(name, stack_id, kind, labels, exists=True)
        case StackDeleted():
            return StackState(name=state.name, stack_id=state.stack_id)
