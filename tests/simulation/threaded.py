"""Sync flows: random programs whose processes die at every append, with the threads that they have.

Driven by what users drive theirs with, `kitaru.testing`: the engine is whole, the journal is in
memory, its clock stands still but for what a flow waits for, and what bodies have come to is told
one at a time.
"""

import random
import re
import threading
from collections import Counter
from typing import Any

from msgspec import Struct, field

from kitaru import checkpoint, flow
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.context import ExecutionSuspended, FlowScope, scope
from kitaru.testing.errors import NothingHappens
from kitaru.testing.fault import AnyFault, Crash, TakeOver
from kitaru.testing.rehearsal import Rehearsal, Run, run_apart
from tests.determinism import sync_programs as sync
from tests.simulation.core import check_attempts, twice_ended
from tests.simulation.sometimes import Sometimes
from tests.simulation.violation import Violation

RATES = (1.0, 0.4)
"""At how many of the appends processes die, in each of the executions of a program."""
MOST_FAULTS = 80
_MARK = re.compile(r"~\d+")
_lock = threading.Lock()
_marks = [0]
_program: list[Any] = []
_passes: list["SyncPass"] = []


class SyncPass(Struct):
    """What one pass of the flow's body has seen."""

    attempt: int
    trace: list[str]


def _labour(label: str, ends: str, used: list[str]) -> str:
    here: Any = scope.get()
    with _lock:
        _marks[0] += 1
        mark = f"{label}~{_marks[0]}"
    if ends == "badly" or (ends == "retried" and here.attempt == 1):
        raise sync.Fault(label)
    return "+".join([mark, *used])


@checkpoint(cache=False)
def work(label: str, ends: str, used: list[str]) -> str:
    """Returns what no other run of a body returns."""
    return _labour(label, ends, used)


@checkpoint(cache=False, retries=1)
def retried(label: str, ends: str, used: list[str]) -> str:
    """The same, with a second attempt."""
    return _labour(label, ends, used)


class MarkedBody(sync.Body):
    """One pass of a program; what it does once it is dropped is not noted."""

    is_dropped = False

    def run(self, node: Any) -> None:
        """Runs a node and says how it ended."""
        kind = type(node).__name__
        try:
            result = self._dispatch(node)
        except ExecutionSuspended:
            self.is_dropped = True
            raise
        except BaseException as error:
            self._say(f"{kind} raised {type(error).__name__}({error})")
            raise
        self._say(f"{kind} gave {result}")

    def _say(self, text: str) -> None:
        if not self.is_dropped:
            self.trace.append(text)

    def _dispatch(self, node: Any) -> Any:
        match node:
            case sync.Call(label=label, ends=ends, uses=uses):
                return _kind(ends)(label, ends, self._some(uses))
            case sync.Submit(label=label, ends=ends, uses=uses, after=after):
                used: Any = self._some(uses)
                future = _kind(ends).submit(label, ends, used, after=self._some(after))
                self.futures.append(future)
                return future
            case sync.Map(labels=labels):
                mapped = work.map([*labels], ends="well", used=[])
                self.futures += mapped
                return mapped
            case _:
                return super()._dispatch(node)


def _kind(ends: str) -> Any:
    return retried if ends == "retried" else work


def _run_pass() -> list[str]:
    here = scope.get()
    assert isinstance(here, FlowScope)
    runner: Any = here.runner
    this = SyncPass(runner.execution.state.attempt, [])
    _passes.append(this)
    MarkedBody(this.trace).run(_program[0])
    return this.trace


@flow(cache=False)
def threaded() -> list[str]:
    """Runs the program."""
    return _run_pass()


@flow(retries=1, cache=False)
def threaded_twice() -> list[str]:
    """The same; when it fails, once more."""
    return _run_pass()


class Counted(Struct):
    """How much was tried."""

    programs: int = 0
    runs: int = 0
    points: int = 0
    """Processes that died or were taken over from, each with a recovery by another."""
    sometimes: Counter[str] = field(default_factory=Counter)


def run_seed(seed: int) -> Counted:
    """All crash points of one seed's program. Raises Violation."""
    chance = random.Random(seed)
    program = Generator(chance).program()
    body = chance.choice([threaded, threaded, threaded_twice])
    sometimes = Sometimes()
    counted = Counted(programs=1)
    for number, rate in enumerate(RATES):
        faults = _faults(chance, rate)
        try:
            run = _play(program, body, faults)
            _check(run)
        except (Violation, NothingHappens) as error:
            raise Violation(
                f"{error}\nin run {number}, where {body.name} meets {faults}\n{program}\n"
                f"replay with: python -m tests.simulation threaded --seed {seed}"
            ) from error
        counted.runs += 1
        counted.points += len(run.happened)
        _note(run, sometimes)
    counted.sometimes = sometimes.counts
    return counted


def _faults(chance: random.Random, rate: float) -> list[AnyFault]:
    faults: list[AnyFault] = []
    for version in range(1, MOST_FAULTS):
        if chance.random() < rate:
            draw = chance.random()
            if draw < 0.15:
                faults.append(TakeOver(version))
            else:
                faults.append(Crash(version, late=draw < 0.5))
    return faults


def _play(program: Any, body: Any, faults: list[AnyFault]) -> Run:
    _program[:] = [program]
    _passes.clear()
    return run_apart(Rehearsal(body, (), {}, faults=faults).run)


def _check(run: Run) -> None:
    if run.problems:
        raise Violation("; ".join(run.problems))
    if twice := twice_ended(run.events):
        raise Violation(f"two outcomes of one call: {twice}")
    check_attempts(run.events)
    longest: dict[int, list[str]] = {}
    for one in _passes:
        trace, known = one.trace, longest.get(one.attempt, [])
        common = min(len(trace), len(known))
        if trace[:common] != known[:common]:
            raise Violation(f"a replay decided otherwise:\n{known}\n{trace}")
        longest[one.attempt] = max(known, trace, key=len)
    recorded = {
        mark
        for event in run.events
        if isinstance(event, CheckpointCompleted)
        for mark in _MARK.findall(bytes(event.result.json).decode())
    }
    for trace in longest.values():
        if not_recorded := set(_MARK.findall("".join(trace))) - recorded:
            raise Violation(f"a body was given {not_recorded}, which nobody recorded:\n{trace}")
    if run.outcome.value is not None and run.outcome.value != longest[max(longest)]:
        raise Violation(f"the result is {run.outcome.value}, the body saw {longest}")


def _note(run: Run, sometimes: Sometimes) -> None:
    for fault in run.happened:
        match fault:
            case Crash(late=True):
                sometimes.hit("sync flow's owner killed before an append")
            case Crash():
                sometimes.hit("sync flow's owner killed behind an append")
            case TakeOver():
                sometimes.hit("sync flow taken over while its owner lived")
            case _:
                pass
    begun = Counter(each.path for each in run.bodies)
    if max(begun.values(), default=0) > 1:
        sometimes.hit("sync body run twice")


class Generator:
    """Makes programs of a sync flow."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def program(self) -> Any:
        """Some pieces, one after the other."""
        return self._sequence([self.node(self.chance.choice([1, 2, 4])) for _ in range(3)])

    def node(self, leaves: int) -> Any:
        """A piece with about so many leaves."""
        if leaves <= 1:
            return self._leaf()
        half = leaves // 2
        one, other = self.node(half), self.node(leaves - half)
        draw = self.chance.random()
        if draw < 0.6:
            return self._sequence([one, other])
        if draw < 0.85:
            return sync.Attempt(one, other, self.chance.random() < 0.3)
        return sync.Always(one, other)

    def _sequence(self, parts: list[Any]) -> Any:
        return sync.Sequence(tuple(parts))

    def _numbers(self) -> tuple[int, ...]:
        return tuple(self.chance.randrange(7) for _ in range(self.chance.choice([0, 0, 1, 2])))

    def _leaf(self) -> Any:
        chance = self.chance
        label = chance.choice("abc")
        ends: Any = chance.choice(["well", "well", "well", "badly", "retried"])
        draw = chance.random()
        if draw < 0.35:
            return sync.Submit(label, ends, self._numbers(), self._numbers())
        if draw < 0.55:
            return sync.Call(label, ends, self._numbers())
        if draw < 0.62:
            return sync.Map(tuple(chance.choice("abc") for _ in range(chance.randint(1, 3))))
        if draw < 0.72:
            return sync.Result(chance.randrange(7))
        if draw < 0.78:
            return sync.Wait(chance.randrange(7))
        if draw < 0.85:
            return sync.First((chance.randrange(7), *self._numbers()))
        if draw < 0.9:
            return sync.Completed()
        return sync.Nap(chance.choice([0, 1, 300])) if draw < 0.96 else sync.Draw()
