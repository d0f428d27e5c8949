"""What the programs of these tests were told, and whether a journal has all of it."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from journal import HeadQuery, SqliteReader
from kitaru.domain.execution.events import (
    CheckpointCompleted,
    ExecutionCompleted,
    ExecutionEvent,
    InputGiven,
    TimerFired,
)
from kitaru.engine.executions import exec_id_of, head_of, state_of
from kitaru.engine.upcasts import decode_event


class Told:
    """The lines that `programs.run` says: starts, calls, answers and results."""

    def __init__(self) -> None:
        self.started: dict[str, str] = {}
        self.acknowledged: dict[str, int] = {}
        self.answered: dict[str, int] = {}
        self.results: dict[str, int] = {}

    def hear(self, line: str) -> None:
        """Takes in a line. Nothing may be said twice and differently."""
        match line.split():
            case ["started", name, exec_id]:
                assert self.started.setdefault(name, exec_id) == exec_id
            case ["ack", path, value]:
                assert self.acknowledged.setdefault(path, int(value)) == int(value), path
            case ["answered", name, value]:
                assert self.answered.setdefault(name, int(value)) == int(value)
            case ["result", name, value]:
                assert self.results.setdefault(name, int(value)) == int(value)
            case _:
                raise AssertionError(line)


class Found:
    """What the executions of a journal have recorded."""

    def __init__(self, reader: SqliteReader) -> None:
        self.started: set[str] = set()
        self.completed: dict[str, tuple[int, int]] = {}
        """By call: its result, and when it was recorded."""
        self.answers: dict[str, int] = {}
        self.results: dict[str, int] = {}
        self.problems: list[str] = []
        for head in reader.heads(HeadQuery(category="execution")):
            exec_id = exec_id_of(head.stream)
            self.started.add(exec_id)
            facts = reader.read_stream(head.stream)
            events = [decode_event(fact) for fact in facts]
            outcomes = Counter(filter(None, map(_outcome, events)))
            self.problems += [f"{path} has {n} outcomes" for path, n in outcomes.items() if n > 1]
            for fact, event in zip(facts, events, strict=True):
                self._note(exec_id, event, fact.recorded_at)
            rebuilt = head_of(state_of(facts))
            if (head.state, head.name, head.summary) != (
                rebuilt.state,
                rebuilt.name,
                rebuilt.summary,
            ):
                self.problems.append(f"the head of {head.stream} is not what its events say")

    def _note(self, exec_id: str, event: ExecutionEvent, recorded_at: int) -> None:
        match event:
            case CheckpointCompleted():
                self.completed[event.path] = (_integer(event.result.json), recorded_at)
            case InputGiven():
                self.answers[event.path] = _integer(event.value.json)
            case ExecutionCompleted():
                self.results[exec_id] = _integer(event.result.json)
            case _:
                pass

    def missing(self, told: Told) -> Iterator[str]:
        """What was told and is not recorded so, and what contradicts itself."""
        yield from self.problems
        for name, exec_id in told.started.items():
            if exec_id not in self.started:
                yield f"the start of {name} is lost"
            elif name in told.results and self.results.get(exec_id) != told.results[name]:
                yield f"the result of {name} is lost"
        for path, value in told.acknowledged.items():
            if path not in self.completed or self.completed[path][0] != value:
                yield f"the outcome of {path} is lost"
        for name, value in told.answered.items():
            if self.answers.get(name) != value:
                yield f"the answer to {name} is lost"


def _integer(json: object) -> int:
    assert isinstance(json, msgspec.Raw)
    return msgspec.json.decode(bytes(json), type=int)


def _outcome(event: ExecutionEvent) -> str:
    """The call of which the event is the last word; empty for others."""
    return event.path if isinstance(event, CheckpointCompleted | TimerFired) else ""


def missing_lines(reader: SqliteReader, lines: tuple[str, ...]) -> Iterator[str]:
    """What a journal lacks of these lines."""
    told = Told()
    for line in lines:
        told.hear(line)
    return Found(reader).missing(told)
