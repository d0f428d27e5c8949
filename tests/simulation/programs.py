"""The random programs of the simulator: those of the determinism tests, with people in them.

Made from a seed by a plain generator, so that a seed alone gives the program.
"""

import random
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

import kitaru
from kitaru import checkpoint, flow
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.context import CheckpointScope, FlowScope, scope
from tests.determinism.programs import (
    Always,
    Attempt,
    Body,
    Bounded,
    Completed,
    Draw,
    Fault,
    Gather,
    Group,
    Limit,
    Node,
    Pipe,
    Race,
    Repeat,
    Sequence,
    Shield,
    Signal,
    Sleep,
    Step,
    Stop,
    Stray,
    Take,
    shown,
)
from tests.simulation.databases import COUNT, database


class Ask(Node, frozen=True, tag=True):
    """Waits for somebody's answer; with a deadline in seconds, not for ever."""

    name: str
    deadline: float | None = None
    patience: float = 600.0


class Once(Node, frozen=True, tag=True):
    """Calls a checkpoint that may run only once."""

    label: str


class Big(Node, frozen=True, tag=True):
    """Calls a checkpoint whose result is too large for the event."""

    label: str


class Keep(Node, frozen=True, tag=True):
    """Calls a checkpoint that writes into a database, in one transaction with its outcome."""

    label: str
    database: int


class Reuse(Node, frozen=True, tag=True):
    """Calls a checkpoint whose result an earlier execution may have."""

    label: str


class Pass(Struct):
    """What one pass of a flow's body has seen."""

    exec_id: str
    attempt: int
    epoch: int
    trace: list[str]


class Audience:
    """Who is told what bodies do: the core's or the simulator's ledger."""

    library: dict[str, Node]
    passes: dict[str, list[Pass]]

    def body_begins(self, runner: Any, path: str, attempt: int, name: str) -> str:
        """A checkpoint's body begins; returns a text that no other run of any body has."""
        raise NotImplementedError

    def pass_begins(self, runner: Any) -> None:
        """A pass of a flow's body begins."""

    async def takes_time(self, exec_id: str, path: str) -> None:
        """The body goes on when this returns."""
        raise NotImplementedError


audience: Audience = Audience()


def set_audience(new: Audience) -> None:
    """From now on this one is told."""
    global audience
    audience = new


async def _labour(label: str, ends: str, name: str) -> str:
    here = scope.get()
    assert isinstance(here, CheckpointScope)
    exec_id: str = here.runner.exec_id
    mark = audience.body_begins(here.runner, here.path, here.attempt, name)
    await audience.takes_time(exec_id, here.path)
    # Of what is tried again, one in four never ends well.
    if ends == "badly" or (ends == "retried" and (here.attempt == 1 or label == "d")):
        raise Fault(label)
    return f"{label}{mark}"


@checkpoint(cache=False)
async def work(label: str, ends: str) -> str:
    """Takes some time, and returns what no other run of a body returns."""
    return await _labour(label, ends, "work")


@checkpoint(cache=False, retries=kitaru.Retry(max_attempts=2, first_delay=0.5))
async def retried(label: str, ends: str) -> str:
    """The same, with a second attempt."""
    return await _labour(label, ends, "retried")


@checkpoint(effect="once")
async def once(label: str) -> str:
    """May run only once."""
    return await _labour(label, "well", "once")


@checkpoint(cache=False)
async def big(label: str) -> str:
    """Returns much."""
    return await _labour(label, "well", "big") + "." * 70_000


def _keeper(number: int) -> Any:
    async def keep(label: str) -> str:
        here = scope.get()
        assert isinstance(here, CheckpointScope)
        mark = f"{label}{audience.body_begins(here.runner, here.path, here.attempt, 'keep')}"
        statement = "INSERT INTO marks VALUES (?, ?, ?)"
        await kitaru.transaction().aio.execute(statement, (here.runner.exec_id, here.path, mark))
        await audience.takes_time(here.runner.exec_id, here.path)
        return mark

    keep.__name__ = f"keep{number}"
    return checkpoint(transaction=lambda: database(number))(keep)


keepers = [_keeper(number) for number in range(COUNT)]
"""Each writes into a database of its own."""


@checkpoint(cache=True)
async def shared(label: str) -> str:
    """What later executions with a cache need not run again."""
    return await _labour(label, "well", "shared")


class SimulatedBody(Body):
    """One pass of a program; what it does once it is dropped is not noted."""

    def __init__(self, trace: list[str], runner: AsyncRunner) -> None:
        super().__init__(trace)
        self._loop = runner.loop
        self._runner = runner

    def say(self, text: str) -> None:
        if self._runner.loop is self._loop and self._loop is not None:
            super().say(text)

    async def _step(self, node: Step) -> str:
        return await (retried if node.ends == "retried" else work)(node.label, node.ends)

    async def _once(self, node: Once) -> Any:
        return await once(node.label)

    async def _big(self, node: Big) -> str:
        return (await big(node.label)).rstrip(".")

    async def _keep(self, node: Keep) -> Any:
        return await keepers[node.database](node.label)

    async def _reuse(self, node: Reuse) -> Any:
        return await shared(node.label)

    async def _ask(self, node: Ask) -> Any:
        try:
            answer = await kitaru.wait(
                schema=str, name=node.name, timeout=node.patience, deadline=node.deadline
            )
        except (kitaru.KitaruWaitExpired, kitaru.KitaruWaitAborted) as error:
            return type(error).__name__
        return f"answer {answer}"


async def _run_pass(key: str) -> Any:
    here = scope.get()
    assert isinstance(here, FlowScope)
    runner: AsyncRunner = here.runner
    execution = runner.execution
    this = Pass(runner.exec_id, execution.state.attempt, execution.lease.epoch, [])
    audience.pass_begins(runner)
    audience.passes.setdefault(runner.exec_id, []).append(this)
    body = SimulatedBody(this.trace, runner)
    program: Any = audience.library[key]
    try:
        result = await body.run(program)
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            body.say(f"end: {shown(error)}")
        raise
    body.say(f"end: {result}")
    return result


@flow(cache=False)
async def simulated(key: str) -> Any:
    """Runs a program of the library."""
    return await _run_pass(key)


@flow(retries=1, cache=False)
async def simulated_twice(key: str) -> Any:
    """The same; when it fails, once more."""
    return await _run_pass(key)


FLOWS: dict[str, Any] = {"simulated": simulated, "simulated_twice": simulated_twice}
Kind = Literal["plain", "concurrent", "any"]


def random_program(chance: random.Random, kind: Kind, leaves: int) -> Node:
    """A program with about so many leaves.

    ``plain`` ones are those of which the reference interpreter knows the result; ``concurrent``
    ones have all of asyncio; ``any`` have people, calls that run only once and large results, too.
    """
    program: Node = Generator(chance, kind).node(leaves)
    return program


class Generator:
    """Makes programs."""

    def __init__(self, chance: random.Random, kind: Kind) -> None:
        self.chance = chance
        self.kind = kind
        self.asks = 0
        self.keeps = 0

    def node(self, leaves: int) -> Any:
        """A program with about so many leaves."""
        if leaves <= 1:
            return self._leaf()
        composite: Callable[[int], Any] = self.chance.choice(
            self._plain if self.kind == "plain" else self._concurrent
        ).__get__(self)
        return composite(leaves)

    def _leaf(self) -> Node:
        draw = self.chance.random()
        if self.kind == "any":
            if draw < 0.12:
                self.asks += 1
                deadline = self.chance.choice([None, None, 5.0, 3_600.0])
                patience = self.chance.choice([0.0, 1.0, 600.0])
                return Ask(f"ask{self.asks}", deadline, patience)
            if draw < 0.18:
                return Once(self._label())
            if draw < 0.21:
                return Big(self._label())
            if draw < 0.26 and self.keeps < COUNT:
                self.keeps += 1
                return Keep(self._label(), self.keeps - 1)
            if draw < 0.30:
                return Reuse(self._label())
        if draw < 0.33:
            return Sleep(self.chance.choice([1, 200, 1_000_000, 20_000_000]))
        if draw < 0.38 and self.kind != "plain":
            return Draw()
        ends: Any = self.chance.choice(["well", "well", "well", "well", "badly", "retried"])
        return Step(self._label(), ends)

    def _label(self) -> str:
        return self.chance.choice("abcd")

    def _parts(self, leaves: int, least: int = 2, most: int = 4) -> tuple[Any, ...]:
        count = self.chance.randint(least, max(least, min(most, leaves)))
        return tuple(self.node(max(1, leaves // count)) for _ in range(count))

    def _halves(self, leaves: int) -> tuple[Any, Any]:
        return self.node(leaves // 2), self.node(leaves - leaves // 2)

    def sequence(self, leaves: int) -> Node:
        """One after the other."""
        return Sequence(self._parts(leaves))

    def gather(self, leaves: int) -> Node:
        """asyncio.gather()."""
        return Gather(self._parts(leaves), self.chance.random() < 0.5)

    def plain_race(self, leaves: int) -> Node:
        """asyncio.wait() for the first one."""
        return Race(self._parts(leaves))

    def race(self, leaves: int) -> Node:
        """asyncio.wait()."""
        until: Any = self.chance.choice(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
        then: Any = self.chance.choice(["cancel", "await", "leave"])
        return Race(self._parts(leaves), until, then)

    def attempt(self, leaves: int) -> Node:
        """try and except."""
        return Attempt(*self._halves(leaves))

    def always(self, leaves: int) -> Node:
        """try and finally."""
        return Always(*self._halves(leaves))

    def repeat(self, leaves: int) -> Node:
        """A loop."""
        return Repeat(self.chance.randint(1, 3), self.node(max(1, leaves // 2)))

    def group(self, leaves: int) -> Node:
        """asyncio.TaskGroup."""
        return Group(self._parts(leaves, 1, 3))

    def completed(self, leaves: int) -> Node:
        """asyncio.as_completed()."""
        return Completed(self._parts(leaves))

    def limit(self, leaves: int) -> Node:
        """A time limit."""
        micros = self.chance.choice([1, 1_500, 2_000_000, 3_600_000_000])
        how: Any = self.chance.choice(["timeout", "wait_for", "wait"])
        return Limit(micros, self.node(leaves), how)

    def shield(self, leaves: int) -> Node:
        """asyncio.shield()."""
        return Shield(*self._halves(leaves))

    def stop(self, leaves: int) -> Node:
        """A task that is cancelled."""
        return Stop(*self._halves(leaves))

    def stray(self, leaves: int) -> Node:
        """A task that nobody awaits, and then something else."""
        one, other = self._halves(leaves)
        return Sequence((Stray(one), other))

    def pipe(self, leaves: int) -> Node:
        """A queue."""
        return Pipe(self._parts(leaves, 1, 3))

    def bounded(self, leaves: int) -> Node:
        """A semaphore."""
        return Bounded(self.chance.randint(1, 3), self._parts(leaves))

    def signal(self, leaves: int) -> Node:
        """A condition."""
        first, other = self._halves(leaves)
        return Signal(first, (other,))

    def take(self, leaves: int) -> Node:
        """An async generator."""
        body, cleanup = self._halves(leaves)
        return Take(self.chance.randint(1, 3), body, cleanup)

    _plain = (sequence, sequence, gather, plain_race, attempt, repeat)
    _concurrent = (
        sequence,
        sequence,
        sequence,
        gather,
        gather,
        race,
        attempt,
        always,
        repeat,
        group,
        completed,
        limit,
        shield,
        stop,
        stray,
        pipe,
        bounded,
        signal,
        take,
    )
