"""Looking at executions without an event loop, for surfaces that must start at once."""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from journal import (
    BlobNotFound,
    CorruptJournal,
    Head,
    HeadChange,
    HeadQuery,
    JournalError,
    RecordedEvent,
    open_reader,
)
from kitaru import settings
from kitaru.domain.deployment.events import VersionDeployed
from kitaru.domain.execution.state import ExecutionState
from kitaru.domain.ids import checked_id
from kitaru.domain.values import StoredValue
from kitaru.engine import deployments, stacks
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_deployment_event
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError
from kitaru.projections.executions import CATEGORY, execution_of, head_of, summary_of
from kitaru.projections.timeline import TimelineEntry, timeline_of
from kitaru.projections.views import Execution
from kitaru.status import ExecutionStatus

if TYPE_CHECKING:
    from journal import SqliteReader as SqliteReader

SHORTEST_PREFIX = 4
PAGE = 500
MOST_CANDIDATES = 5
MOST_FORKS = 1_000


class JournalMissing(KitaruBackendError):
    """There is no journal yet; reading never makes one."""

    def __init__(self, file: str, origin: str) -> None:
        super().__init__(
            f"There is no journal at {file} (named by {origin}): no flow has run with it yet. "
            "Another one is named by KITARU_JOURNAL, or by running in the project's folder."
        )
        self.file = file


class JournalPlace(Struct, frozen=True):
    """Where the journal is, or will be."""

    url: str
    file: str
    origin: str
    """What named it: an environment variable, a file, the built-in place."""


class Owner(Struct, frozen=True):
    """A process that runs executions now."""

    name: str
    executions: int
    lease_until: int
    """The latest end of its leases, in microseconds."""


class JournalStatus(Struct, frozen=True):
    """What the journal holds and what it stands on."""

    place: JournalPlace
    exists: bool
    bytes: int
    """Of the database and its write-ahead log."""
    sqlite_version: str
    has_wal_reset_bug: bool
    """Whether this SQLite can lose commits when its log is emptied without the write lock."""
    schema: int | None = None
    executions: dict[str, int] = {}
    """By status."""
    owners: tuple[Owner, ...] = ()


class Problem(Struct, frozen=True):
    """Something in a journal that is not as it must be."""

    stream: str
    version: int
    kind: Literal["altered", "missing", "swapped", "unreadable", "head", "newer"]
    """``head``: the stored state is not what the events lead to; ``newer``: no damage, but this
    version cannot read it."""
    what: str

    @property
    def is_damage(self) -> bool:
        """Whether the journal is damaged."""
        return self.kind != "newer"


class Verification(Struct, frozen=True):
    """What checking a journal has shown."""

    streams: int
    """How many executions were checked."""
    events: int
    """How many events of all that was checked."""
    problems: tuple[Problem, ...]
    flows: int = 0
    """How many flows that were deployed."""
    stacks: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether there is no damage."""
        return not any(problem.is_damage for problem in self.problems)


def journal_place() -> JournalPlace:
    """Where the configured journal is. Raises KitaruUsageError for one that is in no file."""
    config = settings.resolve()
    if not config.journal.startswith("sqlite:///"):
        raise KitaruUsageError(
            f"The journal is {config.journal} ({config.origins['journal'].where}): it lives in the "
            "process that runs the flow, and nobody else can look at it."
        )
    # As it is: nothing in such a URL is escaped.
    file = config.journal.removeprefix("sqlite:///")
    return JournalPlace(config.journal, file, config.origins["journal"].where)


@contextmanager
def opened_journal() -> Iterator["SqliteReader"]:
    """The configured journal, for reading.

    Raises JournalMissing where there is none, KitaruBackendError where it cannot be read.
    """
    place = journal_place()
    if not os.path.exists(place.file):
        raise JournalMissing(place.file, place.origin)
    try:
        with open_reader(place.url) as reader:
            yield reader
    except JournalError as error:
        raise KitaruBackendError(_sentence(str(error))) from error


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def find(reader: "SqliteReader", exec_id: str) -> Head:
    """The execution that an id, or an unambiguous beginning of one, stands for.

    Raises KitaruStateError when there is none, KitaruUsageError when there are several or the
    beginning is too short.
    """
    wanted = checked_id(exec_id, "An execution id").strip()
    query = HeadQuery(
        category=CATEGORY, stream_prefix=f"{CATEGORY}-{wanted}", limit=MOST_CANDIDATES + 1
    )
    heads = reader.heads(query)
    exact = [head for head in heads if head.stream == query.stream_prefix]
    if exact:
        return exact[0]
    if len(wanted) < SHORTEST_PREFIX:
        raise KitaruUsageError(
            f"{wanted!r} is too short for the beginning of an execution id: give at least "
            f"{SHORTEST_PREFIX} characters."
        )
    if not heads:
        raise KitaruStateError(
            f"There is no execution {wanted!r} in {reader.location}. `kitaru executions list` "
            "shows what there is."
        )
    if len(heads) > 1:
        raise KitaruUsageError(f"{wanted!r} is ambiguous: {_candidates(heads)}. Write more of it.")
    return heads[0]


def _candidates(heads: list[Head]) -> str:
    shown = [
        f"{head.stream.removeprefix(f'{CATEGORY}-')} ({head.name}, {head.state})"
        for head in heads[:MOST_CANDIDATES]
    ]
    return ", ".join(shown) + (", …" if len(heads) > MOST_CANDIDATES else "")


def list_executions(
    reader: "SqliteReader",
    *,
    flow: str | None = None,
    status: ExecutionStatus | None = None,
    skip: int = 0,
    count: int = 20,
) -> list[Execution]:
    """Summaries, newest first, without the first `skip`."""
    query = HeadQuery(
        category=CATEGORY,
        names=() if flow is None else (flow,),
        states=() if status is None else (status.value,),
        limit=skip + count,
    )
    return [summary_of(head) for head in reader.heads(query)[skip:]]


def latest(
    reader: "SqliteReader", *, flow: str | None = None, status: ExecutionStatus | None = None
) -> Execution:
    """The newest execution that matches, with its events. Raises KitaruStateError without one."""
    found = list_executions(reader, flow=flow, status=status, count=1)
    if not found:
        raise KitaruStateError("There is no execution that matches.")
    return get(reader, found[0].exec_id)


def get(reader: "SqliteReader", exec_id: str) -> Execution:
    """One execution with its checkpoints, artifacts and metadata. Raises as `find` does."""
    head = find(reader, exec_id)
    return execution_of(head, _events(reader, head), _forks(reader, head))


def _forks(reader: "SqliteReader", head: Head) -> list[str]:
    query = HeadQuery(category=CATEGORY, parent=head.stream, limit=MOST_FORKS)
    return [fork.stream.removeprefix(f"{CATEGORY}-") for fork in reversed(reader.heads(query))]


def timeline(reader: "SqliteReader", exec_id: str) -> list[TimelineEntry]:
    """The history of one execution. Raises as `find` does."""
    return timeline_of(_events(reader, find(reader, exec_id)))


def _events(reader: "SqliteReader", head: Head) -> list[RecordedEvent]:
    # Not those that were appended since: they may lead to another head.
    return reader.read_stream(head.stream, limit=head.version)


def events_after(reader: "SqliteReader", exec_id: str, version: int) -> list[RecordedEvent]:
    """What was appended to an execution, named by its full id, after a version."""
    return reader.read_stream(f"{CATEGORY}-{exec_id}", after=version)


def value_of(reader: "SqliteReader", value: StoredValue) -> bytes:
    """The codec's JSON of a value, also when it is kept beside the events."""
    return bytes(value.json) if value.blob is None else reader.get_blob(value.blob)


def verify(reader: "SqliteReader", exec_id: str | None = None) -> Verification:
    """Checks one execution or the whole journal: the hash chains, and that each stored state is
    what its events lead to. Raises as `find` does."""
    only = None if exec_id is None else find(reader, exec_id).stream
    problems = [
        Problem(finding.stream, finding.version, finding.kind, finding.what)
        for finding in reader.verify(only)
    ]
    damaged = {problem.stream for problem in problems}
    streams = events = flows = stacks_found = 0
    try:
        for head in _heads(reader, only):
            streams += 1
            events += head.version
            if head.stream not in damaged:
                problems += _checked(_fold_problems, reader, head)
        for head in () if only is not None else _heads(reader, None, deployments.CATEGORY):
            flows += 1
            events += head.version
            if head.stream not in damaged:
                problems += _checked(_deployment_problems, reader, head)
        for head in () if only is not None else _heads(reader, None, stacks.CATEGORY):
            stacks_found += 1
            events += head.version
            if head.stream not in damaged:
                problems += _checked(_stack_problems, reader, head)
    except CorruptJournal as error:
        # The heads themselves cannot be read any further; what was found up to here counts.
        if error.stream not in damaged:
            problems.append(Problem(error.stream, error.version, "unreadable", error.what))
    return Verification(streams, events, tuple(problems), flows, stacks_found)


def _heads(reader: "SqliteReader", only: str | None, category: str = CATEGORY) -> Iterator[Head]:
    if only is not None:
        head = reader.head(only)
        if head is not None:
            yield head
        return
    cursor: str | None = None
    while True:
        page = reader.heads(HeadQuery(category=category, limit=PAGE, cursor=cursor))
        yield from page
        if len(page) < PAGE:
            return
        cursor = page[-1].stream


def _checked(
    check: "Callable[[SqliteReader, Head], Iterator[Problem]]", reader: "SqliteReader", head: Head
) -> Iterator[Problem]:
    """What a check of a stream finds; also that its events cannot be read."""
    try:
        yield from check(reader, head)
    except UnknownEvent as error:
        yield Problem(head.stream, error.version, "newer", str(error))
    except DamagedEvent as error:
        yield Problem(head.stream, error.version, "unreadable", error.what)


def _fold_problems(reader: "SqliteReader", head: Head) -> Iterator[Problem]:
    events = _events(reader, head)
    yield from _blob_problems(reader, events)
    rebuilt = head_of(events)
    stored = {
        "status": head.state,
        "flow": head.name,
        "source": head.parent,
        "route": head.route,
        "state": _state(head.summary),
    }
    led_to = {
        "status": rebuilt.state,
        "flow": rebuilt.name,
        "source": rebuilt.parent,
        "route": rebuilt.route,
        "state": _state(rebuilt.summary),
    }
    for name, value in stored.items():
        if value != led_to[name]:
            what = f"the stored {name} is {value!r}, and the events lead to {led_to[name]!r}"
            yield Problem(head.stream, head.version, "head", what)


def _blob_problems(reader: "SqliteReader", events: list[RecordedEvent]) -> Iterator[Problem]:
    from kitaru.engine.history_file import blobs_named  # only `verify` needs it

    for event in events:
        for digest in blobs_named((event,)):
            yield from _blob_problem(reader, event, digest)


def _blob_problem(reader: "SqliteReader", event: RecordedEvent, digest: str) -> Iterator[Problem]:
    try:
        reader.get_blob(digest)
    except BlobNotFound:
        what = f"what is kept beside it, {digest}, is gone"
        yield Problem(event.stream, event.version, "missing", what)
    except CorruptJournal as error:
        yield Problem(event.stream, event.version, "altered", error.what)


def _deployment_problems(reader: "SqliteReader", head: Head) -> Iterator[Problem]:
    events = _events(reader, head)
    state = deployments.state_of(events)
    for event in events:
        deployed = decode_deployment_event(event)
        if isinstance(deployed, VersionDeployed):
            yield from _blob_problem(reader, event, deployed.bundle)
    led_to = deployments.head_of(deployments.flow_of(head.stream), state)
    yield from _head_problems(head, led_to, "deployments")


def _stack_problems(reader: "SqliteReader", head: Head) -> Iterator[Problem]:
    state = stacks.stack_state_of(_events(reader, head))
    yield from _head_problems(head, stacks.head_of_stack(state), "stack")


def _head_problems(head: Head, led_to: HeadChange, of: str) -> Iterator[Problem]:
    for name in ("state", "name", "summary"):
        if getattr(head, name) != getattr(led_to, name):
            what = f"the stored {name} of the {of} is not what the events lead to"
            yield Problem(head.stream, head.version, "head", what)


def _state(summary: bytes) -> ExecutionState | str:
    try:
        return msgspec.json.decode(summary, type=ExecutionState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"unreadable ({error})"


def journal_status(now: int) -> JournalStatus:
    """What the journal holds at this instant (microseconds), also when there is none yet."""
    place = journal_place()
    status = JournalStatus(
        place=place,
        exists=os.path.exists(place.file),
        bytes=_size(place.file) + _size(f"{place.file}-wal"),
        sqlite_version=sqlite3.sqlite_version,
        has_wal_reset_bug=has_wal_reset_bug(sqlite3.sqlite_version_info),
    )
    if not status.exists:
        return status
    with opened_journal() as reader:
        heads = list(_heads(reader, None))
    return msgspec.structs.replace(
        status,
        schema=_schema(place.file),
        executions=dict(Counter(head.state for head in heads)),
        owners=_owners(heads, now),
    )


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the bug that was mended in 3.51.3, 3.50.7 and 3.44.6."""
    return not (
        version >= (3, 51, 3)
        or (3, 50, 7) <= version < (3, 51)
        or (3, 44, 6) <= version < (3, 45)
        or version < (3, 7)
    )


def _size(file: str) -> int:
    try:
        return os.path.getsize(file)
    except OSError:
        return 0


def _schema(file: str) -> int:
    uri = settings.journal_url(file).replace("sqlite:///", "file:", 1)
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def _owners(heads: list[Head], now: int) -> tuple[Owner, ...]:
    owners: dict[str, Owner] = {}
    for head in heads:
        if head.owner is None or head.lease_until <= now:
            continue
        known = owners.get(head.owner, Owner(head.owner, 0, 0))
        owners[head.owner] = Owner(
            head.owner, known.executions + 1, max(known.lease_until, head.lease_until)
        )
    return tuple(sorted(owners.values(), key=lambda owner: owner.name))
