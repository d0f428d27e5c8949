"""Runs a flow with drawn inputs and faults, shrinks what breaks it, and keeps it as a file."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from kitaru.domain.execution.events import SourceReference
from kitaru.engine.codec import Codec
from kitaru.engine.schema import plain_json
from kitaru.engine.source import load_flow
from kitaru.errors import KitaruUsageError
from kitaru.testing.bodies import Bodies, StandIn
from kitaru.testing.errors import FlowBroken, NothingHappens, ReproductionUnusable
from kitaru.testing.extra import needed
from kitaru.testing.fault import AnyFault, Reorder, code_of
from kitaru.testing.rehearsal import Answers, Outcome, Run, is_flow
from kitaru.testing.strategies import faults as drawn_faults
from kitaru.testing.strategies import reached
from kitaru.testing.sweep import Check, Scene, Setup
from kitaru.testing.world import PATIENCE_SECONDS, AnyFlow

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

FOLDER = Path(".kitaru") / "failures"
FORMAT = 1
BEYOND_THE_END = 3
"""How many events beyond those of a run without faults a fault is drawn at: crashes add some."""
ADDED_AT_MOST = 3
"""How many events, or choices of an order, a fault is taken to add."""


class Reproduction(Struct, frozen=True, kw_only=True):
    """What a failure is kept as: data only."""

    format: int
    flow: SourceReference
    name: str
    arguments: msgspec.Raw
    """By parameter name, in the codec's JSON."""
    answers: dict[str, Any]
    faults: tuple[AnyFault, ...]
    needs: tuple[str, ...] = ()
    """What the test had beside them, which cannot be kept: ``setup``, ``check``, ``script``."""
    same_outcome: bool = True
    problem: str
    timeline: str


class CheckReport(Struct, frozen=True):
    """What `check_flow` has tried, and found well."""

    flow: str
    runs: int
    """Runs with faults."""
    faults: dict[str, int]
    """How many faults of each kind have come to pass."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return f"{self.flow}: {self.runs} runs, in which came to pass: {kinds or 'no faults'}"


def check_flow(
    flow: AnyFlow,
    /,
    *,
    inputs: "SearchStrategy[Any] | None" = None,
    faults: "SearchStrategy[list[AnyFault]] | None" = None,
    answers: Answers | None = None,
    script: Mapping[str, StandIn] | None = None,
    setup: Setup | None = None,
    check: Check | None = None,
    same_outcome: bool = True,
    max_examples: int | None = None,
    failures: Path | str = FOLDER,
    patience_seconds: float = PATIENCE_SECONDS,
) -> CheckReport:
    """Runs a flow again and again, with other inputs and faults each time, and judges each run.

    `inputs` draws the flow's arguments: a tuple of them, a dict by name, or the only one. `faults`
    draws lists of faults; by default all kinds (see `kitaru.testing.faults`), at any event of the
    run without them. `answers`, `script`, `setup` and `check` are those of `crash_sweep`. With
    `same_outcome`, a run must come to what the same input comes to without faults; set it to False
    when faults may change the outcome, and say with `check` what must be true.

    Raises FlowBroken, an AssertionError, for the smallest input and list of faults that hypothesis
    finds, with the timeline, and the path of a file in the folder `failures` that `reproduce` does
    again. hypothesis' own settings hold, but for its deadline. Raises KitaruUsageError without
    hypothesis.
    """
    if not is_flow(flow):
        raise KitaruUsageError(f"check_flow() needs a @flow, not {flow!r}.")
    needed("hypothesis", "kitaru.testing.check_flow()")
    bodies = Bodies()
    bodies.stand_ins.update(script or {})
    scene = Scene(flow, (), {}, dict(answers or {}), bodies, setup, check, patience_seconds)
    checking = _Checking(scene, inputs, faults, same_outcome)
    return checking.run(max_examples, Path(failures))


class _Failed(AssertionError):
    """One run that went wrong; hypothesis shrinks it."""

    def __init__(self, scene: Scene, faults: Sequence[AnyFault], problem: str, text: str) -> None:
        super().__init__(problem)
        self.scene = scene
        self.faults = tuple(faults)
        self.problem = problem
        self.text = text


class _Checking:
    def __init__(
        self,
        scene: Scene,
        inputs: "SearchStrategy[Any] | None",
        faults: "SearchStrategy[list[AnyFault]] | None",
        same_outcome: bool,
    ) -> None:
        self.scene = scene
        self.inputs = inputs
        self.faults = faults
        self.same_outcome = same_outcome
        self.references: dict[bytes, Run] = {}
        self.runs = 0
        self.kinds: dict[str, int] = {}

    def run(self, max_examples: int | None, folder: Path) -> CheckReport:
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        examples = settings().max_examples if max_examples is None else max_examples
        inputs = st.just(()) if self.inputs is None else self.inputs
        strategy = drawn_faults() if self.faults is None else self.faults

        def law(drawn: Any, data: Any) -> None:
            scene = with_inputs(self.scene, drawn)
            reference = self._reference(scene)
            before = reached.set(len(reference.recorded) + BEYOND_THE_END)
            try:
                drawn_now = data.draw(strategy)
            finally:
                reached.reset(before)
            self._try(scene, drawn_now, reference)

        # hypothesis finds what failed before by the name of what it runs.
        law.__name__ = f"check_{self.scene.flow.name}"
        how = settings(
            max_examples=examples,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        try:
            how(given(drawn=inputs, data=st.data())(law))()
        except _Failed as failed:
            raise self._broken(self.smaller(failed), folder) from None
        return CheckReport(self.scene.flow.name, self.runs, self.kinds)

    def _reference(self, scene: Scene) -> Run:
        """The run of the same input without faults."""
        key = encoded_arguments(scene)
        known = self.references.get(key)
        if known is None:
            known = self.references[key] = self._judged(scene, (), None)
        return known

    def _try(self, scene: Scene, faults: Sequence[AnyFault], reference: Run) -> None:
        run = self._judged(scene, faults, reference.outcome if self.same_outcome else None)
        self.runs += 1
        for fault in run.happened:
            kind = type(fault).__name__
            self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def smaller(self, failed: _Failed) -> _Failed:
        """A failure with fewer faults, if there is one that hypothesis does not come to.

        It leaves out a fault or makes others earlier, one at a time. Where a fault adds events to
        the journal, or a choice of an order, it takes both to be without it.
        """
        if not failed.faults:
            # It fails without any: there is no run to compare with.
            return failed
        reference = self._reference(failed.scene)
        for left_out in range(len(failed.faults)):
            rest = (*failed.faults[:left_out], *failed.faults[left_out + 1 :])
            for by in range(1, ADDED_AT_MOST + 1):
                try:
                    self._try(failed.scene, [_earlier(fault, by) for fault in rest], reference)
                except _Failed as found:
                    return self.smaller(found)
        return failed

    def _judged(self, scene: Scene, faults: Sequence[AnyFault], reference: Outcome | None) -> Run:
        try:
            run = scene.play(faults)
        except NothingHappens as error:
            raise _Failed(scene, faults, "the flow does not end", str(error)) from error
        problem = scene.judge(run, reference)
        if problem:
            raise _Failed(scene, faults, problem, run.timeline)
        return run

    def _broken(self, failed: _Failed, folder: Path) -> FlowBroken:
        scene = failed.scene
        befallen = [f"  - {fault}   {code_of(fault)}" for fault in failed.faults]
        file = saved(failed, folder, self.same_outcome)
        lines = [
            f"{scene.flow.name}: {failed.problem}",
            f"arguments: {_shown(scene)}",
            "faults, as few as there need be:" if befallen else "without any fault",
            *befallen,
            failed.text,
            f"To do it again: kitaru.testing.reproduce({str(file)!r}{_more(scene)})",
        ]
        return FlowBroken("\n".join(lines))


def _earlier(fault: AnyFault, by: int) -> AnyFault:
    if isinstance(fault, Reorder):
        # What was left out had a choice of its own.
        return Reorder(fault.picks[by:]) if len(fault.picks) > by else fault
    at = getattr(fault, "at", None)
    return fault if at is None or at <= by else msgspec.structs.replace(fault, at=at - by)


def with_inputs(scene: Scene, drawn: Any) -> Scene:
    """The scene with drawn arguments: a tuple of them, a dict by name, or the only one."""
    if isinstance(drawn, tuple):
        return msgspec.structs.replace(scene, args=drawn, kwargs={})
    if isinstance(drawn, dict):
        return msgspec.structs.replace(scene, args=(), kwargs=drawn)
    return msgspec.structs.replace(scene, args=(drawn,), kwargs={})


def encoded_arguments(scene: Scene) -> bytes:
    """The flow's arguments by name, in the codec's JSON."""
    definition = scene.flow.definition
    named = definition.binder.name_all(scene.args, scene.kwargs)
    return Codec().encode(named, where="arguments", types=definition.types)


def saved(failed: _Failed, folder: Path, same_outcome: bool) -> Path:
    """Writes a failure down, and gives the file."""
    scene = failed.scene
    kept = Reproduction(
        format=FORMAT,
        flow=scene.flow.reference,
        name=scene.flow.name,
        arguments=msgspec.Raw(encoded_arguments(scene)),
        answers={name: plain_json(it) for name, it in scene.answers.items() if not callable(it)},
        faults=failed.faults,
        needs=_needs(scene),
        same_outcome=same_outcome,
        problem=failed.problem,
        timeline=failed.text,
    )
    data = msgspec.json.format(msgspec.json.encode(kept), indent=2)
    what = msgspec.json.encode([kept.name, kept.arguments, kept.faults])
    file = folder / f"{kept.name}-{hashlib.sha256(what).hexdigest()[:8]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def _needs(scene: Scene) -> tuple[str, ...]:
    given = {
        "setup": scene.setup is not None,
        "check": scene.check is not None,
        "script": bool(scene.bodies.stand_ins),
        "answers": any(map(callable, scene.answers.values())),
    }
    return tuple(name for name, is_given in given.items() if is_given)


def _more(scene: Scene) -> str:
    return "".join(f", {name}=..." for name in _needs(scene))


def _shown(scene: Scene) -> str:
    named = scene.flow.definition.binder.name_all(scene.args, scene.kwargs)
    return ", ".join(f"{name}={value!r}" for name, value in named.items()) or "none"


def reproduce(
    file: Path | str,
    *,
    flow: AnyFlow | None = None,
    answers: Answers | None = None,
    script: Mapping[str, StandIn] | None = None,
    setup: Setup | None = None,
    check: Check | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Run:
    """Does again what `check_flow` has saved, with today's code; returns the run if all is well.

    `flow` is the flow when its code is no longer where it was. What cannot be kept in a file has to
    be given as it was given to the test: `setup`, `check`, `script`, and answers that are
    functions. Raises FlowBroken when the flow still breaks, ReproductionUnusable for a file that
    holds something else, KitaruUsageError when something needed is not given, or when the flow
    cannot be loaded.
    """
    kept = _read(Path(file))
    given = {"answers": answers, "script": script, "setup": setup, "check": check}
    missing = [f"{name}=" for name in kept.needs if given[name] is None]
    if missing:
        raise KitaruUsageError(
            f"{file} was saved by a test that had {', '.join(missing)}: give the same."
        )
    loaded: AnyFlow = load_flow(kept.flow) if flow is None else flow
    if not is_flow(loaded):
        raise KitaruUsageError(f"reproduce() needs a @flow, not {loaded!r}.")
    named = Codec().decode(kept.arguments, loaded.definition.types)
    args, kwargs = loaded.definition.binder.spread(named)
    bodies = Bodies()
    bodies.stand_ins.update(script or {})
    scene = Scene(
        loaded,
        tuple(args),
        kwargs,
        {**kept.answers, **(answers or {})},
        bodies,
        setup,
        check,
        patience_seconds,
    )
    try:
        reference = scene.play([]).outcome if kept.same_outcome and kept.faults else None
        run = scene.play(kept.faults)
    except NothingHappens as error:
        raise FlowBroken(f"{kept.name}: the flow does not end: {error}") from error
    problem = scene.judge(run, reference)
    if problem:
        befallen = "\n".join(f"  - {fault}" for fault in kept.faults)
        raise FlowBroken(f"{kept.name}: {problem}\n{befallen}\n{run.timeline}")
    return run


def _read(file: Path) -> Reproduction:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ReproductionUnusable(f"{file} cannot be read: {error}") from error
    try:
        kept = msgspec.json.decode(data, type=Reproduction)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReproductionUnusable(f"{file} is no saved failure of a flow: {error}") from error
    if kept.format != FORMAT:
        raise ReproductionUnusable(
            f"{file} has format {kept.format}, and this version of Kitaru reads format {FORMAT}."
        )
    return kept
