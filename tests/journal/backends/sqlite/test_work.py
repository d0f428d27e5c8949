"""What is told of a piece of work is what came of it last."""

from typing import Any, cast

import pytest

from journal import JournalUnavailable, WrongExpectedVersion
from journal.backends.sqlite.transaction import Transaction
from journal.backends.sqlite.work import Action

TRANSACTION = cast("Transaction", None)


def test_work_that_is_done_again_is_told_by_its_last_outcome() -> None:
    """What was refused in a group that failed may be written when it is tried alone."""
    outcomes = iter([True, False, True])

    def perform(_: Transaction) -> str:
        if next(outcomes):
            raise WrongExpectedVersion("ex-1", 0, 1)
        return "done"

    work = Action(perform)
    work.run(TRANSACTION)
    with pytest.raises(WrongExpectedVersion):
        work.result()
    work.run(TRANSACTION)
    assert work.result() == "done"
    work.run(TRANSACTION)
    with pytest.raises(WrongExpectedVersion):
        work.result()


def test_either_a_result_is_told_or_why_there_is_none() -> None:
    """A group may fail after the work was done in it: then nothing of it is told as done."""
    told: list[tuple[Any, Any]] = []
    work = Action(lambda _: "done")
    for error in (None, JournalUnavailable("the disk")):
        work.run(TRANSACTION)
        work.error = error
        work.told = lambda *outcome: told.append(outcome)
        work.tell()
        assert work.told is None
    assert [(result, type(error)) for result, error in told] == [
        ("done", type(None)),
        (None, JournalUnavailable),
    ]


def test_what_is_no_refusal_is_not_taken_for_one() -> None:
    def fail(_: Transaction) -> None:
        raise OverflowError

    with pytest.raises(OverflowError):
        Action(fail).run(TRANSACTION)
