"""One wait of a flow's body: what it asks, and what an answer gives to the body."""

import math
from datetime import datetime, timedelta
from typing import Any

from msgspec import Raw

from kitaru.domain.execution.events import InputGiven, WaitAborted, WaitExpired, WaitRequested
from kitaru.domain.execution.wait_ids import ORDINAL, wait_id
from kitaru.domain.ids import checked_id
from kitaru.domain.values import NO_JSON
from kitaru.engine.calls import Delivery
from kitaru.engine.codec import Codec, TypeScope
from kitaru.engine.divergence import Asked
from kitaru.engine.schema import converted, schema_of
from kitaru.errors import (
    KitaruUsageError,
    KitaruWaitAborted,
    KitaruWaitExpired,
    KitaruWaitValidationError,
)

PATIENCE_SECONDS = 600.0
"""How long a runner stays around for an answer, unless the wait says otherwise."""
WaitOutcome = InputGiven | WaitAborted | WaitExpired
_plain = TypeScope.of()


class NoDefault:
    """Stands for a default that was not given: None is one that was."""


NO_DEFAULT = NoDefault()


class WaitTerms:
    """What a body says when it waits, checked."""

    __slots__ = (
        "deadline",
        "default",
        "hint",
        "json_schema",
        "metadata",
        "name",
        "patience",
        "question",
    )

    def __init__(
        self,
        codec: Codec,
        *,
        schema: Any,
        name: str | None,
        question: str | None,
        timeout: float | None,
        metadata: dict[str, Any] | None,
        deadline: float | timedelta | datetime | None,
        default: Any,
    ) -> None:
        """Raises KitaruUsageError for terms that make no sense."""
        self.name = "wait" if name is None else _checked_name(name)
        if question is not None and not isinstance(question, str):
            raise KitaruUsageError(f"wait(question={question!r}): a text is needed.")
        self.question = question or ""
        self.hint = schema
        self.json_schema = NO_JSON if schema is None else Raw(schema_of(schema, "wait(schema=...)"))
        self.patience = PATIENCE_SECONDS if timeout is None else _seconds(timeout, "timeout")
        if metadata is not None and not isinstance(metadata, dict):
            raise KitaruUsageError(f"wait(metadata={metadata!r}): a dict is needed.")
        self.metadata = NO_JSON
        if metadata:
            self.metadata = Raw(codec.encode(metadata, where="metadata", types=_plain))
        self.deadline = _deadline(deadline)
        if default is not NO_DEFAULT and deadline is None:
            raise KitaruUsageError("wait(default=...) needs deadline=: it is what holds after it.")
        self.default = default


class Wait:
    """One wait of one pass."""

    __slots__ = ("abandoned", "deadline_at", "expiry", "future", "path", "site", "terms")

    def __init__(self, terms: WaitTerms, path: str, site: str) -> None:
        self.terms = terms
        self.path = path
        self.site = site
        self.deadline_at: int | None = None
        """Known once the wait is recorded."""
        self.future: Any = None
        self.expiry: Any = None
        self.abandoned = False
        """Whether the body no longer waits for it."""

    @property
    def asked(self) -> Asked:
        """The wait, for a divergence report."""
        return Asked(self.path, self.terms.name, self.site, kind="wait")

    def requested(self, now: int) -> WaitRequested:
        """That the body waits, from this instant (microseconds) on."""
        terms = self.terms
        deadline = terms.deadline
        if deadline is not None:
            self.deadline_at = _due_at(deadline, now)
        return WaitRequested(
            path=self.path,
            name=terms.name,
            site=self.site,
            question=terms.question,
            schema=terms.json_schema,
            metadata=terms.metadata,
            deadline_at=self.deadline_at,
        )

    def delivery(self, event: WaitOutcome, blob: bytes | None, codec: Codec) -> Delivery:
        """What an outcome gives to the body.

        Raises KitaruWaitValidationError for an answer that the body cannot be given.
        """
        match event:
            case WaitAborted(reason=reason):
                because = f": {reason}" if reason else "."
                return Delivery(error=KitaruWaitAborted(f"Wait {self.path!r} was aborted{because}"))
            case WaitExpired():
                if self.terms.default is not NO_DEFAULT:
                    return Delivery(self.terms.default)
                return Delivery(
                    error=KitaruWaitExpired(f"Nobody answered wait {self.path!r} by its deadline.")
                )
            case InputGiven(value=value):
                data: Any = value.json if blob is None else blob
                return Delivery(self.converted(codec.decode(data, _plain)))

    def converted(self, value: Any) -> Any:
        """An answer as the body wants it. Raises KitaruWaitValidationError."""
        if self.terms.hint is None:
            if value is not None:
                raise KitaruWaitValidationError(
                    f"wait {self.path!r} asks only to go on: its answer is null, not {value!r}. "
                    "Give the wait a schema= to let it take a value."
                )
            return None
        try:
            return converted(value, self.terms.hint, self.path)
        except KitaruUsageError as problem:
            raise KitaruWaitValidationError(str(problem)) from problem


def _checked_name(name: str) -> str:
    if ORDINAL in checked_id(name, "A wait's name"):
        raise KitaruUsageError(
            f"wait(name={name!r}): a name must not hold {ORDINAL!r}, which stands in the ids of "
            f"waits ({wait_id('approve', 'approve')!r}). Write it another way."
        )
    return name


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise KitaruUsageError(f"wait({name}={value!r}): a number of seconds >= 0 is needed.")
    return float(value)


def _deadline(value: float | timedelta | datetime | None) -> timedelta | datetime | None:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise KitaruUsageError(
                f"wait(deadline={value!r}): an instant needs a time zone; or give seconds."
            )
        return value
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    checked = _seconds(seconds, "deadline")
    try:
        if not math.isfinite(checked):
            raise OverflowError
        return timedelta(seconds=checked)
    except OverflowError:
        raise KitaruUsageError(f"wait(deadline={value!r}): that is never.") from None


def _due_at(deadline: timedelta | datetime, now: int) -> int:
    if isinstance(deadline, timedelta):
        return now + deadline // timedelta(microseconds=1)
    return round(deadline.timestamp() * 1_000_000)
