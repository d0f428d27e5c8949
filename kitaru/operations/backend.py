"""What the journal says of its troubles, in the words of Kitaru's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from journal import JournalError
from kitaru.errors import KitaruBackendError


@contextmanager
def backend_errors() -> Iterator[None]:
    """Raises KitaruBackendError for what the journal raises."""
    try:
        yield
    except JournalError as error:
        message = str(error)
        raise KitaruBackendError(message[:1].upper() + message[1:]) from error
