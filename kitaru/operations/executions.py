"""Starting, following and steering executions."""

import asyncio
import contextlib
import math
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from journal import (
    Append,
    ClaimQuery,
    Head,
    HeadQuery,
    JournalError,
    Lease,
    RecordedEvent,
    StaleLease,
    WrongExpectedVersion,
)
from kitaru import settings
from kitaru.bootstrap import Runtime
from kitaru.divergence import divergence_of
from kitaru.domain.execution.commands import (
    Cancel,
    Command,
    ConfirmCancel,
    Reopen,
    RetryNow,
    Start,
)
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    CheckpointEvent,
    CheckpointFailed,
    EventOffered,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionDiverged,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionReopened,
    ExecutionStarted,
    FlowAttemptFailed,
    FrozenOptions,
    RetryHastened,
    SourceReference,
)
from kitaru.domain.execution.state import ABSENT, STACK_ROUTES, ExecutionState
from kitaru.domain.ids import checked_id
from kitaru.domain.values import StoredValue
from kitaru.engine.codec import TypeScope, digest
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.differences import are_equal, difference_lines
from kitaru.engine.executions import (
    CATEGORY,
    Outgoing,
    OwnedExecution,
    exec_id_of,
    fold,
    head_of,
    new_event,
    owned_execution,
    state_of,
    stream_of,
)
from kitaru.engine.failures import revive
from kitaru.engine.runner import Loaded
from kitaru.engine.upcasts import decode_event
from kitaru.engine.values import stored
from kitaru.errors import (
    KitaruBackendError,
    KitaruCancelledError,
    KitaruDivergenceError,
    KitaruExecutionError,
    KitaruRuntimeError,
    KitaruStateError,
    KitaruTimeoutError,
    KitaruUsageError,
    KitaruUserCodeError,
)
from kitaru.operations.backend import backend_errors
from kitaru.status import ExecutionStatus, FailureOrigin
from kitaru.telemetry import LogEvent, report

KEY_NAMESPACE = uuid.UUID("6b697461-7275-5000-8000-6b6579730000")
RECHECK_SECONDS = 2.0
ATTEMPTS_AT_A_RACE = 20


class Prepared(Struct, frozen=True):
    """An execution that is about to start."""

    exec_id: str
    definition: FlowDefinition
    reference: SourceReference
    event: ExecutionStarted
    state: ExecutionState
    append: Append
    arguments: dict[str, Any]
    """As a replay would read them."""
    offers: tuple[EventOffered, ...] = ()
    """What a fork takes over."""


def prepare(
    runtime: Runtime,
    definition: FlowDefinition,
    reference: SourceReference,
    fingerprint: str,
    named: dict[str, Any],
    options: FrozenOptions,
    idempotency_key: str | None,
    seed: str | None = None,
) -> Prepared:
    """Everything of a start but the append.

    `seed` is what the body's random values are derived from; None: chance. Raises
    KitaruSerializationError for an argument that cannot be kept, KitaruUsageError for a bad
    idempotency key.
    """
    data, arguments = runtime.codec.roundtrip(named, where="arguments", types=definition.types)
    value, blobs = stored(data)
    exec_id = new_exec_id(definition.name, idempotency_key)
    event = ExecutionStarted(
        flow=definition.name,
        source=reference,
        arguments=value,
        arguments_digest=digest(data),
        asynchronous=definition.asynchronous,
        fingerprint=fingerprint,
        options=options,
        idempotency_key=idempotency_key,
        seed=secrets.token_hex(16) if seed is None else seed,
    )
    (event,) = decide(ABSENT, Start(event))  # type: ignore[assignment]
    state = fold(ABSENT, [event])
    append = Append(
        stream=stream_of(exec_id),
        events=(new_event(event),),
        expected_version=0,
        head=head_of(state),
        claim=runtime.worker.claim,
        blobs=blobs,
    )
    return Prepared(exec_id, definition, reference, event, state, append, arguments)


def with_options(prepared: Prepared, options: FrozenOptions) -> Prepared:
    """The same start with other options."""
    event = msgspec.structs.replace(prepared.event, options=options)
    state = fold(ABSENT, [event])
    append = msgspec.structs.replace(
        prepared.append, events=(new_event(event),), head=head_of(state)
    )
    return msgspec.structs.replace(prepared, event=event, state=state, append=append)


def new_exec_id(flow: str, key: str | None) -> str:
    """The id of a new execution, or the one that an idempotency key of the flow stands for.

    Raises KitaruUsageError for a bad key.
    """
    if key is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(KEY_NAMESPACE, f"{flow}\0{checked_id(key, 'An idempotency key')}"))


def start_blocking(runtime: Runtime, prepared: Prepared) -> None:
    """Starts an execution from a thread; returns once it is durable."""
    asked_at = time.monotonic()
    try:
        appended = runtime.journal.append_blocking(prepared.append)
    except (WrongExpectedVersion, StaleLease):
        asyncio.run_coroutine_threadsafe(_join(runtime, prepared), runtime.loop).result()
        return
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    if prepared.definition.asynchronous:
        runtime.loop.call_soon_threadsafe(
            _run_started, runtime, prepared, appended.events, appended.lease, asked_at
        )
    else:
        _run_started(runtime, prepared, appended.events, appended.lease, asked_at)


async def start(runtime: Runtime, prepared: Prepared) -> None:
    """Starts an execution on the runtime's loop; returns once it is durable."""
    asked_at = time.monotonic()
    try:
        appended = await runtime.journal.append(prepared.append)
    except (WrongExpectedVersion, StaleLease):
        await _join(runtime, prepared)
        return
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    _run_started(runtime, prepared, appended.events, appended.lease, asked_at)


async def _join(runtime: Runtime, prepared: Prepared) -> None:
    await check_same_start(runtime, prepared.exec_id, prepared.event, prepared.append.blobs)
    serve(runtime, prepared.reference, prepared.definition)


def serve(runtime: Runtime, reference: SourceReference, definition: FlowDefinition) -> None:
    """Whoever starts a flow runs it too: an execution of it that nobody has is taken over here."""
    runtime.worker.registry.serve(reference, definition)
    runtime.worker.look_now()


def _run_started(
    runtime: Runtime,
    prepared: Prepared,
    recorded: Sequence[RecordedEvent],
    lease: Any,
    asked_at: float,
) -> None:
    runtime.worker.registry.serve(prepared.reference, prepared.definition)
    execution = owned_execution(
        prepared.definition.asynchronous,
        runtime.journal,
        prepared.exec_id,
        prepared.state,
        recorded[-1].version,
        lease,
    )
    events: tuple[ExecutionEvent, ...] = (prepared.event, *prepared.offers)
    facts = [
        (fact.version, fact.recorded_at, event)
        for fact, event in zip(recorded, events, strict=True)
    ]
    runtime.worker.run(Loaded(prepared.definition, execution, facts), prepared.arguments, asked_at)


async def first_start(runtime: Runtime, exec_id: str) -> ExecutionStarted | None:
    """How an execution began; None: there is none of this id. Raises KitaruBackendError."""
    try:
        recorded = await runtime.journal.read_stream(stream_of(exec_id), limit=1)
        first = decode_event(recorded[0]) if recorded else None
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    assert first is None or isinstance(first, ExecutionStarted)
    return first


async def check_same_start(
    runtime: Runtime, exec_id: str, event: ExecutionStarted, blobs: tuple[bytes, ...]
) -> None:
    """The same key with the same input is the same execution; with another it is a conflict.

    `event` is what was about to be started, `blobs` what goes with it. Raises KitaruStateError.
    """
    first = await first_start(runtime, exec_id)
    assert first is not None
    try:
        conflict = await _conflict(runtime, first, event, blobs)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    if conflict:
        raise key_taken(event.idempotency_key, event.flow, exec_id, conflict)


def key_taken(key: str | None, flow: str, exec_id: str, how: str) -> KitaruStateError:
    """That an idempotency key belongs to an execution which was started otherwise: `how`."""
    return KitaruStateError(
        f"The idempotency key {key!r} of flow {flow!r} belongs to execution {exec_id}, which was "
        f"started {how}\nUse another key, or ask for the same."
    )


async def _conflict(
    runtime: Runtime, first: ExecutionStarted, event: ExecutionStarted, blobs: tuple[bytes, ...]
) -> str:
    """How a start differs from the first one under its key; empty: not at all."""
    if first.arguments_digest != event.arguments_digest:
        before: Any = await _whole(runtime, first.arguments, ())
        now: Any = await _whole(runtime, event.arguments, blobs)
        before, now = msgspec.json.decode(before), msgspec.json.decode(now)
        # Whoever asks again may have it from where dicts have no order.
        if not are_equal(before, now):
            return "\n  ".join(["with other arguments:", *difference_lines(before, now)])
    before_fork, now_fork = first.forked_from, event.forked_from
    if before_fork is None or now_fork is None:
        if before_fork is now_fork:
            return ""
        words = "with run()" if before_fork is None else f"as a fork of {before_fork.exec_id}"
        return f"{words}."
    if before_fork.request == now_fork.request:
        return ""
    return (
        f"as a fork of {before_fork.exec_id} from {before_fork.anchor!r} with other words: from "
        "another call, or with other overrides."
    )


async def _whole(runtime: Runtime, value: StoredValue, blobs: tuple[bytes, ...]) -> bytes:
    if value.blob is None:
        return bytes(value.json)
    at_hand = [blob for blob in blobs if digest(blob) == value.blob]
    return at_hand[0] if at_hand else await runtime.journal.get_blob(value.blob)


# following


async def status_of(runtime: Runtime, exec_id: str) -> ExecutionStatus:
    """Where the execution stands now. Raises KitaruStateError when there is none."""
    return ExecutionStatus((await _head(runtime, exec_id)).state)


async def _head(runtime: Runtime, exec_id: str) -> Head:
    try:
        head = await runtime.journal.head(stream_of(exec_id))
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error
    if head is None:
        raise KitaruStateError(
            f"There is no execution {exec_id} in {runtime.journal.location}. `kitaru executions "
            "list` shows what there is."
        )
    return head


async def ending_of(runtime: Runtime, exec_id: str, timeout: float | None) -> ExecutionEvent:
    """Waits for the event that ends the execution, or stops it until somebody acts.

    Raises KitaruTimeoutError after `timeout` seconds; the execution goes on. Raises
    KitaruUsageError for a timeout that is no number of seconds.
    """
    if timeout is None or _seconds(timeout) == math.inf:
        return await _ending(runtime, exec_id)
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            return await _ending(runtime, exec_id)
    except TimeoutError:
        raise KitaruTimeoutError(
            exec_id=exec_id,
            timeout_seconds=timeout,
            elapsed_seconds=time.monotonic() - began,
            last_status=await status_of(runtime, exec_id),
        ) from None


def _seconds(timeout: object) -> float:
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not cast("float", timeout) >= 0:
        raise KitaruUsageError(
            f"wait(timeout={timeout!r}): a number of seconds from 0 on is needed, or None to "
            "wait for as long as it takes."
        )
    return cast("float", timeout)


async def _ending(runtime: Runtime, exec_id: str) -> ExecutionEvent:
    here = runtime.worker.ending(exec_id)
    if here is not None:
        event, error = await here
        if error is not None:
            raise _backend_error(exec_id, error)
        if event is not None:
            return event
    changed = asyncio.Event()
    stop = runtime.journal.watch(stream_of(exec_id), lambda _: changed.set())
    try:
        while True:
            changed.clear()
            head = await _head(runtime, exec_id)
            if head.state not in _GOING_ON:
                return await _last_event(runtime, head)
            # Not wait_for: on Python 3.11 it can swallow the caller's cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_SECONDS):
                    await changed.wait()
    finally:
        stop()


_GOING_ON = frozenset({ExecutionStatus.RUNNING, ExecutionStatus.WAITING})
_ENDS = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled, ExecutionDiverged)


async def _last_event(runtime: Runtime, head: Head) -> ExecutionEvent:
    after = max(0, head.version - 50)
    while True:
        try:
            recorded = await runtime.journal.read_stream(head.stream, after=after)
        except JournalError as error:
            raise KitaruBackendError(str(error)) from error
        ends = [event for event in map(decode_event, recorded) if isinstance(event, _ENDS)]
        if ends:
            return ends[-1]
        if after == 0:
            raise KitaruBackendError(
                f"{head.stream} is {head.state}, but no event of it says so: the journal is "
                "damaged. `kitaru journal verify` tells where."
            )
        after = 0


def _backend_error(exec_id: str, error: Exception) -> KitaruRuntimeError:
    if isinstance(error, JournalError):
        failed = KitaruBackendError(
            f"The journal let execution {exec_id} down: {error}. What is recorded is safe, and the "
            "execution goes on from there once the journal can be written again."
        )
    elif isinstance(error, KitaruRuntimeError):
        return error
    else:
        failed = KitaruBackendError(
            f"The engine failed while it ran execution {exec_id}: {error!r}. What is recorded is "
            "safe, and the execution goes on from there with the next runner."
        )
    failed.__cause__ = error
    return failed


async def outcome_of(
    runtime: Runtime, exec_id: str, event: ExecutionEvent, types: TypeScope
) -> Any:
    """The flow's result, or the error that stands for how the execution ended."""
    match event:
        case ExecutionCompleted(result=result):
            data: Any = result.json
            if result.blob is not None:
                data = await _blob(runtime, result.blob)
            return runtime.codec.decode(data, types)
        case ExecutionFailed(error=error, origin=origin):
            kind = (
                KitaruUserCodeError if origin == FailureOrigin.USER_CODE else KitaruExecutionError
            )
            raise kind(
                error.message,
                exec_id=exec_id,
                status=ExecutionStatus.FAILED,
                failure_origin=FailureOrigin(origin),
            ) from revive(error, runtime.codec)
        case ExecutionCancelled(reason=reason):
            raise KitaruCancelledError(
                f"Execution {exec_id} was cancelled" + (f": {reason}" if reason else "."),
                exec_id=exec_id,
                status=ExecutionStatus.CANCELLED,
                failure_origin=FailureOrigin.UNKNOWN,
            )
        case ExecutionDiverged(report=report, facts=facts):
            raise KitaruDivergenceError(
                report,
                exec_id=exec_id,
                status=ExecutionStatus.DIVERGED,
                failure_origin=FailureOrigin.DIVERGENCE,
                divergence=divergence_of(facts),
            )
        case _:
            raise AssertionError(event)


async def _blob(runtime: Runtime, digest: str) -> bytes:
    try:
        return await runtime.journal.get_blob(digest)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error


# steering


async def cancel(runtime: Runtime, exec_id: str, reason: str = "") -> None:
    """Asks the execution to end; its body may still run its handlers. Twice is as good as once.

    Raises KitaruStateError when it has ended otherwise.
    """
    await _let_leave(runtime, exec_id)
    # What cannot be written down as it is, is written as an escape.
    text = reason.encode("utf-8", "backslashreplace").decode()
    await append_decided(runtime, exec_id, lambda _: Cancel(text))
    runtime.worker.look_now()


async def force_cancel(runtime: Runtime, exec_id: str) -> None:
    """Ends an execution that nobody can run any more, without its handlers.

    Raises KitaruStateError when a runner has it.
    """
    await cancel(runtime, exec_id)
    if await status_of(runtime, exec_id) is ExecutionStatus.CANCELLED:
        return
    query = ClaimQuery(
        category=CATEGORY,
        names=(),
        claim=runtime.worker.claim,
        limit=1,
        stream=stream_of(exec_id),
    )
    with backend_errors():
        claimed = await runtime.journal.claim(query)
    if not claimed:
        raise KitaruStateError(
            f"Execution {exec_id} is being run by {(await _head(runtime, exec_id)).owner}, which "
            "will cancel it. Stop that process first to cancel it by force."
        )
    _, lease = claimed[0]
    with backend_errors():
        try:
            await _confirm_cancel(runtime, exec_id, lease)
        except StaleLease as error:
            raise KitaruStateError(
                f"Execution {exec_id} was taken over by another process, which will cancel it."
            ) from error
        except BaseException:
            await runtime.journal.release(lease)
            raise


async def _confirm_cancel(runtime: Runtime, exec_id: str, lease: Lease) -> None:
    recorded = await runtime.journal.read_stream(stream_of(exec_id))
    state = state_of(recorded)
    execution = OwnedExecution(runtime.journal, exec_id, state, recorded[-1].version, lease)
    for event in decide(state, ConfirmCancel()):
        execution.put(Outgoing(event))
    await execution.flush()


async def reopen(runtime: Runtime, exec_id: str, reason: str) -> None:
    """Another attempt for a failed execution (``retry``) or a diverged one (``resume``).

    Raises KitaruStateError when the execution is in another state.
    """
    await _reopen(runtime, exec_id, reason)
    runtime.worker.look_now()


async def retry_now(runtime: Runtime, exec_id: str, call: str | None = None) -> None:
    """Makes the next attempt of calls at once that wait for its time: of one path, or of all.

    The delays of later attempts are those of the policy. Raises KitaruStateError when no such call
    waits.
    """
    if call is not None:
        checked_id(call, "A call's path")

    def command(events: list[ExecutionEvent]) -> RetryNow:
        waiting = _backing_off(events)
        calls = tuple(path for path, hastened in waiting.items() if not hastened)
        return RetryNow(calls, call, tuple(path for path in waiting if path not in calls))

    await append_decided(runtime, exec_id, command)
    runtime.worker.look_now()


def _backing_off(events: Sequence[ExecutionEvent]) -> dict[str, bool]:
    """The calls that wait for the time of their next attempt, and whether that was hastened."""
    waiting: dict[str, bool] = {}
    for event in events:
        match event:
            case CheckpointFailed(path=path, retry_at=int()):
                waiting[path] = False
            case RetryHastened(path=path):
                waiting[path] = True
            case CheckpointEvent(path=path):
                waiting.pop(path, None)
            case FlowAttemptFailed() | ExecutionReopened(reason="retry"):
                waiting.clear()
            case _:
                pass
    return waiting


async def _reopen(runtime: Runtime, exec_id: str, reason: str) -> None:
    await _let_leave(runtime, exec_id)
    await append_decided(runtime, exec_id, lambda _: Reopen(reason))


async def _let_leave(runtime: Runtime, exec_id: str) -> None:
    # A runner here that has recorded the end may not have gone yet: what it tells those who wait
    # must not be taken for the end that comes of what is asked now.
    leaving = runtime.worker.ending(exec_id)
    if leaving is not None and (await _head(runtime, exec_id)).state not in _GOING_ON:
        await leaving


async def resume(runtime: Runtime, exec_id: str) -> None:
    """Runs an unfinished execution that nobody runs in this process, a diverged one anew.

    Raises KitaruStateError when it has ended, or another process is running it.
    """
    status = await status_of(runtime, exec_id)
    if status is ExecutionStatus.DIVERGED:
        await _reopen(runtime, exec_id, "resume")
    elif status.is_finished:
        raise KitaruStateError(
            f"Execution {exec_id} is already {status}; there is nothing to resume."
        )
    if exec_id in runtime.worker.runners:
        return
    head = await _head(runtime, exec_id)
    if head.route and head.route != runtime.worker.route:
        if status is not ExecutionStatus.DIVERGED:
            await _resume_elsewhere(runtime, exec_id, head)
        return
    with backend_errors():
        is_taken = await runtime.worker.take_over(exec_id)
    if not is_taken:
        owner = (await _head(runtime, exec_id)).owner
        if owner in (None, runtime.worker.owner):
            # This process has taken it just now, or it has ended just now.
            return
        raise KitaruStateError(
            f"Execution {exec_id} is being run by {owner}. If that process is gone, its lease runs "
            "out within the lease time, and you can resume then."
        )
    refused = runtime.worker.why_not(exec_id)
    if refused is not None:
        raise KitaruUsageError(refused)


async def _resume_elsewhere(runtime: Runtime, exec_id: str, head: Head) -> None:
    """Sees to a runner process for an execution that this process cannot run itself."""
    on_stack = head.route.startswith(STACK_ROUTES)
    _ = runtime.placer if on_stack else runtime.pool
    if head.owner is not None and head.lease_until > runtime.journal.now():
        raise KitaruStateError(
            f"Execution {exec_id} is being run by {head.owner}. If that process is gone, its lease "
            "runs out within the lease time, and another runner takes it over then."
        )
    await append_decided(
        runtime, exec_id, lambda past: Reopen("load") if fold(ABSENT, past).load_failures else None
    )
    after = await _head(runtime, exec_id)
    is_due = after.due_at is not None and after.due_at <= runtime.journal.now()
    try:
        if on_stack:
            await runtime.placer.place_head(after)
        elif is_due:
            await runtime.pool.look()
        else:
            await runtime.pool.run_one(head.route, exec_id)
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error


async def wake_runners(runtime: Runtime) -> None:
    """Sees to runner processes for what has become due of deployed versions and on stacks.

    What made it due is durable already: where this fails, another process does it.
    """
    if settings.runner_folder(runtime.url) is None:
        return
    try:
        await runtime.pool.look()
        await runtime.placer.look(0.0)
    except JournalError as error:
        report(LogEvent.POLL_FAILED, error=str(error))


async def append_decided(
    runtime: Runtime,
    exec_id: str,
    command: Callable[[list[ExecutionEvent]], Command | None],
    blobs: tuple[bytes, ...] = (),
) -> None:
    """Appends what a client's command leads to, whoever else writes meanwhile.

    `command` is made anew from the execution's events at each try; None: nothing is to be done.
    Raises what it and `decide`
    raise, and KitaruBackendError when the journal cannot be written.
    """
    stream = stream_of(exec_id)
    await _head(runtime, exec_id)
    for _ in range(ATTEMPTS_AT_A_RACE):
        try:
            recorded = await runtime.journal.read_stream(stream)
        except JournalError as error:
            raise KitaruBackendError(str(error)) from error
        past = [decode_event(fact) for fact in recorded]
        state = fold(ABSENT, past)
        asked = command(past)
        events = () if asked is None else decide(state, asked)
        if not events:
            return
        append = Append(
            stream=stream,
            events=tuple(map(new_event, events)),
            expected_version=recorded[-1].version,
            head=head_of(fold(state, events)),
            blobs=blobs,
        )
        try:
            await runtime.journal.append(append)
        except WrongExpectedVersion:
            continue
        except JournalError as error:
            raise KitaruBackendError(str(error)) from error
        if state.route and state.route != runtime.worker.route:
            await wake_runners(runtime)
        return
    raise KitaruBackendError(f"Execution {exec_id} changes too fast to be steered; try again.")


async def find_id(runtime: Runtime, exec_id: str) -> str:
    """The full id that an id or an unambiguous beginning of one stands for.

    Raises KitaruStateError when there is none, KitaruUsageError when there are several, and
    KitaruBackendError when the journal cannot be read.
    """
    wanted = checked_id(exec_id, "An execution id")
    query = HeadQuery(category=CATEGORY, stream_prefix=stream_of(wanted), limit=5)
    with backend_errors():
        heads = await runtime.journal.heads(query)
    found = [head.stream.removeprefix(f"{CATEGORY}-") for head in heads]
    if wanted in found:
        return wanted
    if len(found) > 1:
        raise KitaruUsageError(f"{wanted!r} could be {', '.join(sorted(found))}; write more of it.")
    if not found:
        # Not among them; it may be one whose start has become durable just now.
        return exec_id_of((await _head(runtime, wanted)).stream)
    return found[0]
