"""Makes the faults of a rehearsal happen, each at its event, from whichever thread meets it."""

import threading
from collections.abc import Callable, Sequence

from journal import Append, Appended, JournalUnavailable, RecordedEvent
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionReopened,
    FlowAttemptFailed,
)
from kitaru.engine.calls import Call
from kitaru.engine.executions import OwnedExecution
from kitaru.engine.upcasts import decode_event
from kitaru.testing.fault import AnyFault, ClockJump, Crash, LostNews, Reorder, TakeOver, Twice
from kitaru.testing.process import Process, usurp

USURPER = "a process that has died since"


class Journalled:
    """What is recorded of one execution, by call: for the law that nothing runs after that."""

    def __init__(self) -> None:
        self.version = 0
        self.epoch = 0
        self._completed: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()

    def add(self, fact: RecordedEvent) -> None:
        """Takes one event in."""
        self.version = fact.version
        self.epoch = max(self.epoch, fact.epoch)
        match decode_event(fact):
            case CheckpointCompleted(path=path, arguments_digest=digest):
                self._completed.add((path, digest))
            case CheckpointFailed(path=path, arguments_digest=digest, retry_at=None):
                self._failed.add((path, digest))
            case FlowAttemptFailed() | ExecutionReopened():
                self._failed.clear()
            case _:
                pass

    def has_outcome(self, call: Call) -> bool:
        """Whether the call has one that no later attempt of the flow may replace."""
        key = (call.path, call.digest)
        return key in self._completed or key in self._failed


class Destiny:
    """The `Fate` of one execution."""

    def __init__(self, stream: str, faults: Sequence[AnyFault]) -> None:
        self.stream = stream
        self.known = Journalled()
        self.commits: list[int] = []
        """The execution's version after each append."""
        self.happened: list[AnyFault] = []
        self.problems: list[str] = []
        """What must not be, and was."""
        self.serving: Process | None = None
        """The process that is meant by the faults."""
        self.is_usurped = False
        """Whether somebody else has the execution, while the serving process still runs."""
        self.jumped: Callable[[int], None] = lambda _: None
        """Told that the clock has to jump, by so many microseconds; from any thread."""
        self.news_lost = False
        """Whether somebody may have missed something."""
        self._pending: list[AnyFault] = [f for f in faults if not isinstance(f, Reorder | Twice)]
        self._twice = {fault.nth: fault for fault in faults if isinstance(fault, Twice)}
        self._reorders = [fault for fault in faults if isinstance(fault, Reorder)]
        self._picks = [pick for fault in self._reorders for pick in fault.picks]
        self._lock = threading.RLock()

    # Fate

    def before(self, process: Process, append: Append) -> None:
        """A process is about to append."""
        if append.stream != self.stream or process is not self.serving:
            return
        with self._lock:
            fault = self._due(lambda fault: isinstance(fault, Crash) and fault.late)
            if fault is None:
                return
            self._happen(fault)
            process.die()
        raise JournalUnavailable("the process died")

    def after(self, process: Process, appended: Appended) -> None:
        """What a process has appended is durable."""
        if not appended.events or appended.events[0].stream != self.stream:
            return
        with self._lock:
            for fact in appended.events:
                if fact.epoch and fact.epoch < self.known.epoch:
                    self.problems.append(
                        f"event {fact.version} was written by owner {fact.epoch}, which had lost "
                        f"its lease to owner {self.known.epoch}"
                    )
                self.known.add(fact)
            if appended.lease is not None:
                self.known.epoch = max(self.known.epoch, appended.lease.epoch)
            self.commits.append(self.known.version)
            self._strike()

    def loses(self, events: Sequence[RecordedEvent]) -> bool:
        """Whether the news of these events is lost on its way."""
        with self._lock:
            for fault in self._pending:
                if isinstance(fault, LostNews) and self._is_news_of(fault, events):
                    self._happen(fault)
                    self.news_lost = True
                    return True
        return False

    def holds(self, process: Process, execution: OwnedExecution) -> bool:
        """Whether bodies that have ended wait to be let through."""
        # Always, and not only for a reorder: one at a time, a rehearsal is the same every time.
        return execution.stream == self.stream and not (process.is_dead or process.hangs)

    def repeated(self, process: Process, execution: OwnedExecution, call: Call) -> None:
        """A body is about to begin: by whoever owns the execution, not after its record."""
        if execution.stream != self.stream:
            return
        with self._lock:
            owns = execution.lease.epoch >= self.known.epoch and not process.hangs
            if owns and self.known.has_outcome(call):
                self.problems.append(
                    f"the body of {call.path!r} ran again after its outcome was recorded"
                )

    # what the driver asks

    def arrives_twice(self, nth: int) -> bool:
        """Whether the nth thing from outside does."""
        fault = self._twice.pop(nth, None)
        if fault is not None:
            self.happened.append(fault)
        return fault is not None

    def pick(self, paths: Sequence[str]) -> int:
        """Which of the bodies that have ended is told next."""
        order = sorted(range(len(paths)), key=lambda index: paths[index])
        if len(order) == 1 or not self._picks:
            # A pick is for where there is a choice.
            return order[0]
        self.happened += [each for each in self._reorders if each not in self.happened]
        pick = self._picks.pop(0)
        return order[pick % len(order)]

    # striking

    def _strike(self) -> None:
        while (fault := self._due(self._strikes_at_once)) is not None:
            self._happen(fault)
            match fault:
                case Crash():
                    assert self.serving is not None
                    self.serving.die()
                case TakeOver():
                    self._take_over()
                case ClockJump(seconds=seconds):
                    self.jumped(round(seconds * 1_000_000))

    def _strikes_at_once(self, fault: AnyFault) -> bool:
        match fault:
            case Crash(late=late):
                return not late and self._serves
            case TakeOver():
                return self._serves
            case ClockJump():
                return True
            case _:
                return False

    @property
    def _serves(self) -> bool:
        """Whether there is a process that can still be struck."""
        serving = self.serving
        return serving is not None and not (serving.is_dead or serving.hangs)

    def _take_over(self) -> None:
        assert self.serving is not None
        self.serving.hangs = True
        self.is_usurped = True
        usurp(self.serving.journal, self.serving.clock, self.stream, USURPER)
        self.known.epoch += 1

    def _due(self, wanted: Callable[[AnyFault], bool]) -> AnyFault | None:
        version = self.known.version
        for fault in self._pending:
            match fault:
                case Crash(at=at) | TakeOver(at=at) | ClockJump(at=at):
                    if at <= version and wanted(fault):
                        return fault
                case _:
                    pass
        return None

    def _happen(self, fault: AnyFault) -> None:
        self._pending.remove(fault)
        self.happened.append(fault)

    def _is_news_of(self, fault: LostNews, events: Sequence[RecordedEvent]) -> bool:
        return any(
            fact.stream == self.stream and fact.version == fault.at and fact.epoch == 0
            for fact in events
        )
