"""Random programs, with what users test flows with: crashes, take-overs, lost news, reorders.

The laws: every program comes to its end; no body runs after its record; the journal holds what
`kitaru.testing` says of every journal; and what a program returns follows from its journal.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kitaru.testing import Run, faults
from kitaru.testing.rehearsal import Rehearsal, run_apart
from tests.determinism import programs, sync_programs
from tests.determinism.programs import run_program, run_program_twice, written
from tests.determinism.reference import Reference
from tests.determinism.sync_programs import run_sync_program, run_sync_program_twice
from tests.determinism.test_async_programs import outcomes_of, result_of

some_faults = faults(most=5, events=25)


def rehearsed(flow: Any, module: Any, program: Any, befallen: list[Any]) -> Run:
    module.library["the program"] = program
    rehearsal = Rehearsal(flow, ("the program",), {}, faults=befallen)
    try:
        run = run_apart(rehearsal.run)
        assert run.problems == (), run.timeline
    except Exception as error:
        error.add_note(written(program))
        raise
    return run


@given(program=programs.programs, befallen=some_faults, twice=st.booleans())
def test_async_programs_survive_whatever_befalls_them(
    program: Any, befallen: list[Any], twice: bool
) -> None:
    rehearsed(run_program_twice if twice else run_program, programs, program, befallen)


@given(program=sync_programs.programs, befallen=some_faults, twice=st.booleans())
def test_sync_programs_survive_whatever_befalls_them(
    program: Any, befallen: list[Any], twice: bool
) -> None:
    flow = run_sync_program_twice if twice else run_sync_program
    rehearsed(flow, sync_programs, program, befallen)


@given(program=programs.plain_programs, befallen=some_faults)
def test_the_result_is_what_the_order_of_outcomes_implies_whatever_has_happened(
    program: Any, befallen: list[Any]
) -> None:
    run: Any = rehearsed(run_program, programs, program, befallen)
    assert result_of(run) == Reference(outcomes_of(run)).result(program), run.timeline


@given(program=sync_programs.programs)
def test_a_sync_program_leaves_the_same_journal_each_time(program: Any) -> None:
    def left(befallen: list[Any]) -> str:
        return rehearsed(run_sync_program, sync_programs, program, befallen).timeline

    assert left([]) == left([])
