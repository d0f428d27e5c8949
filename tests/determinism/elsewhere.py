"""Replays recorded programs in a process of its own.

``python -m tests.determinism.elsewhere FILE``

Prints, as JSON, what each replay's body has seen.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from journal import RecordedEvent
from kitaru.engine.upcasts import decode_event
from tests.determinism import programs
from tests.determinism.programs import AnyNode, run_program
from tests.determinism.rehearsal import Run, Stage, ended, run_on_memory


class Recorded(Struct, frozen=True):
    """A program, its journal and what its body saw."""

    exec_id: str
    program: AnyNode
    history: tuple[RecordedEvent, ...]
    trace: tuple[str, ...]

    @property
    def end(self) -> str:
        """How it ended."""
        return ended([decode_event(self.history[-1])])


async def replayed(recorded: list[Recorded]) -> list[Any]:
    """What the bodies see when the journals are replayed here."""
    stage = Stage(run_program, programs.traces, programs.bodies)
    found: list[Any] = []
    for number, one in enumerate(recorded):
        programs.library[f"program {number}"] = one.program
        run: Run = await stage.replanted(one.history[:-1], seed=one.exec_id)
        found.append([run.trace, run.bodies, ended(run.events)])
    return found


def main(file: str) -> None:
    """Replays what is in the file."""
    recorded = msgspec.json.decode(Path(file).read_bytes(), type=list[Recorded])
    print(json.dumps(run_on_memory(lambda: replayed(recorded))))


if __name__ == "__main__":
    main(sys.argv[1])
