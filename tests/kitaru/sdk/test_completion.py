"""Races of submitted checkpoints in sync flows: decided by the journal, in every replay alike."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow

Restart = Callable[..., None]
gates: dict[int, threading.Event] = {}
bodies: list[int] = []
stop = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    gates.clear()
    gates.update({number: threading.Event() for number in range(4)})
    bodies.clear()
    stop.set()
    yield
    for gate in gates.values():
        gate.set()
    stop.set()


@checkpoint(cache=False)
def gated(number: int) -> int:
    assert gates[number].wait(30)
    bodies.append(number)
    if number == 3:
        raise ValueError("three")
    return number


@checkpoint(cache=False)
def hold() -> None:
    assert stop.wait(30)


@flow
def in_order(count: int) -> list[int]:
    futures = [gated.submit(number) for number in range(count)]
    seen: list[int] = []
    for future in kitaru.as_completed(futures):
        seen.append(future.result())
        if seen[-1:] != [0] and len(seen) < count:
            gates[{2: 1, 1: 0}[seen[-1]]].set()
    hold()
    return seen


def test_as_completed_gives_futures_as_they_are_done_and_a_replay_the_same(
    restart: Restart,
) -> None:
    stop.clear()
    gates[2].set()
    handle = in_order.run(3)
    executions = kitaru.KitaruClient().executions
    while len(bodies) < 3:
        stop.wait(0.01)
    exec_id = handle.exec_id
    while not any(c.name == "hold" for c in executions.get(exec_id).checkpoints):
        stop.wait(0.01)
    restart(in_order)
    stop.set()
    assert executions.handle(exec_id).wait(timeout=30) == [2, 1, 0]
    assert bodies == [2, 1, 0]


@flow
def first_of_two() -> int:
    winner = kitaru.wait_any([gated.submit(0), gated.submit(1)])
    gates[0].set()
    return winner.result()


def test_wait_any_gives_the_first() -> None:
    gates[1].set()
    assert first_of_two.run().wait(timeout=30) == 1


@flow
def all_of_them() -> list[str]:
    futures = [gated.submit(number) for number in (0, 3, 1)]
    dependent = gated.submit(2, after=futures[1])
    told = []
    for future in kitaru.wait_all([*futures, dependent]):
        try:
            told.append(str(future.result()))
        except ValueError as error:
            told.append(repr(error))
    return told


def test_wait_all_waits_for_failures_too() -> None:
    for gate in gates.values():
        gate.set()
    failed = "ValueError('three')"
    assert all_of_them.run().wait(timeout=30) == ["0", failed, "1", failed]


@flow
def failing_dependency() -> list[str]:
    failing = gated.submit(3)
    dependent = gated.submit(2, after=failing)
    other = gated.submit(0)
    names = {failing: "failing", dependent: "dependent", other: "other"}
    order = []
    for future in kitaru.as_completed([other, dependent, failing]):
        order.append(names[future])
        gates[0].set()
    for future in (failing, dependent):
        future.wait()
    return order


def test_a_call_whose_dependency_fails_has_its_place_in_the_order() -> None:
    gates[3].set()
    order = failing_dependency.run().wait(timeout=30)
    assert sorted(order[:2]) == ["dependent", "failing"]
    assert order[2] == "other"


@pytest.mark.parametrize("race", [kitaru.as_completed, kitaru.wait_any, kitaru.wait_all])
def test_only_futures_of_submit_will_do(race: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="futures from"):
        race([1])


def test_a_race_of_nothing() -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="at least one"):
        kitaru.wait_any([])
    assert list(kitaru.as_completed([])) == []
    assert kitaru.wait_all([]) == []
