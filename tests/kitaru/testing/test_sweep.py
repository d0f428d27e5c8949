"""Crash sweeps: what they count, what they let pass, and that each kind of bug is found."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from journal import Head, HeadChange, open_journal
from kitaru.engine import executions
from kitaru.engine.async_runner import AsyncRunner
from kitaru.engine.sync_runner import SyncRunner
from kitaru.errors import KitaruUsageError
from kitaru.status import ExecutionStatus
from kitaru.testing import Crash, FlowBroken, NothingHappens, Outcome, crash_sweep, laws, never
from kitaru.testing.laws import broken_laws
from kitaru.testing.rehearsal import Rehearsal, run_apart
from tests.kitaru.testing import flows


@pytest.fixture(autouse=True)
def _new_world() -> Iterator[None]:
    flows.new_world()
    yield
    flows.new_world()


def charged_once(outcome: Outcome) -> None:
    assert len(flows.WORLD) == 1, flows.WORLD


# what is counted


@pytest.mark.parametrize("flow", [flows.two_steps, flows.two_steps_async])
def test_every_boundary_of_a_known_flow_is_tried(flow: Any) -> None:
    report = crash_sweep(flow, 3)
    # started | doubled | doubled | completed
    assert (report.events, report.boundaries) == (4, 3)
    assert report.single_crashes == 2 * 3
    assert report.take_overs == 3
    # After a crash at boundary 1 there are three boundaries left (one more event says that it was
    # taken over), then two, then one; each crash is of two kinds, and so is the second.
    assert report.possible_double_crashes == report.double_crashes == 2 * 2 * (3 + 2 + 1)
    assert report.outcome == Outcome(ExecutionStatus.COMPLETED, value=12, data=b"12")


def test_too_many_pairs_are_chosen_from_with_a_seed() -> None:
    report = crash_sweep(flows.two_steps, 3, pairs=5, seed=7)
    assert (report.double_crashes, report.possible_double_crashes, report.seed) == (5, 24, 7)
    assert "5 with two of 24, chosen with seed 7, 3 with a take-over; the same" in str(report)


def test_what_runs_at_the_same_time_is_swept_alike_each_time() -> None:
    reports = [crash_sweep(flows.depends_on_the_order, 1, pairs=0) for _ in range(3)]
    assert len({str(report) for report in reports}) == 1
    assert reports[0].boundaries == 4


# what passes


@pytest.mark.parametrize("flow", [flows.everything, flows.everything_async])
def test_waits_sleeps_retries_and_what_may_run_only_once_survive(flow: Any) -> None:
    def check(outcome: Outcome) -> None:
        assert flows.WORLD.count("pay 1") == 1, flows.WORLD

    report = crash_sweep(
        flow, 1, answers={"approve": True}, setup=flows.new_world, check=check, pairs=40
    )
    first, paid, approved, results, now, _ = report.outcome.value
    assert (first, paid, approved) == (1, "paid 1", True)
    assert results[:3] == [0, 2, 4]
    assert now == "2026-01-31"
    assert report.reviews > 0
    # What is written in one append cannot be torn apart: an abort and the end, in the async one.
    assert report.boundaries >= report.events - 2


@pytest.mark.parametrize("flow", [flows.many_things, flows.many_things_async])
def test_logs_artifacts_large_values_and_other_flows_survive(flow: Any) -> None:
    def check(outcome: Outcome) -> None:
        assert flows.WORLD.count("pay 1") == 1, flows.WORLD

    report = crash_sweep(flow, 1, setup=flows.new_world, check=check, pairs=20)
    assert report.outcome.value[:2] == [1, "x" * 40_000]
    assert report.reviews > 0


def test_a_flow_that_fails_must_fail_alike() -> None:
    report = crash_sweep(flows.fails, 3)
    assert report.outcome.status is ExecutionStatus.FAILED
    assert report.outcome.error == "LookupError: there is no 3"


def test_a_side_effect_with_a_key_happens_once() -> None:
    crash_sweep(flows.charges_once, "a", setup=flows.new_world, check=charged_once)


def test_a_stand_in_that_hangs_is_passed_by_in_no_time() -> None:
    report = crash_sweep(flows.gives_up, 1, script={"hangs": never}, pairs=10)
    assert report.outcome.value == "too late"


def test_it_can_be_used_in_async_tests_too() -> None:
    async def test() -> Any:
        return crash_sweep(flows.two_steps_async, 3, pairs=0).outcome.value

    assert asyncio.run(test()) == 12


# what is found


@pytest.mark.parametrize("flow", [flows.charges_twice, flows.charges_twice_async])
def test_a_side_effect_that_a_crash_repeats_is_found(flow: Any) -> None:
    with pytest.raises(FlowBroken) as broken:
        crash_sweep(flow, "a", setup=flows.new_world, check=charged_once)
    text = str(broken.value)
    assert "the process dies before the event after event 2" in text
    assert "check failed: ['charge a', 'charge a']" in text
    assert f"crash_sweep({flow.name}, ..., only=[Crash(at=2, late=True)])" in text
    assert "─── here ───" in text
    assert "checkpoint completed (order='a') → 'charged'" in text
    with pytest.raises(FlowBroken, match="event 2"):
        crash_sweep(
            flow,
            "a",
            setup=flows.new_world,
            check=charged_once,
            only=[Crash(at=2, late=True)],
        )


def test_a_body_that_counts_its_passes_is_found() -> None:
    with pytest.raises(FlowBroken, match=r"returned 2\n  without the fault it returned 1"):
        crash_sweep(flows.counts_its_passes, 1, setup=flows.new_world)


def test_a_body_that_asks_for_other_things_each_time_is_found() -> None:
    with pytest.raises(FlowBroken, match="without the fault it returned"):
        crash_sweep(flows.takes_a_new_number, 1)
    with pytest.raises(FlowBroken, match="diverged"):
        crash_sweep(flows.takes_a_new_number, 1, only=Crash(3))


def test_a_side_effect_in_the_body_is_found() -> None:
    with pytest.raises(FlowBroken, match="check failed"):
        crash_sweep(flows.writes_from_its_body, 1, setup=flows.new_world, check=charged_once)


def test_a_check_that_never_holds_is_told_of_the_run_without_faults() -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.value == 13

    with pytest.raises(FlowBroken, match="two_steps, without any fault: check failed"):
        crash_sweep(flows.two_steps, 3, check=check)


@pytest.mark.parametrize(
    ("runner", "flow"),
    [(SyncRunner, flows.two_steps), (AsyncRunner, flows.two_steps_async)],
)
def test_an_engine_that_runs_bodies_after_their_record_is_found(
    runner: Any, flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = runner._request

    def forgetful(self: Any, call: Any, *more: Any, **others: Any) -> Any:
        recorded = self.history.log.pop(call.path, None)
        if recorded is not None:
            self.history.order.remove(recorded)
        return request(self, call, *more, **others)

    monkeypatch.setattr(runner, "_request", forgetful)
    with pytest.raises(FlowBroken, match="ran again after its outcome was recorded"):
        crash_sweep(flow, 3)


@pytest.mark.parametrize("flow", [flows.two_steps, flows.two_steps_async])
def test_a_journal_that_does_not_look_at_leases_is_found(
    flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its class, which others import by its public names only.
    journal = type(asyncio.run(open_journal("memory://")))
    monkeypatch.setattr(journal, "_holds", lambda self, lease: True)
    with pytest.raises(FlowBroken, match="another process takes over"):
        crash_sweep(flow, 3, pairs=0)


@pytest.mark.parametrize("runner", [SyncRunner, AsyncRunner])
def test_an_engine_that_forgets_what_failed_is_found(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kitaru.engine.history import History, Tried

    flow = flows.everything if runner is SyncRunner else flows.everything_async
    monkeypatch.setattr(History, "attempts_of", lambda self, path: Tried())
    with pytest.raises(FlowBroken):
        # What may run only once is run again, as nobody knows of its lost attempt.
        crash_sweep(
            flow,
            1,
            answers={"approve": True},
            setup=flows.new_world,
            check=lambda outcome: paid_once(),
            pairs=0,
        )


def paid_once() -> None:
    assert flows.WORLD.count("pay 1") == 1, flows.WORLD


def test_an_engine_whose_status_lies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(state: Any) -> Any:
        change = head_of(state)
        return HeadChange(change.state, "another flow", change.due_at)

    head_of = executions.head_of
    monkeypatch.setattr(executions, "head_of", lying)
    with pytest.raises(FlowBroken, match="its status says"):
        crash_sweep(flows.two_steps, 3, pairs=0)


def test_each_law_tells_of_a_journal_that_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = Rehearsal(flows.two_steps, (3,), {})
    run = run_apart(rehearsal.run)
    head = head_for(run.recorded)
    assert broken_laws(run.recorded, head) == []
    changed = (*run.recorded[:1], replace(run.recorded[1], payload=b"{}"), *run.recorded[2:])
    assert all("damaged" in law for law in broken_laws(changed, head))
    assert broken_laws(changed, head)
    monkeypatch.setattr(laws, "verify_stream", lambda recorded, head: [])
    older = [replace(fact, epoch=9 - fact.version) for fact in run.recorded]
    assert any("after owner" in law for law in broken_laws(older, head))
    twice = (*run.recorded[:2], *run.recorded[1:])
    assert any("'double' has 2 recorded outcomes" in law for law in broken_laws(twice, head))
    twice = (*run.recorded, run.recorded[-1])
    told = broken_laws(twice, head)
    assert "the execution has ended 2 times" in told
    assert "event 4 was written after the execution had ended" in told


def head_for(recorded: Any) -> Head:
    change = executions.head_of(executions.state_of(recorded))
    last = recorded[-1]
    return Head(
        stream=last.stream,
        category="execution",
        version=last.version,
        hash=last.hash,
        state=change.state,
        name=change.name,
        due_at=change.due_at,
        parent=change.parent,
        summary=change.summary,
        created_at=0,
        updated_at=0,
        owner=None,
        epoch=last.epoch,
        lease_until=0,
        anchor_version=last.version,
        anchor_hash=last.hash,
    )


# what is refused


def test_only_flows_are_swept() -> None:
    with pytest.raises(KitaruUsageError, match="needs a @flow"):
        crash_sweep(flows.double, 1)  # type: ignore[arg-type]


def test_a_fault_before_the_first_event_is_refused() -> None:
    with pytest.raises(KitaruUsageError, match="from 1 on"):
        crash_sweep(flows.two_steps, 1, only=Crash(0))


def test_a_wait_without_an_answer_is_named() -> None:
    with pytest.raises(NothingHappens) as nothing:
        crash_sweep(flows.waits_for_somebody, 1)
    assert "answers={'go on': ...}" in str(nothing.value)
    assert "waits for go on" in str(nothing.value)


def test_a_body_that_never_ends_is_named() -> None:
    import threading

    gate = threading.Event()
    try:
        with pytest.raises(NothingHappens, match="still runs: double"):
            # Not long, for a body that waits for what never comes.
            crash_sweep(
                flows.two_steps,
                1,
                script={"double": lambda number: gate.wait(20)},
                patience_seconds=0.3,
            )
    finally:
        gate.set()
