"""What is done inside write transactions, and what came of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from journal.errors import JournalError

if TYPE_CHECKING:
    from journal.backends.sqlite.transaction import Transaction

T = TypeVar("T")


class Work(Generic[T]):
    """Something to do in a write transaction, and what came of it."""

    __slots__ = ("_result", "error", "told")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._result: T | None = None
        self.told: Callable[[T | None, BaseException | None], object] | None = None
        """Told of the outcome, where it is waited for on the event loop."""

    def perform(self, transaction: "Transaction") -> T:
        """Does it; a refusal comes before anything was changed."""
        raise NotImplementedError

    def run(self, transaction: "Transaction") -> None:
        self.error = None
        try:
            self._result = self.perform(transaction)
        except JournalError as refusal:
            # Refused before it changed anything: the others of the group go on.
            self.error = refusal

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]  # without an error there is one

    def tell(self) -> None:
        """Tells whoever waits on the event loop, and forgets them."""
        told, self.told = self.told, None
        assert told is not None
        told(self._result if self.error is None else None, self.error)


class Action(Work[T]):
    """Work that a function does."""

    __slots__ = ("_action",)

    def __init__(self, action: "Callable[[Transaction], T]") -> None:
        super().__init__()
        self._action = action

    def perform(self, transaction: "Transaction") -> T:
        return self._action(transaction)
