"""How many runners of a route one machine has: each holds a file's lock as long as it lives.

The lock goes from the starter to the runner with the open file, and ends with the runner however
that ends, so that nobody has to tidy up, and two starters never start one too many.
"""

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
        self._name = re.sub(r"[^0-9A-Za-z]", "-", route)[:80]
        self._most = most

    def take(self, wanted: int) -> list[int]:
        """Locks up to so many free places, and returns their open files; the caller closes them.

        Raises KitaruBackendError where the files cannot be made, opened or locked.
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
                f"No runner can be started: the files that count them cannot be used: {error}"
            ) from error
        return taken

    def free(self) -> int:
        """How many places are free now. Raises KitaruBackendError, as `take` does."""
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
