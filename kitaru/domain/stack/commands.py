"""What can be asked of a stack."""

from msgspec import Struct

from kitaru.domain.stack.events import StackCreated


class Create(Struct, frozen=True):
    """Define a stack with these facts."""

    facts: StackCreated


class Delete(Struct, frozen=True):
    """Take a stack away."""


Command = Create | Delete
