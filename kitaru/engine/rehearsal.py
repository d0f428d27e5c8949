"""Runs a flow's body against recorded events, up to where something new would happen.

The runners are those that run executions for real, cut off where they would begin to have effects:
nothing is appended, no checkpoint's body runs, and no lease is needed.
"""

import asyncio
import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from msgspec import Struct
from msgspec.structs import replace

from journal import BlobNotFound, Journal, Lease, RecordedEvent
from kitaru.domain.execution.events import (
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    FlowAttemptFailed,
    InputGiven,
    InputRejected,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine import (
    async_pass,
    async_recording,
    async_waits,
    sync_pass,
    sync_recording,
    sync_waits,
)
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import Call
from kitaru.engine.codec import Codec
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.divergence import Asked, Mismatch
from kitaru.engine.executions import OwnedExecution, exec_id_of, fold, owned_execution
from kitaru.engine.history import History, Outcome, RecordedFact
from kitaru.engine.runner import Loaded, Runner, Started
from kitaru.engine.schema import convert_json
from kitaru.engine.source import main_module_of
from kitaru.engine.sync_attempts import Attempts
from kitaru.engine.sync_futures import CallFuture
from kitaru.engine.sync_resting import Resting
from kitaru.engine.sync_runner import SyncRunner
from kitaru.engine.sync_submissions import Submissions
from kitaru.engine.values import Blobs
from kitaru.engine.waits import Wait
from kitaru.errors import KitaruError

ReadBlob = Callable[[str], bytes]
"""Gives the blob with a digest; raises BlobNotFound."""

End = ExecutionCompleted | ExecutionFailed | ExecutionCancelled | FlowAttemptFailed


class AsksForMore(Struct, frozen=True):
    """All that is recorded is used up, and the body waits for something new."""

    asked: Sequence[Asked]
    """What it waits for."""
    requested: frozenset[str]
    """The paths of all that it has asked for."""
    changed: frozenset[str] = frozenset()
    """Those that are recorded as begun with other arguments."""


class Ends(Struct, frozen=True):
    """All that is recorded is used up, and the body has ended."""

    event: End
    requested: frozenset[str]


class Parts(Struct, frozen=True):
    """The body does not ask for what is recorded."""

    mismatch: Mismatch
    event: ExecutionDiverged | None = None
    """What a runner would record; None where its report could not be made."""


class Stops(Struct, frozen=True):
    """The body cannot be taken any further, for a reason that says nothing of its code."""

    why: str
    version: int | None = None
    """The event with which it cannot go on; set to the first that it was not given, if left out."""
    path: str = ""
    site: str = ""


Conclusion = AsksForMore | Ends | Parts | Stops


class RecordedStream:
    """The part of a journal that a replay reads: one stream, as it was at a time."""

    location = "a recorded history"

    def __init__(self, events: Sequence[RecordedEvent], read_blob: ReadBlob) -> None:
        self._events = events
        self._read_blob = read_blob

    def now(self) -> int:
        """The instant of the last event: no time goes by."""
        return self._events[-1].recorded_at

    async def read_stream(
        self, _stream: str, /, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """The events after a version."""
        return [event for event in self._events if event.version > after][:limit]

    async def get_blob(self, digest: str, /) -> bytes:
        """The blob with this digest. Raises BlobNotFound."""
        return self._read_blob(digest)


class Rehearsal:
    """One replay, on a thread of its own, and what it comes to; the host of its runner."""

    lease_seconds = 0.0

    def __init__(
        self,
        facts: Sequence[RecordedFact],
        stream: Sequence[RecordedEvent],
        read_blob: ReadBlob,
        definition: FlowDefinition,
        codec: Codec,
    ) -> None:
        """`facts` are what the body is given; `stream` holds these, and perhaps more."""
        self._facts = facts
        self._definition = definition
        self._stream_name = stream[0].stream
        # What the runner may read; it has nothing that writes.
        self.journal = cast("Journal", RecordedStream(stream[: len(facts)], read_blob))
        self._read_blob = read_blob
        self.codec = codec
        self.loop: asyncio.AbstractEventLoop = cast("asyncio.AbstractEventLoop", None)
        """Where an async body's runner lives; a sync one needs none."""
        self.runner: RehearsedAsyncRunner | RehearsedSyncRunner | None = None
        self.parting: Mismatch | None = None
        """Where body and record part, as soon as it is known."""
        self.conclusion: Conclusion | None = None
        self._concluded = threading.Event()
        self._lock = threading.Lock()

    def run(self, seconds: float) -> Conclusion:
        """What the replay comes to, at most so many seconds from now."""
        thread = threading.Thread(target=self._run, name="kitaru-preflight", daemon=True)
        thread.start()
        if not self._concluded.wait(seconds):
            self.conclude(Stops(f"the body did not come to its next call within {seconds:g} s"))
            _interrupt(thread)
        assert self.conclusion is not None
        return self.conclusion

    def conclude(self, conclusion: Conclusion) -> None:
        """The first conclusion is the one that counts."""
        with self._lock:
            if self.conclusion is None:
                if isinstance(conclusion, Stops):
                    conclusion = self._placed(conclusion)
                self.conclusion = conclusion
        self._concluded.set()

    def _placed(self, stop: Stops) -> Conclusion:
        if self.parting is not None:
            # Only its report could not be made.
            return Parts(self.parting)
        return stop if stop.version is not None else replace(stop, version=self._reached() + 1)

    def _reached(self) -> int:
        """The version of the last event that the body's calls agree with."""
        runner = self.runner
        if runner is None:
            return 0
        order = [*runner.history.order]
        requested = runner.state.requested if isinstance(runner, RehearsedSyncRunner) else ()
        left = [outcome.version for outcome in order if outcome.event.path not in requested]
        return left[0] - 1 if left else self._facts[-1][0]

    def _run(self) -> None:
        try:
            loaded, arguments = self._load()
            if self._definition.asynchronous:
                self._run_async(loaded, arguments)
            else:
                self.runner = RehearsedSyncRunner(self, loaded, arguments)
                self.runner.begin()
        except (Exception, ExecutionSuspended) as error:
            self.conclude(Stops(str(error) or repr(error)))
        self.conclude(Stops("the replay ended without a result"))

    def _load(self) -> tuple[Loaded, dict[str, Any]]:
        started = self._facts[0][2]
        assert isinstance(started, ExecutionStarted)
        definition = self._definition
        stored = started.arguments
        data: Any = stored.json if stored.blob is None else self._read_blob(stored.blob)
        try:
            arguments: dict[str, Any] = self.codec.decode(data, definition.types)
            plain = {name: arguments[name] for name in started.plain if name in arguments}
            arguments = {**arguments, **convert_json(definition.function, plain)}
        except KitaruError as error:
            raise _Undecodable(f"the flow's arguments cannot be decoded: {error}") from error
        state = fold(ABSENT, [event for _, _, event in self._facts])
        stream = self._stream_name
        execution = owned_execution(
            definition.asynchronous,
            self.journal,
            exec_id_of(stream),
            state,
            self._facts[-1][0],
            Lease(stream, "preflight", 0, 0),
        )
        main = main_module_of(started.source.file) if started.source.module == "__main__" else None
        return Loaded(definition, execution, self._facts, main), arguments

    def _run_async(self, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop()
        try:
            self.runner = RehearsedAsyncRunner(self, loaded, arguments)
            self.loop.call_soon(self.runner.begin)
            self.loop.run_forever()
            for task in (left := asyncio.all_tasks(self.loop)):
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self.loop.close()

    # Host

    def may_start(self, _exec_id: str) -> bool:
        """There is no lease, and nothing is started."""
        return True

    def body_of(self, _execution: OwnedExecution, _call: Call) -> NoReturn:
        """Nothing is to be run."""
        raise AssertionError("a rehearsal runs no checkpoint")

    def in_thread(self, _function: Callable[[], Any]) -> NoReturn:
        """Nothing is to be run."""
        raise AssertionError("a rehearsal runs no checkpoint")

    def in_transaction(self, _function: Callable[[], Any]) -> NoReturn:
        """Nothing is to be run."""
        raise AssertionError("a rehearsal writes nothing")

    def spawn(self, function: Callable[[], None]) -> None:
        """Here and now: what is left to do in a replay takes no time."""
        function()

    def spawn_body(self, function: Callable[[], None]) -> None:
        """The rehearsal's thread is the body's."""
        function()

    def watch_duration(self, started: Started) -> None:
        """Nothing lasts."""

    def jitter(self) -> float:
        """Nothing is tried again."""
        return 0.0

    def idle(self, runner: Runner) -> None:
        """Nobody else wants its place."""

    def busy(self, runner: Runner) -> None:
        """Nobody else wants its place."""

    def ended(
        self, _runner: Runner, _event: ExecutionEvent | None, error: Exception | None
    ) -> None:
        """The runner has stopped by itself: it could not read, or has a fault."""
        self.conclude(self.stopped_by(error))
        self.over()

    def stopped_by(self, error: Exception | None) -> Stops:
        """What is told of a runner that went no further."""
        if error is None:
            return Stops("the runner stopped")
        if isinstance(error, BlobNotFound):
            history = History(self._facts)
            for outcome in [*history.kept.values(), *history.log.values()]:
                if outcome.blob == error.digest:
                    path = outcome.event.path
                    why = f"the recorded value of {path} is gone: {error}"
                    return Stops(why, outcome.version, path)
        return Stops(str(error) or repr(error))

    def rejection(self, path: str, problem: str, site: str = "") -> Stops:
        """What is told of an answer that this code does not accept."""
        answers = [
            version
            for version, _, event in self._facts
            if isinstance(event, InputGiven) and event.path == path
        ]
        why = f"the recorded answer to {path} would be rejected, and asked for again: {problem}"
        return Stops(why, answers[-1] if answers else None, path, site)

    def refuse_journal(self) -> NoReturn:
        """The body asks a client for something, by itself: that is recorded nowhere."""
        self.conclude(
            Stops(
                "the body itself reads or writes the journal, which is not recorded: put that into "
                "a @checkpoint"
            )
        )
        raise ExecutionSuspended

    def over(self) -> None:
        """Nothing of the runner has to be run any more."""
        if self._definition.asynchronous:
            self.loop.call_soon(self.loop.stop)


class _Undecodable(KitaruError):
    pass


def _interrupt(thread: threading.Thread) -> None:
    """Ends a body that computes for ever; one that sleeps is left to its daemon thread."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(ExecutionSuspended)
        )


def _depends(call: Call, recorded: Outcome) -> Stops:
    why = (
        f"{call.path} is recorded, and by this code it depends on a call that is not: whether its "
        "arguments are the same cannot be told"
    )
    return Stops(why, recorded.version, call.path, call.site)


class RehearsedAsyncRunner(AsyncRunner):
    """Goes as far as the record, and says what it has come to."""

    def __init__(self, rehearsal: Rehearsal, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self._rehearsal = rehearsal
        super().__init__(rehearsal, loaded, arguments)
        self.refuse_journal = rehearsal.refuse_journal

    def _new_recording(self) -> async_recording.Recording:
        return RehearsedAsyncRecording(self.state, self._conclude)

    def _new_waits(self) -> async_waits.Waits:
        return RehearsedAsyncWaits(self.state, self.recording, self._rehearsal)

    def _go_live(self) -> None:
        left = self._left_wait()
        asked = self.asked_now()
        requested = self.state.requested
        if left is not None:
            mismatch = Mismatch(left, "passed_over", asked[0] if asked else None)
            self.state.divergence = mismatch
            self._diverge(mismatch)
        elif asked:
            self._conclude(AsksForMore(asked, frozenset(requested), frozenset(self._changed())))
        else:
            self._end_stuck()

    def _changed(self) -> list[str]:
        calls = [each for each in self.state.requested.values() if isinstance(each, Call)]
        return [call.path for call in calls if _is_changed(call, self)]

    def _diverge(self, mismatch: Mismatch) -> None:
        self._rehearsal.parting = mismatch
        super()._diverge(mismatch)

    def _conclude(self, conclusion: Conclusion) -> None:
        self._rehearsal.conclude(conclusion)
        self.stop()
        self._rehearsal.over()

    def _report_unhandled(self, context: dict[str, Any]) -> None:
        pass


class RehearsedAsyncRecording(async_recording.Recording):
    """Appends nothing: what would end the pass is what the rehearsal has come to."""

    __slots__ = ("_conclude",)

    def __init__(self, state: async_pass.PassState, conclude: Callable[[Conclusion], None]) -> None:
        super().__init__(state)
        self._conclude = conclude

    def flush(self) -> None:
        batch, self.execution.outbox = self.execution.outbox, []
        for outgoing in batch:
            if isinstance(outgoing.event, End):
                self._conclude(Ends(outgoing.event, frozenset(self.state.requested)))
            elif isinstance(outgoing.event, ExecutionDiverged):
                assert self.state.divergence is not None
                self._conclude(Parts(self.state.divergence, outgoing.event))

    def note_changed_arguments(self, recorded: Outcome, call: Call) -> None:
        pass


class RehearsedAsyncWaits(async_waits.Waits):
    """Tells of an answer that the body would reject."""

    __slots__ = ("_rehearsal",)

    def __init__(
        self,
        state: async_pass.PassState,
        recording: async_recording.Recording,
        rehearsal: Rehearsal,
    ) -> None:
        super().__init__(state, recording)
        self._rehearsal = rehearsal

    def reject(self, wait: Wait, problem: str) -> None:
        if wait.path not in self.state.history.kept:
            self._rehearsal.conclude(self._rehearsal.rejection(wait.path, problem, wait.site))
        super().reject(wait, problem)


class RehearsedSyncRecording(sync_recording.Recording):
    """Appends nothing: what would end the pass is what the rehearsal has come to."""

    def __init__(self, state: sync_pass.PassState, rehearsal: Rehearsal) -> None:
        super().__init__(state)
        self._rehearsal = rehearsal

    def on_loop(self, coroutine: Any) -> Any:
        # It reads what is there already, so that it never has to wait.
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a rehearsal waits for nothing")

    def put_noted(self, event: ExecutionEvent, blobs: Blobs = (), seen: int | None = None) -> None:
        assert isinstance(event, InputRejected)
        self._rehearsal.conclude(self._rehearsal.rejection(event.path, event.problem))
        self.state.driver.stop()
        raise ExecutionSuspended

    def record(self, event: ExecutionEvent, blobs: Blobs = ()) -> NoReturn:
        if isinstance(event, ExecutionDiverged):
            assert self.state.divergence is not None
            self._rehearsal.conclude(Parts(self.state.divergence, event))
        else:
            assert isinstance(event, End)
            self._rehearsal.conclude(Ends(event, frozenset(self.state.requested)))
        self.state.driver.stop()
        raise ExecutionSuspended

    def note_changed_arguments(self, recorded: Outcome, call: Call) -> None:
        pass


class RehearsedResting(Resting):
    """Blocks nobody."""

    def wait_until(self, ready: Callable[[], bool]) -> None:
        if not (ready() or self.state.stopped or self.state.cancel_pending):
            _runner_of(self.state).leave()


class RehearsedAttempts(Attempts):
    """Runs nothing."""

    def run(self, call: Call, _recorded: Callable[[Outcome], None], _pass_number: int) -> NoReturn:
        runner = _runner_of(self.state)
        runner.would_run(call)
        runner.leave(call.asked)


class RehearsedSubmissions(Submissions):
    """Starts nothing."""

    def start(self, future: CallFuture) -> None:
        _runner_of(self.state).would_run(future.call)


class RehearsedSyncWaits(sync_waits.Waits):
    """Waits for nobody, and for no time."""

    def _await_answer(self, wait: Wait) -> NoReturn:
        self._leave(wait.asked)

    def _await_time(self, asked: Asked, _seconds: float) -> NoReturn:
        self._leave(asked)

    def _leave(self, asked: Asked) -> NoReturn:
        self._submissions.before_live(asked)
        self._replay.deliver_cancel_before(None)
        _runner_of(self.state).leave(asked)


class RehearsedSyncRunner(SyncRunner):
    """Goes as far as the record, and says what it has come to."""

    resting_class = RehearsedResting
    attempts_class = RehearsedAttempts
    submissions_class = RehearsedSubmissions
    waits_class = RehearsedSyncWaits

    def __init__(self, rehearsal: Rehearsal, loaded: Loaded, arguments: dict[str, Any]) -> None:
        self._rehearsal = rehearsal
        super().__init__(rehearsal, loaded, arguments)
        self.refuse_journal = rehearsal.refuse_journal
        self._begun: list[Call] = []
        """The calls that would run now."""

    def _new_recording(self) -> sync_recording.Recording:
        return RehearsedSyncRecording(self.state, self._rehearsal)

    def tell_end(self, event: ExecutionEvent | None, error: Exception | None) -> None:
        if event is None and error is not None:
            self._rehearsal.conclude(self._rehearsal.stopped_by(error))

    def would_run(self, call: Call) -> None:
        """A call would run now."""
        self._begun.append(call)

    def leave(self, *asked: Asked) -> NoReturn:
        """The body is blocked by something that is not recorded."""
        state = self.state
        for future in state.submitted:
            recorded = state.history.log.get(future.call.path)
            if recorded is not None and not future.settled:
                self._rehearsal.conclude(_depends(future.call, recorded))
        open_calls = [future.call.asked for future in state.submitted if not future.settled]
        shown = [*asked, *(each for each in open_calls if each not in asked)]
        changed = {call.path for call in self._begun if _is_changed(call, self)}
        self._rehearsal.conclude(AsksForMore(shown, frozenset(state.requested), frozenset(changed)))
        self.stop()
        raise ExecutionSuspended

    def diverge(self, mismatch: Mismatch) -> ExecutionSuspended:
        self._rehearsal.parting = mismatch
        return super().diverge(mismatch)


def _runner_of(state: sync_pass.PassState) -> RehearsedSyncRunner:
    assert isinstance(state.driver, RehearsedSyncRunner)
    return state.driver


def _is_changed(call: Call, runner: AsyncRunner | SyncRunner) -> bool:
    """Whether a call that is recorded as begun has other arguments now."""
    tried = runner.history.tried.get(call.path)
    if tried is None or call.definition.on_changed_arguments != "diverge":
        return False
    return (tried.name, tried.arguments_digest) != (call.definition.name, call.digest)
