"""Executions as files: out of a journal, into another, and held against today's code."""

import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from journal import (
    Adoption,
    BlobNotFound,
    JournalError,
    RecordedEvent,
    SqliteReader,
    WrongExpectedVersion,
)
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import ExecutionStarted
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.history_file import SUFFIX, History, blobs_named, read, written
from kitaru.engine.source import flows_in, load_flow, load_module, load_target
from kitaru.engine.upcasts import decode_event
from kitaru.errors import KitaruBackendError, KitaruError, KitaruStateError, KitaruUsageError
from kitaru.operations import reading
from kitaru.operations.preflight import preflight
from kitaru.verdicts import Judgement, Verdict


class Exported(Struct, frozen=True):
    """An execution on its way into a file."""

    exec_id: str
    flow: str
    events: int
    content: bytes
    missing: tuple[str, ...] = ()
    """The values that are not in the journal any more, by digest."""


class Imported(Struct, frozen=True):
    """An execution that a file has brought."""

    exec_id: str
    flow: str
    status: str
    events: int
    was_there: bool = False
    """Whether this journal had the very same history already."""


class Checked(Struct, frozen=True):
    """One file, and what today's code makes of its execution."""

    file: str
    exec_id: str
    flow: str
    events: int
    verdict: Verdict


def export(reader: SqliteReader, exec_id: str) -> Exported:
    """One execution as the content of a file; what is recorded while it is read is not in it.

    The source of a fork does not come along: what was taken over from it is among the fork's own
    events. Raises KitaruStateError for an unknown execution, KitaruUsageError for an ambiguous id.
    """
    head = reading.find(reader, exec_id)
    events = reader.read_stream(head.stream, limit=head.version)
    blobs: dict[str, bytes] = {}
    missing: list[str] = []
    for digest in blobs_named(events):
        try:
            blobs[digest] = reader.get_blob(digest)
        except BlobNotFound:
            missing.append(digest)
    return _exported(head.name, events, blobs, missing)


async def export_from(runtime: Runtime, exec_id: str) -> Exported:
    """The same from a runtime's journal, also from one in memory, by the execution's full id."""
    stream = stream_of(exec_id)
    try:
        events = await runtime.journal.read_stream(stream)
        if not events:
            raise KitaruStateError(f"There is no execution {exec_id!r}.")
        blobs: dict[str, bytes] = {}
        missing: list[str] = []
        for digest in blobs_named(events):
            try:
                blobs[digest] = await runtime.journal.get_blob(digest)
            except BlobNotFound:
                missing.append(digest)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    return _exported(_flow_of(events), events, blobs, missing)


def _exported(
    flow: str, events: Sequence[RecordedEvent], blobs: dict[str, bytes], missing: Sequence[str]
) -> Exported:
    history = History(tuple(events), blobs, tuple(missing))
    content = written(history, flow=flow, written_by=_this_version())
    return Exported(history.exec_id, flow, len(events), content, history.missing)


def _this_version() -> str:
    try:
        return f"kitaru {version('kitaru')}"
    except PackageNotFoundError:
        return "kitaru"


def _flow_of(events: Sequence[RecordedEvent]) -> str:
    try:
        started = decode_event(events[0])
    except KitaruError:
        return ""
    return started.flow if isinstance(started, ExecutionStarted) else ""


async def take_in(runtime: Runtime, content: bytes, source: str) -> Imported:
    """Writes a file's execution into the runtime's journal, byte for byte as it was recorded.

    Nobody goes on with it by itself: an execution that has not ended waits for
    `kitaru executions resume`, since it may be going on where it comes from. Its results are not
    offered to other executions. `source` names the file in errors.

    Raises DamagedHistory or NewerHistory for the file, UnknownEvent or DamagedEvent for an event
    that this version cannot read, KitaruStateError when the journal has another history of that id,
    KitaruBackendError when it cannot be written.
    """
    history = read(content, source)
    state = fold(ABSENT, [decode_event(event) for event in history.events])
    if state.status is None:
        raise KitaruStateError(f"{source} does not begin with the start of an execution.")
    # Nobody is to go on with it by itself.
    head = replace(head_of(state), due_at=None)
    named = [history.blobs[each] for each in blobs_named(history.events) if each in history.blobs]
    imported = Imported(history.exec_id, state.flow, state.status.value, len(history.events))
    try:
        await runtime.journal.adopt(Adoption(history.events, head, tuple(named)))
    except WrongExpectedVersion:
        return await _known_already(runtime, history, imported)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    return imported


async def _known_already(runtime: Runtime, history: History, imported: Imported) -> Imported:
    there = await runtime.journal.read_stream(stream_of(history.exec_id))
    if [event.hash for event in there] == [event.hash for event in history.events]:
        return replace(imported, was_there=True)
    raise KitaruStateError(
        f"This journal has another history of execution {history.exec_id}, of {len(there)} events: "
        "it is not overwritten. Import into another journal (KITARU_JOURNAL)."
    )


# held against code


def history_files(places: Iterable[str]) -> list[str]:
    """The history files that are meant: themselves, or those of a folder and of those in it.

    Raises KitaruUsageError for a place that is not there, or where there are none at all.
    """
    given = list(places)
    found: list[str] = []
    for place in given:
        path = Path(place)
        if path.is_dir():
            found += sorted(str(file) for file in path.rglob(f"*{SUFFIX}"))
        elif path.is_file():
            found.append(place)
        else:
            raise KitaruUsageError(f"There is no file or folder {place}.")
    if not found:
        raise KitaruUsageError(
            f"There are no histories in {', '.join(given) or 'no folder at all'}: files whose name "
            f"ends in {SUFFIX}, as `kitaru journal export` writes them."
        )
    return found


FindFlow = Callable[[ExecutionStarted], FlowDefinition]
"""Today's code of an execution's flow. Raises KitaruError when there is none."""


def flows_among(targets: Sequence[str]) -> FindFlow:
    """Finds flows in these files and modules (``place`` or ``place:flow``); without any, where
    each execution says that its flow was.

    Raises KitaruUsageError for a target that cannot be loaded, or has no flow.
    """
    if not targets:
        return _as_recorded
    flows = [flow for target in targets for flow in _flows_of(target)]

    def find(started: ExecutionStarted) -> FlowDefinition:
        named = [flow for flow in flows if flow.name == started.flow]
        exact = [flow for flow in named if flow.reference.module == started.source.module]
        found = exact or named
        if len({id(flow.definition) for flow in found}) == 1:
            definition: FlowDefinition = found[0].definition
            return definition
        there = ", ".join(sorted({flow.name for flow in flows}))
        problem = "several flows" if found else "no flow"
        raise KitaruUsageError(
            f"{', '.join(targets)} has {problem} named {started.flow!r}; found: {there}."
        )

    return find


def _as_recorded(started: ExecutionStarted) -> FlowDefinition:
    definition: FlowDefinition = load_flow(started.source).definition
    return definition


def _flows_of(target: str) -> list[Any]:
    place, separator, name = target.rpartition(":")
    if separator and place and name.isidentifier() and os.sep not in name:
        return [load_target(target)]
    flows = list(flows_in(load_module(target)).values())
    if not flows:
        raise KitaruUsageError(f"{target} defines no flow; decorate one with @flow.")
    return flows


def check(file: str, find: FindFlow, *, seconds: float = 10.0) -> Checked:
    """What today's code makes of the execution in a file.

    What is wrong with the file, or with loading the flow, is a verdict, too: unknown. Blocks.
    """
    exec_id, flow, events = "", "", 0
    try:
        history = read(Path(file).read_bytes(), file)
        exec_id, events = history.exec_id, len(history.events)
        started = decode_event(history.events[0])
        if not isinstance(started, ExecutionStarted):
            raise KitaruStateError("It does not begin with the start of an execution.")
        flow = started.flow
        definition = find(started)
    except (KitaruError, OSError) as error:
        return Checked(file, exec_id, flow, events, _unjudged(str(error)))
    verdict = preflight(history.events, history.blobs, definition, seconds=seconds)
    return Checked(file, exec_id, flow, events, verdict)


def _unjudged(why: str) -> Verdict:
    return Verdict(judgement=Judgement.UNKNOWN, version=0, summary=why)
