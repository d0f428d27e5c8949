"""Runs the executions that this process owns, and takes over those whose owner has died."""

import asyncio
import contextlib
import functools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from journal import (
    BlobNotFound,
    Claim,
    ClaimQuery,
    CorruptJournal,
    Head,
    Journal,
    JournalError,
    Lease,
    RecordedEvent,
    StaleLease,
)
from kitaru.domain.execution.commands import Command, FailAttempt, Recover, ReportNotLoaded
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionStarted,
    SourceReference,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.calls import Call
from kitaru.engine.codec import Codec
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.deployed import Code, code_of, not_loaded
from kitaru.engine.executions import (
    CATEGORY,
    Outgoing,
    OwnedExecution,
    exec_id_of,
    fold,
    owned_execution,
    stream_of,
)
from kitaru.engine.failures import describe
from kitaru.engine.heartbeat import Heartbeat
from kitaru.engine.registry import Registry
from kitaru.engine.runner import Loaded, Runner, Started
from kitaru.engine.schema import convert_json
from kitaru.engine.source import main_module_of
from kitaru.engine.stacks import RunsOnStack
from kitaru.engine.sync_runner import SyncRunner
from kitaru.engine.threads import DaemonThreads, TransactionThreads
from kitaru.engine.upcasts import decode_event
from kitaru.errors import (
    KitaruBackendError,
    KitaruError,
    KitaruStateError,
    KitaruUsageError,
)
from kitaru.status import ExecutionStatus, FailureOrigin
from kitaru.telemetry import LogEvent, report

RECOVERY_LIMIT = 10
LOAD_SECONDS = 60.0
"""How long loading a deployed version's code may take."""
NOTED_AFTER_SECONDS = 0.05
CLAIMED_AT_ONCE = 100
PUT_OFF_SECONDS = 1.0
SYNC_FLOWS_AT_ONCE = 200
CHECKPOINT_THREADS = 256
IDLE_SYNC_FLOWS = 50
IDLE_ASYNC_FLOWS = 1_000
"""How many flows that only wait are kept, with their threads or in memory, when others run."""
POLL_SECONDS = 1.0
"""How often this process looks for work, at least: more often where leases are short."""
NOTICE_ALL_SECONDS = 10.0
"""How often runners look for what clients have written, should every hint have been lost."""
NOTICED_AT_ONCE = 50
NOTICE_SECONDS = 0.1

Ending = tuple[ExecutionEvent | None, Exception | None]


class Worker:
    """The host of every runner in this process. Its coroutines and callbacks run on one loop."""

    def __init__(
        self,
        journal: Journal,
        codec: Codec,
        registry: Registry,
        *,
        loop: asyncio.AbstractEventLoop,
        owner: str,
        lease_seconds: float,
        route: str = "",
        polls: bool = True,
    ) -> None:
        self.journal = journal
        self.codec = codec
        self.registry = registry
        self.loop = loop
        self.owner = owner
        self.lease_seconds = lease_seconds
        self.route = route
        """With one, this worker runs what is on it, whatever its flow."""
        self._polls = polls
        """Whether it takes more than it is given by `take_over`."""
        self.load_failures = 0
        """How often code could not be loaded here."""
        self.runners: dict[str, Runner] = {}
        self._endings: dict[str, list[asyncio.Future[Ending]]] = {}
        self._threads = DaemonThreads(CHECKPOINT_THREADS, "kitaru-checkpoint")
        # More than there are flows at once: one that ends frees its place before its thread.
        self._body_threads = DaemonThreads(2 * SYNC_FLOWS_AT_ONCE, "kitaru-flow")
        self._transaction_threads = TransactionThreads()
        self._heartbeat = Heartbeat(journal, lease_seconds, self._lease_lost, _renewal_failed)
        self._random = random.Random()  # noqa: S311
        self._unloadable: dict[str, str] = {}
        """Executions that this process cannot run, and why: they are left to others."""
        self._put_off: dict[str, float] = {}
        """Executions that the journal could not give us just now, and until when to leave them."""
        self._claimed: dict[str, Lease] = {}
        """By stream: what was claimed and does not run yet, nor was given back."""
        self._claiming = False
        self._too_long: asyncio.Future[Any] | None = None
        """The loading of code that took too long, and perhaps still goes on."""
        self._served = 0
        """How many flows were served when it looked for work last."""
        self._queued: deque[Runner] = deque()
        self._sync_running = 0
        self._slots = threading.Lock()
        self._idle: dict[bool, dict[str, Runner]] = {True: {}, False: {}}
        """The runners that only wait, longest first: those of async flows, and of sync ones."""
        self._timed: deque[tuple[float, Started]] = deque()
        self._timing = False
        self._to_notice: deque[str] = deque()
        self._last_news_at = 0.0
        """When it last heard that clients have written, to whatever execution."""
        self._noticing: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._woken_at: asyncio.TimerHandle | None = None
        self._poll_task: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._closing = False

    @property
    def claim(self) -> Claim:
        """The claim with which this worker takes a lease."""
        return Claim(self.owner, self.lease_seconds)

    def start(self) -> None:
        """Begins to renew leases, to hear of clients' events and to look for abandoned work."""
        self._heartbeat.start()
        self._unwatch = self.journal.watch(None, self._on_commit)
        self._poll_task = self.loop.create_task(self._poll_for_ever())

    async def close(self) -> None:
        """Drops what runs here and gives the leases back, so that others may go on at once."""
        self._closing = True
        if self._unwatch is not None:
            self._unwatch()
        if self._noticing is not None:
            self._noticing.cancel()
        if self._woken_at is not None:
            self._woken_at.cancel()
        if self._poll_task is not None:
            if not self._claiming:
                # Else it ends by itself: of a claim that is broken off nobody learns the leases.
                self._poll_task.cancel()
            await asyncio.wait([self._poll_task])
        runners = list(self.runners.values())
        self.runners.clear()
        for runner in runners:
            runner.stop()
        for waiting in [future for futures in self._endings.values() for future in futures]:
            if not waiting.done():
                waiting.set_result((None, KitaruBackendError("The runtime was closed.")))
        self._endings.clear()
        self._heartbeat.stop()
        held, self._claimed = list(self._claimed.values()), {}
        for lease in [*held, *(runner.execution.lease for runner in runners)]:
            await self._release(lease)
        for threads in (self._threads, self._body_threads, self._transaction_threads):
            threads.close()

    # Host

    def may_start(self, exec_id: str) -> bool:
        """Whether the execution's lease is certainly still alive."""
        return self._heartbeat.is_alive(stream_of(exec_id))

    def body_of(self, execution: OwnedExecution, call: Call) -> Callable[[], Any]:
        """What an attempt of a call runs."""
        return functools.partial(call.run, self.codec)

    def in_thread(self, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Runs a function, which does not raise, on a worker thread."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def run() -> None:
            result = function()
            self._call_soon(_set_result, future, result)

        self._threads.submit(run)
        return future

    def in_transaction(self, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Runs a function on a thread that no checkpoint's body can keep."""
        return self._transaction_threads.run(function)

    def spawn(self, function: Callable[[], None]) -> None:
        """Runs a function on a worker thread."""
        self._threads.submit(function)

    def spawn_body(self, function: Callable[[], None]) -> None:
        """Runs a sync flow's body on a thread that is made for it, or that another has left."""
        self._body_threads.submit(function)

    def jitter(self) -> float:
        """A random number from 0 to 1."""
        return self._random.random()

    def watch_duration(self, started: Started) -> None:
        """Calls `note_started` on the loop when the call has run for some milliseconds."""
        self._timed.append((time.monotonic() + NOTED_AFTER_SECONDS, started))
        if not self._timing:
            self._timing = True
            if threading.get_ident() == getattr(self.loop, "_thread_id", None):
                self.loop.call_later(NOTED_AFTER_SECONDS, self._note_started)
            else:
                self._call_soon(self.loop.call_later, NOTED_AFTER_SECONDS, self._note_started)

    def _note_started(self) -> None:
        now = time.monotonic()
        while self._timed and self._timed[0][0] <= now:
            self._timed.popleft()[1].note_started()
        self._timing = False
        if self._timed:
            self._timing = True
            self.loop.call_later(NOTED_AFTER_SECONDS, self._note_started)

    def idle(self, runner: Runner) -> None:
        """The runner only waits: when there are too many of its kind, the first lets go."""
        asynchronous = isinstance(runner, AsyncRunner)
        most = IDLE_ASYNC_FLOWS if asynchronous else IDLE_SYNC_FLOWS
        with self._slots:
            idle = self._idle[asynchronous]
            idle[runner.execution.exec_id] = runner
            crowded = len(idle) > most or (self._queued and not asynchronous)
            first = idle.pop(next(iter(idle))) if crowded else None
        if first is not None:
            first.let_go()

    def busy(self, runner: Runner) -> None:
        """The runner has something to do again."""
        with self._slots:
            self._idle[isinstance(runner, AsyncRunner)].pop(runner.execution.exec_id, None)

    @property
    def is_busy(self) -> bool:
        """Whether anything runs here that does more than wait, or is about to."""
        with self._slots:
            return bool(self._claimed) or len(self.runners) > sum(map(len, self._idle.values()))

    async def let_idle_go(self, seconds: float) -> None:
        """Parks what only waits, so that it is due no sooner than it says; for so long at most."""
        with self._slots:
            idle = [runner for runners in self._idle.values() for runner in runners.values()]
        endings = [self.ending(runner.execution.exec_id) for runner in idle]
        for runner in idle:
            runner.let_go()
        going = [ending for ending in endings if ending is not None]
        if going:
            await asyncio.wait(going, timeout=seconds)

    def _make_room(self) -> None:
        """A sync flow that only waits gives its thread to one that was queued."""
        with self._slots:
            idle = self._idle[False]
            first = idle.pop(next(iter(idle))) if idle else None
        if first is not None:
            first.let_go()

    def ended(self, runner: Runner, event: ExecutionEvent | None, error: Exception | None) -> None:
        """A runner is done; on the loop."""
        if isinstance(runner, SyncRunner):
            self._free_slot()
        if isinstance(error, StaleLease):
            # For whoever waits here that is no failure: the execution goes on elsewhere.
            if self.runners.get(runner.execution.exec_id) is runner:
                _report_lost(runner)
            error = None
        self._forget(runner, event, error)

    def _forget(
        self, runner: Runner, event: ExecutionEvent | None, error: Exception | None
    ) -> None:
        execution = runner.execution
        if self.runners.get(execution.exec_id) is not runner:
            return
        del self.runners[execution.exec_id]
        self.busy(runner)
        self._heartbeat.remove(execution.stream)
        if event is None and execution.state.due_at:
            self._look_at(execution.state.due_at)
        if error is not None:
            report(LogEvent.RUNNER_STOPPED_BY_BACKEND, exec_id=execution.exec_id, error=str(error))
        if isinstance(event, ExecutionDiverged):
            summary = event.report.partition("\n")[0]
            flow = execution.state.flow
            report(
                LogEvent.EXECUTION_DIVERGED, exec_id=execution.exec_id, flow=flow, report=summary
            )
        for waiting in self._endings.pop(execution.exec_id, ()):
            if not waiting.done():
                waiting.set_result((event, error))

    # running

    def run(self, loaded: Loaded, arguments: dict[str, Any], asked_at: float) -> None:
        """Runs an execution whose lease was asked for at this monotonic instant.

        From the loop; for a sync flow from any thread.
        """
        execution = loaded.execution
        self._heartbeat.add(execution.lease, asked_at)
        if loaded.definition.asynchronous:
            self._begin(AsyncRunner(self, loaded, arguments))
            self._tell_old_news(execution.exec_id, asked_at)
            return
        runner = SyncRunner(self, loaded, arguments)
        with self._slots:
            queued = self._sync_running >= SYNC_FLOWS_AT_ONCE
            if queued:
                self._queued.append(runner)
                self.runners[execution.exec_id] = runner
            else:
                self._sync_running += 1
        if queued:
            self._make_room()
        else:
            self._begin(runner)
        self._tell_old_news(execution.exec_id, asked_at)

    def _tell_old_news(self, exec_id: str, asked_at: float) -> None:
        """What clients wrote before there was a runner to be told of it."""
        if self._last_news_at >= asked_at:
            self._call_soon(self._notice_here, exec_id)

    def _begin(self, runner: Runner) -> None:
        self.runners[runner.execution.exec_id] = runner
        runner.begin()

    def _free_slot(self) -> None:
        with self._slots:
            if not self._queued:
                self._sync_running -= 1
                return
            runner = self._queued.popleft()
        self._begin(runner)

    def ending(self, exec_id: str) -> "asyncio.Future[Ending] | None":
        """The end of an execution that runs here; None when it does not."""
        if exec_id not in self.runners:
            return None
        future: asyncio.Future[Ending] = self.loop.create_future()
        self._endings.setdefault(exec_id, []).append(future)
        return future

    # taking over

    def look_now(self) -> None:
        """Looks for work at once: something has become due."""
        self._wake.set()

    def _look_at(self, instant: int) -> None:
        """Looks for work when something is due, which the regular look would find a bit later."""
        when = self.loop.time() + max(0.0, (instant - self.journal.now()) / 1_000_000)
        known = self._woken_at
        if known is not None and not known.cancelled() and self.loop.time() < known.when() <= when:
            return
        if known is not None:
            known.cancel()
        self._woken_at = self.loop.call_at(when, self.look_now)

    async def _poll_for_ever(self) -> None:
        interval = min(POLL_SECONDS, self.lease_seconds / 4)
        notice_at = self.loop.time() + NOTICE_ALL_SECONDS
        while True:
            if self.loop.time() >= notice_at:
                notice_at = self.loop.time() + NOTICE_ALL_SECONDS
                self._notice_all()
            try:
                await self._poll()
            except JournalError as error:
                report(LogEvent.POLL_FAILED, error=str(error))
            if self._closing:
                return
            # Not wait_for: on Python 3.11 it can swallow the cancellation that ends this task.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._wake.wait()
            self._wake.clear()

    async def _poll(self) -> None:
        names = None if self.route else self.registry.names
        if names == [] or not self._polls:
            return
        if self._unloadable and self._served != self.registry.count:
            # A flow that was missing may be among those that came.
            self._unloadable.clear()
        self._served = self.registry.count
        asked_at = time.monotonic()
        query = ClaimQuery(
            category=CATEGORY,
            names=names,
            claim=self.claim,
            limit=CLAIMED_AT_ONCE,
            besides=self._not_to_claim(asked_at),
            routes=(self.route,),
        )
        self._claiming = True
        try:
            claimed = await self.journal.claim(query)
        finally:
            self._claiming = False
        await self._take_all(claimed, asked_at)

    def _not_to_claim(self, now: float) -> list[str]:
        """What runs here, even where its lease is over, and what was tried in vain."""
        self._put_off = {each: until for each, until in self._put_off.items() if until > now}
        left = (*self._unloadable, *self._put_off, *self.runners)
        return [stream_of(exec_id) for exec_id in left]

    async def take_over(self, exec_id: str) -> bool:
        """Claims one execution that nobody runs; False when somebody does, or it is not due."""
        if exec_id in self.runners:
            return False
        asked_at = time.monotonic()
        query = ClaimQuery(
            category=CATEGORY, names=(), claim=self.claim, limit=1, stream=stream_of(exec_id)
        )
        claimed = await self.journal.claim(query)
        if claimed:
            self._unloadable.pop(exec_id, None)
            self._put_off.pop(exec_id, None)
        await self._take_all(claimed, asked_at)
        return bool(claimed)

    def why_not(self, exec_id: str) -> str | None:
        """Why this process cannot run an execution; None when it can, or has not tried."""
        return self._unloadable.get(exec_id)

    async def _take_all(self, claimed: Sequence[tuple[Head, Lease]], asked_at: float) -> None:
        """Runs what was claimed, one after the other; what does not get so far is given back."""
        for _, lease in claimed:
            self._keep_claimed(lease, asked_at)
        for head, lease in claimed:
            # Closed meanwhile, and so given back? Then whoever is next runs it.
            if self._claimed.get(lease.stream) is lease and not self._closing:
                await self._take(head, lease, asked_at)
                self._no_longer_claimed(lease)

    def _keep_claimed(self, lease: Lease, asked_at: float) -> None:
        self._claimed[lease.stream] = lease
        if self.route:
            # Loading may take longer than a lease lasts, and is given up in time. A worker without
            # a route loads on the loop, perhaps for ever: others have it when the lease is over.
            self._heartbeat.add(lease, asked_at)

    def _no_longer_claimed(self, lease: Lease) -> None:
        if self._claimed.get(lease.stream) is lease:
            del self._claimed[lease.stream]
            if exec_id_of(lease.stream) not in self.runners:
                self._heartbeat.remove(lease.stream)

    async def _take(self, head: Head, lease: Lease, asked_at: float) -> None:
        """Runs what was claimed, or gives it back. One that fails keeps none of the others."""
        exec_id = exec_id_of(head.stream)
        stale = self.runners.get(exec_id)
        if stale is not None:
            if head.owner == self.owner and lease.epoch == stale.execution.lease.epoch + 1:
                # Its lease was over, and nobody else has had the execution since: it goes on.
                stale.execution.lease = lease
                self._heartbeat.add(lease, asked_at)
                return
            # It has lost the execution, or has just let go: under the old epoch it records nothing.
            if head.owner is not None:
                _report_lost(stale)
            self._drop_runner(stale)
            self._keep_claimed(lease, asked_at)
        try:
            await self._load_and_run(exec_id, head, lease, asked_at)
        except StaleLease:
            return
        except JournalError as error:
            if isinstance(error, CorruptJournal | BlobNotFound):
                self._is_unloadable(exec_id, head, error)
                await self._give_up(exec_id, lease)
                return
            self._put_off[exec_id] = time.monotonic() + PUT_OFF_SECONDS
            report(LogEvent.POLL_FAILED, error=str(error))
            await self._release(lease)
        except Exception as error:
            # Whatever a record of this execution does to us, the others must go on.
            self._is_unloadable(exec_id, head, error)
            await self._give_up(exec_id, lease)

    async def _give_up(self, exec_id: str, lease: Lease) -> None:
        """Gives back what cannot be run here. On a route no other process could do better: it is
        recorded, so that people see why, and that it is left alone for a while."""
        await self._release(lease)
        if not self.route:
            return
        self.load_failures += 1
        try:
            await self.note_not_placed(exec_id, f"it cannot be run: {self._unloadable[exec_id]}")
        except (KitaruError, JournalError) as error:
            report(LogEvent.POLL_FAILED, error=str(error))

    def _is_unloadable(self, exec_id: str, head: Head, error: Exception) -> None:
        why = str(error) if isinstance(error, KitaruError | JournalError) else repr(error)
        self._unloadable[exec_id] = why
        report(LogEvent.FLOW_NOT_LOADABLE, exec_id=exec_id, flow=head.name, error=why)

    async def _load_and_run(self, exec_id: str, head: Head, lease: Lease, asked_at: float) -> None:
        recorded = await self.journal.read_stream(head.stream)
        facts = [(fact.version, fact.recorded_at, decode_event(fact)) for fact in recorded]
        started = facts[0][2]
        assert isinstance(started, ExecutionStarted)
        state = fold(ABSENT, [event for _, _, event in facts])
        if state.status not in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING):
            await self._release(lease)
            return
        if state.stack is not None and state.route and not self.route:
            raise RunsOnStack(state.stack)
        claimed = OwnedExecution(self.journal, exec_id, state, recorded[-1].version, lease)
        # What clients write meanwhile is behind us when the runner begins to listen.
        claimed.on_foreign = lambda news: facts.append((news.version, news.recorded_at, news.event))
        code = code_of(event for _, _, event in facts)
        # Before the code is loaded: what kills every process that loads it is to end as well.
        is_first = bool(state.route)
        if is_first and not await self._taken_over(claimed, head):
            return
        try:
            source, definition = await self._definition(code)
        except KitaruError as error:
            if not self.route:
                raise
            await self._not_loaded(claimed, not_loaded(code, error))
            return
        if not is_first and not await self._taken_over(claimed, head):
            return
        try:
            arguments = await self._arguments(started, definition)
        except KitaruUsageError as error:
            if not started.plain:
                raise
            await self._unfit(claimed, error)
            return
        execution = owned_execution(
            definition.asynchronous, self.journal, exec_id, claimed.state, claimed.version, lease
        )
        main = main_module_of(source.file) if source.module == "__main__" else None
        self.run(Loaded(definition, execution, facts, main), arguments, asked_at)

    async def _definition(self, code: Code) -> tuple[SourceReference, FlowDefinition]:
        source = await self.registry.source_of(code)
        if not self.route:
            return source, self.registry.find(source)
        too_long = KitaruStateError(f"loading {source.file} takes longer than {LOAD_SECONDS:g} s.")
        if self._too_long is not None and not self._too_long.done():
            # What else was claimed is of the same bundle: it would wait for the same.
            raise too_long
        # Not on the loop: a module may take long, or for ever.
        loading = self.in_thread(functools.partial(_found, self.registry, source))
        done, _ = await asyncio.wait([loading], timeout=LOAD_SECONDS)
        if not done:
            self._too_long = loading
            raise too_long
        found = loading.result()
        if isinstance(found, Exception):
            raise found
        return source, found

    async def _not_loaded(self, execution: OwnedExecution, problem: str) -> None:
        self.load_failures += 1
        report(
            LogEvent.FLOW_NOT_LOADABLE,
            exec_id=execution.exec_id,
            flow=execution.state.flow,
            error=problem,
        )
        await self._record(execution, ReportNotLoaded(problem, self.journal.now()))

    async def note_not_placed(self, exec_id: str, problem: str) -> None:
        """Records why an execution's stack could give it no runner, so that people see it, and that
        it is left alone for a while. Raises JournalError, and KitaruError for what it cannot read.
        """
        query = ClaimQuery(
            category=CATEGORY, names=(), claim=self.claim, limit=1, stream=stream_of(exec_id)
        )
        for head, lease in await self.journal.claim(query):
            try:
                recorded = await self.journal.read_stream(head.stream)
                state = fold(ABSENT, [decode_event(fact) for fact in recorded])
                if not state.is_finished:
                    version = recorded[-1].version
                    claimed = OwnedExecution(self.journal, exec_id, state, version, lease)
                    await self._record(claimed, ReportNotLoaded(problem, self.journal.now()))
            finally:
                await self._release(lease)

    async def _unfit(self, execution: OwnedExecution, error: KitaruUsageError) -> None:
        """Nobody can make of its inputs what the flow wants: it has failed."""
        command = FailAttempt(
            error=describe(error, self.codec),
            origin=FailureOrigin.RUNTIME,
            now=self.journal.now(),
            retryable=False,
        )
        await self._record(execution, command)

    async def _record(self, execution: OwnedExecution, command: Command) -> None:
        for event in decide(execution.state, command):
            execution.put(Outgoing(event))
        await execution.flush()

    async def _taken_over(self, execution: OwnedExecution, head: Head) -> bool:
        return head.owner is None or await self._recovered(execution, head.owner)

    async def _recovered(self, execution: OwnedExecution, previous: str) -> bool:
        """Counts a take-over; False when it was one too many, and the execution has failed."""
        await self._record(execution, Recover(previous, RECOVERY_LIMIT))
        facts = {
            "exec_id": execution.exec_id,
            "flow": execution.state.flow,
            "recoveries": execution.state.recoveries,
        }
        if execution.state.is_finished:
            report(LogEvent.EXECUTION_RECOVERED_TOO_OFTEN, **facts)
            return False
        report(LogEvent.EXECUTION_TAKEN_OVER, previous_owner=previous, **facts)
        return True

    async def _arguments(
        self, started: ExecutionStarted, definition: FlowDefinition
    ) -> dict[str, Any]:
        stored = started.arguments
        data: Any = stored.json
        if stored.blob is not None:
            data = await self.journal.get_blob(stored.blob)
        arguments: dict[str, Any] = self.codec.decode(data, definition.types, known_only=True)
        if not started.plain:
            return arguments
        plain = {name: arguments[name] for name in started.plain if name in arguments}
        return {**arguments, **convert_json(definition.function, plain)}

    async def _release(self, lease: Lease) -> None:
        self._heartbeat.remove(lease.stream)
        try:
            await self.journal.release(lease)
        except JournalError as error:
            # It runs out by itself; only later.
            report(LogEvent.LEASE_NOT_RELEASED, error=str(error))

    # news

    def _on_commit(self, events: Sequence[RecordedEvent]) -> None:
        if not events:
            self._notice_all()
            return
        for event in events:
            if event.epoch == 0:
                self._notice(exec_id_of(event.stream))

    def _notice_here(self, exec_id: str) -> None:
        runner = self.runners.get(exec_id)
        if runner is not None:
            runner.notice()

    def _notice(self, exec_id: str) -> None:
        # First: a thread that makes the runner just now looks at it afterwards.
        self._last_news_at = time.monotonic()
        runner = self.runners.get(exec_id)
        if runner is not None:
            runner.notice()
        else:
            # Perhaps the answer that a parked execution waits for.
            self.look_now()

    def _notice_all(self) -> None:
        """Another process has written, perhaps to one of ours: every runner looks, in turn."""
        self._last_news_at = time.monotonic()
        if not self._to_notice:
            self._to_notice.extend(self.runners)
        if self._noticing is None:
            self._noticing = self.loop.call_later(NOTICE_SECONDS, self._notice_some)
            if self.route:
                # Most of what a runner process runs, others have started: it looks at once.
                self.look_now()

    def _notice_some(self) -> None:
        self._noticing = None
        self.look_now()
        for _ in range(min(NOTICED_AT_ONCE, len(self._to_notice))):
            runner = self.runners.get(self._to_notice.popleft())
            if runner is not None:
                runner.notice()
        if self._to_notice:
            self._noticing = self.loop.call_later(NOTICE_SECONDS, self._notice_some)

    def _lease_lost(self, lease: Lease) -> None:
        self._call_soon(self._stop_lost, lease)

    def _stop_lost(self, lease: Lease) -> None:
        runner = self.runners.get(exec_id_of(lease.stream))
        if runner is None or runner.execution.lease.epoch != lease.epoch:
            return
        _report_lost(runner)
        self._drop_runner(runner)

    def _drop_runner(self, runner: Runner) -> None:
        with self._slots:
            if runner in self._queued:
                self._queued.remove(runner)
        runner.stop()
        self._forget(runner, None, None)

    def _call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(functools.partial(function, *arguments))
        except RuntimeError:
            # The loop has been closed: the process ends, and nobody needs the news.
            if not self._closing:
                raise


def _set_result(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _report_lost(runner: Runner) -> None:
    execution = runner.execution
    report(LogEvent.LEASE_LOST, exec_id=execution.exec_id, epoch=execution.lease.epoch)


def _found(registry: Registry, source: SourceReference) -> FlowDefinition | KitaruError:
    try:
        return registry.find(source)
    except KitaruError as error:
        return error


def _renewal_failed(error: JournalError, executions: int) -> None:
    report(LogEvent.LEASE_RENEWAL_FAILED, executions=executions, error=str(error))
