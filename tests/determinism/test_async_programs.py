"""Same history, same decisions: random concurrent programs, crashed at every event.

The longer campaign: ``HYPOTHESIS_PROFILE=thorough python -m pytest tests/determinism``.
"""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCompleted,
    ExecutionFailed,
    TimerFired,
)
from tests.determinism import programs
from tests.determinism.programs import AnyNode, run_program, run_program_twice, written
from tests.determinism.reference import Known, Reference
from tests.determinism.rehearsal import Run, Stage, rehearse, run_on_memory, told


def rehearsed(
    flow: Any, program: AnyNode, seed: int, yields: int, *, cancel_at: int | None = None
) -> list[Run]:
    programs.library["the program"] = program
    programs.pace.update(seed=seed, yields=yields)

    async def scene() -> list[Run]:
        stage = Stage(flow, programs.traces, programs.bodies)
        return await rehearse(stage, "the program", cancel_at=cancel_at)

    try:
        runs: list[Run] = run_on_memory(scene)
    except Exception as error:
        error.add_note(written(program))
        raise
    return runs


seeds = st.integers(0, 2**16)
yields = st.sampled_from([0, 3, 12])


@given(program=programs.programs, seed=seeds, yields=yields, cancel_at=st.integers(0, 50))
def test_every_program_takes_the_same_decisions(
    program: AnyNode, seed: int, yields: int, cancel_at: int
) -> None:
    rehearsed(run_program, program, seed, yields, cancel_at=cancel_at)


@given(program=programs.programs, seed=seeds, yields=yields)
def test_a_flow_that_is_tried_again_does_so_too(program: AnyNode, seed: int, yields: int) -> None:
    rehearsed(run_program_twice, program, seed, yields)


@given(program=programs.plain_programs, seed=seeds, yields=yields)
def test_the_result_is_what_the_order_of_outcomes_implies(
    program: AnyNode, seed: int, yields: int
) -> None:
    for run in rehearsed(run_program, program, seed, yields):
        expected = Reference(outcomes_of(run)).result(program)
        assert result_of(run) == expected, told(f"expected {expected} of\n{written(program)}", run)


def outcomes_of(run: Run) -> list[Known]:
    known: list[Known] = []
    for event in run.events:
        match event:
            case CheckpointCompleted(path=path, result=result):
                known.append(Known(path, msgspec.json.decode(result.json)))
            case CheckpointFailed(path=path, error=error, retry_at=None):
                known.append(Known(path, error=f"Fault({error.message})"))
            case TimerFired(path=path):
                known.append(Known(path))
    return known


def result_of(run: Run) -> tuple[str, Any]:
    match run.events[-1]:
        case ExecutionCompleted(result=result):
            return "returned", msgspec.json.decode(result.json)
        case ExecutionFailed(error=error):
            return "raised", f"Fault({error.message})"
    raise AssertionError(run.events[-1])
