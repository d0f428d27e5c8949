"""Looking at executions and steering them, from any process, without the flows' code."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from journal import HeadQuery
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.retry import checked_retries
from kitaru.engine.codec import TypeScope
from kitaru.engine.executions import CATEGORY, exec_id_of, stream_of
from kitaru.errors import (
    KitaruStateError,
    KitaruUsageError,
)
from kitaru.operations import executions as operations
from kitaru.operations import forks, histories, resolving, waits
from kitaru.operations.backend import backend_errors
from kitaru.projections.executions import execution_of, summary_of
from kitaru.projections.views import Execution, PendingWait
from kitaru.sdk.deployments import AsyncDeployments, Deployments
from kitaru.sdk.handle import AsyncFlowHandle, FlowHandle
from kitaru.sdk.loops import block, on_loop, on_runtime
from kitaru.sdk.stacks import AsyncStacks, Stacks
from kitaru.status import ExecutionStatus

_INSTEAD = "use AsyncKitaruClient"
_NOTHING = object()
PAGE_SIZE = 20


class KitaruClient:
    """For code that may block. It opens the configured journal and never runs a flow itself."""

    @property
    def executions(self) -> "Executions":
        """The executions of the configured journal."""
        return Executions()

    @property
    def stacks(self) -> Stacks:
        """The stacks of the configured journal."""
        return Stacks()

    @property
    def deployments(self) -> Deployments:
        """The deployed versions of flows in the configured journal."""
        return Deployments()


class AsyncKitaruClient:
    """The same for async code."""

    @property
    def executions(self) -> "AsyncExecutions":
        """The executions of the configured journal."""
        return AsyncExecutions()

    @property
    def stacks(self) -> AsyncStacks:
        """The stacks of the configured journal."""
        return AsyncStacks()

    @property
    def deployments(self) -> AsyncDeployments:
        """The deployed versions of flows in the configured journal."""
        return AsyncDeployments()


class AsyncExecutions:
    """What can be asked of executions; every id may be an unambiguous beginning of one."""

    async def get(self, exec_id: str) -> Execution:
        """One execution with its checkpoints, attempts, metadata and artifacts.

        Raises KitaruStateError for an unknown id and KitaruUsageError for an ambiguous one.
        """
        return await on_runtime(lambda runtime: _get(runtime, exec_id))

    async def list(
        self,
        *,
        flow: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        page: int | None = None,
        size: int | None = None,
    ) -> list[Execution]:
        """Summaries, newest first: `limit` of them, or page number `page` (from 1) of `size`."""
        wanted = _page(limit, page, size)
        return await on_runtime(lambda runtime: _list(runtime, flow, status, *wanted))

    async def latest(self, *, flow: str | None = None, status: str | None = None) -> Execution:
        """The newest execution that matches. Raises KitaruStateError when there is none."""
        return await on_runtime(lambda runtime: _latest(runtime, flow, status))

    async def handle(self, exec_id: str) -> AsyncFlowHandle[Any]:
        """A handle on an execution. It needs no import of the flow: classes that only the flow
        knows come as `RecordedObject`."""
        runtime = current_runtime()
        with backend_errors():
            full_id = await on_loop(runtime, lambda: _find(runtime, exec_id))
        return AsyncFlowHandle(runtime, full_id, TypeScope.of())

    async def cancel(self, exec_id: str, reason: str = "") -> Execution:
        """Asks an execution to end. Twice is as good as once.

        Its body gets the request at its next durable step and may run handlers. Raises
        KitaruStateError when it has already ended otherwise.
        """
        return await on_runtime(lambda runtime: _steer(runtime, exec_id, operations.cancel, reason))

    async def force_cancel(self, exec_id: str) -> Execution:
        """Ends an execution that nobody runs, without its handlers."""
        return await on_runtime(lambda runtime: _steer(runtime, exec_id, operations.force_cancel))

    async def retry(self, exec_id: str) -> Execution:
        """Re-opens a failed execution: completed calls are kept, the failed one is tried again.

        It runs here when this process can load its flow, else wherever a worker serves it. Raises
        KitaruStateError unless it has failed.
        """
        return await on_runtime(lambda runtime: _steer(runtime, exec_id, _retry))

    async def retry_now(self, exec_id: str, *, call: str | None = None) -> Execution:
        """Makes the next attempt of a call at once that waits for its time, from any process.

        `call` is its path; without one it is every call of the execution that waits. The delays of
        later attempts are those of the policy. Raises KitaruStateError when no such call waits.
        """
        return await on_runtime(
            lambda runtime: _steer(runtime, exec_id, operations.retry_now, call)
        )

    async def resume(self, exec_id: str) -> Execution:
        """Goes on with an execution that nobody runs, in this process.

        Raises KitaruStateError when it has ended or another process runs it, and KitaruUsageError
        when its flow cannot be loaded here.
        """
        return await on_runtime(lambda runtime: _steer(runtime, exec_id, operations.resume))

    async def export(self, exec_id: str) -> bytes:
        """One execution as the content of a history file, byte for byte as it is recorded.

        `kitaru journal export` writes the same; `import_` reads it. Raises as `get` does.
        """
        return await on_runtime(lambda runtime: _export(runtime, exec_id))

    async def import_(self, history: bytes) -> Execution:
        """Writes the execution of a history file into this journal, as it was recorded.

        One that has not ended goes on only when somebody resumes it. Importing it twice is fine.
        Raises KitaruStateError for a damaged file, for one of a newer version, and when the journal
        has another history of that execution.
        """
        return await on_runtime(lambda runtime: _import(runtime, history))

    async def pending_waits(self, exec_id: str) -> tuple[PendingWait, ...]:
        """The waits of an execution that nobody has answered, oldest first."""
        return (await self.get(exec_id)).pending_waits

    async def input(self, exec_id: str, *, wait: str, value: Any) -> Execution:
        """Answers a wait, named by its id or, when only one open wait has it, by its name.

        An id (``approve#1``) means that wait alone, a name (``approve``) the wait of that name that
        is open now. The execution goes on by itself wherever a runner serves its flow. An answer
        that comes before the wait is kept for it. The same answer twice is fine. Raises
        KitaruWaitValidationError for a value that does not fit (the execution goes on waiting),
        KitaruStateError when there is no such wait, when it was answered with another value or has
        ended without an answer, or when the execution has ended.
        """
        return await on_runtime(
            lambda runtime: _steer(runtime, exec_id, waits.give_input, wait, value)
        )

    async def abort_wait(self, exec_id: str, *, wait: str, reason: str = "") -> Execution:
        """Ends an open wait without an answer: the flow is given KitaruWaitAborted there.

        Raises KitaruStateError when no such wait is open.
        """
        return await on_runtime(
            lambda runtime: _steer(runtime, exec_id, waits.abort_wait, wait, reason)
        )

    async def replay(
        self,
        exec_id: str,
        /,
        *,
        from_: str,
        overrides: Mapping[str, Any] | None = None,
        cache: bool | None = None,
        retries: int | None = None,
        idempotency_key: str | None = None,
        **flow_inputs: Any,
    ) -> Execution:
        """Makes a fork: a new execution that takes over what was recorded before the call `from_`.

        It runs wherever its flow is served: by a worker, or here when this process runs that flow.
        Its options are the source's where none are given. Takes and raises what `Flow.replay` does;
        new `flow_inputs` need the flow's code here, and raise KitaruUsageError without it.
        """
        _check_options(retries, cache)
        request = forks.checked_request(
            forks.ForkRequest(
                source=exec_id,
                anchor=from_,
                overrides={} if overrides is None else overrides,
                inputs=flow_inputs,
                idempotency_key=idempotency_key,
            )
        )
        return await on_runtime(lambda runtime: _fork(runtime, request, retries, cache))

    async def resolve(
        self,
        exec_id: str,
        call: str,
        *,
        result: Any = _NOTHING,
        failed: str | None = None,
        run_again: bool = False,
    ) -> Execution:
        """Says what came of a call that needs review: one of ``effect="once"`` whose process died.

        `call` is its path. Exactly one of these: `result`, plain JSON, is what it has returned;
        `failed` is a message with which the flow's body is given KitaruRuntimeError; `run_again`
        lets it run again. Raises KitaruUsageError for a result that does not fit the checkpoint's
        annotation, and KitaruStateError when the call needs no review.
        """
        if (result is not _NOTHING) + (failed is not None) + bool(run_again) != 1:
            raise KitaruUsageError("resolve() takes one of result=, failed= and run_again=True.")
        step: Callable[..., Coroutine[Any, Any, None]]
        given: tuple[Any, ...]
        if failed is not None:
            step, given = resolving.give_failure, (failed,)
        elif run_again:
            step, given = resolving.let_run_again, ()
        else:
            step, given = resolving.give_result, (result,)
        return await on_runtime(lambda runtime: _steer(runtime, exec_id, step, call, *given))


class Executions:
    """What can be asked of executions; every id may be an unambiguous beginning of one."""

    def __init__(self) -> None:
        self._aio = AsyncExecutions()

    def get(self, exec_id: str) -> Execution:
        """One execution with its checkpoints, attempts, metadata and artifacts.

        Raises KitaruStateError for an unknown id and KitaruUsageError for an ambiguous one.
        """
        return block("executions.get()", _INSTEAD, lambda: self._aio.get(exec_id))

    def list(
        self,
        *,
        flow: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        page: int | None = None,
        size: int | None = None,
    ) -> list[Execution]:
        """Summaries, newest first: `limit` of them, or page number `page` (from 1) of `size`."""
        return block(
            "executions.list()",
            _INSTEAD,
            lambda: self._aio.list(flow=flow, status=status, limit=limit, page=page, size=size),
        )

    def latest(self, *, flow: str | None = None, status: str | None = None) -> Execution:
        """The newest execution that matches. Raises KitaruStateError when there is none."""
        return block(
            "executions.latest()", _INSTEAD, lambda: self._aio.latest(flow=flow, status=status)
        )

    def handle(self, exec_id: str) -> FlowHandle[Any]:
        """A handle on an execution. It needs no import of the flow: classes that only the flow
        knows come as `RecordedObject`."""
        return block("executions.handle()", _INSTEAD, lambda: self._aio.handle(exec_id)).sync

    def cancel(self, exec_id: str, reason: str = "") -> Execution:
        """Asks an execution to end; see `AsyncExecutions.cancel`."""
        return block("executions.cancel()", _INSTEAD, lambda: self._aio.cancel(exec_id, reason))

    def force_cancel(self, exec_id: str) -> Execution:
        """Ends an execution that nobody runs, without its handlers."""
        return block("executions.force_cancel()", _INSTEAD, lambda: self._aio.force_cancel(exec_id))

    def retry(self, exec_id: str) -> Execution:
        """Re-opens a failed execution; see `AsyncExecutions.retry`."""
        return block("executions.retry()", _INSTEAD, lambda: self._aio.retry(exec_id))

    def retry_now(self, exec_id: str, *, call: str | None = None) -> Execution:
        """Makes a next attempt at once; see `AsyncExecutions.retry_now`."""
        return block(
            "executions.retry_now()", _INSTEAD, lambda: self._aio.retry_now(exec_id, call=call)
        )

    def resume(self, exec_id: str) -> Execution:
        """Goes on with an execution that nobody runs; see `AsyncExecutions.resume`."""
        return block("executions.resume()", _INSTEAD, lambda: self._aio.resume(exec_id))

    def export(self, exec_id: str) -> bytes:
        """One execution as the content of a history file; see `AsyncExecutions.export`."""
        return block("executions.export()", _INSTEAD, lambda: self._aio.export(exec_id))

    def import_(self, history: bytes) -> Execution:
        """Writes a history file's execution into this journal; see `AsyncExecutions.import_`."""
        return block("executions.import_()", _INSTEAD, lambda: self._aio.import_(history))

    def pending_waits(self, exec_id: str) -> tuple[PendingWait, ...]:
        """The waits of an execution that nobody has answered, oldest first."""
        return block(
            "executions.pending_waits()", _INSTEAD, lambda: self._aio.pending_waits(exec_id)
        )

    def input(self, exec_id: str, *, wait: str, value: Any) -> Execution:
        """Answers a wait; see `AsyncExecutions.input`."""
        return block(
            "executions.input()", _INSTEAD, lambda: self._aio.input(exec_id, wait=wait, value=value)
        )

    def abort_wait(self, exec_id: str, *, wait: str, reason: str = "") -> Execution:
        """Ends an open wait without an answer; see `AsyncExecutions.abort_wait`."""
        return block(
            "executions.abort_wait()",
            _INSTEAD,
            lambda: self._aio.abort_wait(exec_id, wait=wait, reason=reason),
        )

    def replay(
        self,
        exec_id: str,
        /,
        *,
        from_: str,
        overrides: Mapping[str, Any] | None = None,
        cache: bool | None = None,
        retries: int | None = None,
        idempotency_key: str | None = None,
        **flow_inputs: Any,
    ) -> Execution:
        """Makes a fork of an execution; see `AsyncExecutions.replay`."""
        return block(
            "executions.replay()",
            _INSTEAD,
            lambda: self._aio.replay(
                exec_id,
                from_=from_,
                overrides=overrides,
                cache=cache,
                retries=retries,
                idempotency_key=idempotency_key,
                **flow_inputs,
            ),
        )

    def resolve(
        self,
        exec_id: str,
        call: str,
        *,
        result: Any = _NOTHING,
        failed: str | None = None,
        run_again: bool = False,
    ) -> Execution:
        """Says what came of a call that needs review; see `AsyncExecutions.resolve`."""
        return block(
            "executions.resolve()",
            _INSTEAD,
            lambda: self._aio.resolve(
                exec_id, call, result=result, failed=failed, run_again=run_again
            ),
        )


async def _find(runtime: Runtime, exec_id: str) -> str:
    return await operations.find_id(runtime, exec_id)


async def _get(runtime: Runtime, exec_id: str) -> Execution:
    stream = stream_of(await operations.find_id(runtime, exec_id))
    recorded = await runtime.journal.read_stream(stream)
    head = await runtime.journal.head(stream)
    assert head is not None
    return execution_of(head, recorded, await forks.forks_of(runtime, exec_id_of(stream)))


async def _fork(
    runtime: Runtime, request: forks.ForkRequest, retries: int | None, cache: bool | None
) -> Execution:
    new_id = await forks.fork_for_others(runtime, request, retries=retries, cache=cache)
    return await _get(runtime, new_id)


async def _list(
    runtime: Runtime, flow: str | None, status: str | None, skip: int, count: int
) -> list[Execution]:
    query = HeadQuery(
        category=CATEGORY,
        names=() if flow is None else (flow,),
        states=() if status is None else (_status(status),),
        limit=skip + count,
    )
    heads = await runtime.journal.heads(query)
    return [summary_of(head) for head in heads[skip:]]


async def _latest(runtime: Runtime, flow: str | None, status: str | None) -> Execution:
    found = await _list(runtime, flow, status, 0, 1)
    if not found:
        raise KitaruStateError("There is no execution that matches.")
    return await _get(runtime, found[0].exec_id)


async def _export(runtime: Runtime, exec_id: str) -> bytes:
    exported = await histories.export_from(runtime, await operations.find_id(runtime, exec_id))
    return exported.content


async def _import(runtime: Runtime, history: bytes) -> Execution:
    imported = await histories.take_in(runtime, history, "the history")
    return await _get(runtime, imported.exec_id)


async def _steer(
    runtime: Runtime,
    exec_id: str,
    operation: Callable[..., Coroutine[Any, Any, None]],
    *arguments: Any,
) -> Execution:
    full_id = await operations.find_id(runtime, exec_id)
    await operation(runtime, full_id, *arguments)
    return await _get(runtime, full_id)


async def _retry(runtime: Runtime, exec_id: str) -> None:
    await operations.reopen(runtime, exec_id, "retry")


def _check_options(retries: int | None, cache: bool | None) -> None:
    if retries is not None:
        checked_retries(retries, whose="Flow")
    if cache is not None and not isinstance(cache, bool):
        raise KitaruUsageError(f"cache must be True or False, not {cache!r}.")


def _page(limit: int | None, page: int | None, size: int | None) -> tuple[int, int]:
    for name, value in (("limit", limit), ("page", page), ("size", size)):
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise KitaruUsageError(f"{name} must be a whole number from 1 on, not {value!r}.")
    if limit is not None and (page is not None or size is not None):
        raise KitaruUsageError("Give either limit, or page and size.")
    if page is not None and size is None:
        raise KitaruUsageError("page needs size as well.")
    if limit is not None:
        return 0, limit
    per_page = size or PAGE_SIZE
    return ((page or 1) - 1) * per_page, per_page


def _status(status: str) -> ExecutionStatus:
    try:
        return ExecutionStatus(status)
    except ValueError:
        known = ", ".join(ExecutionStatus)
        raise KitaruUsageError(f"There is no status {status!r}; there are: {known}.") from None
