"""A recorded error as people see it."""

from kitaru.domain.values import ErrorData
from kitaru.projections.views import FailureInfo
from kitaru.status import FailureOrigin


def failure_of(
    error: ErrorData, origin: FailureOrigin, *, call_id: str | None = None
) -> FailureInfo:
    """Why something failed, with the traceback as Python prints it."""
    # Imported here: a list of executions starts without it.
    from kitaru.engine.failures import render_traceback

    return FailureInfo(
        message=error.message,
        exception_type=error.type,
        origin=origin,
        traceback=render_traceback(error),
        site=_site(error),
        call_id=call_id,
    )


def divergence(report: str) -> FailureInfo:
    """Why an execution diverged."""
    return FailureInfo(
        message=report,
        exception_type="kitaru.errors.KitaruDivergenceError",
        origin=FailureOrigin.DIVERGENCE,
    )


def origin_of(word: str) -> FailureOrigin:
    """The origin that a journal names; one of a later version is unknown here."""
    try:
        return FailureOrigin(word)
    except ValueError:
        return FailureOrigin.UNKNOWN


def _site(error: ErrorData) -> str:
    if not error.frames:
        return ""
    innermost = error.frames[-1]
    return f"{innermost.file}:{innermost.line}"
