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


def test_a_folder_that_cannot_hold_them_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    folder = tmp_path / "runners"
    folder.write_text("in the way")
    with pytest.raises(KitaruBackendError, match="runners"):
        Slots(folder, "deployment:ab", 2).take(1)
    folder.unlink()
    slots = Slots(folder, "deployment:ab", 3)
    close(slots.take(1))
    (folder / "deployment-ab.1.lock").mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KitaruBackendError, match=r"deployment-ab\.1\.lock"):
        slots.take(3)
    assert len(os.listdir("/proc/self/fd")) == len(before)
