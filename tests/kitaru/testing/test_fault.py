"""The laws of the small parts: faults as text, the clock, timelines, processes."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import kitaru.testing
from journal import CommitOutcomeUnknown, JournalUnavailable, open_journal
from kitaru.engine.executions import stream_of
from kitaru.errors import KitaruUsageError
from kitaru.testing.bodies import Bodies, Scripted, always, never
from kitaru.testing.clock import START, StillClock, instant_of, microseconds_of
from kitaru.testing.fate import Destiny
from kitaru.testing.fault import (
    AnyFault,
    ClockJump,
    Crash,
    LostNews,
    Reorder,
    TakeOver,
    Twice,
    check_faults,
    code_of,
)
from kitaru.testing.process import NoFate, Process, end_lease, usurp
from kitaru.testing.rehearsal import Rehearsal, run_apart
from kitaru.testing.timeline import shortened, timeline_text
from tests.kitaru.testing import flows

ALL: list[AnyFault] = [
    Crash(3),
    Crash(3, late=True),
    TakeOver(2),
    LostNews(4),
    Twice(0),
    Twice(2),
    Reorder((1, 0)),
    ClockJump(2, -3600.0),
]


@pytest.mark.parametrize("fault", ALL, ids=code_of)
def test_a_fault_is_written_as_python_reads_it(fault: AnyFault) -> None:
    assert eval(code_of(fault), vars(kitaru.testing.fault)) == fault
    assert str(fault)


@pytest.mark.parametrize("fault", [Crash(0), TakeOver(-1), Crash(True), ClockJump(10**9, 1.0), 3])
def test_what_can_never_happen_is_refused(fault: Any) -> None:
    with pytest.raises(KitaruUsageError):
        check_faults((fault,))


def test_the_clock_is_elsewhere_for_one_thread_and_a_while() -> None:
    clock = StillClock()
    assert instant_of(clock()) == START
    with clock.at(5):
        assert clock() == 5
    clock.move_to(clock() + 1)
    assert instant_of(clock()) == START + timedelta(microseconds=1)
    assert microseconds_of(instant_of(12_345)) == 12_345


def test_sequences_begin_anew_in_each_run() -> None:
    bodies = Bodies()
    bodies.stand_ins["fetch"] = script = Scripted("fetch", [always(1), always(2)])
    assert [script(), script()] == [1, 2]
    with pytest.raises(AssertionError, match="once more"):
        script()
    again: Any = bodies.from_the_beginning().stand_ins["fetch"]
    assert again() == 1


def test_never_is_not_for_calling() -> None:
    with pytest.raises(AssertionError, match="not to be called"):
        never()


def test_a_dead_process_reaches_no_journal() -> None:
    async def scene() -> None:
        clock = StillClock()
        process = Process(1, await open_journal("memory://", clock=clock), clock, NoFate())
        assert await process.heads_of_nothing() == []
        process.die()
        with pytest.raises(JournalUnavailable):
            await process.read_stream("execution-1")

    async def heads_of_nothing(self: Process) -> list[Any]:
        found: list[Any] = await self.journal.read_stream("execution-1")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "heads_of_nothing", heads_of_nothing, raising=False)
        asyncio.run(scene())


def test_a_commit_that_its_process_does_not_survive_is_there_nevertheless() -> None:
    rehearsal = Rehearsal(flows.two_steps, (3,), {}, faults=[Crash(1)])
    run = run_apart(rehearsal.run)
    assert run.processes == 2
    assert run.happened == (Crash(1),)
    assert [fact.type for fact in run.recorded[:2]] == ["execution_started", "execution_recovered"]


def test_leases_end_and_are_taken_without_any_time_passing() -> None:
    async def scene() -> None:
        from journal import Append, Claim, ClaimQuery, HeadChange, NewEvent, StaleLease

        clock = StillClock()
        journal = await open_journal("memory://", clock=clock)
        stream = stream_of("1")
        appended = await journal.append(
            Append(
                stream=stream,
                events=(NewEvent("x", b"{}"),),
                expected_version=0,
                head=HeadChange("running", "f", 0),
                claim=Claim("first", 30.0),
            )
        )
        query = ClaimQuery(category="execution", names=("f",), claim=Claim("next", 30.0))
        assert await journal.claim(query) == []
        now = clock()
        head = journal.head_blocking(stream)
        assert head is not None
        end_lease(journal, clock, head)
        ((_, lease),) = await journal.claim(query)
        usurp(journal, clock, stream, "somebody")
        ((before, _),) = await journal.claim(query)
        assert before.owner == "somebody"
        assert clock() == now
        for stale in (appended.lease, lease):
            with pytest.raises(StaleLease):
                await journal.append(
                    Append(
                        stream=stream,
                        events=(NewEvent("x", b"{}"),),
                        expected_version=1,
                        lease=stale,
                    )
                )

    asyncio.run(scene())


def test_picks_go_by_the_order_of_paths() -> None:
    destiny = Destiny("execution-1", [Reorder((1, 4))])
    assert destiny.pick(["c", "a", "b"]) == 2
    assert destiny.pick(["c"]) == 0
    assert destiny.pick(["c", "a"]) == 1
    assert destiny.pick(["c", "a"]) == 1
    assert destiny.happened == [Reorder((1, 4))]


def test_a_timeline_tells_times_owners_calls_and_values() -> None:
    run = run_apart(
        Rehearsal(flows.everything, (1,), {}, answers={"approve": True}, faults=[Crash(4)]).run
    )
    text = timeline_text(run.recorded, marked=4)
    assert "execution of everything started (number=1)" in text
    assert "─── here ───" in text
    assert "+30d" in text
    assert "client    approve" in text
    assert "owner 2" in text
    assert "taken over from process 1, which had died" in text
    assert shortened("x" * 100) == "x" * 59 + "…"


def test_unknown_outcomes_are_what_a_dying_writer_is_told() -> None:
    async def scene() -> None:
        from journal import Append, HeadChange, NewEvent

        clock = StillClock()
        journal = await open_journal("memory://", clock=clock)
        destiny = Destiny(stream_of("1"), [Crash(1)])
        process = Process(1, journal, clock, destiny)
        destiny.serving = process
        append = Append(
            stream=stream_of("1"),
            events=(NewEvent("metadata_logged", b'{"metadata":{}}'),),
            expected_version=0,
            head=HeadChange("running", "f", 0),
        )
        with pytest.raises(CommitOutcomeUnknown):
            process.append_blocking(append)
        assert len(await journal.read_stream(stream_of("1"))) == 1

    asyncio.run(scene())
