"""Which executions wait for a runner process."""

from journal import Head, HeadQuery, Journal
from kitaru.engine.executions import CATEGORY

PAGE = 500


async def free_executions(journal: Journal, route_prefix: str) -> list[Head]:
    """Those on routes that begin so, that are due and that nobody has. Raises JournalError."""
    found: list[Head] = []
    cursor: str | None = None
    while True:
        query = HeadQuery(
            category=CATEGORY,
            route_prefix=route_prefix,
            claimable_at=journal.now(),
            limit=PAGE,
            cursor=cursor,
        )
        page = await journal.heads(query)
        found += page
        if len(page) < PAGE:
            return found
        cursor = page[-1].stream
