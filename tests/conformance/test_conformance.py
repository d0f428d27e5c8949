"""Every case of this folder, on every backend and in every colour that it is written for."""

from pathlib import Path

import pytest

from tests import modes
from tests.conformance.case import FIRST, MAIN, Case, Colour, load_cases
from tests.conformance.stage import Stage

CASES = load_cases()
MOST_RECENT_COUNT = 197
"""Cases are added, and never silently lost."""
BACKENDS = ("memory", "sqlite")
PLAYED = [
    pytest.param(
        case,
        colour,
        backend,
        id=f"{case.file[:-5]}/{case.id}/{colour}/{backend}",
        marks=modes.marks_of(case.id),
    )
    for case in CASES
    for colour in case.colours
    for backend in BACKENDS
]


@pytest.mark.parametrize(("case", "colour", "backend"), PLAYED)
async def test_the_case_leaves_this_journal(
    case: Case, colour: Colour, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not case.cache:
        monkeypatch.setenv("KITARU_CACHE", "off")
    # Long enough that what is due at once is not let go of, short enough not to wait for.
    monkeypatch.setattr("kitaru.engine.sync_resting.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("kitaru.engine.async_resting.IDLE_SECONDS", 0.05)
    # Otherwise it would depend on the machine whether a lost attempt was seen to begin.
    noted_after = 0.01 if case.noted else 3600.0
    monkeypatch.setattr("kitaru.engine.worker.NOTED_AFTER_SECONDS", noted_after)
    stage = Stage(case, colour, backend, tmp_path)
    try:
        stage.load(FIRST)
        await stage.open_process(serving=True)
        await stage.play(case.steps)
        await stage.settled()
        for name, expected in case.expected.items():
            assert await stage.text(name) == expected.text(colour), name
            assert await stage.status(name) == expected.status, name
        if case.outcome is not None:
            assert await stage.outcome() == case.outcome
        assert dict(stage.records.bodies) == case.bodies
        await stage.check_journal()
    finally:
        await stage.close()


def test_there_are_enough_cases_and_half_of_them_are_interrupted() -> None:
    interrupted = [case for case in CASES if case.is_interrupted]
    assert len(CASES) >= MOST_RECENT_COUNT
    assert 2 * len(interrupted) >= len(CASES)
    assert all(MAIN in case.expected for case in CASES)
