"""A whole world from one seed: processes, a store, clients, clocks, and what goes wrong.

Single-threaded: each step lets one process go on a little, or the store serve one request, as the
seed decides. The workers, runners, operations, rules and the reference journal are the real ones;
flows are async ones, as sync ones need threads. The same seed gives the same world.
"""

import hashlib
import heapq
import random
from asyncio import iscoroutine, sleep
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from msgspec import Struct, structs

import kitaru.engine.async_runner
import kitaru.engine.heartbeat
import kitaru.engine.worker
import kitaru.operations.executions
from journal import (
    Append,
    Appended,
    ClaimQuery,
    Head,
    JournalError,
    JournalUnavailable,
    KeyQuery,
    Lease,
    RecordedEvent,
    open_journal,
)
from journal.backends.sqlite import connections, guarded
from kitaru.engine.executions import exec_id_of, stream_of
from kitaru.telemetry import LogEvent
from tests.determinism import programs
from tests.simulation.checks import Checks
from tests.simulation.clients import Clients, Plan
from tests.simulation.core import EPOCH_US
from tests.simulation.cuts import Cuts
from tests.simulation.databases import at_once as at_once_or_never
from tests.simulation.databases import begin_anew
from tests.simulation.loop import SimulatedLoop
from tests.simulation.node import Node
from tests.simulation.programs import (
    Audience,
    Kind,
    Pass,
    Reuse,
    audience,
    random_program,
    set_audience,
)
from tests.simulation.sometimes import Sometimes
from tests.simulation.store import SECOND, Faults, Request, Weather, at_once
from tests.simulation.violation import Violation

NOTHING_CUT = Cuts()
MOST_STEPS = 60_000
CALM_STEPS = 40_000
"""After the faults have stopped: more steps, and something is stuck."""


class Ledger(Audience):
    """What bodies do in a world."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.library = {}
        self.passes: dict[str, list[Pass]] = {}
        self.begun_by: dict[str, int] = {}
        """The owner's epoch in which the body began that has a mark."""
        self._marks = 0

    def body_begins(self, runner: Any, path: str, attempt: int, name: str) -> str:
        self._marks += 1
        mark = f"~{self._marks}"
        self.begun_by[mark] = runner.execution.lease.epoch
        self.world.checks.body_begins(runner, path, attempt)
        return mark

    def pass_begins(self, runner: Any) -> None:
        if runner.history.order:
            self.world.hit("result handed over in a replay")

    async def takes_time(self, exec_id: str, path: str) -> None:
        world = self.world
        node = world.current
        try:
            draw = world.chance.random()
            if draw < 0.5:
                for _ in range(world.chance.randint(0, 4)):
                    await sleep(0)
            else:
                await sleep(world.chance.choice((0.001, 0.06, 0.5, 3.0)))
        finally:
            head = world.inner.head_blocking(stream_of(exec_id))
            if head is not None and head.owner != node.name:
                world.hit("zombie's outcome")


class Asked(Struct, frozen=True):
    """Something that the store was asked, and what came of it."""

    what: str
    """The method of the journal's."""
    arguments: tuple[Any, ...]
    clock: int
    result: Any
    """What it gave, or the error that it raised."""


class World:
    """Everything that there is."""

    def __init__(
        self, seed: int, asked: list[Asked] | None = None, cuts: Cuts = NOTHING_CUT
    ) -> None:
        self.seed = seed
        self.cuts = cuts
        self.struck: list[tuple[int, int, str, str]] = []
        """(number, when, what, whom) of the faults that have happened."""
        self._faults_met = 0
        self.asked = asked
        """What the store is asked, when somebody wants to know."""
        self.chance = random.Random(seed)
        self.now = 0
        self.jumped = 0
        self.lease_us = 8 * SECOND
        self.is_calm = False
        self.sometimes = Sometimes()
        self.weather = self._weather()
        for name in cuts.calm:
            setattr(self.weather, name, 0.0)
        self.keep: list[Any] = []
        """Runners whose identity stands for them."""
        self.commits = 0
        self.furthest = 0
        """How far ahead the store's clock has ever been."""
        self.crash_points = 0
        """Executions that were unfinished when their process died, summed over all deaths."""
        self.take_overs = 0
        self.steps = 0
        self.log = hashlib.sha256()
        self._problems: list[str] = []
        self._requests: list[Request] = []
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        begin_anew()
        self.store_loop = SimulatedLoop(self.broken)
        with self.store_loop.running():
            self.inner: Any = at_once(open_journal("memory://", clock=self.clock))
        self.faults = Faults(self, self.weather)
        self.checks = Checks(self)
        self.ledger = Ledger(self)
        set_audience(self.ledger)
        self.plans: dict[str, Plan] = {}
        self.forks_may_reuse: dict[str, bool] = {}
        """Whether a fork was begun with the cache on."""
        self.clients = Clients(self)
        self.client = Node(self, "client", is_client=True)
        self.current: Node = self.client
        self.owners = [Node(self, f"owner-{n}") for n in range(self.chance.randint(1, 3))]

    def _weather(self) -> Weather:
        chance = self.chance
        weather = Weather()

        def maybe(name: str, likely: float, *rates: float) -> None:
            if chance.random() < likely:
                setattr(weather, name, chance.choice(rates))

        maybe("crash_before", 0.6, 0.02, 0.1, 0.25)
        maybe("crash_after", 0.6, 0.02, 0.1, 0.25)
        if chance.random() < 0.03:
            # Nothing comes to its end in such a world, until the limit of take-overs ends it.
            weather.crash_before, weather.crash_after = 0.0, 0.95
        maybe("unknown", 0.4, 0.02, 0.1)
        maybe("busy", 0.4, 0.02, 0.1)
        maybe("full", 0.15, 0.01)
        maybe("read_error", 0.3, 0.01, 0.1)
        maybe("slow", 0.3, 0.02, 0.1)
        maybe("lost_answer", 0.2, 0.05)
        maybe("late_answer", 0.3, 0.1)
        maybe("lost_notification", 0.3, 0.2, 1.0)
        maybe("late_notification", 0.3, 0.3)
        maybe("renewal_error", 0.3, 0.1, 0.5)
        maybe("kill", 0.5, 0.001, 0.004)
        maybe("pause", 0.3, 0.002)
        maybe("block", 0.3, 0.002)
        maybe("shutdown", 0.3, 0.001)
        maybe("jump", 0.2, 0.0005)
        maybe("drift", 0.2, 1.0)
        return weather

    # time

    def clock(self) -> int:
        """The store's clock: microseconds since the Unix epoch."""
        return EPOCH_US + self.now + self.jumped

    def monotonic(self) -> float:
        """The clock of the process that does something now."""
        return self.current.loop.now

    def later(self, delay: int, function: Callable[[], None]) -> None:
        """Does something after so many microseconds."""
        self._sequence += 1
        heapq.heappush(self._later, (self.now + delay, self._sequence, function))

    # what happens

    def hit(self, name: str) -> None:
        """A rare situation."""
        self.sometimes.hit(name)

    def strikes(self, what: str, whom: str) -> bool:
        """Whether a fault that the seed wants is to happen."""
        number = self._faults_met
        self._faults_met += 1
        if not self.cuts.allows(number):
            return False
        self.struck.append((number, self.now, what, whom))
        return True

    def broken(self, problem: str) -> None:
        """Something that must not happen has been noticed where nothing can be raised."""
        self._problems.append(problem)

    def ask(self, request: Request) -> None:
        """A process asks the store for something."""
        self._requests.append(request)

    def _store(self, what: str, *arguments: Any) -> Any:
        method, result = getattr(self.inner, what), None
        try:
            result = method(*arguments)
            result = at_once(result) if iscoroutine(result) else result
        except JournalError as error:
            result = error
            raise
        finally:
            if self.asked is not None:
                self.asked.append(Asked(what, arguments, self.clock(), result))
        return result

    def append(self, node: Node, append: Append) -> Appended:
        """An append reaches the store."""
        appended: Appended = self._store("append", append)
        self.log.update(repr((node.name, append.stream, appended.version, self.now)).encode())
        self.commits += 1
        self.checks.appended(append, appended)
        if len(append.events) > 2:
            self.hit("batch of several events")
        if append.blobs:
            self.hit("value in a blob")
        self._tell(node, appended.events)
        return appended

    def claim(self, node: Node, query: ClaimQuery) -> list[tuple[Head, Lease]]:
        """A claim reaches the store."""
        claimed: list[tuple[Head, Lease]] = self._store("claim", query)
        for head, lease in claimed:
            self.checks.claimed(lease)
            self._claimed(head)
        return claimed

    def _claimed(self, head: Head) -> None:
        state = self.checks.states[head.stream]
        if head.owner is not None:
            self.take_overs += 1
            exec_id = exec_id_of(head.stream)
            if any(exec_id in node.worker.runners for node in self.owners if not node.is_dead):
                self.hit("take-over from a living owner")
                self.hit("two processes in one execution")
        elif state.status is not None and state.status.value == "waiting":
            if state.due_at:
                self.hit("woken by its time")
        elif state.due_at == 0 and head.owner is None:
            self.hit("woken by an answer")

    def release(self, lease: Lease) -> None:
        """A lease is given back."""
        self._store("release", lease)

    def renew(self, node: Node, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        """A heartbeat reaches the store."""
        draw = self.chance.random()
        if draw < self.weather.renewal_error and self._may_strike("a renewal fails", node):
            self.hit("renewal failed")
            raise JournalUnavailable("the store cannot be reached")
        held: list[Lease] = self._store("renew_blocking", leases, seconds)
        if held:
            self.hit("lease renewed")
        if len(held) < len(leases):
            self.hit("renewal refused")
        return held

    def _tell(self, writer: Node, events: Sequence[RecordedEvent]) -> None:
        """Whoever watches is told: the writer's process what, the others that something was."""
        for node in [self.client, *self.owners]:
            if node.is_dead:
                continue
            for stream, watcher in list(node.view.watchers):
                if node is writer:
                    news = [it for it in events if stream in (None, it.stream)]
                    if news:
                        self._notify(node, watcher, news)
                else:
                    self._notify(node, watcher, ())

    def _may_strike(self, what: str, node: Node) -> bool:
        return not self.is_calm and self.strikes(what, node.name)

    def _notify(self, node: Node, watcher: Any, events: Sequence[RecordedEvent]) -> None:
        draw = self.chance.random() if not self.is_calm else 1.0
        if draw < self.weather.lost_notification and self.strikes("a hint is lost", node.name):
            self.hit("lost notification")
            return

        def tell() -> None:
            if not node.is_dead:
                node.loop.call_soon(watcher, events)

        draw = self.chance.random()
        if draw < self.weather.late_notification and self._may_strike("a hint is late", node):
            self.hit("late notification")
            self.later(self.chance.choice([10_000, 2 * SECOND]), tell)
        else:
            tell()

    # what goes wrong

    def kill(self, node: Node) -> None:
        """The process dies; another one of its name may come back."""
        if node.is_dead or node.is_client:
            return
        self.hit("owner killed")
        unfinished = [
            it for it in node.runners if not self.checks.states[it.execution.stream].is_finished
        ]
        self.crash_points += len(unfinished)
        if len(unfinished) > 1:
            self.hit("owner killed with several executions")
        if any(it.attempts.running for it in unfinished):
            self.hit("owner killed in a body")
        if any(not it._live for it in unfinished):
            self.hit("owner killed while replaying")
        node.die()
        self._gone(node)

    def _gone(self, node: Node) -> None:
        if all(it.is_dead for it in self.owners):
            self.hit("all owners dead")
        self.later(self.chance.choice([1_000, SECOND, 10 * SECOND]), lambda: self._come_back(node))

    def _come_back(self, node: Node) -> None:
        place = self.owners.index(node)
        self.owners[place] = Node(self, node.name)
        self.hit("owner restarted")

    async def _shut_down(self, node: Node) -> None:
        await node.runtime.close()
        self.later(0, lambda: self._is_closed(node))

    def _is_closed(self, node: Node) -> None:
        if not node.is_dead:
            node.die()
            self.hit("orderly shutdown")
            self._gone(node)

    def _misfortune(self) -> None:
        """What may happen at any step."""
        weather, chance = self.weather, self.chance
        draw = chance.random()
        node = chance.choice(self.owners)
        if draw < weather.kill:
            if self.strikes("is killed", node.name):
                self.kill(node)
            return
        draw -= weather.kill
        if draw < weather.pause:
            factor = chance.choice([0.1, 0.5, 1.1, 3.0])
            if not self.strikes(f"stands still for {factor:g} lease times", node.name):
                return
            node.paused_until = self.now + round(factor * self.lease_us)
            self.hit("owner paused")
            if factor > 1:
                self.hit("owner paused beyond the lease")
            return
        draw -= weather.pause
        if draw < weather.block:
            blocked = chance.choice([1, 10, 30]) * SECOND
            if not self.strikes(f"'s loop stands still for {blocked / SECOND:g} s", node.name):
                return
            node.blocked_until = self.now + blocked
            self.hit("loop blocked while the heartbeat went on")
            return
        draw -= weather.block
        if draw < weather.shutdown and not node.is_dead and not node.worker._closing:
            if self.strikes("is shut down", node.name):
                node.on_this(lambda: node.loop.create_task(self._shut_down(node)))
            return
        draw -= weather.shutdown
        if draw < weather.jump:
            jump = chance.choice([-3600, -10, -1, 1, 10, 3600]) * SECOND
            if not self.strikes(f"its clock jumps by {jump / SECOND:g} s", "store"):
                return
            self.jumped += jump
            self.furthest = max(self.furthest, self.jumped)
            self.hit("clock jumped ahead" if jump > 0 else "clock jumped back")

    # the run

    def start(self, plan: Plan) -> None:
        """Has an execution started by one of the processes."""
        alive = [node for node in self.owners if not node.is_dead]
        if not alive:
            self.later(SECOND, lambda: self.start(plan))
            return
        node = self.chance.choice(alive)
        self.clients.go(node, self.clients.start(node, plan))

    def plan(self) -> None:
        """Decides on all that somebody wants to be done."""
        chance = self.chance
        for number in range(chance.randint(1, 6)):
            kind: Kind = chance.choice(["plain", "concurrent", "any", "any"])
            key = f"world {self.seed} execution {number}"
            flow = chance.choice(["simulated", "simulated", "simulated_twice"])
            program: Any = random_program(chance, kind, chance.choice([1, 3, 6, 10]))
            if kind == "any" and chance.random() < 0.4:
                parts: Any = (Reuse(chance.choice("ab")), program)
                program = programs.Sequence(parts)
            program = self.cuts.program(number, program)
            self.ledger.library[key] = program
            exec_id = kitaru.operations.executions.new_exec_id(flow, key)
            retries = int(flow == "simulated_twice")
            cache = chance.choice([None, False])
            plan = Plan(exec_id, key, kind, program, flow, retries, cache=cache, number=number)
            is_cut = number in self.cuts.executions
            if not is_cut:
                self.plans[exec_id] = plan
            later = self._nowhere if is_cut else self.later
            extra = self._nowhere if is_cut or self.cuts.is_alone else self.later
            at = chance.choice([0, 0, 100_000, 5 * SECOND, 20 * SECOND])
            later(at, lambda plan=plan: self.start(plan))  # type: ignore[misc]
            if chance.random() < 0.2:
                self.hit("duplicate start")
                again = chance.choice([0, 1_000, 5 * SECOND])
                later(at + again, lambda plan=plan: self.start(plan))  # type: ignore[misc]
            if kind != "plain" and chance.random() < 0.25:
                for _ in range(chance.choice([1, 1, 2])):
                    when = at + chance.choice([1_000, 300_000, 4 * SECOND, 30 * SECOND])
                    extra(when, lambda it=exec_id: self._cancel(it))  # type: ignore[misc]
            if kind == "any" and chance.random() < 0.3:
                when = at + chance.choice([1_000, 100_000])
                extra(when, lambda it=exec_id: self._answer_early(it))  # type: ignore[misc]
            later(at + SECOND, lambda it=exec_id: self._follow(it))  # type: ignore[misc]
            if chance.random() < 0.25:
                when = at + chance.choice([300_000, 4 * SECOND, 25 * SECOND])
                extra(when, lambda it=exec_id, n=number: self._fork(it, n))  # type: ignore[misc]

    def _nowhere(self, delay: int, function: Callable[[], None]) -> None:
        """For what is left out."""

    def _fork(self, exec_id: str, number: int) -> None:
        if self.is_calm or stream_of(exec_id) not in self.checks.states:
            return
        if self.chance.random() < 0.3:
            # Of a fork, if there is one.
            exec_id = next((it for it, plan in self.plans.items() if plan.source), exec_id)
        self.clients.go(self.client, self.clients.fork(exec_id, number))

    def forked(self, stream: str, source: str) -> None:
        """A fork has been begun, whether whoever asked for it has heard of it or not."""
        known, exec_id = self.plans[source], exec_id_of(stream)
        cache = self.forks_may_reuse[exec_id]
        self.plans[exec_id] = structs.replace(
            known, exec_id=exec_id, source=source, number=-1, cache=cache
        )
        self.later(0, lambda: self._follow(exec_id))

    def find(self, query: KeyQuery) -> dict[int, RecordedEvent]:
        """A look-up of results of earlier executions reaches the store."""
        self.hit("cache asked")
        found: dict[int, RecordedEvent] = self._store("find_blocking", query)
        return found

    def _cancel(self, exec_id: str) -> None:
        if stream_of(exec_id) in self.checks.states:
            self.clients.go(self.client, self.clients.cancel(exec_id))

    def _answer_early(self, exec_id: str) -> None:
        state = self.checks.states.get(stream_of(exec_id))
        if state is not None and not state.is_finished and not state.waits:
            self.hit("early answer")
            self.clients.go(self.client, self.clients.answer(exec_id, "ask1", "early"))

    def _follow(self, exec_id: str) -> None:
        if stream_of(exec_id) in self.checks.states:
            self.clients.go(self.client, self.clients.follow(exec_id))
        elif not self.is_calm:
            self.later(SECOND, lambda: self._follow(exec_id))

    def _look_around(self) -> None:
        self.clients.look_around()
        self.later(self.chance.choice([300_000, SECOND, 3 * SECOND]), self._look_around)

    def run(self) -> None:
        """Everything, from the first start to the rest. Raises Violation."""
        with self._in_place():
            self.plan()
            if self.cuts.luck:
                self.chance.seed((self.seed << 8) + self.cuts.luck)
            self.later(SECOND, self._look_around)
            stormy = self.chance.choice([30, 60, 240]) * SECOND
            if self.weather.crash_after > 0.5:
                stormy = 400 * SECOND
            while self.now < stormy and not self._is_at_rest() and self.steps < MOST_STEPS:
                self._step()
            self._calm_down()
            last = self.steps + CALM_STEPS
            while not self._is_at_rest():
                self._step()
                if self.steps > last:
                    raise Violation(f"I9: stuck after the faults have stopped: {self._standing()}")
            self.checks.at_rest()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The engine's clocks and its chance are those of the world."""
        simulated = SimpleNamespace(monotonic=self.monotonic)
        secrets = SimpleNamespace(token_hex=lambda n: f"{self.chance.getrandbits(8 * n):x}")
        with (
            mock.patch.object(guarded, "patiently", at_once_or_never),
            mock.patch.object(connections, "patiently", at_once_or_never),
            mock.patch.object(kitaru.engine.worker, "time", simulated),
            mock.patch.object(kitaru.engine.heartbeat, "time", simulated),
            mock.patch.object(kitaru.operations.executions, "time", simulated),
            mock.patch.object(kitaru.operations.executions, "secrets", secrets),
            mock.patch.object(kitaru.engine.worker, "report", self._report),
            mock.patch.object(kitaru.engine.async_runner, "report", self._report),
        ):
            yield

    def _report(self, event: LogEvent, **_facts: Any) -> None:
        if event is LogEvent.EXECUTION_RECOVERED_TOO_OFTEN:
            self.hit("recovered too often")
        elif event is LogEvent.EXECUTION_DIVERGED:
            self.broken(f"an execution has diverged: {_facts}")

    def _calm_down(self) -> None:
        self.is_calm = True
        # The store's clock is put right: until then, leases of the dead would go on.
        self.jumped = self.furthest
        for node in self.owners:
            node.paused_until = node.blocked_until = 0
        # What was lost stays lost; what is asked from now on is done and answered.
        for plan in self.plans.values():
            if stream_of(plan.exec_id) not in self.checks.states:
                self.start(plan)

    def end(self) -> None:
        """Nothing of it goes on."""
        for node in [self.client, *self.owners]:
            if not node.is_dead:
                node.die()
        self.store_loop.abandon()

    def _is_at_rest(self) -> bool:
        states = self.checks.states
        if len(states) < len(self.plans):
            return False
        return all(state.is_finished for state in states.values()) and not self._requests

    def _step(self) -> None:
        self.steps += 1
        if self._problems:
            raise Violation("; ".join(self._problems))
        while self._later and self._later[0][0] <= self.now:
            heapq.heappop(self._later)[2]()
        if not self.is_calm:
            self._misfortune()
        now = self.now
        for node in [self.client, *self.owners]:
            if not node.is_dead and max(node.next_beat, node.paused_until) <= now:
                node.beat()
        ready = [node for node in (self.client, *self.owners) if node.is_ready]
        asked = [request for request in self._requests if request.at <= now]
        if ready and (not asked or self.chance.random() < 0.7):
            self.chance.choice(ready).step()
        elif asked:
            request = self.chance.choice(asked)
            self._requests.remove(request)
            self.faults.serve(request)
        else:
            self._let_time_pass()
            return
        self.now += self.chance.choice((0, 1, 7, 90))

    def _let_time_pass(self) -> None:
        instants = [request.at for request in self._requests]
        instants += [self._later[0][0]] if self._later else []
        for node in (self.client, *self.owners):
            at = node.next_at
            if at is not None:
                instants.append(at)
        self.now = max(self.now + 1, min(instants))

    def _standing(self) -> str:
        return "; ".join(
            f"{stream}: {state.status} {state.waits} due {state.due_at}"
            for stream, state in self.checks.states.items()
            if not state.is_finished
        )


@contextmanager
def simulated(
    seed: int, asked: list[Asked] | None = None, cuts: Cuts = NOTHING_CUT
) -> Iterator[World]:
    """A world that is there until the end of the block."""
    before = audience
    world = World(seed, asked, cuts)
    try:
        yield world
    finally:
        world.end()
        set_audience(before)


def run_world(seed: int, cuts: Cuts = NOTHING_CUT) -> World:
    """One world, from its seed. Raises Violation, with how to see it again."""
    with simulated(seed, cuts=cuts) as world:
        try:
            world.run()
        except Exception as error:
            words = f"world --seed {seed} {cuts.words}".rstrip()
            raise Violation(
                f"{error}\nreplay with: python -m tests.simulation {words}\n"
                f"make it smaller with: python -m tests.simulation shrink --seed {seed}\n"
                f"weather: {world.weather}\nat step {world.steps}, {world.now / SECOND:.6f} s"
            ) from error
    return world
