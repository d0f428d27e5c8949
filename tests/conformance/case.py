"""Conformance cases: what a YAML file may say, and the refusal of everything else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml
from msgspec import Struct

from tests import modes

FOLDER = Path(__file__).parent
COLOURS: tuple["Colour", ...] = ("async", "sync")
Colour = Literal["async", "sync"]
MAIN = "main"
FIRST = "first"
"""The name of the first version of the code."""
NOTHING = "<nothing>"
"""Stands for a result that a step does not give."""
SHORTEST_LAW = 40


class CaseError(ValueError):
    """A case that does not say what it is to say."""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of what can be done to an execution, one after the other."""


class Start(Step, frozen=True, kw_only=True):
    """Start the flow."""

    arguments: list[Any] = []
    name: str = MAIN
    """What the execution is called in this case."""
    flow: str = ""
    """Which flow, where the program has several."""
    key: str | None = None
    retries: int | None = None
    cache: bool | None = None
    refused: str = ""
    """The error that the start raises: its type, and after a colon a part of its text."""


class Dies(Step, frozen=True, kw_only=True):
    """The process will die around the append of an event; the events are named by their lines.

    While no process serves the flow, it is said of the next one that will.
    """

    before: str = ""
    """The event is lost."""
    after: str = ""
    """The event is durable, and nobody is told so."""
    nth: int = 1


class Down(Step, frozen=True, kw_only=True):
    """The process is gone; what follows is done from one that does not run the flow."""

    orderly: bool = False
    """Whether it gave its leases back; otherwise it died, where `dies` said so or just now."""


class Up(Step, frozen=True, kw_only=True):
    """Another process serves the flow; after a death, once the lease is over."""

    program: str = ""
    """With which code; the same as before unless said otherwise."""


class Restart(Step, frozen=True, kw_only=True):
    """`down`, then `up`."""

    program: str = ""
    orderly: bool = False


class Steal(Step, frozen=True, kw_only=True):
    """The process hangs for longer than its lease, and another takes its executions over.

    The first goes on beside it, without knowing.
    """

    of: str = MAIN


class Until(Step, frozen=True, kw_only=True):
    """Wait until an event is in the journal, or the execution has a status."""

    event: str = ""
    status: str = ""
    count: int = 1
    of: str = MAIN


class Held(Step, frozen=True, kw_only=True):
    """Wait until so many bodies stand before a gate."""

    gate: str
    count: int = 1


class Release(Step, frozen=True, kw_only=True):
    """Open a gate."""

    gate: str


class Clock(Step, frozen=True, kw_only=True):
    """The journal's clock is put forward, or back."""

    seconds: float


class Steering(Step, frozen=True, kw_only=True):
    """The root of what a client does to an execution."""

    of: str = MAIN
    refused: str = ""
    """The error that it raises: its type, and after a colon a part of its text."""


class Answer(Steering, frozen=True, kw_only=True):
    """Answer a wait."""

    wait: str
    value: Any = None


class Abort(Steering, frozen=True, kw_only=True):
    """End a wait without an answer."""

    wait: str
    reason: str = ""


class Cancel(Steering, frozen=True, kw_only=True):
    """Ask the execution to end."""

    reason: str = ""
    force: bool = False


class Retry(Steering, frozen=True, kw_only=True):
    """Try a failed execution again."""


class RetryNow(Steering, frozen=True, kw_only=True):
    """Make the next attempt of a call, or of all that wait for theirs, at once."""

    call: str | None = None


class Resume(Steering, frozen=True, kw_only=True):
    """Go on with an execution here and now."""


class Resolve(Steering, frozen=True, kw_only=True):
    """Say what came of a call that needs review."""

    call: str
    result: Any = NOTHING
    failed: str | None = None
    run_again: bool = False


class Fork(Steering, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Make a fork."""

    from_: str
    name: str
    overrides: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    key: str | None = None


class Repeat(Step, frozen=True, kw_only=True):
    """Do these steps several times."""

    times: int
    steps: list[Any]


STEPS: dict[str, type[Step]] = {
    "start": Start,
    "dies": Dies,
    "down": Down,
    "up": Up,
    "restart": Restart,
    "steal": Steal,
    "until": Until,
    "held": Held,
    "release": Release,
    "clock": Clock,
    "answer": Answer,
    "abort": Abort,
    "cancel": Cancel,
    "retry": Retry,
    "retry_now": RetryNow,
    "resume": Resume,
    "resolve": Resolve,
    "fork": Fork,
    "repeat": Repeat,
}
SHORT: dict[type[Step], str] = {
    Until: "event",
    Held: "gate",
    Release: "gate",
    Clock: "seconds",
    Up: "program",
    Restart: "program",
    Cancel: "reason",
}
"""The field that a step sets which is written as one plain value."""

INTERRUPTIONS = (Dies, Down, Restart, Steal)


class Expected(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one execution is to look in the end."""

    journal: str | dict[Colour, str]
    """The same for both colours, or one each where their engines do it differently."""
    status: str

    def text(self, colour: Colour) -> str:
        """The journal, for flows of a colour."""
        text = self.journal if isinstance(self.journal, str) else self.journal.get(colour, "")
        return "\n".join(filter(modes.counts, text.strip().splitlines()))


class RawCase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A case as it is written."""

    id: str
    law: str
    program: str
    programs: dict[str, str] = {}
    """Later versions of the code, by name."""
    colours: tuple[Colour, ...] = COLOURS
    cache: bool = False
    """Whether results of other executions may be used; otherwise nothing is looked up."""
    noted: bool = False
    """Whether the start of bodies that last is written down, as it is by default after a while."""
    steps: list[Any]
    journal: str | dict[Colour, str]
    status: str
    outcome: str | None = None
    bodies: dict[str, int]
    others: dict[str, Expected] = {}
    """The other executions of the case, by name."""


class Case(Struct, frozen=True, kw_only=True):
    """One promise, and what is done to break it."""

    file: str
    id: str
    law: str
    programs: Mapping[str, str]
    """The code, by name, the first version first."""
    colours: tuple[Colour, ...]
    cache: bool
    noted: bool
    steps: list[Step]
    expected: dict[str, Expected]
    outcome: str | None
    """What the handle gives: ``returns <JSON>`` or ``raises <type>: <text>``; None: unasked."""
    bodies: dict[str, int]
    """How often each of the bodies that say so has begun, in all processes together."""

    @property
    def is_interrupted(self) -> bool:
        """Whether a process ends, hangs or is replaced in the middle of it."""
        return any(isinstance(step, INTERRUPTIONS) for step in self.all_steps)

    @property
    def all_steps(self) -> list[Step]:
        """The steps, with those that are repeated told once."""
        found: list[Step] = []
        for step in self.steps:
            found += steps_of(self.id, step.steps) if isinstance(step, Repeat) else [step]
        return found


def load_cases(folder: Path = FOLDER) -> list[Case]:
    """All cases of a folder. Raises CaseError for one that makes no sense."""
    cases = [case for file in sorted(folder.glob("*.yaml")) for case in cases_in(file)]
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise CaseError(f"{case.file}: there are two cases {case.id!r}")
        seen.add(case.id)
    return cases


def cases_in(file: Path) -> list[Case]:
    """The cases of one file. Raises CaseError for one that makes no sense."""
    documents = yaml.load(file.read_text(encoding="utf-8"), Loader=OneKeyOnce)
    if not isinstance(documents, list) or not documents:
        raise CaseError(f"{file.name}: a list of cases is needed")
    return [_case(file.name, data) for data in documents]


class OneKeyOnce(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises CaseError for a key that stands in it twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise CaseError(f"{key!r} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _case(file: str, data: Any) -> Case:
    name = data.get("id", "?") if isinstance(data, dict) else "?"
    where = f"{file}: {name}"
    raw = _converted(where, data, RawCase)
    if len(raw.law.split()) < 6 or len(raw.law) < SHORTEST_LAW:
        raise CaseError(f"{where}: the law is to be told in a sentence")
    main = Expected(journal=raw.journal, status=raw.status)
    expected = {MAIN: main, **raw.others}
    if not all(each.text(colour) for each in expected.values() for colour in raw.colours):
        raise CaseError(f"{where}: it expects nothing of a journal")
    if not raw.colours or len(set(raw.colours)) < len(raw.colours):
        raise CaseError(f"{where}: colours are async, sync or both")
    case = Case(
        file=file,
        id=raw.id,
        law=raw.law,
        programs={FIRST: raw.program, **raw.programs},
        colours=raw.colours,
        cache=raw.cache,
        noted=raw.noted,
        steps=steps_of(where, raw.steps),
        expected=expected,
        outcome=raw.outcome,
        bodies=raw.bodies,
    )
    _check_names(where, case)
    return case


def _check_names(where: str, case: Case) -> None:
    named: set[str] = set()
    used = {FIRST}
    for step in case.all_steps:
        match step:
            case Start(name=name) | Fork(name=name):
                named.add(name)
            case Up(program=program) | Restart(program=program):
                used.add(program or FIRST)
            case _:
                pass
        of = getattr(step, "of", MAIN)
        if isinstance(step, Held | Release | Clock):
            continue
        if of not in named and not isinstance(step, Start | Dies | Down | Up | Restart | Repeat):
            raise CaseError(f"{where}: {type(step).__name__.lower()} before {of!r} is there")
    if named != set(case.expected):
        raise CaseError(f"{where}: {sorted(named ^ set(case.expected))} is not asserted or absent")
    if used != set(case.programs):
        raise CaseError(f"{where}: {sorted(used ^ set(case.programs))} is not used, or absent")


def steps_of(where: str, written: list[Any]) -> list[Step]:
    """Steps as they are written. Raises CaseError for what is none."""
    if not isinstance(written, list) or not written:
        raise CaseError(f"{where}: there are no steps")
    return [_step(where, each) for each in written]


def _step(where: str, written: Any) -> Step:
    if isinstance(written, str):
        written = {written: {}}
    if not isinstance(written, dict) or len(written) != 1:
        raise CaseError(f"{where}: one step has one name: {written!r}")
    ((name, details),) = written.items()
    if name not in STEPS:
        raise CaseError(f"{where}: there is no step {name!r}; there are {', '.join(STEPS)}")
    kind = STEPS[name]
    if details is None:
        details = {}
    elif not isinstance(details, dict):
        if kind not in SHORT:
            raise CaseError(f"{where}: {name} takes a mapping, not {details!r}")
        details = {SHORT[kind]: details}
    step: Step = _converted(where, details, kind)
    if isinstance(step, Dies) and bool(step.before) == bool(step.after):
        raise CaseError(f"{where}: a process dies before or after an event")
    if isinstance(step, Until) and bool(step.event) == bool(step.status):
        raise CaseError(f"{where}: until an event or a status, not both")
    if isinstance(step, Repeat):
        steps_of(where, step.steps)
    return step


def _converted(where: str, data: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise CaseError(f"{where}: {error}") from error


def source_of(program: str, colour: str) -> str:
    """A program of one colour: cases are written for async flows, and read as sync ones too."""
    return program if colour == "async" else program.replace("async ", "").replace("await ", "")
