"""The same runtime as for the engine's tests, and one whose journal tells nobody anything."""

from collections.abc import AsyncIterator, Callable

import pytest

import kitaru
from journal import Journal, open_journal
from kitaru.bootstrap import current_runtime
from tests.kitaru.conftest import (
    Bench,
    Faults,
    FaultyJournal,
    bench,
    faults,
    gate,
    threads_at_rest,
)

__all__ = ["bench", "deaf", "faults", "gate"]


class SilentJournal(FaultyJournal):
    """Every notification of it is lost."""

    def watch(self, _stream: str | None, _watcher: object) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
async def deaf(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A runtime on the test's own loop that is never told of what others append."""
    journal = SilentJournal(await open_journal("memory://", clock=faults.clock), faults)

    async def opened(_url: str) -> Journal:
        return journal  # type: ignore[return-value]

    monkeypatch.setattr("kitaru.bootstrap.open_journal", opened)
    monkeypatch.setattr("kitaru.engine.worker.NOTICE_ALL_SECONDS", 0.1)
    monkeypatch.setenv("KITARU_CACHE", "off")
    async with kitaru.runtime(journal="memory://", lease_seconds=1.0):
        worker = current_runtime().worker
        yield Bench(current_runtime(), faults)
    await threads_at_rest(worker)
