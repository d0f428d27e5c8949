"""Crashes a flow after every event that it records, and sees that it comes to the same."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from kitaru.errors import KitaruUsageError
from kitaru.testing.bodies import Bodies, StandIn
from kitaru.testing.errors import FlowBroken, NothingHappens
from kitaru.testing.fault import AnyFault, Crash, TakeOver, code_of
from kitaru.testing.rehearsal import Answers, Outcome, Rehearsal, Run, is_flow, run_apart
from kitaru.testing.runtime import Ran
from kitaru.testing.world import PATIENCE_SECONDS, AnyFlow

Setup = Callable[[], object]
Check = Callable[[Outcome], object]


class SweepReport(Struct, frozen=True):
    """What a crash sweep has tried, and found well."""

    flow: str
    outcome: Outcome
    """What the flow comes to, with and without crashes."""
    events: int
    """How many events the run without crashes has recorded."""
    boundaries: int
    """After how many of its appends the process was killed: after each but the last."""
    single_crashes: int
    """Runs with one crash: at each boundary at once, and late."""
    take_overs: int
    """Runs in which another process takes over while the first still runs: at each boundary."""
    double_crashes: int
    """Runs with a second crash after the first."""
    possible_double_crashes: int
    """How many pairs there were to choose from."""
    seed: int
    """What the pairs were chosen with, when there were too many."""
    reviews: int
    """How often a lost attempt of a checkpoint that may run only once was reviewed."""

    def __str__(self) -> str:
        chosen = ""
        if self.double_crashes < self.possible_double_crashes:
            chosen = f" of {self.possible_double_crashes}, chosen with seed {self.seed}"
        return (
            f"{self.flow}: {self.boundaries} boundaries, {self.single_crashes} runs with one "
            f"crash, {self.double_crashes} with two{chosen}, {self.take_overs} with a take-over; "
            f"the same outcome each time: {self.outcome}"
        )


class Scene(Struct, frozen=True):
    """A flow under test, and all that a run of it needs."""

    flow: AnyFlow
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answers: dict[str, Any]
    bodies: Bodies
    setup: Setup | None
    check: Check | None
    patience_seconds: float

    def play(self, faults: Sequence[AnyFault]) -> Run:
        """One run. Raises NothingHappens."""
        if self.setup is not None:
            self.setup()
        return run_apart(
            Rehearsal(
                self.flow,
                self.args,
                self.kwargs,
                faults=faults,
                answers=self.answers,
                bodies=self.bodies.from_the_beginning(),
                patience_seconds=self.patience_seconds,
            ).run
        )

    def judge(self, run: Run, reference: Outcome | None) -> str:
        """What is wrong with a run; empty: nothing."""
        if run.problems:
            return "; ".join(run.problems)
        if reference is not None and not run.outcome.is_same(reference):
            return f"the flow {run.outcome}\n  without the fault it {reference}"
        if self.check is None:
            return ""
        try:
            self.check(run.outcome)
        except AssertionError as error:
            return f"check failed: {error or 'an assertion of it does not hold'}"
        return ""


def crash_sweep(
    flow: AnyFlow,
    /,
    *args: Any,
    answers: Answers | None = None,
    script: Mapping[str, StandIn] | None = None,
    setup: Setup | None = None,
    check: Check | None = None,
    pairs: int = 100,
    seed: int = 0,
    only: AnyFault | Sequence[AnyFault] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    **kwargs: Any,
) -> SweepReport:
    """Runs a flow without a fault, then crashes it at every boundary, then twice.

    A boundary lies between two appends to its journal. At each, the process is killed at once (the
    event is recorded, and nothing after it happens) and late (what leads to the next event, such as
    a checkpoint's body, has happened and is not recorded); then another process takes over. In more
    runs one takes over while the first still runs. Then come runs with two crashes: all of them, or
    `pairs` of them, chosen with `seed`. Each run has a
    journal in memory, a clock that stands still but for what the flow waits for, and reuses no
    results of other executions.

    `answers` are given to the flow's waits, by id or name; one that can be called is called for its
    value. `script` has stand-ins for checkpoints, by path or name. `setup` is called before each
    run: it makes new what bodies write into. `check` is called after each with the `Outcome`, and
    raises AssertionError for what must not be. `only` plays these faults and no others.
    `args` and `kwargs` are the flow's own.

    Each time the flow must come to the same outcome; no checkpoint's body may run after its outcome
    was recorded; the journal's chain must hold, and status must be what the events say. Raises
    FlowBroken, an AssertionError, when something of this does not hold, with the boundary, the
    timeline and the call that does it again; NothingHappens when a run does not come to an end.
    """
    if not is_flow(flow):
        raise KitaruUsageError(f"crash_sweep() needs a @flow, not {flow!r}.")
    bodies = Bodies()
    bodies.stand_ins.update(script or {})
    scene = Scene(flow, args, kwargs, dict(answers or {}), bodies, setup, check, patience_seconds)
    return _Sweep(scene).run(only, pairs, seed)


def sweep_again(ran: Ran, script: Mapping[str, StandIn], pairs: int) -> SweepReport:
    """Sweeps a flow that a test has run, as the test has run it."""
    bodies = Bodies()
    bodies.stand_ins.update(script)
    scene = Scene(ran.flow, ran.args, ran.kwargs, ran.answers, bodies, None, None, PATIENCE_SECONDS)
    return _Sweep(scene).run(None, pairs, 0)


class _Sweep:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.reviews = 0

    def run(self, only: AnyFault | Sequence[AnyFault] | None, pairs: int, seed: int) -> SweepReport:
        reference = self.scene.play([])
        self._judge(reference, None, [])
        boundaries = reference.boundaries
        singles = list(_crashes(boundaries, 0))
        if only is not None:
            chosen = [only] if isinstance(only, AnyFault) else list(only)
            self._try(chosen, reference)
            return self._report(reference, singles=0, stolen=0, doubles=0, possible=0, seed=seed)
        possible: list[tuple[Crash, Crash]] = []
        for crash in singles:
            run = self._try([crash], reference)
            # What a second crash can come after is known from how the first one was survived.
            possible += [(crash, second) for second in _crashes(run.boundaries, crash.at)]
        for version in boundaries:
            self._try([TakeOver(version)], reference)
        chosen_pairs = possible
        if len(possible) > pairs:
            chosen_pairs = random.Random(seed).sample(possible, max(0, pairs))  # noqa: S311
        for pair in chosen_pairs:
            self._try(pair, reference)
        return self._report(
            reference,
            singles=len(singles),
            stolen=len(boundaries),
            doubles=len(chosen_pairs),
            possible=len(possible),
            seed=seed,
        )

    def _try(self, faults: Sequence[AnyFault], reference: Run) -> Run:
        try:
            run = self.scene.play(faults)
        except NothingHappens as error:
            raise FlowBroken(self._told(faults, f"the flow does not end: {error}")) from error
        self.reviews += run.reviews
        self._judge(run, reference.outcome, faults)
        return run

    def _judge(self, run: Run, reference: Outcome | None, faults: Sequence[AnyFault]) -> None:
        problem = self.scene.judge(run, reference)
        if problem:
            marked = next((fault.at for fault in faults if isinstance(fault, Crash | TakeOver)), 0)
            timeline = run.marked_timeline(marked)
            raise FlowBroken(f"{self._told(faults, problem)}\n{timeline}")

    def _told(self, faults: Sequence[AnyFault], problem: str) -> str:
        name = self.scene.flow.name
        if not faults:
            return f"{name}, without any fault: {problem}"
        return (
            f"{name}, where {', and '.join(map(str, faults))}:\n  {problem}\n"
            f"To do it again: crash_sweep({name}, ..., only=[{', '.join(map(code_of, faults))}])"
        )

    def _report(
        self,
        reference: Run,
        *,
        singles: int,
        stolen: int,
        doubles: int,
        possible: int,
        seed: int,
    ) -> SweepReport:
        return SweepReport(
            flow=self.scene.flow.name,
            outcome=reference.outcome,
            events=len(reference.recorded),
            boundaries=len(reference.boundaries),
            single_crashes=singles,
            take_overs=stolen,
            double_crashes=doubles,
            possible_double_crashes=possible,
            seed=seed,
            reviews=self.reviews,
        )


def _crashes(boundaries: Sequence[int], after: int) -> Iterator[Crash]:
    for version in boundaries:
        if version > after:
            yield Crash(version)
            yield Crash(version, late=True)
