"""What every runner is to its worker, and every worker to its runners."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from journal import Journal
from kitaru.domain.execution.events import ExecutionEvent, ExecutionStarted
from kitaru.domain.stack.decide import PROCESS
from kitaru.engine.calls import Call
from kitaru.engine.codec import Codec
from kitaru.engine.definitions import CheckpointDefinition, FlowDefinition
from kitaru.engine.executions import OwnedExecution
from kitaru.engine.history import RecordedFact
from kitaru.telemetry import LogEvent, report


class Loaded(Struct, frozen=True):
    """An execution that is ready for a pass: what is recorded, and the code to run."""

    definition: FlowDefinition
    execution: OwnedExecution
    facts: Sequence[RecordedFact]
    main_module: str | None = None
    """The module that stands for ``__main__`` of the script that started the execution."""


def isolates(loaded: Loaded) -> bool:
    """Whether the execution's stack gives isolated checkpoints a process of their own."""
    started = loaded.facts[0][2]
    assert isinstance(started, ExecutionStarted)
    stack = started.options.stack
    return stack is not None and stack.type == PROCESS


def tell_inline(definition: CheckpointDefinition, exec_id: str) -> None:
    """Says once that a checkpoint which asks for a process of its own has none on this stack."""
    if not definition.is_told_inline:
        definition.is_told_inline = True
        report(LogEvent.CHECKPOINT_NOT_ISOLATED, exec_id=exec_id, checkpoint=definition.name)


DRAW = "kitaru draw"
"""The name under which draws of random values are counted: no function can have it."""


def seed_of(loaded: Loaded) -> str:
    """What the body's random values are derived from."""
    started = loaded.facts[0][2]
    assert isinstance(started, ExecutionStarted)
    return started.seed or loaded.execution.exec_id


def clock_of(loaded: Loaded) -> int:
    """When the body's time begins, in microseconds: for a fork, when its source's did."""
    _, recorded_at, started = loaded.facts[0]
    assert isinstance(started, ExecutionStarted)
    return recorded_at if started.forked_from is None else started.forked_from.started_at


class Rest(Struct, frozen=True):
    """What a runner waits for that can itself do nothing more."""

    due_at: int | None
    """When it goes on by itself (microseconds); None: not before somebody acts."""
    running: int
    """How many checkpoints' bodies run; it goes on when one of them ends."""


class Host(Protocol):
    """What a runner needs of the process it runs in."""

    loop: asyncio.AbstractEventLoop
    journal: Journal
    codec: Codec
    lease_seconds: float

    def may_start(self, exec_id: str) -> bool:
        """Whether the execution's lease is certainly still alive, by this process's own clock."""
        ...

    def body_of(self, execution: OwnedExecution, call: Call) -> Callable[[], Any]:
        """What an attempt of a call runs: its checkpoint's function, with arguments of its own."""
        ...

    def in_thread(self, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Runs a function on a worker thread."""
        ...

    def in_transaction(self, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Runs a function that may raise on a thread that no checkpoint's body can keep."""
        ...

    def spawn(self, function: Callable[[], None]) -> None:
        """Runs a function on a worker thread without waiting for it; callable from every thread."""
        ...

    def spawn_body(self, function: Callable[[], None]) -> None:
        """Runs a sync flow's body on a thread that it has for itself; callable from every thread.

        A daemon thread: a script that ends leaves its executions in the journal, and does not hang.
        """
        ...

    def watch_duration(self, started: "Started") -> None:
        """Calls `note_started` when the call has run for some milliseconds; from every thread."""
        ...

    def jitter(self) -> float:
        """A random number from 0 to 1."""
        ...

    def idle(self, runner: "Runner") -> None:
        """The runner only waits for people and times: it may be asked to let go; any thread."""
        ...

    def busy(self, runner: "Runner") -> None:
        """The runner has something to do again; from every thread."""
        ...

    def ended(
        self, runner: "Runner", event: ExecutionEvent | None, error: Exception | None
    ) -> None:
        """The runner is done: with the execution's last event; or, without one, it has stopped."""
        ...


class Started(Protocol):
    """A call or timer whose start is written down if it lasts."""

    def note_started(self) -> None:
        """Records the start, unless it is over."""
        ...


class Runner(Protocol):
    """Drives one execution as long as this process owns it."""

    @property
    def execution(self) -> OwnedExecution:
        """The execution that it drives."""
        ...

    def begin(self) -> None:
        """Starts the first pass; on the host's loop."""
        ...

    def notice(self) -> None:
        """A client may have appended something: look; on the host's loop."""
        ...

    def let_go(self) -> None:
        """Parks the execution at once if it only waits for people and times; from every thread."""
        ...

    def look_at_clock(self) -> None:
        """The store's clock has jumped: what is due now goes on now; on the host's loop."""
        ...

    def rest(self) -> Rest | None:
        """What it waits for; None while there is something that it does; on the host's loop."""
        ...

    def stop(self) -> None:
        """Drops the body where it stands; on the host's loop. The execution goes on elsewhere."""
        ...
