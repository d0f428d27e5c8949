"""Owners that die, sleep, are kept busy or have another clock: one outcome for each call."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru.domain.execution.events import CheckpointCompleted
from tests.preload import shim
from tests.processes.ring import LEASE_SECONDS, Ring, ring, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EXECUTIONS = int(os.environ.get("KITARU_TEST_EXECUTIONS", "40"))
WORKERS = 3


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Ring]:
    with ring(tmp_path) as made:
        yield made


def test_workers_that_are_killed_lose_and_double_nothing(processes: Ring) -> None:
    """Whoever dies in the middle of a body, another goes on when the lease is over."""
    chance = random.Random(5)
    started = processes.start("relay", EXECUTIONS) + processes.start("relay_async", EXECUTIONS)
    workers = [processes.worker() for _ in range(WORKERS)]
    kills = 0
    while processes.states()["running"]:
        victim = chance.randrange(WORKERS)
        time.sleep(chance.random())
        workers[victim].send_signal(signal.SIGKILL)
        workers[victim].wait()
        kills += 1
        if kills >= 6:
            until(lambda: not processes.states()["running"], "all come to their end")
        else:
            workers[victim] = processes.worker()
    assert processes.states() == {"completed": 2 * EXECUTIONS}
    assert {processes.result(exec_id) for exec_id in started} == {6}
    processes.check()


@pytest.mark.parametrize("flow", ["holds", "holds_async"])
def test_an_owner_that_sleeps_over_its_lease_records_nothing(processes: Ring, flow: str) -> None:
    (exec_id,) = processes.start(flow, 1)
    path = f"{flow}-0"
    first = processes.worker()
    until(lambda: processes.began(path, first.pid), "the first owner has it")
    processes.put_to_sleep(first)
    second = processes.worker()
    until(lambda: processes.began(path, second.pid), "another has taken it over")
    processes.go_on(first.pid)
    first.send_signal(signal.SIGCONT)
    log = processes.log_of(0)
    until(lambda: "lease_lost" in log.read_text(), "the first has heard that it lost its lease")
    completed = [e for e in processes.events(exec_id) if isinstance(e, CheckpointCompleted)]
    processes.go_on(second.pid)
    until(lambda: processes.result(exec_id), "the second records its own outcome")
    # Unless the machine is so busy that the second lost its lease as well, and was followed.
    if "lease_lost" not in processes.log_of(1).read_text():
        assert completed == []
        assert processes.result(exec_id) == [second.pid, 1]
        assert not processes.began(f"{path}/after", first.pid)
    # It still works: only that execution is not its own any more.
    second.send_signal(signal.SIGKILL)
    (other,) = processes.start("relay", 1)
    until(lambda: processes.result(other) == 6, "the first goes on with others")
    processes.check()


@pytest.mark.parametrize("flow", ["hogging", "hogging_loop"])
def test_a_body_that_keeps_a_core_busy_keeps_its_lease(processes: Ring, flow: str) -> None:
    arguments = (5.0 * LEASE_SECONDS, False)[: 2 if flow == "hogging" else 1]
    (exec_id,) = processes.start(flow, 1, *arguments)
    for _ in range(2):
        processes.worker()
    until(lambda: processes.result(exec_id), "it comes to its end")
    # Where the machine is so busy that even the heartbeat came late, fencing is what holds.
    lost = "lease_lost" in "".join(processes.log_of(number).read_text() for number in range(2))
    assert lost or len(processes.effects()) == 1
    processes.check()


def test_a_body_that_stops_the_whole_process_is_fenced(processes: Ring) -> None:
    """With the interpreter's lock held, no thread can renew: the lease goes to another."""
    (exec_id,) = processes.start("hogging", 1, 4.0 * LEASE_SECONDS, True)
    for _ in range(2):
        processes.worker()
    until(lambda: processes.result(exec_id), "one of the owners comes to the end")
    assert processes.result(exec_id) in {pid for _, pid, _ in processes.effects()[1:]}
    first = processes.effects()[0][1]
    logs = [processes.log_of(number) for number in range(2)]
    until(lambda: any("lease_lost" in log.read_text() for log in logs), f"{first} hears of it")
    processes.check()


@pytest.mark.skipif(bool(shim.why_not()), reason=shim.why_not() or "-")
@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_differ_cost_time_and_nothing_else(processes: Ring, hours: int) -> None:
    """A worker whose clock is ahead takes everything over at once; its victim is fenced."""
    library = shim.compiled()
    skewed = {"LD_PRELOAD": library, "KITARU_TEST_SHIM_CLOCK": str(hours * 3_600_000_000)}
    started = processes.start("relay", 10) + processes.start("relay_async", 10)
    processes.worker()
    processes.worker(**skewed)
    until(lambda: not processes.states()["running"], "all come to their end")
    assert processes.states() == {"completed": len(started)}
    processes.check(clocks_agree=False)
