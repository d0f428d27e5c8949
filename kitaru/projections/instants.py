"""The journal's microseconds as datetimes."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(microseconds: int) -> datetime:
    """The instant in UTC; one beyond what a datetime can hold becomes the nearest that it can."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        edge = datetime.max if microseconds > 0 else datetime.min
        return edge.replace(tzinfo=UTC)
