"""What a runner process does: it runs the executions of its route until it is idle."""

import asyncio
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from kitaru.bootstrap import Runtime, set_explicit
from kitaru.operations.serving import signalled
from kitaru.stacks.logs import capture, forget_empty
from kitaru.stacks.runners import RunnerSpec
from kitaru.telemetry import LogEvent, report

FOLDER_PREFIX = "kitaru-runner-"
LOOK_SECONDS = 0.25
LETTING_GO_SECONDS = 5.0
ENDING_SECONDS = 5.0
"""How long a runner that has given back all it had is waited for by what its code has left."""


def run(spec: RunnerSpec, *, at_end: Callable[[], None] = lambda: None) -> None:
    """Runs executions until there are none, or SIGTERM; then gives back what it has.

    `at_end` is called when it has, before what flows have left on the loop is waited for. Raises
    KitaruBackendError when the journal cannot be opened.
    """
    _keep_to_this_process(spec.slots)
    if spec.log_file:
        capture(spec.log_file)
    # Its own: flows that write files beside themselves find nobody else's there.
    folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
    os.chdir(folder)
    try:
        asyncio.run(_run(spec, at_end))
    finally:
        os.chdir(tempfile.gettempdir())
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        forget_empty(spec.log_file)


def end_in_time() -> None:
    """Ends this process in some seconds, if it does not end by itself before.

    A thread that a flow has left (one of a `ThreadPoolExecutor`, or of `asyncio.to_thread`) would
    keep it for ever, and with it the place of a runner that does something.
    """
    threading.Thread(target=_cut_off, name="kitaru-end", daemon=True).start()


def _cut_off() -> None:
    time.sleep(ENDING_SECONDS)
    left = [each.name for each in threading.enumerate() if each.name != "kitaru-end"]
    report(LogEvent.RUNNER_CUT_OFF, threads=", ".join(left))
    folder = os.getcwd()
    if os.path.basename(folder).startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _keep_to_this_process(slots: Sequence[int]) -> None:
    """A process that a flow starts, and that outlives this one, must not keep its place."""
    for slot in slots:
        os.set_inheritable(slot, False)
    inherited = list(slots)

    def close_in_child() -> None:
        # Once: in a child of the child these are the numbers of other files.
        while inherited:
            os.close(inherited.pop())

    os.register_at_fork(after_in_child=close_in_child)


async def _run(spec: RunnerSpec, at_end: Callable[[], None] = lambda: None) -> None:
    runtime = await Runtime.open(
        spec.journal,
        spec.lease_seconds,
        route=spec.route,
        bundle=spec.bundle,
        polls=not spec.exec_id,
    )
    try:
        # What a checkpoint's body asks of Kitaru, it asks of this runtime.
        set_explicit(runtime)
        stopped = signalled()
        if spec.exec_id:
            await _one(runtime, spec, stopped)
        else:
            await _until_idle(runtime, spec, stopped)
        await runtime.worker.let_idle_go(LETTING_GO_SECONDS)
    finally:
        set_explicit(None)
        try:
            await runtime.close()
        finally:
            at_end()


async def _until_idle(runtime: Runtime, spec: RunnerSpec, stopped: asyncio.Event) -> None:
    worker = runtime.worker
    busy_at = time.monotonic()
    while not stopped.is_set():
        now = time.monotonic()
        if worker.is_busy:
            busy_at = now
        elif worker.load_failures or now - busy_at >= spec.idle_seconds:
            # After a failed import a fresh process has the better chance.
            return
        await _pause(stopped)


async def _one(runtime: Runtime, spec: RunnerSpec, stopped: asyncio.Event) -> None:
    worker = runtime.worker
    taking = asyncio.ensure_future(worker.take_over(spec.exec_id))
    told = asyncio.ensure_future(stopped.wait())
    # Its code may take long to load. Who is told to end meanwhile gives it back by closing.
    await asyncio.wait([taking, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not taking.done() or not taking.result():
        return
    busy_at = time.monotonic()
    while not stopped.is_set() and spec.exec_id in worker.runners:
        now = time.monotonic()
        if worker.is_busy:
            busy_at = now
        elif now - busy_at >= spec.idle_seconds:
            # It only waits: it is parked, and gets another runner when it has something to do.
            return
        await _pause(stopped)


async def _pause(stopped: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stopped.wait(), LOOK_SECONDS)
    except TimeoutError:
        return
