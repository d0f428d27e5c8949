"""What a program's result must be, by plain recursion over the program and its journal's outcomes.

Knows nothing of asyncio and of Kitaru's engine: only that a call is named after the task it is made
in, and that the body learns of outcomes one at a time, in the order of the journal.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tests.determinism.programs import (
    AnyNode,
    Attempt,
    Gather,
    Race,
    Repeat,
    Sleep,
    Step,
)
from tests.determinism.programs import Sequence as Several


class Known(Struct, frozen=True):
    """The outcome of one call, and which one of all it was."""

    path: str
    value: Any = None
    error: str | None = None


class Pending(Exception):
    """The journal does not say how this ended: by then nobody waited for it any more."""


class Failed(Exception):
    """The node raised, at a time."""

    def __init__(self, error: str, at: int) -> None:
        super().__init__(error)
        self.error = error
        self.at = at


class Place:
    """A task: what its calls are named after."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.children = 0
        self.names: dict[str, int] = {}

    def child(self) -> "Place":
        """The next task made in this one."""
        self.children += 1
        return Place(f"{self.prefix}task[{self.children}]/")

    def path(self, name: str) -> str:
        """The path of the next call."""
        count = self.names[name] = self.names.get(name, 0) + 1
        return f"{self.prefix}{name}" if count == 1 else f"{self.prefix}{name}#{count}"


class Reference:
    """Reckons with the outcomes of one journal. A time is how many of them the body has seen."""

    def __init__(self, outcomes: Sequence[Known]) -> None:
        self._outcomes = {outcome.path: (at, outcome) for at, outcome in enumerate(outcomes, 1)}

    def result(self, program: AnyNode) -> tuple[str, Any]:
        """Whether the program returns or raises, and what."""
        try:
            return "returned", self._run(program, Place(), 0)[0]
        except Failed as failed:
            return "raised", failed.error

    def _run(self, node: AnyNode, place: Place, now: int) -> tuple[Any, int]:
        match node:
            case Step(ends=ends):
                return self._call(place.path("retried" if ends == "retried" else "work"))
            case Sleep():
                return "slept", self._call(place.path("sleep"))[1]
            case Several(parts=parts):
                return self._one_by_one(parts, place, now)
            case Repeat(times=times, body=body):
                return self._one_by_one([body] * times, place, now)
            case Attempt(body=body, handler=handler):
                try:
                    return self._run(body, place, now)
                except Failed as failed:
                    value, at = self._run(handler, place, failed.at)
                    return [failed.error, value], at
            case Gather(parts=parts, keep_errors=keep_errors):
                return self._gather(parts, place, now, keep_errors)
            case Race(parts=parts):
                return self._race(parts, place, now)
        raise AssertionError(node)

    def _call(self, path: str) -> tuple[Any, int]:
        if path not in self._outcomes:
            raise Pending(path)
        at, outcome = self._outcomes[path]
        if outcome.error is not None:
            raise Failed(outcome.error, at)
        return outcome.value, at

    def _one_by_one(
        self, parts: Sequence[AnyNode], place: Place, now: int
    ) -> tuple[list[Any], int]:
        values = []
        for part in parts:
            value, now = self._run(part, place, now)
            values.append(value)
        return values, now

    def _ends(
        self, parts: Sequence[AnyNode], place: Place, now: int
    ) -> list[tuple[int, int, Any, str | None]]:
        """(time, number, value, error) of each branch that has ended."""
        ends: list[tuple[int, int, Any, str | None]] = []
        for number, part in enumerate(parts):
            branch = place.child()
            try:
                value, at = self._run(part, branch, now)
            except Failed as failed:
                ends.append((failed.at, number, None, failed.error))
            except Pending:
                continue
            else:
                ends.append((at, number, value, None))
        return ends

    def _gather(
        self, parts: Sequence[AnyNode], place: Place, now: int, keep_errors: bool
    ) -> tuple[Any, int]:
        ends = self._ends(parts, place, now)
        errors = [(at, error) for at, _, _, error in ends if error is not None]
        if errors and not keep_errors:
            at, error = min(errors)
            raise Failed(error, at)
        if len(ends) < len(parts):
            raise Pending
        values = [value if error is None else error for _, _, value, error in ends]
        return values, max(at for at, *_ in ends)

    def _race(self, parts: Sequence[AnyNode], place: Place, now: int) -> tuple[Any, int]:
        ends = self._ends(parts, place, now)
        if not ends:
            raise Pending
        at, winner, value, error = min(ends, key=lambda end: end[0])
        # What asyncio.gather() of one gives.
        last = winner == len(parts) - 1 and error is None
        first = [[value] if last else value if error is None else error]
        return [first, ["cancelled"] * (len(parts) - 1)], at
