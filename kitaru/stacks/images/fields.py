"""Which fields of an image a stack can honour. What it cannot is refused before the run."""

from collections.abc import Mapping

from kitaru.domain.execution.events import StackReference
from kitaru.domain.stack.decide import LOCAL, PROCESS
from kitaru.errors import KitaruUsageError
from kitaru.image import ImageSettings

HONOURED: Mapping[str, frozenset[str]] = {
    LOCAL: frozenset(),
    PROCESS: frozenset(
        {
            "requirements",
            "environment",
            "secret_environment_from",
            "replicate_local_python_environment",
        }
    ),
}
"""Type of stack → the fields that it gives a runner."""

_WHY = {
    LOCAL: "flows run in this very process there",
    PROCESS: "its runners are processes of this machine, without a container",
}


def check_image(image: ImageSettings, stack: StackReference) -> None:
    """Raises KitaruUsageError when the stack cannot honour a field that is set."""
    unfit = [name for name in image.given() if name not in HONOURED[stack.type]]
    if not unfit:
        return
    fields = ", ".join(f"image.{name}" for name in unfit)
    can = ", ".join(sorted(HONOURED[stack.type])) or "no field of an image"
    raise KitaruUsageError(
        f"{fields}: the stack {stack.name!r} (of type {stack.type}) cannot honour it, because "
        f"{_WHY[stack.type]}; it honours {can}. Take it away, or choose another stack."
    )
