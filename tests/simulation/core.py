"""The exhaustive level: each program is crashed at every event, and recovered to its end.

The rules, the history, the runner and the flow loop are the real ones. The journal is a list, the
process one loop in virtual time: what is left out is what the full simulator has.

A *core crash point* is one program, one event boundary of its journal, and one recovery: the state
rebuilt from what is recorded, the body replayed to that point and compared with what it saw the
first time. A part of them, counted apart, goes on to the end of the execution, live, with all
checks.
"""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from journal import (
    Append,
    Appended,
    Lease,
    NewEvent,
    RecordedEvent,
    WrongExpectedVersion,
)
from kitaru.domain.execution.commands import AbortWait, Cancel, Command, GiveInput, Resolve
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    FrozenOptions,
    InputGiven,
    InputRejected,
    ReviewRequested,
    TimerFired,
    WaitAborted,
    WaitExpired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT, ExecutionState
from kitaru.domain.execution.wait_ids import wait_id
from kitaru.domain.values import StoredValue
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import Call
from kitaru.engine.codec import Codec
from kitaru.engine.executions import OwnedExecution, fold, head_of, new_event, stream_of
from kitaru.engine.history import RecordedFact
from kitaru.engine.runner import Loaded
from kitaru.engine.upcasts import decode_event
from tests.determinism.programs import Node, written
from tests.determinism.reference import Known, Reference
from tests.simulation.loop import SimulatedLoop, simulated_loop
from tests.simulation.programs import FLOWS, Audience, Kind, Pass, random_program, set_audience

EPOCH_US = 1_767_225_600_000_000
"""When virtual time begins."""
MOST_STEPS = 20_000
"""Of one execution: more, and it is stuck."""
FINISHED = 0.25
"""The part of the crash points from which the execution goes on to its end."""
REPLAYED = 0.2
"""The part of the recovered journals that are replayed whole once more."""
MOST_ATTEMPTS = 2
"""Of any checkpoint of a program, in one flow attempt."""
SECOND = 1_000_000
_NO_HASH = bytes(32)


class Violation(AssertionError):
    """The engine has broken one of its promises."""


class LeanJournal:
    """What a runner needs of a journal, over a list. Nothing fails in it."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.facts: list[RecordedEvent] = []
        self.events: list[ExecutionEvent] = []
        self.blobs: dict[str, bytes] = {}
        self.state: ExecutionState = ABSENT

    def now(self) -> int:
        return EPOCH_US + round(self.loop.now * SECOND)

    def plant(
        self, facts: Sequence[RecordedEvent], events: Sequence[ExecutionEvent], blobs: Any
    ) -> None:
        """What is recorded already."""
        self.facts, self.events, self.blobs = list(facts), list(events), dict(blobs)
        self.state = fold(ABSENT, events)

    def append_now(self, append: Append) -> Appended:
        """Appends at once."""
        version = len(self.facts)
        if append.expected_version != version:
            raise WrongExpectedVersion(append.stream, append.expected_version, version)
        now = self.now()
        epoch = 0 if append.lease is None else append.lease.epoch
        recorded = []
        for event in append.events:
            version += 1
            recorded.append(_recorded(append.stream, version, now, epoch, event))
        self.facts += recorded
        for fact in recorded:
            event_ = decode_event(fact)
            self.events.append(event_)
        for blob in append.blobs:
            self.blobs[_digest(blob)] = blob
        return Appended(tuple(recorded), version)

    async def append(self, append: Append) -> Appended:
        return self.append_now(append)

    def append_soon(self, append: Append, done: Callable[..., object]) -> None:
        try:
            self.loop.call_soon(done, self.append_now(append), None)
        except WrongExpectedVersion as error:
            self.loop.call_soon(done, None, error)

    async def read_stream(
        self, _stream: str, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        assert limit is None
        return self.facts[after:]

    async def get_blob(self, digest: str) -> bytes:
        return self.blobs[digest]


def _digest(blob: bytes) -> str:
    from hashlib import sha256

    return sha256(blob).hexdigest()


def _recorded(stream: str, version: int, now: int, epoch: int, event: NewEvent) -> RecordedEvent:
    return RecordedEvent(
        stream, version, version, event.type, event.schema, now, epoch, event.payload,
        _NO_HASH, _NO_HASH,
    )  # fmt: skip


class LeanHost:
    """What a runner needs of its process: nothing in it has a thread or fails."""

    lease_seconds = 30.0

    def __init__(self, loop: SimulatedLoop, journal: LeanJournal, codec: Codec) -> None:
        self.loop: Any = loop
        self.journal: Any = journal
        self.codec = codec
        self.is_over = False
        self.error: Exception | None = None
        self.went_live: Callable[[], None] | None = None
        self.stops_there = False
        """Whether the execution is left when its body has been given everything."""

    def may_start(self, exec_id: str) -> bool:
        if self.went_live is not None:
            self.went_live()
            self.went_live = None
        self.is_over = self.is_over or self.stops_there
        return not self.stops_there

    def body_of(self, execution: OwnedExecution, call: Call) -> Callable[[], Any]:
        """The checkpoint's own function."""
        return functools.partial(call.run, self.codec)

    def in_thread(self, function: Any) -> Any:
        raise AssertionError("no program of ours has threads")

    in_transaction = spawn = spawn_body = in_thread

    def watch_duration(self, started: Any) -> None:
        """Whatever lasts is noted after as long as the worker takes."""
        self.loop.call_later(0.05, started.note_started)

    def jitter(self) -> float:
        return 0.5

    def idle(self, runner: Any) -> None:
        """Nothing else needs room."""

    def busy(self, runner: Any) -> None:
        """Nothing else needs room."""

    def ended(self, runner: Any, event: ExecutionEvent | None, error: Exception | None) -> None:
        self.is_over = True
        self.error = error


class Ledger(Audience):
    """What bodies have done in one run of one program."""

    def __init__(self, chance: random.Random, library: dict[str, Node]) -> None:
        self.chance = chance
        self.library = library
        self.passes: dict[str, list[Pass]] = {}
        self.bodies: list[tuple[str, int]] = []
        self._marks = 0
        self._loop: SimulatedLoop | None = None

    def body_begins(self, runner: Any, path: str, attempt: int, name: str) -> str:
        self._marks += 1
        self.bodies.append((path, attempt))
        return f"~{self._marks}"

    async def takes_time(self, exec_id: str, path: str) -> None:
        from asyncio import sleep

        for _ in range(self.chance.choice(_TURNS)):
            await sleep(0)
        if self.chance.random() < 0.1:
            await sleep(self.chance.choice(_SECONDS))


_TURNS = (0, 0, 1, 3, 8)
_SECONDS = (0.001, 0.1, 2.0)


class Finished(Struct):
    """What one run has left behind."""

    facts: list[RecordedEvent]
    events: list[ExecutionEvent]
    blobs: dict[str, bytes]
    passes: list[Pass]
    bodies: list[tuple[str, int]]
    is_recovered: bool
    live_from: tuple[int, int]
    """(flow attempt, length of its trace) when the recovered body had been given everything."""


class Counted(Struct):
    """How much was tried."""

    programs: int = 0
    points: int = 0
    """Crash points."""
    finished: int = 0
    """Those that went on to the end of the execution."""

    def add(self, other: "Counted") -> None:
        """Takes in what somebody else has tried."""
        self.programs += other.programs
        self.points += other.points
        self.finished += other.finished


class Rehearsal:
    """One program: its first run, and a recovery from every event of its journal."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.kind: Kind = chance.choice(["plain", "concurrent", "any"])
        self.program = random_program(chance, self.kind, chance.choice([1, 3, 5, 8]))
        name = "simulated" if chance.random() < 0.75 else "simulated_twice"
        self.flow = FLOWS[name]
        self.codec = Codec()
        self.exec_id = f"core-{seed}"
        self.cancels = self.kind != "plain" and chance.random() < 0.15

    def run(
        self, planted: Finished | None = None, count: int = 0, *, to_end: bool = True
    ) -> Finished:
        """A first run, or one from the first `count` events of another on.

        Without `to_end` it stops where the body has been given all that is recorded.
        """
        problems: list[str] = []
        runners: list[AsyncRunner] = []
        with simulated_loop(problems.append, runners) as loop:
            finished = self._run_on(loop, runners, planted, count, to_end=to_end)
        if problems:
            raise Violation(f"an error that nobody looked at: {problems}")
        return finished

    def _run_on(
        self,
        loop: SimulatedLoop,
        runners: list[AsyncRunner],
        planted: Finished | None,
        count: int,
        *,
        to_end: bool,
    ) -> Finished:
        chance = random.Random((self.seed << 16) + count)
        journal = LeanJournal(loop)
        ledger = Ledger(chance, {"it": self.program})
        set_audience(ledger)
        live_from = (0, 0)
        if planted is None:
            self._start(journal)
        else:
            journal.plant(planted.facts[:count], planted.events[:count], planted.blobs)
            loop.now = (planted.facts[count - 1].recorded_at - EPOCH_US) / SECOND
            ledger._marks = 1_000 * count + 1_000
        epoch, steps = 0, 0
        actor = Actor(journal, self.exec_id, chance, self.cancels and planted is None)
        while not _is_over(journal.events):
            epoch += 1
            host = LeanHost(loop, journal, self.codec)
            runner = self._runner(host, journal, epoch)
            runners.append(runner)
            if epoch == 1 and planted is not None:

                def note() -> None:
                    nonlocal live_from
                    last = ledger.passes[self.exec_id][-1]
                    live_from = (last.attempt, len(last.trace))

                host.went_live = note
                host.stops_there = not to_end
            with loop.running():
                runner.begin()
                while not host.is_over:
                    steps += 1
                    if steps > MOST_STEPS:
                        raise Violation(f"stuck: {journal.events[-1]!r}")
                    if not loop.step(10_000) and not host.is_over:
                        actor.act(runner, loop)
                if host.error is not None:
                    raise Violation(f"the engine failed: {host.error!r}") from host.error
            if host.stops_there and live_from[0]:
                break
            if not _is_over(journal.events):
                actor.wake(loop)
        return Finished(
            journal.facts,
            journal.events,
            journal.blobs,
            ledger.passes.get(self.exec_id, []),
            ledger.bodies,
            planted is not None,
            live_from,
        )

    def _start(self, journal: LeanJournal) -> None:
        data = self.codec.encode({"key": "it"}, where="arguments", types=self.flow.definition.types)
        started = ExecutionStarted(
            flow=self.flow.definition.name,
            source=self.flow.reference,
            arguments=StoredValue(json=msgspec.Raw(data)),
            arguments_digest=_digest(data),
            asynchronous=True,
            options=FrozenOptions(retries=int(self.flow is FLOWS["simulated_twice"]), cache=False),
            seed=f"seed {self.seed}",
        )
        append = Append(
            stream=stream_of(self.exec_id), events=(new_event(started),), expected_version=0
        )
        journal.append_now(append)

    def _runner(self, host: LeanHost, journal: LeanJournal, epoch: int) -> AsyncRunner:
        facts: list[RecordedFact] = [
            (fact.version, fact.recorded_at, event)
            for fact, event in zip(journal.facts, journal.events, strict=True)
        ]
        stream = stream_of(self.exec_id)
        execution = OwnedExecution(
            host.journal,
            self.exec_id,
            fold(ABSENT, journal.events),
            len(facts),
            Lease(stream, "me", epoch, 0),
        )
        loaded = Loaded(self.flow.definition, execution, facts)
        return AsyncRunner(host, loaded, {"key": "it"})

    # the laws

    def check_all(self) -> Counted:
        """Runs, crashes everywhere, checks everything."""
        first = self.run()
        self.check_run(first)
        counted = Counted(programs=1)
        for count in range(1, len(first.facts)):
            to_end = self.chance.random() < FINISHED
            self.check_crash(first, count, to_end=to_end)
            counted.points += 1
            counted.finished += to_end
        return counted

    def check_crash(self, first: Finished, count: int, *, to_end: bool) -> None:
        """A crash behind event `count`, and the recovery from there."""
        try:
            again = self.run(first, count, to_end=to_end)
            self._check_recovery(first, again, count)
            if to_end:
                self.check_run(again)
            elif again.bodies and not _is_over(again.events):
                raise Violation(f"a replay ran {again.bodies}")
        except Violation as violation:
            raise Violation(
                f"{violation}\nafter a crash behind event {count} of {len(first.facts)}; "
                f"replay with: {replay_command(self.seed)}\n{written(self.program)}"
            ) from violation

    def _check_recovery(self, first: Finished, again: Finished, count: int) -> None:
        attempt, length = again.live_from
        before = _last_pass(first, attempt)
        after = _last_pass(again, attempt)
        if before is not None and after is not None and before[:length] != after[:length]:
            raise Violation(f"a replay decided otherwise:\n{before[:length]}\n{after[:length]}")
        done = _outcomes(first.events[:count])
        rerun = {path for path, _ in again.bodies} & done
        failed_since = any(isinstance(it, FlowAttemptFailed) for it in again.events[count:])
        if rerun and not failed_since:
            raise Violation(f"ran again after they were recorded: {rerun}")

    def check_run(self, run: Finished) -> None:
        """What holds of every journal, and of every run that has led to it."""
        twice = twice_ended(run.events)
        if twice:
            raise Violation(f"two outcomes of one call: {twice}")
        check_attempts(run.events)
        check_marks(run.events, [it.trace for it in run.passes])
        if self.kind == "plain" and self.flow is FLOWS["simulated"]:
            check_reference(self.program, run.events)
        if run.is_recovered and self.chance.random() > REPLAYED:
            return
        replayed = self.replay(run)
        for one in run.passes:
            whole = replayed.get(one.attempt)
            if whole is not None and whole[: len(one.trace)] != one.trace:
                raise Violation(f"a pass saw what a replay does not:\n{one.trace}\n{whole}")

    def replay(self, run: Finished) -> dict[int, list[str]]:
        """The trace of the last flow attempt, by its number, when the whole journal is replayed."""
        return replay_trace(self.flow, self.program, self.exec_id, run, self.codec)


class Actor:
    """The people of one execution: they answer, review and cancel."""

    def __init__(
        self, journal: LeanJournal, exec_id: str, chance: random.Random, cancels: bool
    ) -> None:
        self.journal = journal
        self.stream = stream_of(exec_id)
        self.chance = chance
        self.cancels = cancels
        self.answers = 0

    def act(self, runner: AsyncRunner, loop: SimulatedLoop) -> None:
        """Nothing can go on by itself now: somebody acts, or time goes by."""
        timer = loop.next_timer
        if self.cancels and self.chance.random() < 0.3:
            self.cancels = False
            if self._append(Cancel("enough")):
                runner.notice()
                return
        # When a wait has an early timer, either may come first.
        if (timer is None or self.chance.random() < 0.5) and self.help():
            runner.notice()
            return
        if timer is None:
            raise Violation(f"nothing can go on, and nobody is asked: {self.journal.events[-1]!r}")
        loop.now = max(loop.now, timer)

    def wake(self, loop: SimulatedLoop) -> None:
        """The execution is parked: its time comes, or somebody answers."""
        state = fold(ABSENT, self.journal.events)
        if state.due_at is not None and (not state.waits or self.chance.random() < 0.5):
            loop.now = max(loop.now, (state.due_at - EPOCH_US) / SECOND)
        elif not self.help():
            raise Violation(f"parked, and nothing will wake it: {state}")

    def help(self) -> bool:
        """Answers what is asked; False when nothing is."""
        state = fold(ABSENT, self.journal.events)
        if not state.waits:
            return False
        wait = self.chance.choice(state.waits)
        self.answers += 1
        if wait.is_review:
            review = next(
                event
                for event in reversed(self.journal.events)
                if isinstance(event, ReviewRequested) and event.path == wait.path
            )
            given = self.chance.random()
            result = StoredValue(json=msgspec.Raw(f'"said{self.answers}"'.encode()))
            return self._append(Resolve(wait.path, review, result=result if given < 0.5 else None))
        if self.chance.random() < 0.1:
            return self._append(AbortWait(wait.id, "never mind"))
        answer = f'"answer{self.answers}"' if self.chance.random() < 0.9 else "17"
        return self._append(GiveInput(wait.id, StoredValue(json=msgspec.Raw(answer.encode()))))

    def _append(self, command: Command) -> bool:
        state = fold(ABSENT, self.journal.events)
        if state.is_finished:
            return False
        events = decide(state, command)
        self.journal.append_now(
            Append(
                stream=self.stream,
                events=tuple(map(new_event, events)),
                expected_version=len(self.journal.facts),
                head=head_of(fold(state, events)),
            )
        )
        return True


def replay_trace(
    flow: Any, program: Node, exec_id: str, run: Finished, codec: Codec
) -> dict[int, list[str]]:
    """What the body of the last flow attempt sees when all but the journal's end is replayed.

    Raises Violation when that runs a body, starts anything, or ends otherwise.
    """
    if isinstance(run.events[-1], ExecutionCancelled) or not _is_replayable(run.events):
        return {}
    runners: list[AsyncRunner] = []
    with simulated_loop(lambda _: None, runners) as loop:
        return _replayed_on(loop, runners, flow, program, exec_id, run, codec)


def _replayed_on(
    loop: SimulatedLoop,
    runners: list[AsyncRunner],
    flow: Any,
    program: Node,
    exec_id: str,
    run: Finished,
    codec: Codec,
) -> dict[int, list[str]]:
    journal = LeanJournal(loop)
    ledger = Ledger(random.Random(0), {"it": program})
    set_audience(ledger)
    journal.plant(run.facts[:-1], run.events[:-1], run.blobs)
    loop.now = (run.facts[-1].recorded_at - EPOCH_US) / SECOND
    host = LeanHost(loop, journal, codec)
    facts: list[RecordedFact] = [
        (fact.version, fact.recorded_at, event)
        for fact, event in zip(journal.facts, journal.events, strict=True)
    ]
    lease = Lease(stream_of(exec_id), "me", 9, 0)
    execution = OwnedExecution(
        host.journal, exec_id, fold(ABSENT, journal.events), len(facts), lease
    )
    runner = AsyncRunner(host, Loaded(flow.definition, execution, facts), {"key": "it"})
    runners.append(runner)
    with loop.running():
        runner.begin()
        while not host.is_over and loop.step(10_000):
            pass
    if not host.is_over:
        raise Violation("a replay of the whole journal does not come to its end")
    if ledger.bodies:
        raise Violation(f"a replay ran {ledger.bodies}")
    before, after = ending_text(run.events), ending_text(journal.events)
    if before != after:
        raise Violation(f"a replay ended otherwise: {before} | {after}")
    last = ledger.passes[exec_id][-1]
    return {last.attempt: last.trace}


def _is_replayable(events: Sequence[ExecutionEvent]) -> bool:
    # An end that was not the body's own cannot come of a replay, nor one that was on its way when
    # somebody asked for another.
    *before, last = events
    if isinstance(last, ExecutionFailed) and last.origin == "runtime":
        return False
    for event in reversed(before):
        if isinstance(event, CancelRequested):
            return False
        if isinstance(event, CheckpointCompleted | CheckpointFailed | TimerFired):
            break
    return True


def _is_over(events: Sequence[ExecutionEvent]) -> bool:
    return isinstance(events[-1], ExecutionCompleted | ExecutionFailed | ExecutionCancelled)


def _last_pass(run: Finished, attempt: int) -> list[str] | None:
    found = [one.trace for one in run.passes if one.attempt == attempt]
    return max(found, key=len) if found else None


def ending_text(events: Sequence[ExecutionEvent]) -> str:
    """How an execution has ended, without what is different each time."""
    match events[-1]:
        case ExecutionCompleted(result=result):
            return f"completed: {bytes(result.json).decode()} {result.blob}"
        case ExecutionFailed(error=error):
            return f"failed: {error.type}: {error.message}"
        case last:
            return type(last).__name__


def _outcomes(events: Sequence[ExecutionEvent]) -> set[str]:
    """The calls that have ended in the current flow attempt."""
    paths: set[str] = set()
    for event in events:
        match event:
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                paths.clear()
            case CheckpointCompleted(path=path) | CheckpointFailed(path=path, retry_at=None):
                paths.add(path)
            case _:
                pass
    return paths


def twice_ended(events: Sequence[ExecutionEvent]) -> set[str]:
    """The calls that have two outcomes in one flow attempt, or two results in all."""
    seen: set[str] = set()
    results: set[tuple[str, str]] = set()
    twice: set[str] = set()
    for event in events:
        match event:
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                seen.clear()
            case CheckpointCompleted(path=path, arguments_digest=digest):
                if path in seen or (path, digest) in results:
                    twice.add(path)
                seen.add(path)
                results.add((path, digest))
            case CheckpointFailed(path=path, retry_at=None) | TimerFired(path=path):
                if path in seen:
                    twice.add(path)
                seen.add(path)
            case WaitExpired(path=path) | WaitAborted(path=path) | InputGiven(path=path):
                if path in seen:
                    twice.add(path)
                seen.add(path)
            case InputRejected(path=path):
                seen.discard(path)
            case _:
                pass
    return twice


def called(events: Sequence[ExecutionEvent]) -> dict[str, tuple[str, str]]:
    """The ids and names of the waits that were asked, by path."""
    asked = [event for event in events if isinstance(event, WaitRequested)]
    return {event.path: (wait_id(event.path, event.name), event.name) for event in asked}


def check_attempts(events: Sequence[ExecutionEvent]) -> None:
    """Attempts of a path are numbered on and on, and no more are made than the policy says.

    Also where the body of a later flow attempt calls the path with other arguments.
    """
    last: dict[str, int] = {}
    failed: dict[str, int] = {}
    for event in events:
        match event:
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                failed.clear()
            case CheckpointCompleted(path=path) | CheckpointFailed(path=path):
                if event.attempt <= last.get(path, 0):
                    raise Violation(f"attempt {event.attempt} of {path} was recorded twice")
                last[path] = event.attempt
                failed[path] = failed.get(path, 0) + isinstance(event, CheckpointFailed)
                if failed[path] > MOST_ATTEMPTS:
                    raise Violation(f"{path} failed {failed[path]} times in one flow attempt")
            case _:
                pass


def check_marks(events: Sequence[ExecutionEvent], traces: Sequence[Sequence[str]]) -> None:
    """What a body was given is what is recorded: each result has a mark that no other has."""
    recorded = set()
    for event in events:
        match event:
            case CheckpointCompleted(result=result):
                text = bytes(result.json).decode().strip('"')
                recorded.add(text)
            case InputGiven(value=value):
                recorded.add("answer " + bytes(value.json).decode().strip('"'))
            case _:
                pass
    for trace in traces:
        for line in trace:
            for kind in (": Step gave ", ": Ask gave answer ", ": Once gave "):
                if kind in line:
                    given = line.partition(" gave ")[2]
                    if given not in recorded:
                        raise Violation(f"the body was given {given!r}, which nobody recorded")


def check_reference(program: Node, events: Sequence[ExecutionEvent]) -> None:
    """The result is what plain recursion makes of the order of the outcomes."""
    known: list[Known] = []
    for event in events:
        match event:
            case CheckpointCompleted(path=path, result=result):
                known.append(Known(path, msgspec.json.decode(result.json)))
            case CheckpointFailed(path=path, error=error, retry_at=None):
                known.append(Known(path, error=f"Fault({error.message})"))
            case TimerFired(path=path):
                known.append(Known(path))
            case _:
                pass
    expected: Any = Reference(known).result(program)  # type: ignore[arg-type]
    match events[-1]:
        case ExecutionCompleted(result=result):
            found: Any = ("returned", msgspec.json.decode(result.json))
        case ExecutionFailed(error=error):
            found = ("raised", f"Fault({error.message})")
        case _:
            return
    if found != expected:
        raise Violation(f"the result is {found}, and the outcomes imply {expected}")


def replay_command(seed: int) -> str:
    """The one command that does the same again."""
    return f"python -m tests.simulation core --seed {seed}"


def run_seed(seed: int) -> Counted:
    """All crash points of one seed's program. Raises Violation."""
    return Rehearsal(seed).check_all()
