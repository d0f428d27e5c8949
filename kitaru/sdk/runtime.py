"""An application's own runtime, on its own event loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kitaru import settings
from kitaru.bootstrap import Runtime, set_explicit


@asynccontextmanager
async def runtime(
    *, journal: str | None = None, lease_seconds: float | None = None
) -> AsyncIterator[None]:
    """Runs Kitaru on the caller's event loop for the length of an ``async with`` block.

    Without it, Kitaru opens itself at the first use, on a background thread. `journal` and
    `lease_seconds` take precedence over every other setting. On leaving, executions that have not
    ended are given back, and the next process that runs their flow goes on with them.

    Raises KitaruUsageError when the process has a runtime of its own already, and
    KitaruBackendError when the journal cannot be opened.
    """
    config = settings.resolve_with("kitaru.runtime", journal=journal, lease_seconds=lease_seconds)
    opened = await Runtime.open(config.journal, config.lease_seconds)
    try:
        set_explicit(opened)
        try:
            yield
        finally:
            set_explicit(None)
    finally:
        await opened.close()
