"""The port: both backends fit it, and answer every history of calls with the same bytes."""

import asyncio
import inspect
import tempfile
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from journal import (
    Append,
    Appended,
    Claim,
    ClaimQuery,
    HeadChange,
    HeadQuery,
    Journal,
    JournalError,
    Lease,
    NewEvent,
    open_journal,
    verify_stream,
)
from journal.backends.in_memory import InMemoryJournal
from journal.backends.sqlite.journal import SqliteJournal

T = TypeVar("T")

fits: list[type[Journal]] = [InMemoryJournal, SqliteJournal]

identities = st.sampled_from(["ex-1", "ex-2", "ex-%", "other-1"])
names = st.sampled_from(["order", "ship"])
routes = st.sampled_from(["", "here", "there", "%"])
owners = st.sampled_from(["me", "you"])
seconds = st.sampled_from([0.0, 1.0, 10.0])
new_events = st.builds(
    NewEvent, st.sampled_from(["Began", "Ended"]), st.binary(max_size=20), st.integers(1, 3)
)
instants = st.none() | st.integers(-2, 30).map(lambda s: 1_000_000 * s)
head_changes = st.builds(
    HeadChange,
    state=st.sampled_from(["running", "done"]),
    name=names,
    due_at=instants,
    parent=st.none() | identities,
    summary=st.binary(max_size=5),
    route=routes,
)
claims = st.builds(Claim, owners, seconds)


@pytest.mark.parametrize("backend", fits)
def test_a_backend_takes_what_the_port_says(backend: type[Journal]) -> None:
    """By the same names, and where nothing is given by the same defaults."""

    def shape(method: Any) -> list[tuple[Any, ...]]:
        given = inspect.signature(method).parameters.values()
        return [(each.name, each.kind, each.default) for each in given]

    for name, method in vars(Journal).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert shape(getattr(backend, name)) == shape(method), name


async def test_a_journal_in_memory_is_at_no_place_of_a_file() -> None:
    journal = await open_journal("memory://")
    assert journal.location == "memory://"
    await journal.close()


class Difference(RuleBasedStateMachine):
    """The same calls to both journals, with the same clock, must have the same results."""

    def __init__(self) -> None:
        super().__init__()
        self.microseconds = 0
        self.leases: list[Lease] = []
        self.versions: dict[str, int] = {}

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.journals = [
            self.runner.run(open_journal(url, clock=lambda: self.microseconds))
            for url in ("memory://", f"sqlite:///{self.folder.name}/journal.db")
        ]

    def teardown(self) -> None:
        for journal in self.journals:
            self.runner.run(journal.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, call: Any) -> Any:
        results = [self.result(call(journal)) for journal in self.journals]
        assert results[0] == results[1]
        return results[0]

    def result(self, call: Coroutine[Any, Any, T]) -> T | tuple[Any, ...]:
        async def run() -> T:
            return await call

        try:
            return self.runner.run(run())
        except JournalError as error:
            facts = sorted(error.__dict__.items())
            return (type(error).__name__, str(error), tuple(facts))

    @rule(
        stream=identities,
        events=st.lists(new_events, max_size=3).map(tuple),
        head=st.none() | head_changes,
        behind=st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
        lease=st.none() | st.integers(0, 30),
        claim=st.none() | claims,
        release=st.booleans(),
        blobs=st.lists(st.binary(max_size=3), max_size=1).map(tuple),
        blocking=st.booleans(),
    )
    def append(
        self,
        stream: str,
        events: tuple[NewEvent, ...],
        head: HeadChange | None,
        behind: int,
        lease: int | None,
        claim: Claim | None,
        release: bool,
        blobs: tuple[bytes, ...],
        blocking: bool,
    ) -> None:
        held = [known for known in self.leases if known.stream == stream]
        append = Append(
            stream,
            events,
            self.versions.get(stream, 0) - behind,
            head,
            held[lease % len(held)] if lease is not None and held else None,
            claim,
            release and lease is not None and bool(held) and claim is None,
            blobs,
        )

        async def call(journal: Journal) -> Appended:
            return journal.append_blocking(append) if blocking else await journal.append(append)

        appended = self.both(call)
        if isinstance(appended, Appended):
            self.versions[stream] = appended.version
            if appended.lease is not None:
                self.leases.append(appended.lease)

    @rule(
        claim=claims,
        wanted=st.none() | st.lists(names, max_size=2),
        limit=st.integers(0, 3),
        stream=st.none() | identities,
        category=st.sampled_from(["ex", "other"]),
        on=st.lists(routes, max_size=3),
    )
    def claim(
        self,
        claim: Claim,
        wanted: list[str] | None,
        limit: int,
        stream: str | None,
        category: str,
        on: list[str],
    ) -> None:
        query = ClaimQuery(
            category=category, names=wanted, claim=claim, limit=limit, stream=stream, routes=on
        )
        taken = self.both(lambda journal: journal.claim(query))
        self.leases += [lease for _, lease in taken]

    @rule(number=st.integers(0, 30), duration=seconds)
    def renew(self, number: int, duration: float) -> None:
        leases = self.leases[-1 - number % 5 :]

        async def call(journal: Journal) -> list[Lease]:
            return journal.renew_blocking(leases, duration)

        self.both(call)

    @rule(number=st.integers(0, 30))
    def release(self, number: int) -> None:
        if self.leases:
            lease = self.leases[number % len(self.leases)]
            self.both(lambda journal: journal.release(lease))

    @rule(duration=seconds)
    def wait(self, duration: float) -> None:
        self.microseconds += round(duration * 1_000_000)

    @rule(
        states=st.lists(st.sampled_from(["running", "done"]), max_size=2),
        wanted=st.lists(names, max_size=2),
        prefix=st.sampled_from(["", "ex-", "ex-%", "ex-\U0010ffff", "e", "o"]),
        limit=st.integers(-1, 4),
        cursor=st.none() | identities,
        parent=st.none() | identities,
        route_prefix=st.sampled_from(["", "h", "here", "%"]),
        claimable_at=instants,
    )
    def list_heads(
        self,
        states: list[str],
        wanted: list[str],
        prefix: str,
        limit: int,
        cursor: str | None,
        parent: str | None,
        route_prefix: str,
        claimable_at: int | None,
    ) -> None:
        query = HeadQuery(
            category="ex",
            states=states,
            names=wanted,
            stream_prefix=prefix,
            limit=limit,
            cursor=cursor,
            parent=parent,
            route_prefix=route_prefix,
            claimable_at=claimable_at,
        )
        self.both(lambda journal: journal.heads(query))

    @invariant()
    def everything_is_the_same(self) -> None:
        if not hasattr(self, "journals"):
            return
        events = self.both(lambda journal: journal.read_all())
        for stream in self.versions:
            read = self.both(lambda journal, stream=stream: journal.read_stream(stream))
            head = self.both(lambda journal, stream=stream: journal.head(stream))
            assert read == [event for event in events if event.stream == stream]
            assert verify_stream(read, head=head) == []


TestDifference = Difference.TestCase
TestDifference.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
