"""What is left out of a seed's world: how a failing one becomes small enough to be read."""

from typing import Any

from msgspec import Struct, structs

from tests.determinism.programs import Node

Parts = tuple[tuple[int, tuple[int, ...]], ...]


class Cuts(Struct, frozen=True):
    """What is left out. Everything else is decided as the seed says."""

    executions: tuple[int, ...] = ()
    """The numbers of those that are never started."""
    faults: tuple[int, ...] | None = None
    """The numbers, in the order in which they come up, of the only ones that happen; None: all."""
    parts: Parts = ()
    """Executions, by number, that run a part of their program: the way to it from the whole."""
    calm: tuple[str, ...] = ()
    """The kinds of faults, as the weather names them, that there are none of."""
    luck: int = 0
    """Another one than 0: who goes on when is decided otherwise than in the seed's own world."""
    is_alone: bool = False
    """Whether nobody cancels, forks, or answers before there is a question."""

    def allows(self, fault: int) -> bool:
        """Whether the fault with this number happens."""
        return self.faults is None or fault in self.faults

    def program(self, number: int, whole: Any) -> Any:
        """What an execution runs."""
        for step in dict(self.parts).get(number, ()):
            whole = children(whole)[step]
        return whole

    @property
    def words(self) -> str:
        """The same for the command line; empty for nothing."""
        words = []
        if self.executions:
            words.append(f"--without {' '.join(map(str, self.executions))}")
        if self.calm:
            words.append(f"--calm {' '.join(self.calm)}")
        if self.luck:
            words.append(f"--luck {self.luck}")
        if self.faults is not None:
            words.append(" ".join(["--faults", *map(str, self.faults)]))
        for number, way in self.parts:
            if number in self.executions:
                continue
            words.append(f"--part {number}:{'.'.join(map(str, way))}")
        if self.is_alone:
            words.append("--alone")
        return " ".join(words)


def part_of(text: str) -> tuple[int, tuple[int, ...]]:
    """`--part` of the command line, such as ``0:1.0``. Raises ValueError."""
    number, _, way = text.partition(":")
    return int(number), tuple(int(step) for step in way.split("."))


def children(node: Node) -> list[Node]:
    """The programs that a program is made of."""
    found: list[Node] = []
    for value in structs.asdict(node).values():
        if isinstance(value, Node):
            found.append(value)
        elif isinstance(value, tuple):
            found += [part for part in value if isinstance(part, Node)]
    return found
