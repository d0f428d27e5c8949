"""Keeps this process's leases alive, from a thread of its own: a busy loop does not lose them."""

import threading
import time
from collections.abc import Callable

from journal import Journal, JournalError, Lease


class Heartbeat:
    """The leases that this process holds, and until when it may rely on them."""

    def __init__(
        self,
        journal: Journal,
        seconds: float,
        lost: Callable[[Lease], None],
        failed: Callable[[JournalError, int], None],
    ) -> None:
        self._journal = journal
        self._seconds = seconds
        self._lost = lost
        self._failed = failed
        self._held: dict[str, tuple[Lease, float]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kitaru-heartbeat", daemon=True)

    def start(self) -> None:
        """Begins renewing."""
        self._thread.start()

    def stop(self) -> None:
        """Ends renewing; a renewal that is under way still ends by itself."""
        self._stopping.set()

    def add(self, lease: Lease, asked_at: float) -> None:
        """Keeps a lease alive that was asked for at this monotonic instant.

        One that it keeps alive already lasts as long as it was renewed for.
        """
        until = asked_at + self._seconds
        with self._lock:
            held = self._held.get(lease.stream)
            if held is not None and held[0].epoch == lease.epoch:
                until = max(until, held[1])
            self._held[lease.stream] = (lease, until)

    def remove(self, stream: str) -> None:
        """Lets a lease go."""
        with self._lock:
            self._held.pop(stream, None)

    def is_alive(self, stream: str) -> bool:
        """Whether nobody else can have taken the stream over yet, by this process's own clock."""
        held = self._held.get(stream)
        return held is not None and time.monotonic() < held[1]

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds / 3):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            leases = [lease for lease, _ in self._held.values()]
        if not leases:
            return
        asked_at = time.monotonic()
        try:
            renewed = {
                lease.stream: lease for lease in self._journal.renew_blocking(leases, self._seconds)
            }
        except JournalError as error:
            # Until a renewal succeeds, `is_alive` turns false in time and no new body is started.
            self._failed(error, len(leases))
            return
        for lease in leases:
            if lease.stream in renewed:
                self._prolong(renewed[lease.stream], asked_at)
            else:
                self._lost(lease)

    def _prolong(self, lease: Lease, asked_at: float) -> None:
        with self._lock:
            held = self._held.get(lease.stream)
            if held is not None and held[0].epoch == lease.epoch:
                self._held[lease.stream] = (lease, asked_at + self._seconds)
