"""Judging unfinished executions by code that is not deployed yet, and moving those that it fits."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from journal import (
    Append,
    BlobNotFound,
    ClaimQuery,
    CorruptJournal,
    Head,
    HeadQuery,
    JournalError,
    Lease,
    RecordedEvent,
    StaleLease,
    WrongExpectedVersion,
    open_reader,
)
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.commands import Move
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import DeploymentReference, SourceReference
from kitaru.engine.bundles import unpack
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.deployed import UnpackedCode
from kitaru.engine.executions import (
    CATEGORY,
    exec_id_of,
    fold,
    head_of,
    new_event,
    state_of,
    stream_of,
)
from kitaru.engine.source import load_flow
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent
from kitaru.errors import KitaruBackendError, KitaruError, KitaruStateError
from kitaru.operations import deployments
from kitaru.operations.executions import wake_runners
from kitaru.operations.packaging import Package
from kitaru.operations.preflight import UNFINISHED, preflight
from kitaru.projections.deployments import DeployedVersion
from kitaru.projections.executions import summary_of
from kitaru.stacks.candidates import (
    CandidateReport,
    CandidateSpec,
    Judged,
    answer_of,
    end_with_asker,
    judge_candidate,
)
from kitaru.verdicts import Judgement, Verdict

if TYPE_CHECKING:
    from journal import SqliteReader

PAGE = 500
_UNPACKED = re.compile(r"[^\s'\"(]*\b[0-9a-f]{64}/")


class Moved(Struct, frozen=True, kw_only=True):
    """What came of the wish to move one execution."""

    exec_id: str
    is_moved: bool
    reason: str = ""
    """Why it was left where it is."""


def answer(spec: CandidateSpec) -> None:
    """What a candidate's process does: it loads the code, and then only reads, and answers."""
    end_with_asker(spec)
    answer = answer_of(spec)
    try:
        flow = load_flow(_source(spec))
    except KitaruError as error:
        answer.add(problem=_plain(str(error)), is_done=True)
        return
    answer.add(is_loaded=True)
    with open_reader(spec.journal) as reader:
        for head in _unfinished(reader, spec.flow):
            exec_id = exec_id_of(head.stream)
            if exec_id not in answer.judged:
                begun = _begun(reader, head)
                # Should the code end this process, it is known over which execution.
                answer.add(judged=begun.judged, begins=True)
                answer.add(judged=_judged(reader, begun, flow.definition, spec))
    answer.add(is_done=True)


def _unfinished(reader: "SqliteReader", flow: str) -> list[Head]:
    """Oldest first."""
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
        page = reader.heads(query)
        found += page
        if len(page) < PAGE:
            return found[::-1]
        cursor = page[-1].stream


def _source(spec: CandidateSpec) -> SourceReference:
    with open(f"{spec.folder}/{spec.digest}", "rb") as file:
        data = file.read()
    folder = unpack(data, spec.digest, f"{spec.folder}/unpacked")
    entry = spec.entry
    source = SourceReference(entry.module, entry.qualname, entry.file, entry.root)
    return UnpackedCode(folder).source_of(source, entry.import_roots)


class _Begun(Struct, frozen=True):
    judged: Judged
    """What is known before its body runs."""
    events: list[RecordedEvent]
    """Empty where they cannot be read, which is told already."""


def _begun(reader: "SqliteReader", head: Head) -> _Begun:
    deployment = summary_of(head).deployment
    events: list[RecordedEvent] = []
    problem = "it is not judged yet"
    try:
        events = reader.read_stream(head.stream)
        # Where the events go further than the head, which was read before them, they count.
        deployment = state_of(events).deployment
    except (CorruptJournal, DamagedEvent) as error:
        events, problem = [], _plain(str(error))
    except UnknownEvent:
        # What is before it can be judged.
        problem = ""
    judged = Judged(
        exec_id=exec_id_of(head.stream),
        status=head.state,
        deployed=None if deployment is None else deployment.version,
        is_running=head.owner is not None,
        events=len(events),
        verdict=Verdict(judgement=Judgement.UNKNOWN, version=0, summary=problem),
    )
    return _Begun(judged, events)


def _judged(
    reader: "SqliteReader", begun: _Begun, definition: FlowDefinition, spec: CandidateSpec
) -> Judged:
    if not begun.events:
        return begun.judged
    verdict = preflight(begun.events, _Blobs(reader), definition, seconds=spec.seconds)
    return replace(
        begun.judged,
        verdict=replace(
            verdict,
            site=_plain(verdict.site),
            recorded_site=_plain(verdict.recorded_site),
            report=_plain(verdict.report),
            summary=_plain(verdict.summary),
        ),
    )


def _plain(text: str) -> str:
    """The text with paths as they are in a bundle, wherever that was unpacked.

    What UTF-8 cannot say is an escape in it.
    """
    return _UNPACKED.sub("", text).encode("utf-8", "backslashreplace").decode()


class _Blobs(dict[str, bytes]):
    """The journal's blobs, read when they are asked for."""

    def __init__(self, reader: "SqliteReader") -> None:
        super().__init__()
        self._reader = reader

    def __contains__(self, digest: object) -> bool:
        try:
            self[str(digest)]
        except BlobNotFound:
            return False
        return True

    def __missing__(self, digest: str) -> bytes:
        self[digest] = self._reader.get_blob(digest)
        return self[digest]


def check(runtime: Runtime, flow: str, package: Package, *, seconds: float) -> CandidateReport:
    """Judges the flow's unfinished executions by a package; nothing is written. Blocks."""
    facts, bundle = package.facts, package.bundle
    return judge_candidate(
        runtime.url, flow, bundle.data, bundle.digest, facts.entry, seconds=seconds
    )


async def move_safe(
    runtime: Runtime, version: DeployedVersion, judged: Sequence[Judged]
) -> list[Moved]:
    """Moves those executions to a version that its code was found to fit, and leaves the others.

    Each under a lease of its own, and only while it stands where it was judged: what a process is
    running now, and what has gone on since, is left alone.
    """
    facts = await deployments.facts_of(runtime, version.flow, version.version)
    source = deployments.source_of(facts)
    command = Move(deployments.reference_of(version.flow, facts), source, facts.fingerprint)
    moved = [await _move(runtime, each, command) for each in judged]
    await wake_runners(runtime)
    return moved


async def _move(runtime: Runtime, judged: Judged, command: Move) -> Moved:
    left = _why_left(judged, command.deployment)
    if left:
        return Moved(exec_id=judged.exec_id, is_moved=False, reason=left)
    try:
        left = await _move_under_lease(runtime, judged, command)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    return Moved(exec_id=judged.exec_id, is_moved=not left, reason=left)


def _why_left(judged: Judged, deployment: DeploymentReference) -> str:
    if judged.deployed is None:
        return "it was started with run(), and runs the code of whoever has it"
    if judged.deployed == deployment.version:
        return "it runs this version already"
    if not judged.verdict.is_safe:
        return f"{judged.verdict.judgement}: {judged.verdict.summary}"
    return ""


async def _move_under_lease(runtime: Runtime, judged: Judged, command: Move) -> str:
    """Why it was left; empty: it was moved."""
    query = ClaimQuery(
        category=CATEGORY,
        names=(),
        claim=runtime.worker.claim,
        limit=1,
        stream=stream_of(judged.exec_id),
    )
    claimed = await runtime.journal.claim(query)
    if not claimed:
        return "a runner has it now"
    _, lease = claimed[0]
    try:
        left = await _append_move(runtime, judged, command, lease)
    except (WrongExpectedVersion, StaleLease):
        left = "it has gone on since it was judged"
    if left:
        await runtime.journal.release(lease)
    return left


async def _append_move(runtime: Runtime, judged: Judged, command: Move, lease: Lease) -> str:
    recorded = await runtime.journal.read_stream(lease.stream)
    if len(recorded) != judged.events:
        return "it has gone on since it was judged"
    state = state_of(recorded)
    try:
        events = decide(state, command)
    except KitaruStateError as error:
        return str(error)
    await runtime.journal.append(
        Append(
            stream=lease.stream,
            events=tuple(map(new_event, events)),
            expected_version=len(recorded),
            head=head_of(fold(state, events)),
            lease=lease,
            release=True,
        )
    )
    return ""
