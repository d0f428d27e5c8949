"""The same tests, in an engine that is made to forget, to lose its leases, to hear nothing, …

``python -m tests.modes`` runs the conformance cases and the runners' tests in each mode; a single
one: ``KITARU_TEST_MODE=always-replay pytest tests/conformance``. The engine has no switch for this:
the modes change it from outside, here and nowhere else.
"""

import argparse
import contextvars
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kitaru.engine.executions
import kitaru.engine.worker
import kitaru.operations.executions
from journal import Append, Claim, JournalError
from journal.watchers import Watchers
from kitaru.domain.execution.events import FlowAttemptFailed
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.context import ExecutionSuspended, FlowScope, scope
from kitaru.engine.sync_runner import SyncRunner

VARIABLE = "KITARU_TEST_MODE"
ABOUT_TAKE_OVERS = {
    "an-execution-that-kills-its-processes-is-given-up",
    "a-given-up-execution-can-be-retried",
}
"""Cases about the limit of take-overs, which there is none of where every lease is stolen."""
WITHIN_ONE_PASS = {"an-early-answer-that-nobody-takes-is-the-outcome"}
"""Cases about what one pass of the body begins and gives up, where each event makes another one."""
AT_ONCE = {
    "futures-are-given-in-journal-order-again",
    "both-lost-futures-run-again",
    "the-winner-stays-the-winner",
    "a-back-off-on-a-thread-is-cut-short",
    "a-map-goes-on-where-it-was",
    "whether-a-future-is-done-cannot-be-asked",
    "two-executions-do-not-meet",
    "a-fork-answers-what-its-source-still-waits-for",
}
"""Cases in which several bodies are held up, or several flows wait, at once."""
GIVEN_UP = '"the flow no longer waits"'
ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/conformance",
    "tests/kitaru/engine/test_runners.py",
    "tests/kitaru/engine/test_async_runner.py",
    "tests/kitaru/engine/test_sync_runner.py",
)


def is_on(mode: str) -> bool:
    """Whether the tests run in this mode now."""
    return os.environ.get(VARIABLE, "normal") == mode


def marks_of(case: str) -> list[pytest.MarkDecorator]:
    """In which modes a conformance case says nothing."""
    marks = [pytest.mark.counts_passes] if case in ABOUT_TAKE_OVERS | WITHIN_ONE_PASS else []
    return [*marks, pytest.mark.needs_threads] if case in AT_ONCE else marks


def left_out(item: pytest.Item) -> str:
    """Why a test says nothing in this mode; empty when it does."""
    counts_them = item.get_closest_marker("counts_passes") is not None
    if forgets() and counts_them:
        return "it counts passes or take-overs, and each event makes another one"
    if is_on("poll-only") and counts_them:
        return "a worker that looks all the time takes its own lease anew before another can"
    if is_on("single-thread") and item.get_closest_marker("needs_threads") is not None:
        return "it holds several bodies up at once"
    return ""


def forgets() -> bool:
    """Whether bodies are dropped and begun anew after each event."""
    return is_on("steal-leases") or is_on("always-replay")


def counts(line: str) -> bool:
    """Whether a line of a case's journal says something in this mode, too."""
    if is_on("steal-leases") and line.startswith("execution_recovered"):
        # How often an execution is taken over is not the case's to say then.
        return False
    # A new pass does not ask again for what its body gives up before it has come to its place.
    return not (forgets() and line.startswith("wait_aborted") and line.endswith(GIVEN_UP))


# always-replay: all memory of an execution is dropped after every event


def always_replay(patch: pytest.MonkeyPatch) -> None:
    """After each append the body is dropped and replayed from the journal.

    But not while a checkpoint's body runs: it would run again.
    """
    advance = AsyncRunner.advance

    def forget(self: Any) -> None:
        seen, self.mode_seen = getattr(self, "mode_seen", None), self.execution.version
        if seen in (None, self.execution.version) or not _is_quiet(self):
            advance(self)
            return
        self.drop_body()
        self._ending._read_again()

    patch.setattr(AsyncRunner, "advance", forget)
    _replay_sync_flows(patch)


def _is_quiet(runner: Any) -> bool:
    """Whether nothing is under way that a new pass would do twice."""
    return not (
        runner.state.stopped
        or runner.state.ending
        or runner.recording.flushing
        or runner._advancing
        or runner.loop is None
        or runner.state.divergence is not None
        or runner.attempts.running
        or runner.lookups.looking_up
        or runner.attempts.transactions
        or runner.execution.outbox
    )


def _replay_sync_flows(patch: pytest.MonkeyPatch) -> None:
    new_path = SyncRunner.new_path
    stop = SyncRunner.stop

    def forget(self: Any, name: str, given_id: str | None) -> str:
        seen, self.mode_seen = getattr(self, "mode_seen", None), self.execution.version
        quiet = all(future.settled for future in self.state.submitted) and not self.execution.outbox
        if seen not in (None, self.execution.version) and quiet and not self.state.stopped:
            self.mode_forgets = self.state.stopped = True
            raise ExecutionSuspended
        return new_path(self, name, given_id)

    def really_stop(self: Any) -> None:
        self.mode_stopped = True
        stop(self)

    def run_passes(self: Any) -> Any:
        while True:
            context = contextvars.Context()
            context.run(scope.set, FlowScope(self))
            result, error = context.run(self._run_body)
            if getattr(self, "mode_forgets", False) and not getattr(self, "mode_stopped", False):
                self.mode_forgets = self.state.stopped = False
            else:
                event = self._settle(result, error)
                if not isinstance(event, FlowAttemptFailed):
                    return event
                self.resting.sleep_until(event.retry_at)
            self._next_pass()

    patch.setattr(SyncRunner, "new_path", forget)
    patch.setattr(SyncRunner, "stop", really_stop)
    patch.setattr(SyncRunner, "_run_passes", run_passes)


# steal-leases: another owner takes over after every event


def steal_leases(patch: pytest.MonkeyPatch) -> None:
    """After each append the lease is somebody else's, who takes the execution over."""
    advance = AsyncRunner.advance
    patch.setattr(kitaru.engine.worker, "RECOVERY_LIMIT", 1_000_000)

    def steal(self: Any) -> None:
        seen, self.mode_seen = getattr(self, "mode_seen", None), self.execution.version
        if seen in (None, self.execution.version) or not _is_quiet(self):
            advance(self)
            return
        self.stop()
        self.host._forget(self, None, None)
        self.host.loop.create_task(_take_over(self.host, self.execution))

    patch.setattr(AsyncRunner, "advance", steal)


async def _take_over(worker: Any, execution: Any) -> None:
    journal, stream = worker.journal, execution.stream
    before = await journal.head(stream)
    asked_at = time.monotonic()
    owner = f"thief-{before.epoch}"
    append = Append(
        stream=stream,
        events=(),
        expected_version=before.version,
        lease=execution.lease,
        claim=Claim(owner, worker.lease_seconds),
    )
    try:
        appended = await journal.append(append)
    except JournalError:
        # The case has made it fail, or a client was first: then it is taken over as ever.
        await worker._release(execution.lease)
        worker.look_now()
        return
    await worker._take(before, appended.lease, asked_at)


# poll-only: nobody is told of anything


def poll_only(patch: pytest.MonkeyPatch) -> None:
    """No hint ever comes: everything is found by looking."""
    patch.setattr(Watchers, "publish", lambda *_: None)
    patch.setattr(kitaru.operations.executions, "RECHECK_SECONDS", 0.05)
    patch.setattr(kitaru.engine.worker, "POLL_SECONDS", 0.05)
    patch.setattr(kitaru.engine.worker, "NOTICE_ALL_SECONDS", 0.05)


# single-thread: every pool has one thread


def single_thread(patch: pytest.MonkeyPatch) -> None:
    """One thread for checkpoints, one flow at once."""
    patch.setattr(kitaru.engine.worker, "CHECKPOINT_THREADS", 1)
    patch.setattr(kitaru.engine.worker, "SYNC_FLOWS_AT_ONCE", 1)


# gc: the collector runs at every opportunity


def always_collect(_patch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs whenever it can; the runner's hash seeds are random."""
    gc.set_threshold(1)


MODES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "normal": lambda _: None,
    "always-replay": always_replay,
    "steal-leases": steal_leases,
    "poll-only": poll_only,
    "single-thread": single_thread,
    "gc": always_collect,
}


def apply(patch: pytest.MonkeyPatch) -> None:
    """Puts the engine into the mode that the environment names. Raises KeyError for no mode."""
    MODES[os.environ.get(VARIABLE, "normal")](patch)


def main(arguments: list[str]) -> int:
    """Runs the tests in each mode that is named, or in all; 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.modes", description=__doc__)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)}; all")
    parser.add_argument(
        "--check", action="store_true", help="all but the normal one, and only where CI is set"
    )
    given = parser.parse_args(arguments)
    for unknown in set(given.modes) - set(MODES):
        parser.error(f"there is no mode {unknown!r}; choose from {', '.join(MODES)}")
    modes: list[str] = given.modes or list(MODES)
    if given.check:
        if "CI" not in os.environ:
            print("engine modes are left to the full run: CI is not set")
            return 0
        # The normal one has had its turn among all the tests.
        modes = [mode for mode in modes if mode != "normal"]
    failed = []
    for mode in modes:
        began = time.monotonic()
        environment = {**os.environ, VARIABLE: mode, "PYTHONHASHSEED": "random"}
        command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "--tb", "short", *TESTS]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        summary = done.stdout.strip().splitlines()[-1:]
        print(f"{mode:15} {time.monotonic() - began:5.0f} s  {''.join(summary)}", flush=True)
        if done.returncode:
            print(done.stdout[-20_000:], done.stderr[-2_000:])
            failed.append(mode)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
