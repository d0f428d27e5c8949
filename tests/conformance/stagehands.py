"""What the programs of conformance cases import: they tell what runs, and can be held up."""

import asyncio
import sys
import threading
import time
from collections import Counter

DEADLINE_SECONDS = 30.0
"""How long anything may take before a case is called stuck; nothing is measured against it."""


class Records:
    """What the bodies of one case have told, in all its processes."""

    def __init__(self) -> None:
        self.bodies: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def count(self, counter: Counter[str], name: str) -> None:
        """Something has happened once more; from any thread."""
        with self._lock:
            counter[name] += 1

    def gate(self, name: str) -> threading.Event:
        """What bodies wait for until a step of the case opens it."""
        with self._lock:
            return self._gates.setdefault(name, threading.Event())

    def open_all(self) -> None:
        """Nobody is to wait any longer."""
        for gate in list(self._gates.values()):
            gate.set()


records = Records()


def reset() -> Records:
    """Begins a new case."""
    global records
    records.open_all()
    records = Records()
    return records


def ran() -> int:
    """The function that calls this has begun once more; returns how often it has in all."""
    now, name = records, sys._getframe(1).f_code.co_name
    now.count(now.bodies, name)
    return now.bodies[name]


def hold_sync(name: str) -> None:
    """Waits until the gate is opened; in the body of a sync checkpoint."""
    now = records
    gate = now.gate(name)
    now.count(now.held, name)
    if not gate.wait(DEADLINE_SECONDS):
        raise TimeoutError(f"nobody opens {name!r}")


async def hold_async(name: str) -> None:
    """Waits until the gate is opened; in the body of an async checkpoint."""
    now = records
    gate = now.gate(name)
    now.count(now.held, name)
    end = time.monotonic() + DEADLINE_SECONDS
    while not gate.is_set():
        if time.monotonic() > end:
            raise TimeoutError(f"nobody opens {name!r}")
        await asyncio.sleep(0.001)
