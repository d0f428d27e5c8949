"""What the test tools raise."""

from kitaru.errors import KitaruError, KitaruUsageError


class NothingHappens(KitaruError, AssertionError):
    """A flow under test neither ends nor rests, or waits for what the test does not give."""


class FlowBroken(KitaruError, AssertionError):
    """A fault has made a flow do what it must not; the message tells which, and shows the journal.

    Its text has what reproduces it.
    """


class ReproductionUnusable(KitaruUsageError):
    """A file does not hold what a failure was saved as."""
