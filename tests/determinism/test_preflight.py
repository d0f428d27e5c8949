"""The laws of the preflight, over random programs.

What has recorded a history fits it, at each of its prefixes. And whatever other code would do to a
history, the preflight has told before: it diverges exactly where a runner does.
"""

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from kitaru.divergence import divergence_of
from kitaru.domain.execution.events import ExecutionDiverged
from kitaru.operations.preflight import preflight
from kitaru.verdicts import Judgement, Verdict
from tests.determinism import programs, sync_programs
from tests.determinism.programs import run_program, run_program_twice, written
from tests.determinism.rehearsal import Run, Stage, run_on_memory, told
from tests.determinism.sync_programs import run_sync_program, run_sync_program_twice

KEY = "the program"
DEADLINE_SECONDS = 30
seeds = st.integers(0, 2**16)


def on_stage(scene: Callable[[Stage], Any], flow: Any, module: ModuleType) -> Any:
    async def run() -> Any:
        return await scene(Stage(flow, module.traces, module.bodies))

    return run_on_memory(run)


def recorded(flow: Any, module: ModuleType, program: Any, seed: int) -> Run:
    module.library[KEY] = program
    module.pace.update(seed=seed)
    run: Run = on_stage(lambda stage: stage.live(KEY), flow, module)
    # A flow that fails does not wait for what it has submitted: that is over first.
    wait_for_threads()
    module.bodies.pop(run.exec_id, None)
    return run


def wait_for_threads() -> None:
    """Returns when no thread of a closed runtime runs a checkpoint's body any more."""
    end = time.monotonic() + DEADLINE_SECONDS
    while any(thread.name.startswith("kitaru-checkpoint") for thread in threading.enumerate()):
        assert time.monotonic() < end, "a body does not end"
        time.sleep(0.001)


def check_every_prefix_is_safe(flow: Any, module: ModuleType, program: Any, seed: int) -> None:
    run = recorded(flow, module, program, seed)
    for count in range(1, len(run.history) + 1):
        verdict = preflight(run.history[:count], {}, flow.definition)
        problem = f"of its first {count} events it is told {verdict}\n{written(program)}"
        assert verdict.is_safe, told(problem, run)
        assert verdict.version == count
        assert verdict.is_finished == (count == len(run.history))
    assert tuple(module.traces.pop(run.exec_id)) == run.trace, "it has decided otherwise"
    assert run.exec_id not in module.bodies, "a checkpoint's body has run"


@given(program=programs.programs, seed=seeds)
def test_an_async_program_fits_each_prefix_of_its_history(program: Any, seed: int) -> None:
    check_every_prefix_is_safe(run_program, programs, program, seed)


@given(program=programs.programs, seed=seeds)
def test_an_async_program_that_is_tried_again_does_so_too(program: Any, seed: int) -> None:
    check_every_prefix_is_safe(run_program_twice, programs, program, seed)


@given(program=sync_programs.programs, seed=seeds)
def test_a_sync_program_fits_each_prefix_of_its_history(program: Any, seed: int) -> None:
    check_every_prefix_is_safe(run_sync_program, sync_programs, program, seed)


@given(program=sync_programs.programs, seed=seeds)
def test_a_sync_program_that_is_tried_again_does_so_too(program: Any, seed: int) -> None:
    check_every_prefix_is_safe(run_sync_program_twice, sync_programs, program, seed)


def check_it_diverges_where_a_runner_does(
    flow: Any, module: ModuleType, program: Any, other: Any, seed: int, cut: int
) -> None:
    run = recorded(flow, module, program, seed)
    count = len(run.history) - 1 - cut % (len(run.history) - 1)
    module.library[KEY] = other
    history = run.history[:count]
    verdict = preflight(history, {}, flow.definition)
    assert run.exec_id not in module.bodies, "a checkpoint's body has run"
    again: Run = on_stage(lambda stage: stage.replanted(history, seed=run.exec_id), flow, module)
    # In sync flows it is a matter of threads what waits beside the call, and is told of.
    stories = flow.definition.asynchronous
    text = f"{written(program)}and now\n{written(other)}"
    check_foretold(verdict, again, count, text, stories=stories)


def check_foretold(verdict: Verdict, again: Run, count: int, text: str, *, stories: bool) -> None:
    met = [it for it in again.events[count:] if isinstance(it, ExecutionDiverged)]
    problem = f"after {count} events it is told {verdict}\n{text}"
    event(f"the preflight says: {verdict.judgement}")
    if verdict.judgement is not Judgement.UNKNOWN:
        assert bool(met) == (verdict.judgement is Judgement.DIVERGES), told(problem, again)
    elif met:
        # A call that depends on one that is not recorded: only running that one could tell.
        assert divergence_of(met[0].facts).recorded.path == verdict.path
    if met and verdict.judgement is Judgement.DIVERGES:
        facts = divergence_of(met[0].facts)
        assert facts.recorded.path == verdict.path, told(problem, again)
        assert facts.recorded.version in (None, verdict.version), told(problem, again)
        if stories:
            assert facts.story == verdict.story, told(problem, again)


@st.composite
def changes(draw: st.DrawFn, module: ModuleType) -> tuple[Any, Any]:
    """A program, and what has become of it: it begins alike."""
    beginning, old, new = (draw(module.programs) for _ in range(3))
    return module.Sequence((beginning, old)), module.Sequence((beginning, new))


@given(change=changes(programs), seed=seeds, cut=st.integers(0, 50))
def test_other_async_code_diverges_where_a_runner_does(
    change: tuple[Any, Any], seed: int, cut: int
) -> None:
    program, other = change
    check_it_diverges_where_a_runner_does(run_program, programs, program, other, seed, cut)


@given(change=changes(sync_programs), seed=seeds, cut=st.integers(0, 50))
def test_other_sync_code_diverges_where_a_runner_does(
    change: tuple[Any, Any], seed: int, cut: int
) -> None:
    program, other = change
    check_it_diverges_where_a_runner_does(
        run_sync_program, sync_programs, program, other, seed, cut
    )
