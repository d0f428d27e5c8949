"""One simulated process: a real worker on a loop of its own, with a clock of its own."""

import functools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kitaru.bootstrap import Runtime
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.codec import Codec
from kitaru.engine.registry import Registry
from kitaru.engine.worker import Worker
from tests.simulation.databases import run_in_turn
from tests.simulation.loop import SimulatedLoop
from tests.simulation.programs import FLOWS
from tests.simulation.store import SECOND, View

if TYPE_CHECKING:
    from tests.simulation.world import World


class NoThread:
    """The world itself beats the heart of a process."""

    def start(self) -> None:
        """Nothing is to be started."""


class Node:
    """A process that runs flows; or one that only steers them."""

    def __init__(self, world: "World", name: str, *, is_client: bool = False) -> None:
        self.world = world
        self.name = name
        self.is_client = is_client
        self.is_dead = False
        self.paused_until = 0
        """The process stands still until this instant of the world."""
        self.blocked_until = 0
        """Its loop does; its heartbeat's thread goes on."""
        self.born = world.now
        self.rate = 1.0
        if world.weather.drift and not is_client:
            self.rate = world.chance.choice([0.9, 0.999, 1.0, 1.001, 1.1])
            world.hit("clocks drift")
        self.loop = SimulatedLoop(self._failed)
        self.view = View(world, self)
        codec = Codec()
        journal: Any = self.view
        self.worker = Worker(
            journal,
            codec,
            Registry(_nothing_else),
            loop=self.loop,
            owner=name,
            lease_seconds=world.lease_us / SECOND,
        )
        self.worker._random = random.Random(world.chance.random())
        heart: Any = self.worker._heartbeat
        heart._thread = NoThread()
        worker: Any = self.worker
        worker.in_transaction = functools.partial(run_in_turn, self.loop)
        may_start = self.worker.may_start

        def noted(exec_id: str) -> bool:
            may = may_start(exec_id)
            if not may:
                world.hit("held for its lease")
            return may

        self.worker.may_start = noted  # type: ignore[method-assign]
        self.next_beat = world.now + world.lease_us // 3
        self.runtime = Runtime(journal, self.worker, codec, "memory://")
        self.on_this(self._begin)

    def _begin(self) -> None:
        if not self.is_client:
            for flow in FLOWS.values():
                self.worker.registry.serve(flow.reference, flow.definition)
        self.worker.start()

    def _failed(self, problem: str) -> None:
        self.world.broken(f"in {self.name}: {problem}")

    def on_this(self, function: Callable[[], Any]) -> Any:
        """Does something in this process."""
        self.world.current = self
        self.loop.now = self.local(self.world.now)
        with self.loop.running():
            return function()

    def local(self, instant: int) -> float:
        """An instant of the world by this process's own clock, in seconds."""
        return (instant - self.born) * self.rate / SECOND

    def in_world(self, seconds: float) -> int:
        """The opposite."""
        return self.born + round(seconds / self.rate * SECOND) + 1

    @property
    def stands_until(self) -> int:
        """Until when its loop stands still."""
        return max(self.paused_until, self.blocked_until)

    @property
    def is_ready(self) -> bool:
        """Whether its loop could go on now."""
        if self.is_dead or self.stands_until > self.world.now:
            return False
        self.loop.now = self.local(self.world.now)
        return self.loop.is_ready

    @property
    def next_at(self) -> int | None:
        """When the world should look at it again, if nothing comes from outside."""
        if self.is_dead:
            return None
        instants = [max(self.next_beat, self.paused_until)]
        if self.loop._ready:
            instants.append(max(self.stands_until, self.world.now))
        elif (timer := self.loop.next_timer) is not None:
            instants.append(max(self.in_world(timer), self.stands_until))
        return min(instants)

    def step(self) -> None:
        """Lets its loop go on for a bit."""
        most = self.world.chance.choice((1, 1, 2, 5, 50))
        self.world.current = self
        self.loop.now = self.local(self.world.now)
        self.loop.step(most)

    def beat(self) -> None:
        """Its heartbeat's thread renews its leases."""
        self.next_beat = self.world.now + round(self.world.lease_us / 3 / self.rate)
        heart: Any = self.worker._heartbeat
        if not heart._stopping.is_set():
            self.on_this(heart._renew)

    @property
    def runners(self) -> list[AsyncRunner]:
        """What it runs."""
        return [it for it in self.worker.runners.values() if isinstance(it, AsyncRunner)]

    def die(self) -> None:
        """Nothing of it goes on, and nothing of it is told to anybody."""
        self.is_dead = True
        self.view.watchers.clear()

        def drop() -> None:
            for runner in self.runners:
                runner.stop()

        self.on_this(drop)
        self.worker.runners.clear()
        self.loop.abandon()


def _nothing_else(_reference: Any) -> Any:
    raise AssertionError("every process of the simulation has all flows")
