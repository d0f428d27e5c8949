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
    Head,
    HeadQuery,
    JournalError,
    Lease,
    StaleLease,
    WrongExpectedVersion,
    open_reader,
)
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.commands import Move
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import DeploymentReference, SourceReference
from kitaru.domain.execution.state import ExecutionState
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
from kitaru.errors import KitaruBackendError, KitaruError, KitaruStateError
from kitaru.operations import deployments
from kitaru.operations.executions import wake_runners
from kitaru.operations.packaging import Package
from kitaru.operations.preflight import UNFINISHED, preflight
from kitaru.projections.deployments import DeployedVersion
from kitaru.stacks.candidates import CandidateReport, CandidateSpec, Judged, judge_candidate

if TYPE_CHECKING:
    from journal import SqliteReader

MOST_EXECUTIONS = 10_000
_UNPACKED = re.compile(r"[^\s'\"(]*\b[0-9a-f]{64}/")


class Moved(Struct, frozen=True, kw_only=True):
    """What came of the wish to move one execution."""

    exec_id: str
    is_moved: bool
    reason: str = ""
    """Why it was left where it is."""


def report(spec: CandidateSpec) -> CandidateReport:
    """What a candidate's process answers: it loads the code, and then only reads."""
    try:
        flow = load_flow(_source(spec))
    except KitaruError as error:
        return CandidateReport(problem=_in_bundle(str(error)))
    with open_reader(spec.journal) as reader:
        query = HeadQuery(
            category=CATEGORY,
            names=(spec.flow,),
            states=[status.value for status in UNFINISHED],
            limit=MOST_EXECUTIONS,
        )
        judged = [_judged(reader, head, flow.definition, spec) for head in reader.heads(query)]
    return CandidateReport(judged=tuple(reversed(judged)))


def _source(spec: CandidateSpec) -> SourceReference:
    with open(f"{spec.folder}/{spec.digest}", "rb") as file:
        data = file.read()
    folder = unpack(data, spec.digest, f"{spec.folder}/unpacked")
    entry = spec.entry
    source = SourceReference(entry.module, entry.qualname, entry.file, entry.root)
    return UnpackedCode(folder).source_of(source, entry.import_roots)


def _judged(
    reader: "SqliteReader", head: Head, definition: FlowDefinition, spec: CandidateSpec
) -> Judged:
    events = reader.read_stream(head.stream)
    state: ExecutionState = state_of(events)
    blobs = _Blobs(reader)
    verdict = preflight(events, blobs, definition, seconds=spec.seconds)
    return Judged(
        exec_id=exec_id_of(head.stream),
        status=head.state,
        deployed=None if state.deployment is None else state.deployment.version,
        is_running=head.owner is not None,
        events=len(events),
        verdict=replace(
            verdict,
            site=_in_bundle(verdict.site),
            recorded_site=_in_bundle(verdict.recorded_site),
            report=_in_bundle(verdict.report),
            summary=_in_bundle(verdict.summary),
        ),
    )


def _in_bundle(text: str) -> str:
    """The text with paths as they are in a bundle, wherever that was unpacked."""
    return _UNPACKED.sub("", text)


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
