"""A route has no more runners than places, whoever starts them; a dead runner's place is free."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru.errors import KitaruBackendError
from kitaru.stacks.slots import Slots

HOLDER = "import sys; print('here', flush=True); sys.stdin.read()"


def close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def test_no_more_places_are_taken_than_there_are(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "runners", "deployment:ab", 3)
    first = slots.take(2)
    second = slots.take(2)
    assert (len(first), len(second), slots.free()) == (2, 1, 0)
    close(first)
    assert slots.free() == 2
    close(second)


def test_each_route_has_its_own(tmp_path: Path) -> None:
    taken = Slots(tmp_path, "deployment:ab", 1).take(1)
    assert Slots(tmp_path, "deployment:cd", 1).free() == 1
    close(taken)


@pytest.mark.parametrize(("one", "other"), [("stack-a.b", "stack-a-b"), ("s" * 99, "s" * 98)])
def test_routes_that_differ_little_have_their_own(tmp_path: Path, one: str, other: str) -> None:
    taken = Slots(tmp_path, one, 1).take(1)
    assert Slots(tmp_path, other, 1).free() == 1
    close(taken)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "runners").touch()
    with pytest.raises(KitaruBackendError, match=r"runners, cannot be used: .*File exists"):
        Slots(tmp_path / "runners", "deployment:ab", 1).take(1)


def test_a_place_that_cannot_be_locked_keeps_none_that_was_taken(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "deployment:ab", 2)
    close(slots.take(2))
    [_, second] = sorted(tmp_path.iterdir())
    second.unlink()
    second.mkdir()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(KitaruBackendError, match="cannot be used"):
        slots.take(2)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
    second.rmdir()
    assert slots.free() == 2


def test_a_place_goes_to_the_process_that_inherits_it_and_ends_with_it(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "deployment:ab", 1)
    [descriptor] = slots.take(1)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        pass_fds=[descriptor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    os.close(descriptor)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"here\n"
    assert slots.free() == 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert slots.free() == 1
