"""Times and chance for a flow's body: derived from what is recorded, so that replays get the same.

A value is the SHA-256 of the execution's seed, the task that asks and how often it has asked: no
event is needed for it, and nothing can be lost between the drawing and the recording.
"""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_of(microseconds: int) -> datetime:
    """An instant of the journal as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def random_of(seed: str, draw: str) -> float:
    """A number from 0 up to 1, 1 excluded, evenly distributed, with 53 bits."""
    return (int.from_bytes(_bytes(seed, "random", draw)[:8]) >> 11) * 2.0**-53


def uuid4_of(seed: str, draw: str) -> uuid.UUID:
    """A UUID of version 4."""
    return uuid.UUID(bytes=_bytes(seed, "uuid4", draw)[:16], version=4)


def _bytes(seed: str, kind: str, draw: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{kind}\0{draw}".encode()).digest()
