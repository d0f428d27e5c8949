"""A failing world becomes small, still fails in the same way, and its command shows it again."""

import itertools
from typing import Any

import pytest

from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.history import History
from tests.determinism.programs import Gather, Sequence, Step
from tests.simulation.__main__ import main
from tests.simulation.cuts import Cuts, children, part_of
from tests.simulation.shrink import Failing, failing, shrink


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the seeded bug `recorded-calls-run-again`: a new owner forgets what has completed."""
    add = History.add

    def forgetful(self: Any, version: int, recorded_at: int, event: Any) -> None:
        if not isinstance(event, CheckpointCompleted):
            add(self, version, recorded_at, event)

    monkeypatch.setattr("kitaru.engine.async_runner.report", lambda *_, **__: None)
    monkeypatch.setattr("tests.simulation.world.CALM_STEPS", 8_000)
    monkeypatch.setenv("KITARU_LOG_LEVEL", "off")
    monkeypatch.setattr(History, "add", forgetful)


def first_failing() -> Failing:
    """The first seed whose world fails with many faults and executions."""
    found = (failing(seed, Cuts()) for seed in range(200))
    return next(it for it in found if it is not None and it.kind == "I1" and it.executions > 2)


@pytest.mark.usefixtures("broken")
def test_a_failing_world_becomes_small_and_can_be_seen_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = first_failing()
    # Not so many seconds, but so many tries: what is found must not depend on the machine.
    tries = itertools.count()
    small = shrink(first, 80, clock=lambda: float(next(tries)))
    assert small.kind == first.kind
    assert small.executions < first.executions
    command = small.text.splitlines()[-1]
    assert command.startswith("replay with: python -m tests.simulation world --seed ")
    assert len(small.faults) < len(first.faults) / 2
    assert main(command.partition("tests.simulation ")[2].split()) == 1
    # But for the first line, with addresses and how long a body took.
    assert small.text.partition("\n")[2] in capsys.readouterr().out


def test_without_the_bug_the_same_world_is_well() -> None:
    assert failing(13, Cuts(executions=(1,), calm=("kill",), luck=3)) is None


def test_a_part_of_a_program_is_named_by_the_way_to_it() -> None:
    step = Step("b")
    program = Sequence((Step("a"), Gather((Step("c"), step))))
    assert children(program) == [Step("a"), Gather((Step("c"), step))]
    cuts = Cuts(parts=(part_of("3:1.1"),))
    assert cuts.program(3, program) == step
    assert cuts.program(2, program) == program
    assert cuts.words == "--part 3:1.1"
    with pytest.raises(ValueError, match="invalid literal"):
        part_of("here")
