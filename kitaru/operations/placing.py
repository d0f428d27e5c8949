"""Where an execution is to run: the stack that is asked for, and how it gets there."""

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from journal import JournalError, StaleLease, WrongExpectedVersion
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import FrozenOptions, SourceReference, StackReference
from kitaru.domain.stack.decide import LOCAL
from kitaru.errors import KitaruBackendError, KitaruError, KitaruUsageError
from kitaru.image import NO_IMAGE, ImageSettings
from kitaru.operations import executions, stacks
from kitaru.settings import Origin
from kitaru.stacks.images.fields import check_image
from kitaru.stacks.port import Work
from kitaru.telemetry import LogEvent, report

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
        return self.stack == LOCAL and (self.image is NO_IMAGE or not self.image.given())


class Placement(Struct, frozen=True):
    """A stack that exists, and an image that it can honour."""

    stack: StackReference | None
    """None: this very process."""
    image: ImageSettings

    @property
    def recorded(self) -> ImageSettings:
        """What of the image is written down: no secret's value is in it."""
        return self.image.storable()

    def onto(self, options: FrozenOptions) -> FrozenOptions:
        """The options with what of this is written down."""
        image = self.recorded if self.image.given() else None
        return replace(options, stack=self.stack, image=image)


async def find(runtime: Runtime, wanted: Wanted) -> Placement:
    """Looks up what a start asks for, and makes what its image asks for; nothing is started yet.

    Raises KitaruUsageError for a stack that does not exist, and for what of the image it cannot
    honour, KitaruImageError when the image cannot be made.
    """
    stack = await stacks.find(runtime, wanted.stack, wanted.origin)
    check_image(wanted.image, stack or _HERE)
    if stack is None or stack.type == LOCAL:
        return Placement(stack, wanted.image)
    executor = runtime.placer.executors[stack.type]
    # Not on the loop: an environment may have to be built.
    return Placement(stack, await asyncio.to_thread(executor.prepare, wanted.image))


async def start(runtime: Runtime, prepared: executions.Prepared, wanted: Wanted) -> None:
    """Starts an execution where it is wanted; returns once it is durable."""
    if wanted.is_local:
        await executions.start(runtime, prepared)
        return
    placement = await find(runtime, wanted)
    check_findable(prepared.reference, placement)
    options = placement.onto(prepared.event.options)
    await start_on(runtime, executions.with_options(prepared, options), placement)


def check_findable(reference: SourceReference, placement: Placement) -> None:
    """Raises KitaruUsageError for a flow that a runner of the stack could not find."""
    if placement.stack is None or placement.stack.type == LOCAL:
        return
    if not reference.file:
        problem = "was defined at a prompt or in a notebook; keep it in a file"
    elif "<locals>" in reference.qualname:
        problem = "is defined inside a function; move it to the top level of its module"
    else:
        return
    raise KitaruUsageError(
        f"Flow {reference.qualname!r} cannot run on the stack {placement.stack.name!r}, whose "
        f"runners are processes of their own and cannot find it: it {problem}."
    )


async def start_on(runtime: Runtime, prepared: executions.Prepared, placement: Placement) -> None:
    """Starts an execution that was made for this placement; returns once it is durable."""
    stack = placement.stack
    if stack is None or stack.type == LOCAL:
        await executions.start(runtime, prepared)
        return
    placer = runtime.placer
    append = replace(prepared.append, claim=None)
    try:
        await runtime.journal.append(append)
    except (WrongExpectedVersion, StaleLease):
        await executions.check_same_start(
            runtime, prepared.exec_id, prepared.event, prepared.append.blobs
        )
        return
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    work = Work(
        exec_id=prepared.exec_id,
        epoch=0,
        stack=stack.name,
        image=placement.recorded,
    )
    try:
        await placer.place(stack.type, work, placement.image.secrets())
    except KitaruError as error:
        # It is durable, and whoever looks after the stack tries again.
        report(LogEvent.EXECUTION_NOT_PLACED, exec_id=prepared.exec_id, error=str(error))
