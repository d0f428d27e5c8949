"""The law: whenever a process is killed, what it was told is there, and all goes on from there."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import failpoints
from tests.crash.victims import Victim, Zygote, torture_at_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS = int(os.environ.get("KITARU_TEST_KILLS", "200"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.mark.parametrize("place", failpoints.PLACES)
def test_a_kill_at_each_place(tmp_path: Path, zygote: Zygote, place: str) -> None:
    victim = Victim(tmp_path / "victim")
    # So that there is something to take over.
    assert victim.live(zygote, "after-acknowledgement:3") == -signal.SIGKILL
    assert victim.live(zygote, f"{place}:1") == -signal.SIGKILL
    victim.finish(zygote)


def test_a_kill_before_each_statement_of_the_first_opening(tmp_path: Path, zygote: Zygote) -> None:
    for number in range(1, 1000):
        victim = Victim(tmp_path / str(number), steps=1)
        assert victim.live(zygote, f"statement:{number}") == -signal.SIGKILL
        began = bool(victim.told.started)
        victim.finish(zygote)
        if began:
            break
    assert number > 20


def test_killed_again_and_again(tmp_path: Path) -> None:
    counts = torture_at_once(tmp_path, seed=1, kills=KILLS, processes=2)
    assert counts["kills"] >= KILLS
