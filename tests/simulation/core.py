"""The exhaustive level: the owners of each program's execution die at every append, to its end.

The rules, the history, the runner and the flow loop are the real ones. The journal is a list, the
process one loop in virtual time: what is left out is what the full simulator has.

A *core crash point* is an owner that dies at an append, before it, behind it without hearing of it,
or soon after it has heard, and a recovery by the next owner: the body is replayed from its first
line over what is recorded, its steps are compared with those that were taken before, and it goes on
live until its owner dies, too, or the execution has come to its end. Each execution goes on to its
end, and then its whole journal is checked, and replayed once more.
"""

import functools
import random
from asyncio import sleep
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any
from unittest import mock

import msgspec
from msgspec import Struct, field

from journal import (
    Append,
    Appended,
    Lease,
    NewEvent,
    RecordedEvent,
    WrongExpectedVersion,
)
from journal.backends.sqlite import connections, guarded
from kitaru.domain.execution.commands import AbortWait, Cancel, Command, GiveInput, Resolve
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    CancelRequested,
    CheckpointCompleted,
    CheckpointFailed,
    EventOffered,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionParked,
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
from kitaru.domain.execution.state import ABSENT, ExecutionState, evolve
from kitaru.domain.execution.wait_ids import wait_id
from kitaru.domain.values import StoredValue
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import Call
from kitaru.engine.codec import Codec
from kitaru.engine.executions import OwnedExecution, fold, head_of, new_event, stream_of
from kitaru.engine.history import RecordedFact
from kitaru.engine.runner import Loaded
from kitaru.engine.upcasts import decode_event, offered_event
from tests.determinism.programs import Node, written
from tests.determinism.reference import Known, Reference
from tests.simulation.databases import at_once, begin_anew, check_written, run_in_turn
from tests.simulation.loop import SimulatedLoop, simulated_loop
from tests.simulation.programs import FLOWS, Audience, Kind, Pass, random_program, set_audience
from tests.simulation.sometimes import Sometimes
from tests.simulation.violation import Violation

EPOCH_US = 1_767_225_600_000_000
"""When virtual time begins."""
MOST_STEPS = 20_000
"""Of one execution: more, and it is stuck."""
RATES = (1.0, 1.0, 1.0, 0.4)
"""At how many of the appends owners die, in each of the executions of a program."""
UNDISTURBED = 0.25
"""The part of the programs that are executed once more, with an owner that lives."""
REPLAYED = 0.35
"""The part of the journals that are replayed whole once more: most last owners have done so."""
DROPPED = 0.2
"""The part of the dead whose bodies are unwound: the others are killed in the middle of a line."""
MOST_DEATHS = 200
"""Of one execution: then its owner lives."""
MOST_REFUSED = 1_000
"""Of the appends to one execution."""
MOST_ATTEMPTS = 2
"""Of any checkpoint of a program, in one flow attempt."""
SECOND = 1_000_000
_NO_HASH = bytes(32)


class Deaths:
    """When the owners of one execution die: at so many of what they and others append."""

    def __init__(self, chance: random.Random, rate: float) -> None:
        self.chance = chance
        self.rate = rate
        self.count = 0

    def next(self) -> int | None:
        """How the owner dies at this append: see `BEFORE`, `AFTER`; None: it lives on."""
        if self.count >= MOST_DEATHS or self.chance.random() >= self.rate:
            return None
        return self.chance.choice(_MOMENTS)

    @property
    def is_early(self) -> bool:
        """Whether an owner dies again while it recovers an execution."""
        return 0 < self.count < MOST_DEATHS and self.chance.random() < self.rate * 0.05


BEFORE = -2
"""Nothing of the append is written."""
AFTER = -1
"""It is written, and the owner never hears of it. From 0 on: it hears, and dies so many rounds of
its loop later."""
_MOMENTS = (BEFORE, AFTER, AFTER, AFTER, 0, 1, 2, 5)


class LeanJournal:
    """What a runner needs of a journal, over a list. Nothing fails in it; its writers die."""

    def __init__(self, loop: SimulatedLoop, deaths: Deaths) -> None:
        self.loop = loop
        self.deaths = deaths
        self.facts: list[RecordedEvent] = []
        self.events: list[ExecutionEvent] = []
        self.loaded: list[RecordedFact] = []
        """The same for a runner."""
        self.blobs: dict[str, bytes] = {}
        self.state: ExecutionState = ABSENT
        self.ended: set[str] = set()
        """The calls that have ended in the current flow attempt."""
        self.is_over = False
        self.refused = 0
        """How many appends found others in front of them."""
        self.owner: LeanHost | None = None

    def now(self) -> int:
        return EPOCH_US + round(self.loop.now * SECOND)

    def plant(
        self, facts: Sequence[RecordedEvent], events: Sequence[ExecutionEvent], blobs: Any
    ) -> None:
        """What is recorded already."""
        for fact, event in zip(facts, events, strict=True):
            self._add(fact, event)
        self.blobs = dict(blobs)

    def append_now(self, append: Append) -> Appended:
        """Appends at once."""
        version = len(self.facts)
        if append.expected_version != version:
            self.refused += 1
            if self.refused > MOST_REFUSED:
                raise Violation("an owner brings again and again what is refused")
            raise WrongExpectedVersion(append.stream, append.expected_version, version)
        now = self.now()
        epoch = 0 if append.lease is None else append.lease.epoch
        recorded = []
        for event in append.events:
            version += 1
            fact = _recorded(append.stream, version, now, epoch, event)
            recorded.append(fact)
            self._add(fact, decode_event(fact))
        for blob in append.blobs:
            self.blobs[_digest(blob)] = blob
        return Appended(tuple(recorded), version)

    def _add(self, fact: RecordedEvent, event: ExecutionEvent) -> None:
        self.facts.append(fact)
        self.events.append(event)
        self.loaded.append((fact.version, fact.recorded_at, event))
        self.state = evolve(self.state, event)
        match event:
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                self.ended.clear()
            case CheckpointCompleted(path=path) | CheckpointFailed(path=path, retry_at=None):
                self.ended.add(path)
            case ExecutionCompleted() | ExecutionFailed() | ExecutionCancelled():
                self.is_over = True
            case _:
                pass

    @property
    def is_parked(self) -> bool:
        """Whether its last owner has let go of it, and nobody has acted since."""
        return isinstance(self.events[-1], ExecutionParked)

    async def append(self, append: Append) -> Appended:
        moment = self._moment()
        if moment is BEFORE:
            await self._never()
        appended = self.append_now(append)
        if moment is AFTER:
            await self._never()
        return appended

    def append_soon(self, append: Append, done: Callable[..., object]) -> None:
        moment = self._moment()
        if moment is BEFORE:
            return
        try:
            appended = self.append_now(append)
        except WrongExpectedVersion as error:
            self.loop.call_soon(done, None, error)
            return
        if moment is not AFTER:
            self.loop.call_soon(done, appended, None)

    def _moment(self) -> int | None:
        """Decides on the death of the owner, who appends; None: the append is as any other."""
        owner = self.owner
        if owner is None or owner.is_doomed:
            return None
        moment = self.deaths.next()
        if moment is not None:
            owner.die_after(moment)
        return moment

    async def _never(self) -> None:
        await self.loop.create_future()

    async def read_stream(
        self, _stream: str, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        assert limit is None
        return self.facts[after:]

    async def get_blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    def shares_store_with(self, _path: str) -> bool:
        return False


def _digest(blob: bytes) -> str:
    return sha256(blob).hexdigest()


def _recorded(stream: str, version: int, now: int, epoch: int, event: NewEvent) -> RecordedEvent:
    return RecordedEvent(
        stream, version, version, event.type, event.schema, now, epoch, event.payload,
        _NO_HASH, _NO_HASH,
    )  # fmt: skip


class LeanHost:
    """What a runner needs of its process: nothing in it has a thread; it may die."""

    lease_seconds = 30.0

    def __init__(self, loop: SimulatedLoop, journal: LeanJournal, codec: Codec) -> None:
        self.loop: Any = loop
        self.journal: Any = journal
        self.codec = codec
        self.is_over = False
        self.is_dead = False
        self.is_doomed = False
        """Whether its death is certain, and has perhaps not come yet."""
        self.error: Exception | None = None
        self.went_live: Callable[[], None] | None = None

    def die_after(self, rounds: int) -> None:
        """Dies when its loop has gone round so many times; at once when that is below 0."""
        self.is_doomed = True
        if rounds < 0:
            self.is_dead = self.loop.is_halted = True
        else:
            self.loop.call_soon(self.die_after, rounds - 1)

    def may_start(self, exec_id: str) -> bool:
        if self.went_live is not None:
            self.went_live()
            self.went_live = None
        return True

    def body_of(self, execution: OwnedExecution, call: Call) -> Callable[[], Any]:
        """The checkpoint's own function."""
        return functools.partial(call.run, self.codec)

    def in_thread(self, function: Any) -> Any:
        raise AssertionError("no program of ours has threads")

    spawn = spawn_body = in_thread

    def in_transaction(self, function: Callable[[], Any]) -> Any:
        """Off the loop elsewhere."""
        return run_in_turn(self.loop, function)

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

    def __init__(
        self, chance: random.Random, library: dict[str, Node], journal: LeanJournal
    ) -> None:
        self.chance = chance
        self.library = library
        self.journal = journal
        self.passes: dict[str, list[Pass]] = {}
        self.bodies: list[tuple[str, int]] = []
        self.problem = ""
        """What a body has done that it must not do."""
        self._begun: set[tuple[str, int, int, int]] = set()
        self.begun_by: dict[str, int] = {}
        """The owner's epoch in which the body began that has a mark."""

    def body_begins(self, runner: Any, path: str, attempt: int, name: str) -> str:
        self.bodies.append((path, attempt))
        if path in self.journal.ended:
            self.problem = f"{path} ran again after it was recorded"
        execution = runner.execution
        once = (path, attempt, execution.state.attempt, execution.lease.epoch)
        if once in self._begun:
            self.problem = f"one owner began attempt {attempt} of {path} twice"
        self._begun.add(once)
        mark = f"~{len(self.bodies)}"
        self.begun_by[mark] = execution.lease.epoch
        return mark

    async def takes_time(self, exec_id: str, path: str) -> None:
        for _ in range(self.chance.choice(_TURNS)):
            await sleep(0)
        if self.chance.random() < 0.1:
            await sleep(self.chance.choice(_SECONDS))


_TURNS = (0, 0, 1, 3, 8)
_SECONDS = (0.001, 0.1, 2.0)


class Finished(Struct):
    """What one execution has left behind."""

    facts: list[RecordedEvent]
    events: list[ExecutionEvent]
    state: ExecutionState
    blobs: dict[str, bytes]
    passes: list[Pass]
    """Those of its owners; of the core's, only the one of each flow attempt that came furthest."""
    deaths: int = 0
    """How many of its owners have died."""
    has_written: bool = False
    """Whether any of its bodies had a transaction."""


class Counted(Struct):
    """How much was tried."""

    programs: int = 0
    runs: int = 0
    """Executions of these programs, from the start to the end."""
    points: int = 0
    """Crash points: owners that died, each with a recovery by the next one."""
    sometimes: Counter[str] = field(default_factory=Counter)
    """Which rare situations were met, and how often."""

    def add(self, other: "Counted") -> None:
        """Takes in what somebody else has tried."""
        self.programs += other.programs
        self.runs += other.runs
        self.points += other.points
        self.sometimes.update(other.sometimes)


class Rehearsal:
    """One program, and executions of it whose owners die."""

    def __init__(self, seed: int, graveyard: list[Any] | None = None) -> None:
        self.seed = seed
        self.graveyard = graveyard
        """Where the dead are kept, so that nothing of them runs: for a process that ends soon."""
        self.chance = chance = random.Random(seed)
        self.kind: Kind = chance.choice(["plain", "concurrent", "any"])
        self.program = random_program(chance, self.kind, chance.choice([2, 3, 5, 8]))
        name = "simulated" if chance.random() < 0.75 else "simulated_twice"
        self.flow = FLOWS[name]
        self.codec = _CODEC
        self.sometimes = Sometimes()
        self._new_execution(0)
        self.cancels = self.kind != "plain" and chance.random() < 0.15

    def _new_execution(self, number: int) -> None:
        self.exec_id = f"core-{self.seed}-{number}"
        self.stream = stream_of(self.exec_id)

    def check_all(self) -> Counted:
        """Executes the program again and again, with deaths, and checks everything."""
        counted = Counted(programs=1)
        undisturbed = (0.0,) if self.chance.random() < UNDISTURBED else ()
        for number, rate in enumerate((*RATES, *undisturbed)):
            try:
                run = self.run(number, rate)
                self.check_run(run)
            except Violation as violation:
                raise Violation(
                    f"{violation}\nin run {number}, where owners die at {rate:.0%} of the appends; "
                    f"replay with: {replay_command(self.seed)}\n{written(self.program)}"
                ) from violation
            counted.runs += 1
            counted.points += run.deaths
        counted.sometimes = self.sometimes.counts
        return counted

    def run(self, number: int, rate: float) -> Finished:
        """One execution, from its start to its end, whoever has to die for it."""
        problems: list[str] = []
        runners: list[AsyncRunner] = []
        self._new_execution(number)
        begin_anew()
        with (
            mock.patch.object(guarded, "patiently", at_once),
            mock.patch.object(connections, "patiently", at_once),
            simulated_loop(problems.append, runners) as loop,
        ):
            finished = self._run_on(loop, runners, number, rate)
        if problems:
            raise Violation(f"an error that nobody looked at: {problems}")
        return finished

    def _run_on(
        self, loop: SimulatedLoop, runners: list[AsyncRunner], number: int, rate: float
    ) -> Finished:
        chance = random.Random((self.seed << 16) + number)
        deaths = Deaths(chance, rate)
        journal = LeanJournal(loop, deaths)
        ledger = Ledger(chance, {"it": self.program}, journal)
        set_audience(ledger)
        passes = ledger.passes[self.exec_id] = []
        longest: dict[int, Pass] = {}
        """The pass of each flow attempt that has come furthest: the others began like it."""
        actor = Actor(journal, self.exec_id, chance, self.cancels)
        self._start(journal)
        epoch, steps = 0, 0
        while not journal.is_over:
            epoch += 1
            host = LeanHost(loop, journal, self.codec)
            journal.owner = host
            if epoch > 1:
                host.went_live = functools.partial(_check_recovered, passes, longest)
            runner = self._runner(host, epoch)
            runners.append(runner)
            with loop.running():
                runner.begin()
                if deaths.is_early:
                    host.die_after(chance.choice((-1, 0, 2)))
                while not (host.is_over or host.is_dead):
                    steps += 1
                    if steps > MOST_STEPS:
                        raise Violation(f"stuck: {journal.events[-1]!r}")
                    if not loop.step(10_000) and not (host.is_over or host.is_dead):
                        actor.act(runner, host)
                if ledger.problem:
                    raise Violation(ledger.problem)
                if host.error is not None:
                    raise Violation(f"the engine failed: {host.error!r}") from host.error
            if host.is_dead:
                self._lose(loop, runner, chance)
            runners.clear()
            if journal.is_parked:
                # Nobody has it: there is nothing to be taken over until its time has come.
                actor.wake(loop)
            elif not journal.is_over:
                deaths.count += 1
            _check_passes(passes, longest)
        has_written = any("keep" in path for path, _ in ledger.bodies)
        if has_written:
            self._look_for_adopted(journal, ledger)
        kept = list(longest.values())
        return Finished(
            journal.facts,
            journal.events,
            journal.state,
            journal.blobs,
            kept,
            deaths.count,
            has_written,
        )

    def _look_for_adopted(self, journal: LeanJournal, ledger: Ledger) -> None:
        for fact, event in zip(journal.facts, journal.events, strict=True):
            if isinstance(event, CheckpointCompleted) and event.name.startswith("keep"):
                self.sometimes.hit("transaction committed")
                mark = "~" + msgspec.json.decode(event.result.json).partition("~")[2]
                if ledger.begun_by[mark] != fact.epoch:
                    self.sometimes.hit("transaction committed before its owner died")

    def _lose(self, loop: SimulatedLoop, runner: AsyncRunner, chance: random.Random) -> None:
        """Its owner is dead: nothing of it goes on. One that had lost its lease would drop it."""
        for transaction in list(runner.attempts.transactions.values()):
            transaction.abandon("its process is dead")
        if self.graveyard is None or chance.random() < DROPPED:
            with loop.running():
                runner.stop()
            loop.forget()
        else:
            self.graveyard += (runner, *loop.leave())

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
        append = Append(stream=self.stream, events=(new_event(started),), expected_version=0)
        journal.append_now(append)

    def _runner(self, host: LeanHost, epoch: int) -> AsyncRunner:
        return runner_over(self.flow, host, self.exec_id, epoch)

    def check_run(self, run: Finished) -> None:
        """What holds of every journal, and of every run that has led to it."""
        if fold(ABSENT, list(map(decode_event, run.facts))) != run.state:
            raise Violation("what is recorded reads otherwise the second time")
        twice = twice_ended(run.events)
        if twice:
            raise Violation(f"two outcomes of one call: {twice}")
        check_attempts(run.events)
        if run.has_written:
            check_written(self.exec_id, run.events)
        check_marks(run.events, [it.trace for it in run.passes])
        if self.kind == "plain" and self.flow is FLOWS["simulated"]:
            check_reference(self.program, run.events)
        if run.deaths and self.chance.random() >= REPLAYED:
            return
        replayed = self.replay(run)
        for one in run.passes:
            whole = replayed.get(one.attempt)
            if whole is not None and whole[: len(one.trace)] != one.trace:
                raise Violation(f"a pass saw what a replay does not:\n{one.trace}\n{whole}")

    def replay(self, run: Finished) -> dict[int, list[str]]:
        """The trace of the last flow attempt, by its number, when the whole journal is replayed."""
        return replay_trace(self.flow, self.program, self.exec_id, run)


_CODEC = Codec()


def runner_over(flow: Any, host: LeanHost, exec_id: str, epoch: int) -> AsyncRunner:
    """A new owner's runner, with all that is recorded."""
    journal: LeanJournal = host.journal
    lease = Lease(stream_of(exec_id), "me", epoch, 0)
    version = len(journal.loaded)
    execution = OwnedExecution(host.journal, exec_id, journal.state, version, lease)
    return AsyncRunner(host, Loaded(flow.definition, execution, journal.loaded[:]), {"key": "it"})


def _check_recovered(passes: list[Pass], longest: dict[int, Pass]) -> None:
    """The body has been given everything that is recorded: it has seen what it saw before."""
    now = passes[-1]
    before = longest.get(now.attempt, now)
    if len(now.trace) < len(before.trace):
        raise Violation(f"a replay saw less:\n{before.trace}\n{now.trace}")


def _check_passes(passes: list[Pass], longest: dict[int, Pass]) -> None:
    """Of two passes of one flow attempt, one saw the beginning of what the other did."""
    for now in passes:
        before = longest.setdefault(now.attempt, now)
        common = min(len(before.trace), len(now.trace))
        if before.trace[:common] != now.trace[:common]:
            raise Violation(f"a replay decided otherwise:\n{before.trace}\n{now.trace}")
        if len(now.trace) > common:
            longest[now.attempt] = now
    passes.clear()


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

    def act(self, runner: AsyncRunner, host: LeanHost) -> None:
        """Nothing can go on by itself now: somebody acts, or time goes by."""
        loop = self.journal.loop
        timer = loop.next_timer
        if self.cancels and self.chance.random() < 0.3:
            self.cancels = False
            if self._append(Cancel("enough")):
                self._tell(runner, host)
                return
        # When a wait has an early timer, either may come first.
        if (timer is None or self.chance.random() < 0.5) and self.help():
            self._tell(runner, host)
            return
        if timer is None:
            raise Violation(f"nothing can go on, and nobody is asked: {self.journal.events[-1]!r}")
        loop.now = max(loop.now, timer)

    def _tell(self, runner: AsyncRunner, host: LeanHost) -> None:
        """The owner is told that there is something to look at; or dies before it has looked."""
        runner.notice()
        moment = None if host.is_doomed else self.journal.deaths.next()
        if moment is not None:
            host.die_after(max(moment, AFTER))

    def wake(self, loop: SimulatedLoop) -> None:
        """The execution is parked: its time comes, or somebody answers."""
        state = self.journal.state
        if state.due_at is not None and (not state.waits or self.chance.random() < 0.5):
            loop.now = max(loop.now, (state.due_at - EPOCH_US) / SECOND)
        elif not self.help():
            raise Violation(f"parked, and nothing will wake it: {state}")

    def help(self) -> bool:
        """Answers what is asked; False when nothing is."""
        state = self.journal.state
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
        state = self.journal.state
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


def replay_trace(flow: Any, program: Node, exec_id: str, run: Finished) -> dict[int, list[str]]:
    """What the body of the last flow attempt sees when all but the journal's end is replayed.

    Raises Violation when that runs a body, starts anything, or ends otherwise.
    """
    if isinstance(run.events[-1], ExecutionCancelled) or not _is_replayable(run.events):
        return {}
    runners: list[AsyncRunner] = []
    with simulated_loop(lambda _: None, runners) as loop:
        return _replayed_on(loop, runners, flow, program, exec_id, run)


def _replayed_on(
    loop: SimulatedLoop,
    runners: list[AsyncRunner],
    flow: Any,
    program: Node,
    exec_id: str,
    run: Finished,
) -> dict[int, list[str]]:
    chance = random.Random(0)
    journal = LeanJournal(loop, Deaths(chance, 0.0))
    ledger = Ledger(chance, {"it": program}, journal)
    set_audience(ledger)
    journal.plant(run.facts[:-1], run.events[:-1], run.blobs)
    loop.now = (run.facts[-1].recorded_at - EPOCH_US) / SECOND
    host = LeanHost(loop, journal, _CODEC)
    runner = runner_over(flow, host, exec_id, 9)
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


def ending_text(events: Sequence[ExecutionEvent]) -> str:
    """How an execution has ended, without what is different each time."""
    match events[-1]:
        case ExecutionCompleted(result=result):
            return f"completed: {bytes(result.json).decode()} {result.blob}"
        case ExecutionFailed(error=error):
            return f"failed: {error.type}: {error.message}"
        case last:
            return type(last).__name__


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
        if isinstance(event, EventOffered):
            event = offered_event(event)
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


def run_seed(seed: int, graveyard: list[Any] | None = None) -> Counted:
    """All crash points of one seed's program. Raises Violation."""
    return Rehearsal(seed, graveyard).check_all()
