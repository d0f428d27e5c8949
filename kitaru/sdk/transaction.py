"""`kitaru.transaction()`: where a transactional checkpoint writes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from journal import Rows, StatementRefused, TransactionOver
from kitaru.engine.context import CheckpointScope, scope
from kitaru.engine.transactions import AttemptTransaction
from kitaru.errors import KitaruContextError, KitaruTransactionError, KitaruUsageError

Parameters = Sequence[Any] | Mapping[str, Any]


class Transaction:
    """The transaction of one attempt of a checkpoint; `aio` is for async ones.

    It begins with its first statement. Kitaru commits it with the checkpoint's outcome when the
    body returns, and rolls it back when the body raises.
    """

    def __init__(self, attempt: AttemptTransaction, host: Any) -> None:
        self._attempt = attempt
        self._host = host

    @property
    def aio(self) -> "AsyncTransaction":
        """The same transaction for a coroutine."""
        return AsyncTransaction(self._attempt, self._host)

    def execute(self, statement: str, parameters: Parameters = (), /) -> Rows:
        """Runs one SQL statement and reads all that it finds.

        Raises sqlite3's own errors, KitaruUsageError for what a checkpoint may not do (commit, roll
        back, attach, change Kitaru's own tables) and KitaruTransactionError when the transaction is
        over.
        """
        _refuse_on_loop("execute")
        return _told(lambda: self._attempt.statements.execute(statement, parameters))

    def executemany(self, statement: str, rows: Iterable[Parameters], /) -> Rows:
        """Runs one SQL statement for each row of parameters. Raises what `execute` does."""
        _refuse_on_loop("executemany")
        return _told(lambda: self._attempt.statements.executemany(statement, rows))

    def commit(self) -> NoReturn:
        """Raises KitaruUsageError: it is committed with the checkpoint's outcome."""
        _refuse("commit")

    def rollback(self) -> NoReturn:
        """Raises KitaruUsageError: it is rolled back when the body raises."""
        _refuse("rollback")


class AsyncTransaction:
    """The transaction of one attempt of an async checkpoint."""

    def __init__(self, attempt: AttemptTransaction, host: Any) -> None:
        self._attempt = attempt
        self._host = host

    async def execute(self, statement: str, parameters: Parameters = (), /) -> Rows:
        """As `Transaction.execute`, off the event loop."""
        return await self._run(lambda: self._attempt.statements.execute(statement, parameters))

    async def executemany(self, statement: str, rows: Iterable[Parameters], /) -> Rows:
        """As `Transaction.executemany`, off the event loop."""
        return await self._run(lambda: self._attempt.statements.executemany(statement, rows))

    def commit(self) -> NoReturn:
        """Raises KitaruUsageError: it is committed with the checkpoint's outcome."""
        _refuse("commit")

    def rollback(self) -> NoReturn:
        """Raises KitaruUsageError: it is rolled back when the body raises."""
        _refuse("rollback")

    async def _run(self, statement: Callable[[], Rows]) -> Rows:
        rows: Rows = await self._host.in_transaction(lambda: _told(statement))
        return rows


def transaction() -> Transaction:
    """The transaction of the running checkpoint, which was made with ``transaction=``.

    Raises KitaruContextError anywhere else.
    """
    here = scope.get()
    if not isinstance(here, CheckpointScope):
        raise KitaruContextError(
            "kitaru.transaction() can only be used inside a @checkpoint(transaction=...). A thread "
            "that a checkpoint has started is given what it returns there."
        )
    if here.transaction is None:
        raise KitaruContextError(
            f"The checkpoint {here.path!r} has no transaction: declare it with "
            "@checkpoint(transaction=...)."
        )
    runner: Any = here.runner
    return Transaction(here.transaction, runner.host)


def _told(statement: Callable[[], Rows]) -> Rows:
    try:
        return statement()
    except StatementRefused as refused:
        raise KitaruUsageError(f"A checkpoint's transaction refused a statement: {refused}.") from (
            refused
        )
    except TransactionOver as over:
        raise KitaruTransactionError(f"Nothing was written: {over}.") from over


def _refuse(name: str) -> NoReturn:
    raise KitaruUsageError(
        f"{name}() is not for a checkpoint's body: its writes are committed with its outcome when "
        "it returns, and rolled back when it raises."
    )


def _refuse_on_loop(name: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise KitaruUsageError(
            f"kitaru.transaction().{name}() would block the event loop that it is called on; use "
            f"`await kitaru.transaction().aio.{name}(...)`."
        )
