"""Journals of both kinds for the tests, with a clock that a test moves."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from journal import Journal, open_journal

START = 1_800_000_000_000_000


class _Clock:
    def __init__(self) -> None:
        self.microseconds = START

    def __call__(self) -> int:
        return self.microseconds

    def advance(self, seconds: float) -> None:
        self.microseconds += round(seconds * 1_000_000)


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def now(clock: _Clock) -> Callable[[], int]:
    """The time on the journal's clock."""
    return clock


@pytest.fixture
def advance(clock: _Clock) -> Callable[[float], None]:
    """Moves the journal's clock by some seconds."""
    return clock.advance


@pytest.fixture(params=["memory", "sqlite"])
async def journal(
    request: pytest.FixtureRequest, tmp_path: Path, clock: _Clock
) -> AsyncIterator[Journal]:
    """A new journal of each backend."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/journal.db"
    opened = await open_journal(url, clock=clock)
    yield opened
    await opened.close()
