"""Where an execution is to run: the stack that is asked for, and how it gets there."""

from msgspec import Struct
from msgspec.structs import replace

from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import FrozenOptions, StackReference
from kitaru.domain.stack.decide import LOCAL
from kitaru.errors import KitaruFeatureNotAvailableError
from kitaru.image import ImageSettings
from kitaru.operations import executions, stacks
from kitaru.settings import Origin
from kitaru.stacks.images.fields import check_image

_HERE = StackReference(LOCAL, LOCAL)


class Wanted(Struct, frozen=True):
    """What a start asks for, before anybody has looked whether it can be had."""

    stack: str
    origin: Origin
    """Who named the stack."""
    image: ImageSettings

    @property
    def is_local(self) -> bool:
        """Whether it is to run in this very process, and asks for nothing else."""
        return self.stack == LOCAL and not self.image.given()


class Placement(Struct, frozen=True):
    """A stack that exists, and an image that it can honour."""

    stack: StackReference | None
    """None: this very process."""
    image: ImageSettings

    def onto(self, options: FrozenOptions) -> FrozenOptions:
        """The options with what of this is written down: no secret's value is in it."""
        image = self.image.storable() if self.image.given() else None
        return replace(options, stack=self.stack, image=image)


async def find(runtime: Runtime, wanted: Wanted) -> Placement:
    """Looks up what a start asks for; nothing has happened yet.

    Raises KitaruUsageError for a stack that does not exist, and for what of the image it cannot
    honour.
    """
    stack = await stacks.find(runtime, wanted.stack, wanted.origin)
    check_image(wanted.image, stack or _HERE)
    return Placement(stack, wanted.image)


async def start(runtime: Runtime, prepared: executions.Prepared, wanted: Wanted) -> None:
    """Starts an execution where it is wanted; returns once it is durable."""
    if wanted.is_local:
        await executions.start(runtime, prepared)
        return
    placement = await find(runtime, wanted)
    options = placement.onto(prepared.event.options)
    await start_on(runtime, executions.with_options(prepared, options), placement)


async def start_on(runtime: Runtime, prepared: executions.Prepared, placement: Placement) -> None:
    """Starts an execution that was made for this placement; returns once it is durable."""
    if placement.stack is None or placement.stack.type == LOCAL:
        await executions.start(runtime, prepared)
        return
    raise KitaruFeatureNotAvailableError(
        f"Stacks of type {placement.stack.type} cannot run executions yet."
    )
