"""What a fork takes over, from given events alone."""

import pytest
from msgspec import Raw

from kitaru import KitaruUsageError
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    EventOffered,
    ExecutionEvent,
    ExecutionStarted,
    FlowAttemptFailed,
    InputGiven,
    OffersTaken,
    SourceReference,
    TimerFired,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT, evolve
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.forks import SHOWN_CALLS, Override, Past, listed
from kitaru.engine.history import History, KeptReady, RecordedFact
from kitaru.engine.upcasts import offered_event

ERROR = ErrorData(type="ValueError", message="no")


def value(json: str) -> StoredValue:
    return StoredValue(json=Raw(json.encode()))


def started() -> ExecutionStarted:
    return ExecutionStarted(
        flow="f", source=SourceReference("m", "f"), arguments=value("{}"), arguments_digest="d"
    )


def completed(path: str, name: str = "fetch", result: str = "1") -> CheckpointCompleted:
    return CheckpointCompleted(
        path=path, name=name, attempt=1, arguments_digest=f"of {path}", result=value(result)
    )


def failed(path: str, retry_at: int | None = None) -> CheckpointFailed:
    return CheckpointFailed(path=path, name="fetch", attempt=1, error=ERROR, retry_at=retry_at)


def facts(*events: ExecutionEvent) -> list[RecordedFact]:
    return [(number, 1000 * number, event) for number, event in enumerate(events, start=1)]


def past(*events: ExecutionEvent) -> Past:
    return Past("source", facts(started(), *events))


def offered(of: Past, anchor: str, *overrides: Override) -> list[str]:
    return [offer.path for offer in of.offers(of.find(anchor), overrides)]


def test_what_was_recorded_before_the_anchors_outcome_is_offered_in_its_order() -> None:
    known = past(
        CheckpointStarted(path="slow", name="fetch", attempt=1),
        completed("b"),
        TimerFired(path="sleep", due_at=5),
        failed("c"),
        completed("slow"),
        completed("d"),
    )
    assert offered(known, "slow") == ["b", "sleep", "c"]
    assert offered(known, "b") == []
    assert offered(known, "d") == ["b", "sleep", "c", "slow"]


def test_before_a_call_without_an_outcome_is_all_that_has_one() -> None:
    known = past(
        completed("a"),
        CheckpointStarted(path="running", name="fetch", attempt=1),
        failed("retried", retry_at=9),
        completed("b"),
    )
    assert offered(known, "running") == offered(known, "retried") == ["a", "b"]


def test_an_offer_holds_the_event_as_it_was() -> None:
    known = past(completed("a", result="[1,2]"), completed("b"))
    (offer,) = known.offers(known.find("b"), [])
    assert (offer.exec_id, offer.version, offer.recorded_at) == ("source", 2, 2000)
    assert offered_event(offer) == completed("a", result="[1,2]")
    assert not offer.overridden


def test_what_earlier_attempts_of_the_flow_completed_is_offered_and_what_failed_is_not() -> None:
    known = past(
        completed("a"),
        failed("b"),
        FlowAttemptFailed(attempt=1, error=ERROR, retry_at=0),
        completed("b"),
        failed("c"),
    )
    assert offered(known, "c") == ["a", "b"]
    again = past(completed("a"), failed("b"), FlowAttemptFailed(attempt=1, error=ERROR, retry_at=0))
    assert offered(again, "b") == ["a"]


def test_an_override_is_offered_wherever_it_is_and_takes_the_outcomes_place() -> None:
    known = past(
        completed("a"),
        ArtifactSaved(path="a", name="x", type="output", value=value("1")),
        completed("b"),
        CheckpointStarted(path="c", name="late", attempt=2),
    )
    overrides = [
        Override(known.overridden(key), value("9")) for key in ("checkpoint.late", "checkpoint.a")
    ]
    offers = known.offers(known.find("b"), overrides)
    assert [(offer.path, offer.overridden) for offer in offers] == [("a", True), ("c", True)]
    for offer, name in zip(offers, ("fetch", "late"), strict=True):
        event = offered_event(offer)
        assert isinstance(event, CheckpointCompleted)
        assert (event.name, bytes(event.result.json)) == (name, b"9")


def test_answers_are_offered_with_what_was_asked() -> None:
    known = past(
        WaitRequested(path="approve", name="approve"),
        InputGiven(path="approve", value=value("1")),
        WaitRequested(path="open", name="open"),
        completed("a"),
    )
    assert offered(known, "a") == ["approve", "approve"]
    override = Override(known.overridden("wait.open"), value("2"))
    assert offered(known, "open", override) == ["approve", "approve", "open", "a", "open"]


@pytest.mark.parametrize(
    ("selector", "path"),
    [
        ("fetch", "fetch"),
        ("fetch#2", "fetch#2"),
        ("task[1]/only", "task[1]/only"),
        ("only", "task[1]/only"),
        ("own id", "own id"),
        ("sleep", "task[1]/sleep"),
    ],
)
def test_a_call_is_found_by_path_by_id_and_by_a_name_of_its_own(selector: str, path: str) -> None:
    known = past(
        completed("fetch"),
        completed("fetch#2"),
        completed("task[1]/only", name="only"),
        completed("own id", name="fetch"),
        TimerFired(path="task[1]/sleep", due_at=1),
    )
    assert known.find(selector).path == path


def test_an_ambiguous_or_unknown_name_lists_what_there_is() -> None:
    paths = [f"task[{number}]/fetch" for number in range(SHOWN_CALLS + 3)]
    known = past(*map(completed, paths))
    with pytest.raises(KitaruUsageError, match=r"15 calls named 'fetch'.*task\[0\].* and 3 more"):
        known.find("fetch")
    with pytest.raises(KitaruUsageError, match=r"no call 'other'.*task\[0\].* and 3 more"):
        known.find("other")
    with pytest.raises(KitaruUsageError, match=r"no wait 'fetch'.*none at all"):
        known.overridden("wait.fetch")
    with pytest.raises(KitaruUsageError, match=r"Did you mean 'checkpoint.task\[0\]/fetch'"):
        known.overridden("task[0]/fetch")
    with pytest.raises(KitaruUsageError, match="names nothing"):
        known.overridden("sleep.task[0]/fetch")


def test_few_paths_are_listed_in_full() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([]) == ""


# A fork's history: offers move no state, and are given in the order of the source.


def fork_of(known: Past, anchor: str, *events: ExecutionEvent) -> list[RecordedFact]:
    return facts(started(), *known.offers(known.find(anchor), []), *events)


def test_offers_are_kept_in_the_order_of_the_source_and_told_once() -> None:
    known = past(completed("a"), completed("b"), completed("c"), completed("anchor"))
    history = History(fork_of(known, "anchor"))
    assert not history.order
    assert {path: outcome.recorded_at for path, outcome in history.kept.items()} == {
        "a": 2000,
        "b": 3000,
        "c": 4000,
    }
    ready = KeptReady(history)
    for path in ("c", "a", "b"):
        ready.append(path)
    assert [ready[0], ready.popleft(), ready.popleft()] == ["a", "a", "b"]
    assert ready
    assert history.note_taken() == OffersTaken(paths=("a", "b"))
    assert history.note_taken() is None
    history.take("a")
    assert history.note_taken() is None


def test_what_a_pass_has_taken_the_next_one_owes() -> None:
    known = past(completed("a"), completed("b"), completed("anchor"))
    history = History(fork_of(known, "anchor", OffersTaken(paths=("a",))))
    assert history.unasked({"a"}) is None
    assert history.unasked({"b"}) == "a"
    history.add(99, 0, FlowAttemptFailed(attempt=1, error=ERROR, retry_at=0))
    assert history.unasked(set()) is None
    assert history.kept.keys() == {"a", "b"}


def test_offers_move_no_state() -> None:
    state = evolve(ABSENT, started())
    known = past(
        WaitRequested(path="w", name="w"), InputGiven(path="w", value=value("1")), completed("a")
    )
    offers = known.offers(known.find("a"), [])
    assert len(offers) == 2
    assert all(isinstance(offer, EventOffered) for offer in offers)
    events: list[ExecutionEvent] = [*offers, OffersTaken(paths=("w",))]
    for event in events:
        assert evolve(state, event) == state


def test_a_fork_of_a_fork_offers_what_was_taken_and_says_where_it_really_was() -> None:
    known = past(completed("a"), completed("b"), completed("c"), completed("anchor"))
    child = Past(
        "child",
        fork_of(known, "anchor", OffersTaken(paths=("b", "a")), completed("anchor")),
    )
    assert list(child.calls) == ["a", "b", "anchor"]
    assert offered(child, "a") == ["b"]
    assert offered(child, "b") == []
    offers = child.offers(child.find("anchor"), [])
    assert [(offer.path, offer.exec_id, offer.version) for offer in offers] == [
        ("a", "source", 2),
        ("b", "source", 3),
    ]
