"""Whoever uses a simulated world: starts, answers, cancels, retries, repeats, and is told."""

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kitaru.domain.execution.events import (
    CheckpointCompleted,
    FrozenOptions,
    TimerFired,
    WaitExpired,
)
from kitaru.engine.executions import stream_of
from kitaru.errors import (
    KitaruBackendError,
    KitaruError,
    KitaruStateError,
    KitaruUsageError,
    KitaruWaitValidationError,
)
from kitaru.operations import executions, forks, resolving, waits
from kitaru.status import ExecutionStatus
from tests.determinism.programs import Node as Program
from tests.simulation.core import called, ending_text
from tests.simulation.programs import FLOWS, Kind

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World


OVERRIDE = "override~"
"""What begins every outcome that somebody has put in another one's place."""


class Plan(Struct):
    """One execution that is to be."""

    exec_id: str
    key: str
    kind: Kind
    program: Program
    flow: str
    retries: int
    cancel_at: int | None = None
    early: str | None = None
    """The wait that is answered before anybody asks."""
    cache: bool | None = False
    """As the execution's options have it; None: as the checkpoint says."""
    source: str = ""
    """The execution that it is a fork of."""
    number: int = -1
    """Its place among those of its world that are no forks."""


class Clients:
    """What they do, each in a task of the process where they stand."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._answers = 0
        self._retried: dict[str, int] = {}
        self.tasks: set[asyncio.Task[Any]] = set()

    def go(self, node: "Node", coroutine: Any) -> None:
        """Does something in a process; with the process it ends."""

        def begin() -> None:
            task = node.loop.create_task(coroutine)
            self.tasks.add(task)
            task.add_done_callback(self._done)

        node.on_this(begin)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.world.broken(f"a client met {task.exception()!r}")

    async def start(self, node: "Node", plan: Plan) -> None:
        """Starts an execution, or joins the one that was started under its key."""
        world, flow = self.world, FLOWS[plan.flow]
        prepared = executions.prepare(
            node.runtime,
            flow.definition,
            flow.reference,
            "",
            {"key": plan.key},
            FrozenOptions(retries=plan.retries, cache=plan.cache),
            plan.key,
        )
        try:
            await executions.start(node.runtime, prepared)
        except KitaruBackendError:
            # It may have happened or not: whoever wants it asks again.
            world.hit("start retried after an unknown outcome")
            if not world.is_calm:
                world.later(world.chance.choice([10_000, 3_000_000]), lambda: world.start(plan))
            return
        world.checks.started.add(plan.exec_id)

    async def answer(self, exec_id: str, wait: str, value: str) -> bool:
        """Answers a wait; True when it is durable."""
        runtime = self.world.client.runtime
        try:
            await waits.give_input(runtime, exec_id, wait, value)
        except KitaruStateError as refused:
            if "another value" in str(refused):
                self.world.hit("another answer refused")
            elif "has ended without an answer" in str(refused):
                self.world.hit("answer after the deadline")
            return False
        except (KitaruBackendError, KitaruWaitValidationError):
            return False
        self.world.checks.answered.append((exec_id, wait, value))
        self.world.hit("answer given")
        return True

    async def answer_twice(self, exec_id: str, wait: str, value: str) -> None:
        """As a client does that has heard nothing."""
        first = await self.answer(exec_id, wait, value)
        if await self.answer(exec_id, wait, value) and first:
            self.world.hit("duplicate answer")

    async def abort(self, exec_id: str, wait: str) -> None:
        """Ends a wait without an answer."""
        try:
            await waits.abort_wait(self.world.client.runtime, exec_id, wait, "never mind")
        except (KitaruStateError, KitaruBackendError):
            return

    async def review(self, exec_id: str, call: str, value: str) -> None:
        """Says what came of a lost attempt."""
        runtime, draw = self.world.client.runtime, self.world.chance.random()
        try:
            if draw < 0.4:
                await resolving.give_result(runtime, exec_id, call, value)
            elif draw < 0.5:
                await resolving.give_failure(runtime, exec_id, call, "it went wrong")
            else:
                await resolving.let_run_again(runtime, exec_id, call)
        except (KitaruStateError, KitaruBackendError):
            return
        self.world.hit("review resolved")

    async def cancel(self, exec_id: str) -> None:
        """Asks for an early end."""
        try:
            await executions.cancel(self.world.client.runtime, exec_id, "enough")
        except KitaruStateError:
            self.world.hit("cancel after the end")
            return
        except KitaruBackendError:
            return
        if exec_id in self.world.checks.cancelled:
            self.world.hit("duplicate cancel")
        self.world.checks.cancelled.add(exec_id)
        self.world.hit("cancel requested")

    async def retry(self, exec_id: str) -> None:
        """Has a failed execution tried again."""
        try:
            await executions.reopen(self.world.client.runtime, exec_id, "retry")
        except (KitaruStateError, KitaruBackendError):
            return
        self.world.hit("failed execution retried")

    async def fork(self, exec_id: str, number: int) -> None:
        """Has an execution run anew, from one of its calls on, perhaps with another outcome."""
        world = self.world
        stream = stream_of(exec_id)
        events, state = world.checks.events[stream], world.checks.states[stream]
        calls = [it.path for it in events if isinstance(it, CheckpointCompleted | TimerFired)]
        if not calls:
            return
        overrides = {}
        done = [it for it in events if isinstance(it, CheckpointCompleted)]
        if done and world.chance.random() < 0.4:
            overrides[f"checkpoint.{world.chance.choice(done).path}"] = f"{OVERRIDE}{number}"
        request = forks.ForkRequest(
            source=exec_id,
            anchor=world.chance.choice(calls),
            overrides=overrides,
            idempotency_key=f"world {world.seed} fork {number}",
        )
        cache = world.chance.choice([None, True])
        new_id = executions.new_exec_id(state.flow, request.idempotency_key)
        # What is run anew is not to be served from where it ran before, unless somebody says so.
        world.forks_may_reuse[new_id] = cache is True
        try:
            await forks.fork_for_others(world.client.runtime, request, retries=None, cache=cache)
        except (KitaruUsageError, KitaruBackendError):
            world.hit("fork refused")
            return
        world.hit("fork begun")
        if not state.is_finished:
            world.hit("fork of a running execution")
        if world.plans[exec_id].source:
            world.hit("fork of a fork")

    async def follow(self, exec_id: str) -> None:
        """Waits for the end, and is told."""
        try:
            event = await executions.ending_of(self.world.client.runtime, exec_id, None)
        except KitaruError:
            return
        self.world.checks.told[exec_id] = ending_text([event])
        self.world.hit("client told the end")

    def look_around(self) -> None:
        """Does something for one execution, if somebody should."""
        world, chance = self.world, self.world.chance
        checks, client = world.checks, world.client
        if world.is_calm:
            for plan in world.plans.values():
                if stream_of(plan.exec_id) not in checks.states:
                    world.start(plan)
        for exec_id in world.plans:
            state = checks.states.get(stream_of(exec_id))
            if state is None or chance.random() < 0.3:
                continue
            if state.status is ExecutionStatus.FAILED and self._retried.get(exec_id, 0) < 1:
                self._retried[exec_id] = 1
                if chance.random() < 0.4 and not world.is_calm:
                    self.go(client, self.retry(exec_id))
                continue
            events = checks.events[stream_of(exec_id)]
            late = [it.path for it in events if isinstance(it, WaitExpired)]
            if late and not state.is_finished and chance.random() < 0.3:
                self.go(client, self.answer(exec_id, called(events)[late[-1]][0], "late"))
            if state.is_finished or not state.waits:
                continue
            wait = chance.choice(state.waits)
            self._answers += 1
            value = f"n{self._answers}"
            if wait.is_review:
                self.go(client, self.review(exec_id, wait.path, value))
                continue
            draw = chance.random()
            if draw < 0.1:
                self.go(client, self.abort(exec_id, wait.id))
            elif draw < 0.3:
                self.go(client, self.answer_twice(exec_id, wait.id, value))
            elif draw < 0.4:
                self.go(client, self.answer(exec_id, wait.id, value))
                self.go(client, self.answer(exec_id, wait.id, value + "x"))
            else:
                self.go(client, self.answer(exec_id, wait.id, value))
