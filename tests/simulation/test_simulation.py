"""The simulator itself: the same seed is the same world, and a broken engine does not get through.

Many more seeds: ``uv run poe simulate``, ``python -m tests.simulation run``.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from journal import SqliteTransaction
from journal.backends.in_memory import InMemoryJournal
from journal.backends.sqlite.transaction import Transaction
from kitaru.domain.execution.events import CheckpointCompleted
from kitaru.engine.async_recording import Recording
from kitaru.engine.executions import OwnedExecution
from kitaru.engine.history import History
from kitaru.engine.worker import Worker
from tests.simulation import threaded
from tests.simulation.campaign import differential_chunk
from tests.simulation.core import RATES, Counted, run_seed
from tests.simulation.differential import compare
from tests.simulation.sometimes import SOMETIMES, Sometimes
from tests.simulation.violation import Violation
from tests.simulation.world import run_world

# Nobody closes the bodies of a process that has died; some refuse the collector that finds them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kitaru.engine.async_runner.report", lambda *_, **__: None)


def test_programs_crashed_at_every_event_come_to_the_same_end() -> None:
    counted = Counted()
    for seed in range(60):
        counted.add(run_seed(seed))
    assert counted.points > 200
    assert counted.runs >= len(RATES) * counted.programs


def test_sync_programs_crashed_at_every_event_come_to_their_end() -> None:
    points, met = 0, Counter[str]()
    for seed in range(40):
        counted = threaded.run_seed(seed)
        points += counted.points
        met.update(counted.sometimes)
    assert points > 400
    assert {name for name in SOMETIMES if name.startswith("sync ")} <= met.keys()


def test_a_sync_engine_that_forgets_outcomes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new owner is given nothing of what is recorded but the start and the attempts."""
    add = History.add

    def forgetful(self: Any, version: int, recorded_at: int, event: Any) -> None:
        if not isinstance(event, CheckpointCompleted):
            add(self, version, recorded_at, event)

    monkeypatch.setattr(History, "add", forgetful)
    with pytest.raises(Violation):
        deque(map(threaded.run_seed, range(40)), maxlen=0)


@pytest.mark.parametrize("seed", range(12))
def test_worlds_keep_every_promise(seed: int) -> None:
    world = run_world(seed)
    assert world.plans


RARE = {
    "transaction committed",
    "transaction committed before its owner died",
    "result of an earlier execution reused",
    "offer taken",
    "override taken",
    "fork taken over",
    "fork of a running execution",
    "fork ended",
}


def test_worlds_have_transactions_forks_and_a_cache() -> None:
    """A simulator that never meets them proves nothing of them."""
    met: set[str] = set()
    for seed in range(1_000):
        met.update(run_world(seed).sometimes.counts)
        if met >= RARE:
            return
    raise AssertionError(f"never met: {RARE - met}")


def test_the_same_seed_is_the_same_world() -> None:
    logs = {run_world(17).log.hexdigest() for _ in range(2)}
    assert len(logs) == 1


@pytest.mark.parametrize("seed", range(8))
def test_sqlite_is_asked_the_same_and_gives_the_same(seed: int) -> None:
    compared = compare(seed)
    assert compared.events >= compared.programs > 0


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("release", lambda *_: None),
        ("renew", lambda *_: []),
        ("_epoch_of", lambda *_: 0),
    ],
)
def test_a_backend_that_does_something_else_is_found(
    method: str, wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transaction, method, wrong)
    assert differential_chunk(range(20)).failures


def test_a_situation_that_nobody_has_named_is_refused() -> None:
    with pytest.raises(KeyError):
        Sometimes().hit("pigs fly")
    assert len(SOMETIMES) >= 60


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        # What each of these lets happen is what the simulator is there to see.
        ("epochs are not compared", lambda patch: _without_fencing(patch)),
        ("a failed append is taken for done", lambda patch: _acknowledged_early(patch)),
        ("kept leases are given back", lambda patch: _released_leases(patch)),
        ("a cancel request is not delivered", lambda patch: _deaf(patch)),
        ("a fork runs what it is offered", lambda patch: _offers_left(patch)),
        ("results of later executions are reused", lambda patch: _own_results(patch)),
        ("writes are committed without their outcome", lambda patch: _forgotten(patch)),
    ],
)
def test_a_broken_engine_is_found(
    name: str, broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.simulation.world.CALM_STEPS", 8_000)
    broken(monkeypatch)
    for seed in range(60):
        try:
            run_world(seed)
            run_seed(seed)
        except (Violation, AssertionError):
            return
    raise AssertionError(f"nobody noticed that {name}")


def _without_fencing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InMemoryJournal, "_holds", lambda *_: True)
    # An owner that reads of its successor stops, too: it must not see whose the events are.
    accept = OwnedExecution.accept_foreign

    def blind(self: Any, recorded: Any) -> None:
        accept(self, [structs.replace(it, epoch=0) for it in recorded])

    patch.setattr(OwnedExecution, "accept_foreign", blind)


def _acknowledged_early(patch: pytest.MonkeyPatch) -> None:
    appended: Any = Recording._appended

    def forgiving(self: Any, result: Any, error: Any) -> None:
        if error is None:
            appended(self, result, error)
        else:
            self.flushing = False
            self._batch = []

    patch.setattr(Recording, "_appended", forgiving)


def _released_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "may_start", lambda *_: False)


def _deaf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwnedExecution, "accept_foreign", lambda *_: None)


def _offers_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(History, "_offer", lambda *_: None)


def _own_results(patch: pytest.MonkeyPatch) -> None:
    before = InMemoryJournal._keyed_before
    patch.setattr(InMemoryJournal, "_keyed_before", lambda self, key, _: before(self, key, 10**9))


def _forgotten(patch: pytest.MonkeyPatch) -> None:
    commit = SqliteTransaction.commit
    patch.setattr(SqliteTransaction, "commit", lambda self, _: commit(self))
