"""The flows that this process runs, and whose abandoned executions it therefore takes over."""

from collections.abc import Callable

from kitaru.domain.execution.events import SourceReference
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.deployed import Code, OwnCode, Place

Loader = Callable[[SourceReference], FlowDefinition]
"""Finds an execution's flow. Raises KitaruUsageError or KitaruStateError."""


class Registry:
    """Flow definitions by name; several files may each have a flow of one name."""

    def __init__(self, load: Loader, place: Place | None = None) -> None:
        self._load = load
        self._place: Place = OwnCode() if place is None else place
        self._served: dict[str, list[tuple[SourceReference, FlowDefinition]]] = {}

    @property
    def names(self) -> list[str]:
        """The names of the flows that are served here."""
        return list(self._served)

    async def source_of(self, code: Code) -> SourceReference:
        """Where the code of an execution is here. Raises KitaruError where it is not."""
        return await self._place.source_of(code)

    def serve(self, reference: SourceReference, definition: FlowDefinition) -> None:
        """From now on executions of this flow are run and taken over here."""
        served = self._served.setdefault(definition.name, [])
        if not any(known is definition for _, known in served):
            served.append((reference, definition))

    def find(self, reference: SourceReference) -> FlowDefinition:
        """The definition for an execution that was started with this reference.

        Raises KitaruUsageError or KitaruStateError when its code cannot be loaded here.
        """
        for served in self._served.values():
            # The last one wins: a notebook cell that was run again replaces its flow.
            for known, definition in reversed(served):
                if _same_place(known, reference):
                    return definition
        return self._load(reference)


def _same_place(one: SourceReference, other: SourceReference) -> bool:
    if one.qualname != other.qualname:
        return False
    if one.file or other.file:
        return one.file == other.file
    return one.module == other.module
