"""Same history, same decisions, for sync flows: submitted calls, their order, their failures."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.determinism import sync_programs
from tests.determinism.programs import written
from tests.determinism.rehearsal import Stage, rehearse, run_on_memory
from tests.determinism.sync_programs import AnyNode, run_sync_program, run_sync_program_twice

seeds = st.integers(0, 2**16)
pauses = st.sampled_from([0, 1, 4])


def rehearsed(flow: Any, program: AnyNode, seed: int, pauses: int, cancel_at: int | None) -> None:
    sync_programs.library["the program"] = program
    sync_programs.pace.update(seed=seed, pauses=pauses)

    async def scene() -> None:
        stage = Stage(flow, sync_programs.traces, sync_programs.bodies)
        await rehearse(stage, "the program", cancel_at=cancel_at)

    try:
        run_on_memory(scene)
    except Exception as error:
        error.add_note(written(program))
        raise


@given(program=sync_programs.programs, seed=seeds, pauses=pauses, cancel_at=st.integers(0, 50))
def test_every_program_takes_the_same_decisions(
    program: AnyNode, seed: int, pauses: int, cancel_at: int
) -> None:
    rehearsed(run_sync_program, program, seed, pauses, cancel_at)


@given(program=sync_programs.programs, seed=seeds, pauses=pauses)
def test_a_flow_that_is_tried_again_does_so_too(program: AnyNode, seed: int, pauses: int) -> None:
    rehearsed(run_sync_program_twice, program, seed, pauses, None)
