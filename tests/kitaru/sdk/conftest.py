"""A journal of each test's own, and ways to crash on it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kitaru
from kitaru.bootstrap import close_background, current_runtime

DEADLINE_SECONDS = 30.0
"""How long anything may take before a test calls it stuck; nothing is measured against it."""


@pytest.fixture(autouse=True)
def own_journal(journal_url: str) -> Iterator[str]:
    """Each test's runtime opens a journal in a file of its own, and is closed afterwards."""
    kitaru.configure(journal=journal_url)
    yield journal_url
    close_background()
    kitaru.configure(journal=None, cache=None, retries=None, lease_seconds=None)


@pytest.fixture
def restart() -> Callable[..., None]:
    """Drops every runner where it stands, opens the journal anew, and serves these flows.

    What is in memory is gone, as after a crash; the leases are given back, so that nobody waits.
    """

    def restart(*flows: Any) -> None:
        close_background()
        runtime = current_runtime()
        for flow in flows:
            runtime.worker.registry.serve(flow.reference, flow.definition)
        runtime.loop.call_soon_threadsafe(runtime.worker.look_now)

    return restart


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until something is true."""

    def eventually(holds: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            assert time.monotonic() < end, "this never became true"
            time.sleep(0.005)

    return eventually


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds what waits for it until the test sets it, and at the latest until the test ends."""
    event = threading.Event()
    yield event
    event.set()
