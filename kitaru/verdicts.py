"""What today's code makes of a recorded execution, told before it runs: safe, or where it parts."""

from enum import StrEnum

from msgspec import Struct


class Judgement(StrEnum):
    """Whether an execution may go on with this code."""

    SAFE = "safe"
    """The code asks for all that is recorded; that of a finished execution ends as recorded, too.

    What an unfinished execution has not come to yet is not judged: nothing is recorded of it.
    """
    DIVERGES = "diverges"
    """The code does not fit the event `version`: a runner would stop there."""
    UNKNOWN = "unknown"
    """The code fits up to the event `version`; what is recorded behind it cannot be judged."""


class Verdict(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What replaying one execution's events against a flow's code has shown."""

    judgement: Judgement
    version: int
    """The last event that was compared (safe, unknown), or the one that does not fit."""
    summary: str
    """One sentence for people: what comes next, what does not fit, or why it cannot be told."""
    path: str = ""
    """The call that does not fit, or that cannot be judged."""
    recorded_site: str = ""
    """``file:line`` of that call when it was recorded; empty when it is not known."""
    site: str = ""
    """``file:line`` of what the code asks for instead; empty when it has ended."""
    story: str = ""
    """What has most likely happened to the code: a `DivergenceStory`."""
    report: str = ""
    """For a divergence, the text that `KitaruDivergenceError` would have."""
    is_finished: bool = False
    """Whether the execution had ended."""

    @property
    def is_safe(self) -> bool:
        """Whether the code fits all that is recorded."""
        return self.judgement is Judgement.SAFE

    @property
    def place(self) -> str:
        """``file:line`` to look at: where the code asks for something else, or asked before."""
        return self.site or self.recorded_site
