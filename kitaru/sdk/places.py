"""Where a flow may be started: not where each replay or each load of a file would do it again."""

from kitaru.engine.context import FlowScope, scope
from kitaru.engine.source import loading
from kitaru.errors import KitaruContextError


def check_place(name: str) -> None:
    """Raises KitaruContextError where the flow of this name cannot be started."""
    if isinstance(scope.get(), FlowScope):
        raise KitaruContextError(
            f"Flow {name!r} cannot be started from another flow's body: each replay would start it "
            "again. Start it inside a @checkpoint."
        )
    loaded = loading()
    if loaded is not None:
        raise KitaruContextError(
            f"Flow {name!r} would be started while {loaded} is being loaded for another execution. "
            'Put the start behind `if __name__ == "__main__":`.'
        )
