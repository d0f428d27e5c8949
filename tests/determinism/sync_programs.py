"""Small programs of a sync flow as data, and the flow that runs them."""

import random
import time
from collections import defaultdict
from typing import Any, Literal

from hypothesis import strategies as st
from msgspec import Struct

import kitaru
from kitaru import checkpoint, flow
from kitaru.engine.context import CheckpointScope, scope
from kitaru.sdk.checkpoint import CheckpointFuture

Ends = Literal["well", "badly", "retried"]


class Node(Struct, frozen=True, tag=True):
    """A piece of a program."""


class Call(Node, frozen=True, tag=True):
    """A direct call; `uses` are earlier futures whose values it takes."""

    label: str
    ends: Ends = "well"
    uses: tuple[int, ...] = ()


class Submit(Node, frozen=True, tag=True):
    """A submitted call, with futures as arguments and others to wait for first."""

    label: str
    ends: Ends = "well"
    uses: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Map(Node, frozen=True, tag=True):
    """One submitted call for each label."""

    labels: tuple[str, ...]


class Result(Node, frozen=True, tag=True):
    """Blocks for an earlier future."""

    number: int


class Wait(Node, frozen=True, tag=True):
    """Blocks for an earlier future, and looks at no error."""

    number: int


class First(Node, frozen=True, tag=True):
    """The first of some earlier futures."""

    numbers: tuple[int, ...]


class Completed(Node, frozen=True, tag=True):
    """All futures in the order of their outcomes."""


class Nap(Node, frozen=True, tag=True):
    """A durable sleep."""

    micros: int


class Draw(Node, frozen=True, tag=True):
    """A random number, and a log entry."""


class Sequence(Node, frozen=True, tag=True):
    """One after the other."""

    parts: tuple["AnyNode", ...]


class Attempt(Node, frozen=True, tag=True):
    """try: body; except: handler. With `broad`, cancellation is caught, too."""

    body: "AnyNode"
    handler: "AnyNode"
    broad: bool = False


class Always(Node, frozen=True, tag=True):
    """try: body; finally: cleanup."""

    body: "AnyNode"
    cleanup: "AnyNode"


AnyNode = (
    Call
    | Submit
    | Map
    | Result
    | Wait
    | First
    | Completed
    | Nap
    | Draw
    | Sequence
    | Attempt
    | Always
)


class Fault(Exception):
    """What a call that ends badly raises."""


traces: defaultdict[str, list[str]] = defaultdict(list)
"""What the last pass of the body has seen, in order."""
bodies: defaultdict[str, list[str]] = defaultdict(list)
"""The paths whose checkpoint bodies have run."""
pace: dict[str, int] = {"seed": 0, "pauses": 3}
library: dict[str, AnyNode] = {}


def _labour(label: str, ends: str, used: list[str]) -> str:
    here = scope.get()
    assert isinstance(here, CheckpointScope)
    exec_id = kitaru.current_execution_id()
    assert exec_id is not None
    bodies[exec_id].append(here.path)
    chance = random.Random(f"{pace['seed']}/{exec_id}/{here.path}/{here.attempt}")
    time.sleep(chance.randint(0, pace["pauses"]) / 5_000)
    if ends == "badly" or (ends == "retried" and here.attempt == 1):
        raise Fault(label)
    return "+".join([label, *used])


@checkpoint
def work(label: str, ends: str, used: list[str]) -> str:
    """Takes some time."""
    return _labour(label, ends, used)


@checkpoint(retries=1)
def retried(label: str, ends: str, used: list[str]) -> str:
    """The same, with a second attempt."""
    return _labour(label, ends, used)


@flow
def run_sync_program(key: str) -> list[Any]:
    """Runs a program of the library."""
    return _run_afresh(key)


@flow(retries=1)
def run_sync_program_twice(key: str) -> list[Any]:
    """The same; when it fails, once more."""
    return _run_afresh(key)


def _run_afresh(key: str) -> list[Any]:
    exec_id = kitaru.current_execution_id()
    assert exec_id is not None
    trace = traces[exec_id] = []
    Body(trace).run(library[key])
    return trace


class Body:
    """One pass of a program."""

    def __init__(self, trace: list[str]) -> None:
        self.trace = trace
        self.futures: list[CheckpointFuture[str]] = []

    def run(self, node: AnyNode) -> None:
        """Runs a node and says how it ended."""
        kind = type(node).__name__
        try:
            result = self._dispatch(node)
        except BaseException as error:
            self.trace.append(f"{kind} raised {type(error).__name__}({error})")
            raise
        self.trace.append(f"{kind} gave {result}")

    def _dispatch(self, node: AnyNode) -> Any:
        match node:
            case Call(label=label, ends=ends, uses=uses):
                return _kind(ends)(label, ends, self._some(uses))
            case Submit(label=label, ends=ends, uses=uses, after=after):
                used: Any = self._some(uses)
                future = _kind(ends).submit(label, ends, used, after=self._some(after))
                self.futures.append(future)
                return future
            case Map(labels=labels):
                mapped = work.map([*labels], ends="well", used=[])
                self.futures += mapped
                return mapped
            case Sequence(parts=parts):
                for part in parts:
                    self.run(part)
            case Attempt(body=body, handler=handler, broad=broad):
                caught = kitaru.KitaruCancelled if broad else Fault
                try:
                    self.run(body)
                except (Exception, caught):
                    self.run(handler)
            case Always(body=body, cleanup=cleanup):
                try:
                    self.run(body)
                finally:
                    self.run(cleanup)
            case Nap(micros=micros):
                kitaru.sleep(micros / 1_000_000)
            case Draw():
                kitaru.log(drawn=True)
                return kitaru.random()
            case _:
                return self._look(node)
        return None

    def _look(self, node: Result | Wait | First | Completed) -> Any:
        match node:
            case Result(number=number):
                return [future.result() for future in self._some((number,))]
            case Wait(number=number):
                for future in self._some((number,)):
                    future.wait()
                return None
            case First(numbers=numbers):
                some = self._some(numbers)
                return kitaru.wait_any(some) if some else None
            case Completed():
                return list(kitaru.as_completed(self.futures))

    def _some(self, numbers: tuple[int, ...]) -> list[CheckpointFuture[str]]:
        count = len(self.futures)
        return [self.futures[number % count] for number in numbers] if count else []


def _kind(ends: Ends) -> Any:
    return retried if ends == "retried" else work


labels = st.sampled_from(["a", "b", "c"])
ends = st.sampled_from(["well", "well", "well", "badly", "retried"])
numbers = st.integers(0, 6)
some_numbers = st.lists(numbers, max_size=2).map(tuple)
leaves: st.SearchStrategy[AnyNode] = st.one_of(
    st.builds(Submit, labels, ends, some_numbers, some_numbers),
    st.builds(Submit, labels, ends),
    st.builds(Call, labels, ends, some_numbers),
    st.builds(Map, st.lists(labels, min_size=1, max_size=3).map(tuple)),
    st.builds(Result, numbers),
    st.builds(Wait, numbers),
    st.builds(First, st.lists(numbers, min_size=1, max_size=3).map(tuple)),
    st.just(Completed()),
    st.builds(Nap, st.sampled_from([0, 1, 300])),
    st.just(Draw()),
)


def _larger(inner: st.SearchStrategy[AnyNode]) -> st.SearchStrategy[AnyNode]:
    return st.one_of(
        st.builds(Sequence, st.lists(inner, min_size=2, max_size=6).map(tuple)),
        st.builds(Attempt, inner, inner, st.booleans()),
        st.builds(Always, inner, inner),
    )


programs: st.SearchStrategy[AnyNode] = st.builds(
    Sequence,
    st.lists(st.recursive(leaves, _larger, max_leaves=8), min_size=1, max_size=5).map(tuple),
)
