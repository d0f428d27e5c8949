"""Small concurrent programs as data, and the flow that runs them."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Literal

from hypothesis import strategies as st
from msgspec import Struct

import kitaru
from kitaru import checkpoint, flow
from kitaru.engine.context import CheckpointScope, scope

Micros = int


class Node(Struct, frozen=True, tag=True):
    """A piece of a program."""


class Step(Node, frozen=True, tag=True):
    """Calls a checkpoint."""

    label: str
    ends: Literal["well", "badly", "retried"] = "well"


class Sleep(Node, frozen=True, tag=True):
    """Sleeps; with 0 it only lets others go first."""

    micros: Micros


class Draw(Node, frozen=True, tag=True):
    """Takes a random number and the time, and logs."""


class Sequence(Node, frozen=True, tag=True):
    """One after the other."""

    parts: tuple["AnyNode", ...]


class Repeat(Node, frozen=True, tag=True):
    """The same again and again, as long as it ends well."""

    times: int
    body: "AnyNode"


class Attempt(Node, frozen=True, tag=True):
    """try: body; except Exception: handler."""

    body: "AnyNode"
    handler: "AnyNode"


class Always(Node, frozen=True, tag=True):
    """try: body; finally: cleanup."""

    body: "AnyNode"
    cleanup: "AnyNode"


class Gather(Node, frozen=True, tag=True):
    """asyncio.gather()."""

    parts: tuple["AnyNode", ...]
    keep_errors: bool = False


class Group(Node, frozen=True, tag=True):
    """asyncio.TaskGroup."""

    parts: tuple["AnyNode", ...]


class Race(Node, frozen=True, tag=True):
    """asyncio.wait(), and then something is done with those that are pending."""

    parts: tuple["AnyNode", ...]
    until: Literal["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"] = "FIRST_COMPLETED"
    then: Literal["cancel", "await", "leave"] = "cancel"


class Completed(Node, frozen=True, tag=True):
    """asyncio.as_completed()."""

    parts: tuple["AnyNode", ...]


class Limit(Node, frozen=True, tag=True):
    """A time limit around the body."""

    micros: Micros
    body: "AnyNode"
    how: Literal["timeout", "wait_for", "wait"] = "timeout"


class Shield(Node, frozen=True, tag=True):
    """Who waits for the shielded body is cancelled after something else; the body is not."""

    body: "AnyNode"
    meanwhile: "AnyNode"


class Stop(Node, frozen=True, tag=True):
    """The body's task is cancelled after something else."""

    body: "AnyNode"
    meanwhile: "AnyNode"


class Stray(Node, frozen=True, tag=True):
    """A task that nobody awaits."""

    body: "AnyNode"


class Pipe(Node, frozen=True, tag=True):
    """Producers put what they have into a queue of size 1, one consumer takes it out."""

    parts: tuple["AnyNode", ...]


class Bounded(Node, frozen=True, tag=True):
    """So many at a time."""

    permits: int
    parts: tuple["AnyNode", ...]


class Signal(Node, frozen=True, tag=True):
    """The parts wait on a condition until the first one is done."""

    first: "AnyNode"
    parts: tuple["AnyNode", ...]


class Take(Node, frozen=True, tag=True):
    """An async generator of which only some items are taken."""

    items: int
    body: "AnyNode"
    cleanup: "AnyNode"


AnyNode = (
    Step
    | Sleep
    | Draw
    | Sequence
    | Repeat
    | Attempt
    | Always
    | Gather
    | Group
    | Race
    | Completed
    | Limit
    | Shield
    | Stop
    | Stray
    | Pipe
    | Bounded
    | Signal
    | Take
)


class Fault(Exception):
    """What a step that ends badly raises."""


# What the test looks at: by execution.

traces: defaultdict[str, list[str]] = defaultdict(list)
"""What the last pass of the body has seen, in order."""
bodies: defaultdict[str, list[str]] = defaultdict(list)
"""The paths whose checkpoint bodies have run."""
pace: dict[str, int] = {"seed": 0, "yields": 8}
"""What decides how long the checkpoints take: their order, in effect."""
library: dict[str, AnyNode] = {}


async def _labour(label: str, ends: str) -> str:
    here = scope.get()
    assert isinstance(here, CheckpointScope)
    exec_id = kitaru.current_execution_id()
    assert exec_id is not None
    bodies[exec_id].append(here.path)
    chance = random.Random(f"{pace['seed']}/{exec_id}/{here.path}/{here.attempt}")
    for _ in range(chance.randint(0, pace["yields"])):
        await asyncio.sleep(0)
    if ends == "badly" or (ends == "retried" and here.attempt == 1):
        raise Fault(label)
    return label


@checkpoint
async def work(label: str, ends: str) -> str:
    """Takes some turns of the event loop."""
    return await _labour(label, ends)


@checkpoint(retries=1)
async def retried(label: str, ends: str) -> str:
    """The same, with a second attempt."""
    return await _labour(label, ends)


@flow
async def run_program(key: str) -> Any:
    """Runs a program of the library."""
    return await _run_afresh(key)


@flow(retries=1)
async def run_program_twice(key: str) -> Any:
    """The same; when it fails, once more."""
    return await _run_afresh(key)


async def _run_afresh(key: str) -> Any:
    exec_id = kitaru.current_execution_id()
    assert exec_id is not None
    trace = traces[exec_id] = []
    body = Body(trace)
    try:
        return await body.run(library[key])
    finally:
        body.say("end")


def shown(error: BaseException) -> str:
    """An error as a trace shows it."""
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__}[{', '.join(map(shown, error.exceptions))}]"
    return f"{type(error).__name__}({error})"


class Body:
    """One pass of a program."""

    def __init__(self, trace: list[str]) -> None:
        self.trace = trace

    def say(self, text: str) -> None:
        """Adds to the trace, with the task that says it."""
        task = asyncio.current_task()
        self.trace.append(f"{task.get_name() if task else '?'}: {text}")

    def task(self, node: AnyNode) -> "asyncio.Task[Any]":
        """The node as a task."""
        return asyncio.create_task(self.run(node))

    async def run(self, node: AnyNode) -> Any:
        """Runs a node and says how it ended."""
        kind = type(node).__name__
        try:
            result = await self._dispatch(node)
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.say(f"{kind} raised {shown(error)}")
            raise
        self.say(f"{kind} gave {result}")
        return result

    def _dispatch(self, node: AnyNode) -> Coroutine[Any, Any, Any]:
        method: Any = getattr(self, f"_{type(node).__name__.lower()}")
        made: Coroutine[Any, Any, Any] = method(node)
        return made

    async def _step(self, node: Step) -> str:
        return await (retried if node.ends == "retried" else work)(node.label, node.ends)

    async def _sleep(self, node: Sleep) -> str:
        await asyncio.sleep(node.micros / 1_000_000)
        return "slept"

    async def _draw(self, node: Draw) -> str:
        kitaru.log(drawn=True)
        return f"{kitaru.random():.3f}"

    async def _sequence(self, node: Sequence) -> list[Any]:
        return [await self.run(part) for part in node.parts]

    async def _repeat(self, node: Repeat) -> list[Any]:
        return [await self.run(node.body) for _ in range(node.times)]

    async def _attempt(self, node: Attempt) -> Any:
        try:
            return await self.run(node.body)
        except Exception as error:
            return [shown(error), await self.run(node.handler)]

    async def _always(self, node: Always) -> Any:
        try:
            return await self.run(node.body)
        finally:
            await self.run(node.cleanup)

    async def _gather(self, node: Gather) -> list[Any]:
        found = await asyncio.gather(
            *(self.run(part) for part in node.parts), return_exceptions=node.keep_errors
        )
        return [shown(it) if isinstance(it, BaseException) else it for it in found]

    async def _group(self, node: Group) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.run(part)) for part in node.parts]
        return [task.result() for task in tasks]

    async def _race(self, node: Race) -> list[Any]:
        tasks = [self.task(part) for part in node.parts]
        # A gathering among them: what asyncio makes without asking the loop.
        racing: set[asyncio.Future[Any]] = {*tasks[:-1], asyncio.gather(tasks[-1])}
        done, pending = await asyncio.wait(racing, return_when=node.until)
        first = [self._outcome(future) for future in done]
        if node.then == "cancel":
            for future in pending:
                future.cancel()
        if pending and node.then != "leave":
            done, _ = await asyncio.wait(pending)
            return [first, [self._outcome(future) for future in done]]
        return [first, len(pending)]

    def _outcome(self, future: "asyncio.Future[Any]") -> Any:
        if future.cancelled():
            return "cancelled"
        error = future.exception()
        if isinstance(error, asyncio.CancelledError):
            # A gathering whose part was cancelled.
            return "cancelled"
        return future.result() if error is None else shown(error)

    async def _completed(self, node: Completed) -> list[Any]:
        found = []
        for future in asyncio.as_completed([self.run(part) for part in node.parts]):
            try:
                found.append(await future)
            except Exception as error:
                found.append(shown(error))
            self.say(f"next is {found[-1]}")
        return found

    async def _limit(self, node: Limit) -> Any:
        seconds = node.micros / 1_000_000
        try:
            if node.how == "timeout":
                async with asyncio.timeout(seconds):
                    return await self.run(node.body)
            if node.how == "wait_for":
                return await asyncio.wait_for(self.run(node.body), seconds)
        except TimeoutError:
            return "late"
        task = self.task(node.body)
        _, pending = await asyncio.wait([task], timeout=seconds)
        return ["late" if pending else "in time", await task]

    async def _shield(self, node: Shield) -> Any:
        body = self.task(node.body)

        async def wait() -> Any:
            return await asyncio.shield(body)

        waiting = asyncio.create_task(wait())
        try:
            await self.run(node.meanwhile)
        finally:
            waiting.cancel()
            await asyncio.wait([body, waiting])
        return [self._outcome(waiting), self._outcome(body)]

    async def _stop(self, node: Stop) -> Any:
        body = self.task(node.body)
        try:
            await self.run(node.meanwhile)
        finally:
            body.cancel()
            await asyncio.wait([body])
        return self._outcome(body)

    async def _stray(self, node: Stray) -> str:
        self.task(node.body)
        return "left"

    async def _pipe(self, node: Pipe) -> list[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue(1)

        async def produce(part: AnyNode) -> None:
            item = "nothing"
            try:
                item = await self.run(part)
            finally:
                await queue.put(item)

        producers = [asyncio.create_task(produce(part)) for part in node.parts]
        items = []
        for _ in producers:
            items.append(await queue.get())
            self.say(f"took {items[-1]}")
        await asyncio.wait(producers)
        return [items, [self._outcome(task) for task in producers]]

    async def _bounded(self, node: Bounded) -> list[Any]:
        permits = asyncio.Semaphore(node.permits)
        lock = asyncio.Lock()

        async def one(part: AnyNode) -> Any:
            async with permits:
                self.say("may")
                result = await self.run(part)
            async with lock:
                await asyncio.sleep(0)
            return result

        return await asyncio.gather(*(one(part) for part in node.parts))

    async def _signal(self, node: Signal) -> list[Any]:
        condition = asyncio.Condition()
        ready = False

        async def one(part: AnyNode) -> Any:
            async with condition:
                await condition.wait_for(lambda: ready)
            return await self.run(part)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(part)) for part in node.parts]
            try:
                first = await self.run(node.first)
            finally:
                async with condition:
                    ready = True
                    condition.notify_all()
        return [first, [task.result() for task in tasks]]

    async def _take(self, node: Take) -> list[Any]:
        async def items() -> AsyncGenerator[Any, None]:
            try:
                while True:
                    yield await self.run(node.body)
            finally:
                await self.run(node.cleanup)

        taken = []
        async for item in items():
            taken.append(item)
            if len(taken) == node.items:
                break
        return taken


# What programs there are

labels = st.sampled_from(["a", "b", "c", "d"])
steps = st.builds(Step, labels, st.sampled_from(["well", "well", "well", "badly", "retried"]))
micros = st.sampled_from([1, 300, 1_500, 3_600_000_000])
sleeps = st.builds(Sleep, st.sampled_from([0, 1, 200, 1_000]))
leaves: st.SearchStrategy[AnyNode] = st.one_of(steps, steps, steps, sleeps, st.builds(Draw))


def _larger(inner: st.SearchStrategy[AnyNode]) -> st.SearchStrategy[AnyNode]:
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    many = st.lists(inner, min_size=2, max_size=4).map(tuple)
    few = st.integers(1, 3)
    return st.one_of(
        st.builds(Sequence, many),
        st.builds(Gather, many, st.booleans()),
        st.builds(
            Race,
            many,
            st.sampled_from(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]),
            st.sampled_from(["cancel", "await", "leave"]),
        ),
        st.builds(Group, some),
        st.builds(Attempt, inner, inner),
        st.builds(Always, inner, inner),
        st.builds(Completed, many),
        st.builds(Limit, micros, inner, st.sampled_from(["timeout", "wait_for", "wait"])),
        st.builds(Shield, inner, inner),
        st.builds(Stop, inner, inner),
        st.builds(Stray, inner),
        st.builds(Pipe, some),
        st.builds(Bounded, few, many),
        st.builds(Signal, inner, some),
        st.builds(Take, few, inner, inner),
        st.builds(Repeat, few, inner),
    )


programs: st.SearchStrategy[AnyNode] = st.recursive(leaves, _larger, max_leaves=12)


def _larger_plain(inner: st.SearchStrategy[AnyNode]) -> st.SearchStrategy[AnyNode]:
    many = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.one_of(
        st.builds(Sequence, many),
        st.builds(Gather, many, st.booleans()),
        st.builds(Race, many),
        st.builds(Attempt, inner, inner),
        st.builds(Repeat, st.integers(1, 3), inner),
    )


plain_programs: st.SearchStrategy[AnyNode] = st.recursive(
    st.one_of(steps, steps, st.builds(Sleep, st.sampled_from([1, 200]))),
    _larger_plain,
    max_leaves=12,
)
"""Programs whose result follows from the order of the outcomes by a few lines of reasoning."""


def written(node: Any, indent: str = "") -> str:
    """The program as text, one node a line."""
    if not isinstance(node, Struct):
        return f"{indent}{node!r}\n"
    values = {name: getattr(node, name) for name in node.__struct_fields__}
    inner = {
        name: value
        for name, value in values.items()
        if isinstance(value[0] if isinstance(value, tuple) and value else value, Struct)
    }
    facts = ", ".join(f"{name}={v!r}" for name, v in values.items() if name not in inner)
    text = f"{indent}{type(node).__name__}({facts})\n"
    for name, value in inner.items():
        if isinstance(value, Struct):
            text += f"{indent}  {name}:\n{written(value, indent + '    ')}"
        else:
            text += "".join(written(part, indent + "  ") for part in value)
    return text
