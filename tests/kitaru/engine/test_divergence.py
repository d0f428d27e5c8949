"""What is known of recorded calls, and the report that is made of where code and journal part."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from kitaru.divergence import DivergedCall, Divergence, DivergenceStory, divergence_of
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    ExecutionReopened,
    FlowAttemptFailed,
    InputGiven,
    TimerFired,
    TimerStarted,
    WaitRequested,
)
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.code_reading import Code
from kitaru.engine.divergence import (
    Asked,
    Mismatch,
    Seen,
    explained,
    known_calls,
    never_asked_for,
)
from kitaru.engine.divergence_story import KnownCall
from kitaru.engine.divergence_text import report

ONE = StoredValue(json=Raw(b'{"n":1}'))
ERROR = ErrorData(type="ValueError", message="no")


def completed(path: str, **fields: Any) -> CheckpointCompleted:
    fields = {"arguments": ONE, "arguments_digest": "d", "site": "a.py:1", **fields}
    return CheckpointCompleted(path=path, name=path, attempt=1, result=ONE, **fields)


def test_calls_are_known_in_the_order_in_which_they_ended() -> None:
    known = known_calls(
        [
            (1, CheckpointStarted(path="slow", name="slow", attempt=1, arguments=ONE)),
            (2, TimerStarted(path="sleep", due_at=1, site="a.py:9")),
            (3, completed("second")),
            (4, TimerFired(path="sleep", due_at=1)),
            (5, WaitRequested(path="ok", name="ok", site="a.py:5")),
            (6, completed("first")),
            (7, WaitRequested(path="open", name="open")),
            (8, InputGiven(path="ok", value=ONE)),
        ]
    )
    told = [(call.call.path, call.call.kind, call.call.version) for call in known.values()]
    assert told == [
        ("second", "checkpoint", 3),
        ("sleep", "sleep", 4),
        ("first", "checkpoint", 6),
        ("ok", "wait", 8),
        ("slow", "checkpoint", None),
        ("open", "wait", None),
    ]
    assert known["sleep"].call.site == "a.py:9"


@pytest.mark.parametrize(
    "between",
    [FlowAttemptFailed(attempt=1, error=ERROR, retry_at=0), ExecutionReopened(reason="retry")],
)
def test_another_flow_attempt_begins_with_nothing(between: Any) -> None:
    assert list(known_calls([(1, completed("a")), (2, between), (3, completed("b"))])) == ["b"]


def test_going_on_after_a_divergence_forgets_nothing() -> None:
    resumed = ExecutionReopened(reason="resume")
    assert list(known_calls([(1, completed("a")), (2, resumed)])) == ["a"]


def test_a_failed_attempt_that_is_tried_again_is_no_outcome() -> None:
    failed = CheckpointFailed(path="a", name="a", attempt=1, error=ERROR, retry_at=5)
    known = known_calls([(1, failed)])
    assert known["a"].call.version is None
    assert known["a"].call.arguments is UNSET


def test_without_a_source_the_story_is_told_from_what_is_recorded() -> None:
    recorded = KnownCall(DivergedCall(path="a", name="a", version=2))
    told = explained(
        Mismatch("a", "passed_over", Asked("b", "b", "f.py:3")),
        recorded,
        [recorded],
        Seen({"b"}, [], Code()),
    )
    assert told.story == DivergenceStory.NOT_ASKED_FOR
    assert "removed, renamed, or moved" in told.hints[0]


def test_a_fault_of_the_story_hides_no_fact() -> None:
    recorded = KnownCall(DivergedCall(path="a", name="a", version=2))
    broken: Any = object()
    told = explained(
        Mismatch("a", "passed_over", Asked("b", "b", "f.py:3")),
        recorded,
        [recorded],
        Seen({"b"}, [], broken),
    )
    assert told.recorded.path == "a"
    assert told.asked[0].path == "b"
    assert "could not be told" in told.hints[0]


def test_how_the_body_ended_is_told() -> None:
    assert never_asked_for("a", None).ended == "returned"
    assert never_asked_for("a", ValueError("too long")).ended == "ValueError: too long"
    assert never_asked_for("a", ValueError()).ended == "ValueError"


def test_a_report_stays_short() -> None:
    many = tuple(DivergedCall(path=f"c#{n}", name="c", site="f.py:1") for n in range(20))
    text = report(
        "5b2a9c0e",
        Divergence(
            story="swapped",
            summary="x",
            recorded=DivergedCall(path="r", arguments={"a": "y" * 5000}),
            asked=many,
            hints=("one", "two", "three", "four"),
        ),
    )
    lines = text.splitlines()
    assert len(lines) <= 14
    assert all(len(line) < 120 for line in lines)
    assert "and 17 more" in text


@pytest.mark.parametrize("facts", [b"{}", b"[]", b'{"story": 7}', b"not json"])
def test_facts_of_another_version_are_no_reason_to_fail(facts: bytes) -> None:
    assert divergence_of(facts) == Divergence(story="", recorded=DivergedCall(path=""))


def test_a_story_of_a_later_version_is_read() -> None:
    facts = msgspec.json.encode({"story": "yet another", "recorded": {"path": "a"}, "more": 1})
    assert divergence_of(facts).story == "yet another"
