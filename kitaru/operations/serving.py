"""Serving flows: what `kitaru worker` does until it is told to stop."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Any

from journal import CorruptJournal, HeadQuery, JournalError
from kitaru import settings
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import ExecutionStarted
from kitaru.engine.executions import CATEGORY
from kitaru.engine.source import flows_in, load_flow, load_module
from kitaru.engine.upcasts import decode_event
from kitaru.errors import KitaruError, KitaruStateError, KitaruUsageError
from kitaru.status import ExecutionStatus
from kitaru.telemetry import LogEvent, report

LOOK_SECONDS = 2.0
GOING_ON = (ExecutionStatus.RUNNING.value, ExecutionStatus.WAITING.value)


def serve(
    targets: Sequence[str], ready: Callable[[list[str]], None], *, deployments: bool = False
) -> None:
    """Takes over abandoned executions until SIGINT or SIGTERM, then gives back what it has.

    `targets` are modules or files whose flows are served; without any, every flow is whose recorded
    source can be loaded here. For deployed versions runner processes are started when there are no
    targets, or with `deployments`. `ready` is told the flows' names, again whenever they become
    more. Raises KitaruUsageError for a target that cannot be loaded, or that has no flow.
    """
    asyncio.run(_serve(targets, ready, deployments))


async def _serve(
    targets: Sequence[str], ready: Callable[[list[str]], None], deployments: bool
) -> None:
    config = settings.in_force()
    flows = [flow for target in targets for flow in _flows_of(target)]
    runtime = await Runtime.open(config.journal, config.lease_seconds)
    try:
        for flow in flows:
            runtime.worker.registry.serve(flow.reference, flow.definition)
        runtime.worker.look_now()
        if settings.runner_folder(config.journal) is not None:
            if deployments or not targets:
                runtime.pool.look_now()
            # It gives runners to the executions of stacks whose starters are gone.
            _ = runtime.placer
        # Before anybody is told that it is ready, and may tell it to stop.
        stopped = signalled()
        ready(runtime.worker.registry.names)
        if targets:
            await stopped.wait()
        else:
            await _serve_what_is_recorded(runtime, stopped, ready)
    finally:
        await runtime.close()


def _flows_of(target: str) -> list[Any]:
    flows = list(flows_in(load_module(target)).values())
    if not flows:
        raise KitaruUsageError(f"{target} defines no flow; decorate one with @flow.")
    return flows


async def _serve_what_is_recorded(
    runtime: Runtime, stopped: asyncio.Event, ready: Callable[[list[str]], None]
) -> None:
    tried: set[str] = set()
    while not stopped.is_set():
        try:
            found = await _find_flows(runtime, tried)
        except JournalError as error:
            # As with the worker's own look: the journal may be there again at the next one.
            report(LogEvent.POLL_FAILED, error=str(error))
            found = False
        if found:
            runtime.worker.look_now()
            ready(runtime.worker.registry.names)
        try:
            await asyncio.wait_for(stopped.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue


async def _find_flows(runtime: Runtime, tried: set[str]) -> bool:
    """Loads the flows of unfinished executions that were not looked at before."""
    known = len(runtime.worker.registry.names)
    query = HeadQuery(category=CATEGORY, states=GOING_ON, limit=10_000)
    for head in await runtime.journal.heads(query):
        if head.stream in tried or head.route:
            continue
        try:
            (first,) = await runtime.journal.read_stream(head.stream, limit=1)
            started = decode_event(first)
            if not isinstance(started, ExecutionStarted):
                raise KitaruStateError(f"{head.stream} does not begin with a start.")
            flow = load_flow(started.source)
        except (KitaruError, CorruptJournal) as error:
            tried.add(head.stream)
            exec_id = head.stream.removeprefix(f"{CATEGORY}-")
            report(LogEvent.FLOW_NOT_LOADABLE, exec_id=exec_id, flow=head.name, error=str(error))
            continue
        tried.add(head.stream)
        runtime.worker.registry.serve(flow.reference, flow.definition)
    return len(runtime.worker.registry.names) > known


def signalled() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stopped.set)
        except NotImplementedError:
            # Windows: Ctrl-C raises KeyboardInterrupt instead, which ends the worker as well.
            break
    return stopped
