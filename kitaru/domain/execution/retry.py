"""When a failed attempt is tried again. Exponential back-off with full-range jitter."""

import sys

from msgspec import Struct

from kitaru.errors import KitaruUsageError

LONGEST_SECONDS = 100 * 365 * 86_400.0
"""No delay is longer: the instant after it must be one that can be written down."""
Kinds = tuple[type[BaseException], ...]


class Retry(Struct, frozen=True):
    """How often and when a checkpoint is tried again after it raised.

    The wait before attempt n+1 is ``first_delay * factor ** (n - 1)`` seconds, at most `max_delay`,
    shortened by up to the fraction `jitter` of itself.
    """

    max_attempts: int = 3
    """All attempts, the first included."""
    first_delay: float = 0.0
    """Seconds before the second attempt."""
    factor: float = 2.0
    max_delay: float = 300.0
    """Seconds."""
    jitter: float = 0.0
    """From 0 (none) to 1."""
    retry_on: Kinds = (Exception,)
    """Only errors of these classes are tried again."""
    give_up_on: Kinds = ()
    """Errors of these classes are not, even when `retry_on` covers them."""

    def __post_init__(self) -> None:
        if not _is_count(self.max_attempts) or self.max_attempts < 1:
            raise KitaruUsageError(
                f"Retry(max_attempts={self.max_attempts!r}): a whole number from 1 on is needed."
            )
        for name in ("first_delay", "max_delay"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise KitaruUsageError(
                    f"Retry({name}={getattr(self, name)!r}): a number of seconds >= 0 is needed."
                )
        if not _is_number(self.factor) or self.factor < 1:
            raise KitaruUsageError(f"Retry(factor={self.factor!r}): a number from 1 on is needed.")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise KitaruUsageError(
                f"Retry(jitter={self.jitter!r}): a number from 0 to 1 is needed."
            )
        for name in ("retry_on", "give_up_on"):
            kinds = getattr(self, name)
            if not isinstance(kinds, tuple) or not all(
                isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
            ):
                raise KitaruUsageError(
                    f"Retry({name}={kinds!r}): a tuple of exception classes is needed."
                )

    def covers(self, bases: tuple[str, ...]) -> bool:
        """Whether an error with these class names (its own first) is tried again."""
        return _any_named(self.retry_on, bases) and not _any_named(self.give_up_on, bases)

    def delay_us(self, tried: int, jitter: float) -> int:
        """Microseconds to wait after attempt number `tried`; `jitter` is a draw from 0 to 1."""
        try:
            # Not with whole numbers, which would become longer and longer.
            grown = float(self.first_delay) * float(self.factor) ** (tried - 1)
            seconds = min(float(self.max_delay), grown)
        except OverflowError:
            seconds = float(self.max_delay) if self.first_delay else 0.0
        return round(min(seconds, LONGEST_SECONDS) * (1 - self.jitter * jitter) * 1_000_000)


def retry_policy(retries: int | Retry, *, whose: str) -> Retry:
    """The policy that a number of retries, or a policy, stands for.

    Raises KitaruUsageError for anything but a whole number from 0 on, or a `Retry`.
    """
    if isinstance(retries, Retry):
        return retries
    return Retry(max_attempts=checked_retries(retries, whose=whose) + 1)


def checked_retries(retries: object, *, whose: str) -> int:
    """The number of retries, when it is one. Raises KitaruUsageError."""
    if not _is_count(retries):
        raise KitaruUsageError(f"{whose} retries must be a whole number, not {retries!r}.")
    assert isinstance(retries, int)
    if retries < 0:
        raise KitaruUsageError(f"{whose} retries must be >= 0, not {retries}.")
    return retries


def class_name(kind: type) -> str:
    """``module.Qualified.Name`` of a class; builtins without their module."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _any_named(kinds: Kinds, bases: tuple[str, ...]) -> bool:
    return any(class_name(kind) in bases for kind in kinds)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Whole numbers that no float can hold are no numbers of seconds either.
    return -sys.float_info.max <= value <= sys.float_info.max
