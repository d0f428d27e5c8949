"""What has most likely happened to a flow's code: told from what is recorded, asked and written.

Three kinds of evidence are laid side by side: the calls that are recorded, those that the body asks
for in this pass, and those that its source would make next. A call is known again by its name and
the digest of its arguments, wherever it stands.
"""

import re
from collections.abc import Iterable

from msgspec import Struct

from kitaru.divergence import ArgumentDifference, DivergedCall, DivergenceStory
from kitaru.engine.code_reading import Code, CodeCall, Guard, Loop

Key = tuple[str, str, str]

CAUSES = (
    (
        r"random|randint|choice|shuffle|sample|secrets",
        "a random number decides here: use `kitaru.random()`, which gives the same in every pass",
    ),
    (
        r"\btime\b|datetime|\bnow\b|today|monotonic|perf_counter",
        "the time decides here: use `kitaru.now()`, which gives the same in every pass",
    ),
    (
        r"environ|getenv",
        (
            "the environment decides here: pass its value to the flow as an argument, or read it "
            "in a checkpoint"
        ),
    ),
    (
        r"exists\(|is_file|is_dir|glob|listdir|open\(|read_text",
        "what is on the disk decides here: look at it in a checkpoint",
    ),
    (r"\buuid", "a UUID decides here: use `kitaru.uuid4()`, which gives the same in every pass"),
    (r"\bset\(|\bhash\(|\bid\(", "the order of a set decides here: sort it first"),
)
SET_ORDER = "a set gives its items in another order in every process: sort them first"
CHANGED_CLASS = (
    (
        "a class that was renamed keeps its name in the journal with `register_type(..., "
        "name=...)`; one that no annotation names any more is known again once it is registered"
    ),
    "a new field of a class needs a default",
)
KEEP_ID = "`id=` gives a call a path of its own, which stays the same when the call is moved"


class KnownCall(Struct, frozen=True):
    """A call as it is recorded; without a version it has begun and not ended."""

    call: DivergedCall
    blob: str | None = None
    """Where its arguments are, when they are not in the event."""


class Parting(Struct, frozen=True):
    """All that is known where the body and its journal part."""

    kind: str
    recorded: KnownCall
    asked: DivergedCall | None
    ended: str
    problem: str
    """Why the code cannot be given what is recorded."""
    known: tuple[KnownCall, ...]
    requested: frozenset[str]
    waiting: tuple[DivergedCall, ...]
    """What else the body waits for."""
    code: Code
    differences: tuple[ArgumentDifference, ...]


class Told(Struct, frozen=True):
    """A story, in a word and in a sentence."""

    story: DivergenceStory
    summary: str
    hints: tuple[str, ...] = ()
    compares: bool = False
    """Whether it is about the arguments of one call."""


def tell(parting: Parting) -> Told:
    """The likeliest story."""
    match parting.kind:
        case "arguments":
            return _other_arguments(parting)
        case "kind":
            return _other_kind(parting)
        case "value":
            return _unreadable(parting)
        case "ended":
            return _ended_early(parting)
        case _:
            return _passed_over(parting)


# the same place, other arguments


def _other_arguments(parting: Parting) -> Told:
    asked, recorded = _asked(parting), parting.recorded.call
    comes_later = _comes(parting, recorded)
    twin = next((call for call in _left(parting) if _key(call) == _key(asked)), None)
    if twin is not None:
        return _of_twin(parting, twin, comes_later)
    if comes_later:
        return Told(
            DivergenceStory.INSERTED,
            f"a call of `{asked.name}` was inserted{_at(asked)}, before the one recorded"
            f"{_at(recorded)}",
        )
    hints = [f"{d.path} {d.hint}" for d in parting.differences if d.hint]
    if not parting.differences:
        hints.append(
            "the recorded arguments were not kept (only up to 2 KiB are, and none with "
            '`record_inputs="never"`): only their digest tells that they differ'
        )
    if not hints and any(call.name == asked.name for call in parting.code.ahead):
        hints.append(f"or another call of `{asked.name}` was put in front of the recorded one")
    return Told(
        DivergenceStory.CHANGED_ARGUMENTS,
        f"the call of `{asked.name}`{_at(asked)} has other arguments now",
        tuple(dict.fromkeys(hints)),
        compares=True,
    )


def _of_twin(parting: Parting, twin: DivergedCall, comes_later: bool) -> Told:
    """What is asked for is recorded as a later call of the same name."""
    asked, recorded = _asked(parting), parting.recorded.call
    loop = _loop(parting)
    if comes_later:
        hints = (SET_ORDER,) if loop is not None and loop.over_set else ()
        return Told(
            DivergenceStory.SWAPPED,
            f"two calls of `{asked.name}` were swapped: the one recorded as {twin.path} now comes "
            f"first{_at(asked)}",
            hints,
        )
    if recorded.site and recorded.site == twin.site:
        # One place in the code has made both: a loop, or a map.
        if loop is not None:
            where = f"the loop `{loop.text}` ({_file(asked)}:{loop.line})"
        else:
            where = f"the code{_at(asked)}"
        if loop is not None and loop.over_set:
            return Told(
                DivergenceStory.SWAPPED,
                f"{where} calls `{asked.name}` in another order",
                (SET_ORDER,),
            )
        return Told(
            DivergenceStory.SWAPPED,
            f"{where} calls `{asked.name}` in another order, or leaves one call out",
            ("a set gives its items in another order in every process: if it is one, sort it",),
        )
    return Told(
        DivergenceStory.REMOVED,
        f"the call of `{recorded.name}` recorded{_at(recorded)} was removed: the one recorded as "
        f"{twin.path} comes in its place",
    )


def _other_kind(parting: Parting) -> Told:
    asked, recorded = _asked(parting), parting.recorded.call
    return Told(
        DivergenceStory.CHANGED_KIND,
        f"`{recorded.path}` is recorded as {_kind(recorded)}, and is {_kind(asked)} now"
        f"{_at(asked)}",
    )


def _unreadable(parting: Parting) -> Told:
    """The very call, and a class that has changed since its outcome was recorded."""
    asked = _asked(parting)
    what = f"the answer to the wait `{asked.name}`"
    hints: tuple[str, ...] = ("its schema= must go on to take the answers that were given",)
    if asked.kind == "checkpoint":
        what, hints = f"what `{asked.name}` has returned", CHANGED_CLASS
    return Told(
        DivergenceStory.UNREADABLE_VALUE,
        f"{what} cannot be read by the code{_at(asked)} any more: {parting.problem.rstrip('.')}",
        hints,
    )


# something else in its place


def _passed_over(parting: Parting) -> Told:
    """The body waits for something, and was to ask for the recorded call before."""
    recorded, asked = parting.recorded.call, parting.asked
    moved = _moved(parting)
    if moved is not None:
        return moved
    branch = _other_branch(parting)
    if asked is None:
        return branch or _unexplained(parting, "the code does not ask for")
    is_recorded = any(known.call.path == asked.path for known in parting.known)
    if not is_recorded:
        return _new_call(parting, asked, branch)
    if _comes(parting, recorded, surely=False):
        loop = _loop(parting)
        return Told(
            DivergenceStory.SWAPPED,
            f"{_the(asked)}{_at(asked)} now comes before {_the(recorded)}: the two were swapped",
            (SET_ORDER,) if loop is not None and loop.over_set else (),
        )
    if branch is not None:
        return branch
    if parting.code.was_read and not _written(parting, recorded.name):
        return Told(
            DivergenceStory.REMOVED,
            f"{_the(recorded)} recorded{_at(recorded)} was removed: {_the(asked)}{_at(asked)} "
            "comes next",
        )
    if any(each.name == recorded.name and each.site == recorded.site for each in _given(parting)):
        # One place in the code has made both, the one that is asked for and the one that is not.
        return Told(
            DivergenceStory.FEWER_CALLS,
            f"`{recorded.name}` is called less often than is recorded{_at(recorded)}",
        )
    return _unexplained(parting, f"{_the(asked)}{_at(asked)} comes without")


def _new_call(parting: Parting, asked: DivergedCall, branch: Told | None) -> Told:
    """The body waits for a call that is not recorded at all."""
    recorded = parting.recorded.call
    twin = next((call for call in _left(parting) if _key(call) == _key(asked)), None)
    if twin is not None and _comes(parting, recorded, surely=False):
        return Told(
            DivergenceStory.SWAPPED,
            f"{_the(asked)}{_at(asked)} now comes before {_the(recorded)}: the two were swapped",
        )
    if _is_more_of_the_same(parting, asked):
        loop = _loop(parting)
        where = f" (`{loop.text}`)" if loop is not None else ""
        return Told(
            DivergenceStory.MORE_CALLS,
            f"`{asked.name}` is called more often than is recorded: another call"
            f"{_at(asked)}{where} comes before {_the(recorded)}",
            _causes_of_loop(loop),
        )
    if branch is not None and parting.code.here is not None and parting.code.here.guards:
        return branch
    if _comes(parting, recorded, surely=False):
        return Told(
            DivergenceStory.INSERTED,
            f"{_a(asked)} was inserted{_at(asked)}, before {_the(recorded)} "
            f"recorded{_at(recorded)}",
        )
    if branch is not None:
        return branch
    same = bool(asked.arguments_digest) and asked.arguments_digest == recorded.arguments_digest
    gone = parting.code.was_read and not _written(parting, recorded.name)
    if asked.kind == recorded.kind and (same or asked.kind != "checkpoint") and gone:
        return Told(
            DivergenceStory.RENAMED,
            f"`{recorded.name}` was renamed to `{asked.name}`{_at(asked)}",
        )
    if gone:
        return Told(
            DivergenceStory.REPLACED,
            f"{_the(recorded)} was replaced by {_a(asked)}{_at(asked)}",
        )
    return _unexplained(parting, f"{_a(asked)}{_at(asked)} comes instead of")


def _is_more_of_the_same(parting: Parting, asked: DivergedCall) -> bool:
    """Whether a place in the code that has made recorded calls makes one more."""
    same = [known.call for known in parting.known if known.call.name == asked.name]
    return (
        parting.recorded.call.name != asked.name
        and any(call.path in parting.requested for call in same)
        and (_loop(parting) is not None or any(call.site == asked.site for call in same))
    )


def _moved(parting: Parting) -> Told | None:
    """The recorded call is asked for under another path."""
    recorded = parting.recorded.call
    if not recorded.arguments_digest:
        return None
    asked = [call for call in (parting.asked, *parting.waiting) if call is not None]
    recorded_paths = {known.call.path for known in parting.known}
    for call in asked:
        if _key(call) == _key(recorded) and call.path not in recorded_paths:
            return Told(
                DivergenceStory.MOVED,
                f"the call of `{recorded.name}` was moved: it is recorded as {recorded.path}, and "
                f"is made as {call.path} now{_at(call)}",
                (KEEP_ID,),
            )
    return None


# the end


def _ended_early(parting: Parting) -> Told:
    recorded = parting.recorded.call
    moved = _moved(parting)
    if moved is not None:
        return moved
    raised = parting.ended != "returned"
    if parting.code.was_read and not _written(parting, recorded.name):
        instead = f"raises {parting.ended}" if raised else "returns"
        return Told(
            DivergenceStory.REMOVED,
            f"{_the(recorded)} recorded{_at(recorded)} was removed: the code {instead} without it",
        )
    if raised:
        return Told(
            DivergenceStory.FEWER_CALLS,
            f"the code now raises {parting.ended} before it comes to {_the(recorded)}",
        )
    line = _line(recorded.site)
    loops = [
        call.loop
        for call in _named(parting, recorded.name)
        if call.loop is not None and call.line == line
    ]
    again = any(
        known.call.name == recorded.name and known.call.path in parting.requested
        for known in parting.known
    )
    if loops and again:
        return Told(
            DivergenceStory.FEWER_CALLS,
            f"`{recorded.name}` is called less often than is recorded: `{loops[0].text}` "
            f"(line {loops[0].line}) ends earlier",
            _causes_of_loop(loops[0]),
        )
    branch = _other_branch(parting)
    if branch is not None:
        return branch
    return Told(
        DivergenceStory.FEWER_CALLS,
        f"the code returns without {_the(recorded)} recorded{_at(recorded)}",
        ("it returns earlier, or a loop has fewer rounds",),
    )


# what the source says


def _other_branch(parting: Parting) -> Told | None:
    """A condition that the recorded call stands under, and the body has not entered."""
    recorded, here = parting.recorded.call, parting.code.here
    calls = [
        call
        for call in _named(parting, recorded.name)
        if call.guards and not _comes_from(call, parting.code.ahead)
    ]
    if not calls:
        return None
    line = _line(recorded.site)
    call = min(calls, key=lambda each: abs(each.line - line))
    guard = _parting_guard(call, here)
    if guard is None:
        return None
    if parting.asked is None:
        instead = "and the code ends without it"
    else:
        instead = f"and the code comes to {_the(parting.asked)}{_at(parting.asked)}"
    return Told(
        DivergenceStory.OTHER_BRANCH,
        f"the code takes another branch: `{guard.text}` ({_short_file(call.file)}:{guard.line}) "
        f"does not lead to {_the(recorded)} now, {instead}",
        _causes(guard.made_of),
    )


def _parting_guard(call: CodeCall, here: CodeCall | None) -> Guard | None:
    """The outermost condition of a call that another call does not share."""
    shared = {(guard.branching, guard.arm) for guard in here.guards} if here is not None else set()
    for guard in call.guards:
        if (guard.branching, guard.arm) not in shared:
            return guard
    return None


def _comes_from(call: CodeCall, ahead: Iterable[CodeCall]) -> bool:
    return any((each.file, each.begin) == (call.file, call.begin) for each in ahead)


def _comes(parting: Parting, recorded: DivergedCall, *, surely: bool = True) -> bool:
    """Whether the recorded call is asked for elsewhere in this pass, or is written further on.

    Surely: with the recorded arguments, as far as they can be told.
    """
    here = parting.code.here
    written = [
        call
        for call in parting.code.ahead
        if call.name == recorded.name and (here is None or not _excludes(call, here))
    ]
    if surely:
        written = [call for call in written if call.digest == recorded.arguments_digest]
    asked = [call for call in parting.waiting if _key(call) == _key(recorded)]
    if not surely:
        return bool(asked or written)
    # As many as are recorded: else the one that is found is the record of another call.
    left = [call for call in _left(parting) if _key(call) == _key(recorded)]
    return len(asked) + len(written) > len(left)


def _excludes(call: CodeCall, other: CodeCall) -> bool:
    """Whether two calls stand in different arms of one branch."""
    arms = {guard.branching: guard.arm for guard in other.guards}
    return any(arms.get(guard.branching, guard.arm) != guard.arm for guard in call.guards)


def _written(parting: Parting, name: str) -> bool:
    return bool(_named(parting, name))


def _named(parting: Parting, name: str) -> list[CodeCall]:
    return [call for call in parting.code.calls if call.name == name]


def _loop(parting: Parting) -> Loop | None:
    here = parting.code.here
    return None if here is None else here.loop


def _causes_of_loop(loop: Loop | None) -> tuple[str, ...]:
    return () if loop is None else _causes(loop.text)


def _causes(text: str) -> tuple[str, ...]:
    if "kitaru." in text:
        return ()
    return tuple(hint for pattern, hint in CAUSES if re.search(pattern, text))[:1]


# words


def _asked(parting: Parting) -> DivergedCall:
    assert parting.asked is not None
    return parting.asked


def _left(parting: Parting) -> list[DivergedCall]:
    """The recorded calls but the one that does not fit, which the body has not been given."""
    waiting = {call.path for call in parting.waiting}
    given = (parting.requested - waiting) | {parting.recorded.call.path}
    return [known.call for known in parting.known if known.call.path not in given]


def _given(parting: Parting) -> list[DivergedCall]:
    """The recorded calls that the body has asked for."""
    return [known.call for known in parting.known if known.call.path in parting.requested]


def _key(call: DivergedCall) -> Key:
    return (call.kind, call.name, call.arguments_digest)


def _kind(call: DivergedCall) -> str:
    return {"checkpoint": f"the checkpoint `{call.name}`", "wait": f"the wait `{call.name}`"}.get(
        call.kind, "a sleep"
    )


def _the(call: DivergedCall) -> str:
    words = {"checkpoint": f"the call of `{call.name}`", "wait": f"the wait `{call.name}`"}
    return words.get(call.kind, "the sleep")


def _a(call: DivergedCall) -> str:
    words = {"checkpoint": f"a call of `{call.name}`", "wait": f"a wait `{call.name}`"}
    return words.get(call.kind, "a sleep")


def _at(call: DivergedCall) -> str:
    return f" at {call.site}" if call.site else ""


def _file(call: DivergedCall) -> str:
    return call.site.rpartition(":")[0]


def _line(site: str) -> int:
    line = site.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def _short_file(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2]


def _unexplained(parting: Parting, what: str) -> Told:
    return Told(
        DivergenceStory.NOT_ASKED_FOR,
        f"{what} {_the(parting.recorded.call)} recorded{_at(parting.recorded.call)}",
        ("it was removed, renamed, or moved behind another call",),
    )
