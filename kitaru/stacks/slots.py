"""How many runners of a route one machine has: each holds a file's lock as long as it lives.

The lock goes from the starter to the runner with the open file, and ends with the runner however
that ends, so that nobody has to tidy up, and two starters never start one too many.
"""

import hashlib
import os
import re
from pathlib import Path

from kitaru.errors import KitaruBackendError

try:
    import fcntl
except ImportError:  # Windows: each starter counts its own runners
    fcntl = None  # type: ignore[assignment]


class Slots:
    """The places that the runners of one route have in a folder."""

    def __init__(self, folder: Path, route: str, most: int) -> None:
        self._folder = folder
        # Its digest, because two routes may differ in nothing but what a file's name cannot say.
        digest = hashlib.sha256(route.encode()).hexdigest()[:16]
        self._name = f"{re.sub(r'[^0-9A-Za-z]', '-', route)[:80]}-{digest}"
        self._most = most

    def take(self, wanted: int) -> list[int]:
        """Locks up to so many free places, and returns their open files; the caller closes them.

        Raises KitaruBackendError where the folder, or a file in it, cannot be used.
        """
        if fcntl is None:
            return []
        taken: list[int] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for number in range(self._most):
                if len(taken) == wanted:
                    break
                descriptor = self._locked(number)
                if descriptor is not None:
                    taken.append(descriptor)
        except OSError as error:
            for descriptor in taken:
                os.close(descriptor)
            raise KitaruBackendError(
                f"The folder of the runners' logs and locks, {self._folder}, cannot be used: "
                f"{error}."
            ) from error
        return taken

    def free(self) -> int:
        """How many places are free now."""
        taken = self.take(self._most)
        for descriptor in taken:
            os.close(descriptor)
        return len(taken)

    def _locked(self, number: int) -> int | None:
        file = self._folder / f"{self._name}.{number}.lock"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
