"""Whether code fits recorded executions, before it runs them: nothing is written, nothing runs."""

import asyncio
from collections.abc import Mapping, Sequence

from journal import BlobNotFound, Head, HeadQuery, JournalError, RecordedEvent
from kitaru.bootstrap import Runtime
from kitaru.engine.codec import Codec
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.executions import CATEGORY, exec_id_of
from kitaru.engine.preflight import SECONDS, judge
from kitaru.errors import KitaruBackendError
from kitaru.status import ExecutionStatus
from kitaru.verdicts import Verdict

UNFINISHED = (ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.DIVERGED)
PAGE = 500


def preflight(
    events: Sequence[RecordedEvent],
    blobs: Mapping[str, bytes],
    definition: FlowDefinition,
    *,
    seconds: float = SECONDS,
) -> Verdict:
    """What this code makes of one execution: its events from version 1 on, and blobs by digest.

    Safe where it asks for all that is recorded (and, of a finished execution, ends as recorded);
    diverges at an event; or unknown beyond one: a value that is gone or cannot be decoded, a call
    in flight that the code does not ask for, a body that comes to no next call within `seconds`.
    Blocks, for at most so long. The flow's own body runs; nothing is written, no checkpoint runs.
    """

    def read(digest: str) -> bytes:
        if digest not in blobs:
            raise BlobNotFound(digest)
        return blobs[digest]

    return judge(events, read, definition, Codec(), seconds=seconds)


async def preflight_unfinished(
    runtime: Runtime, flow: str, definition: FlowDefinition, *, seconds: float = SECONDS
) -> list[tuple[str, Verdict]]:
    """What this code makes of every unfinished execution of the flow of that name, oldest first.

    Each as it stands when it is read: one that runs goes on meanwhile. Diverged executions are
    among them. On the runtime's loop. Raises KitaruBackendError when the journal cannot be read.
    """
    try:
        heads = await _unfinished(runtime, flow)
        return [
            (exec_id_of(head.stream), await _judged(runtime, head, definition, seconds))
            for head in reversed(heads)
        ]
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error


async def _unfinished(runtime: Runtime, flow: str) -> list[Head]:
    found: list[Head] = []
    cursor: str | None = None
    while True:
        query = HeadQuery(
            category=CATEGORY,
            names=(flow,),
            states=[status.value for status in UNFINISHED],
            limit=PAGE,
            cursor=cursor,
        )
        page = await runtime.journal.heads(query)
        found += page
        if len(page) < PAGE:
            return found
        cursor = page[-1].stream


async def _judged(
    runtime: Runtime, head: Head, definition: FlowDefinition, seconds: float
) -> Verdict:
    events = await runtime.journal.read_stream(head.stream)
    loop = asyncio.get_running_loop()

    def read(digest: str) -> bytes:
        reading = asyncio.run_coroutine_threadsafe(runtime.journal.get_blob(digest), loop)
        return reading.result()

    return await asyncio.to_thread(judge, events, read, definition, runtime.codec, seconds=seconds)
