"""Makes a failing world smaller: as long as it fails in the same way, something is left out.

Executions, the parts of their programs, what clients do on top, and then faults, in halves,
quarters and so on.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct, structs
from msgspec.structs import replace

from kitaru.domain.execution.events import ExecutionDiverged
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.testing.timeline import timeline_text
from tests.determinism.programs import written
from tests.simulation.cuts import Cuts, children
from tests.simulation.store import SECOND, Weather, at_once
from tests.simulation.world import World, simulated


class Failing(Struct, frozen=True):
    """A world that fails, and how."""

    seed: int
    cuts: Cuts
    kind: str
    """The promise that is broken."""
    faults: tuple[int, ...]
    """The numbers of those that have happened."""
    weather: tuple[str, ...]
    """The kinds of faults that may happen."""
    executions: int
    steps: int
    text: str
    """All of it, for people."""

    @property
    def size(self) -> tuple[int, int]:
        """What is to become smaller: first what happens, and then around what."""
        return self.executions, len(self.weather) + len(self.faults)


def failing(seed: int, cuts: Cuts) -> Failing | None:
    """What is wrong with a world; None: nothing."""
    with simulated(seed, cuts=cuts) as world:
        try:
            world.run()
        except Exception as error:
            numbers = tuple(number for number, *_ in world.struck)
            text = _told(world, error)
            weather = structs.asdict(world.weather)
            return Failing(
                seed=seed,
                cuts=cuts,
                kind=_kind(error),
                faults=numbers,
                weather=tuple(name for name, likely in weather.items() if likely),
                executions=len(world.plans),
                steps=world.steps,
                text=text,
            )
    return None


def shrink(
    first: Failing, seconds: float, clock: Callable[[], float] = time.process_time
) -> Failing:
    """The smallest world that fails in the same way and is found in so many seconds."""
    return _Shrinking(first, clock() + seconds, clock).run()


class _Shrinking:
    def __init__(self, first: Failing, end: float, clock: Callable[[], float]) -> None:
        self.best = first
        self.end = end
        self.clock = clock

    def run(self) -> Failing:
        before = None
        while before is not self.best and not self._is_late():
            before = self.best
            self._fewer_executions()
            self._try_all_lucks(replace(self.best.cuts, is_alone=True))
            self._calmer_weather()
            self._smaller_programs()
            self._fewer_faults()
        return self.best

    def _is_smaller(self, found: Failing) -> bool:
        """Whether a world is no step back: to choose among faults anew may bring some back."""
        return found.size <= self.best.size

    def _is_late(self) -> bool:
        return self.clock() > self.end

    def _try(self, cuts: Cuts) -> bool:
        """Whether the world still fails with these."""
        if self._is_late() or cuts == self.best.cuts:
            return False
        found = failing(self.best.seed, cuts)
        if found is None or found.kind != self.best.kind or not self._is_smaller(found):
            return False
        self.best = found
        return True

    def _fewer_executions(self) -> None:
        for number in range(MOST_EXECUTIONS):
            left = self.best.cuts.executions
            if number not in left:
                self._try_all_lucks(replace(self.best.cuts, executions=(*left, number)))

    def _calmer_weather(self) -> None:
        for kind in Weather.__struct_fields__:
            calm = self.best.cuts.calm
            if kind not in calm and kind in self.best.weather:
                self._try_all_lucks(replace(self.best.cuts, calm=(*calm, kind)))

    def _try_all_lucks(self, cuts: Cuts) -> bool:
        """What is left out changes who goes on when: perhaps it fails with another luck."""
        every = replace(cuts, faults=None)
        return any(self._try(replace(every, luck=luck)) for luck in self._lucks(every))

    def _lucks(self, cuts: Cuts) -> list[int]:
        return [cuts.luck, *(luck for luck in range(LUCKS) if luck != cuts.luck)]

    def _smaller_programs(self) -> None:
        for number, program in self._programs().items():
            here = program
            while self._one_part(number, len(children(here))):
                here = self._programs()[number]

    def _one_part(self, number: int, count: int) -> bool:
        ways = dict(self.best.cuts.parts)
        way = ways.get(number, ())
        for step in range(count):
            parts = tuple(sorted({**ways, number: (*way, step)}.items()))
            if self._try_all_lucks(replace(self.best.cuts, parts=parts)):
                return True
        return False

    def _programs(self) -> dict[int, Any]:
        with simulated(self.best.seed, cuts=self.best.cuts) as world:
            world.plan()
            return {
                plan.number: plan.program
                for plan in world.plans.values()
                if plan.number not in self.best.cuts.executions
            }

    def _fewer_faults(self) -> None:
        needed = list(self.best.faults)
        without = replace(self.best.cuts, faults=())
        if any(self._try(replace(without, luck=luck)) for luck in self._lucks(without)):
            return
        size = max(1, len(needed) // 2)
        while not self._is_late():
            for start in range(0, len(needed), size):
                kept = [it for it in needed if it not in needed[start : start + size]]
                if kept != needed and self._try(replace(self.best.cuts, faults=tuple(kept))):
                    needed = kept
                    break
            else:
                if size == 1:
                    return
                size = max(1, size // 2)


LUCKS = 24
"""With how many of them a world is tried that fails no longer."""
MOST_EXECUTIONS = 6
"""Of a world, before anybody forks one."""


def _kind(error: Exception) -> str:
    text = str(error)
    return text.partition(":")[0] if text[:1] in "IP" and text[1:2].isdigit() else text[:24]


def _told(world: World, error: Exception) -> str:
    lines = [str(error), ""]
    for exec_id, plan in world.plans.items():
        recorded = at_once(world.inner.read_stream(stream_of(exec_id)))
        if not recorded:
            continue
        fork = f", a fork of {plan.source}" if plan.source else ""
        lines += [f"{exec_id}{fork}", written(plan.program), timeline_text(recorded), ""]
        events = map(decode_event, recorded)
        lines += [f"{it.report}\n" for it in events if isinstance(it, ExecutionDiverged)]
    lines += ["what went wrong around it:", *_faults(world.struck)]
    lines.append(f"the end, at step {world.steps}, {world.now / SECOND:.6f} s")
    lines.append(f"replay with: {command(world.seed, world.cuts)}")
    return "\n".join(lines)


def _faults(struck: Sequence[tuple[int, int, str, str]]) -> Iterator[str]:
    for number, now, what, who in struck:
        yield f"  {now / SECOND:12.6f} s  {who:8}  {what}  (fault {number})"
    if not struck:
        yield "  nothing"


def command(seed: int, cuts: Cuts) -> str:
    """The one command that shows a world again."""
    return f"python -m tests.simulation world --seed {seed} {cuts.words}".rstrip()
