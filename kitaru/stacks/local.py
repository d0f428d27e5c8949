"""Stacks of type `local`: executions run in the process that starts them, or serves their flow.

There is nothing to place: a start takes the lease itself, and what is abandoned is claimed by the
workers that serve its flow.
"""

from collections.abc import Callable, Sequence

from kitaru.domain.execution.events import StackReference
from kitaru.domain.stack.decide import LOCAL
from kitaru.image import ImageSettings
from kitaru.stacks.images.fields import check_image
from kitaru.stacks.port import Ended, Placed, Work


class LocalExecutor:
    """Leaves everything to the workers of this and other processes."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def prepare(self, image: ImageSettings) -> ImageSettings:
        """Raises KitaruUsageError for an image that asks for anything."""
        check_image(image, StackReference(LOCAL, LOCAL))
        return image

    def place(self, work: Work, secrets: dict[str, str]) -> bool:
        """Lets this process's worker look for it."""
        self._look()
        return True

    def placed(self) -> Sequence[Placed]:
        """None: a worker's runners are no processes of their own."""
        return ()

    def ended(self) -> Sequence[Ended]:
        """None."""
        return ()

    def stop(self, exec_id: str) -> bool:
        """False: there is no process to end."""
        return False
