"""A person at a terminal is asked what the flow waits for; nobody else is."""

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru.bootstrap import close_background
from kitaru.sdk import prompt

STUCK_SECONDS = 60
PROGRAM = """
import dataclasses, enum, sys
import kitaru
from kitaru import flow

@dataclasses.dataclass
class Plan:
    title: str
    steps: int

class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"

SCHEMAS = {"colour": Colour, "gate": None, "str": str, "int": int, "bool": bool, "float": float,
    "list": list[int], "maybe": int | None, "either": int | str, "plan": Plan}

@flow
def asks(kind: str) -> str:
    try:
        question = "What is \\x1b[31mit?"
        answer = kitaru.wait(
            name="ask", schema=SCHEMAS[kind], question=question, metadata={"for": "you"}
        )
    except kitaru.KitaruWaitAborted as error:
        return f"aborted: {error}"
    return repr(answer)

@flow
async def asks_twice(kind: str) -> str:
    first = await kitaru.wait(name="first", schema=SCHEMAS[kind])
    return repr((first, await kitaru.wait(name="second", schema=SCHEMAS[kind])))

if __name__ == "__main__":
    body = asks_twice.sync if sys.argv[1] == "twice" else asks
    handle = body.run(sys.argv[2])
    print(handle.exec_id, flush=True)
    print("result", handle.wait(), flush=True)
"""
# A session of its own, whose terminal it is: as of a person who has just logged in.
AT_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Person:
    """Somebody in front of a terminal in which the program runs."""

    def __init__(self, folder: Path, journal: str, *arguments: str, **variables: str) -> None:
        self.script = folder / "program.py"
        self.script.write_text(textwrap.dedent(PROGRAM))
        self._own, terminal = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        environment |= {"KITARU_JOURNAL": journal, "KITARU_LOG_LEVEL": "off", **variables}
        self.program = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *(arguments or (str(self.script),))],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=environment,
            start_new_session=True,
            text=True,
        )
        os.close(terminal)
        self._shown = ""

    def sees(self, text: str) -> str:
        """Waits until the terminal shows a text; what it has shown since the last one."""
        end = time.monotonic() + STUCK_SECONDS
        while text not in self._shown:
            assert time.monotonic() < end, self._shown
            if select.select([self._own], [], [], 0.1)[0]:
                try:
                    self._shown += os.read(self._own, 65536).decode()
                except OSError:  # the other end is closed
                    assert text in self._shown, self._shown
        seen, _, self._shown = self._shown.partition(text)
        return seen

    def types(self, text: str) -> None:
        os.write(self._own, text.encode())

    def line(self) -> str:
        """A line of the program's output."""
        assert self.program.stdout is not None
        return self.program.stdout.readline().strip()

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        if self.program.stdout is not None:
            self.program.stdout.close()
        os.close(self._own)


@pytest.fixture
def sits(tmp_path: Path, journal_url: str) -> Iterator[Callable[..., Person]]:
    people: list[Person] = []
    kitaru.configure(journal=journal_url)

    def sit(*arguments: str, **variables: str) -> Person:
        script = str(tmp_path / "program.py")
        whole = [script if each == "SCRIPT" else each for each in arguments]
        people.append(Person(tmp_path, journal_url, *whole, **variables))
        return people[-1]

    yield sit
    for person in people:
        person.close()
    close_background()
    kitaru.configure(journal=None)


@pytest.mark.parametrize(
    ("kind", "invitation", "wrong", "complaint", "right", "result"),
    [
        ("gate", "Go on? [Y/n]", "perhaps", "Type y to go on", "", "None"),
        ("gate", "Go on? [Y/n]", "7", "Type y to go on", "n", "aborted: "),
        ("str", "(string)", "", "", "7", "'7'"),
        ("int", "(integer)", "seven", "A number is needed", "7", "7"),
        ("int", "(integer)", "7.5", "integer", "-7", "-7"),
        ("float", "(number)", "x", "A number is needed", "7.5", "7.5"),
        ("bool", "[y/n]", "7", "bool", "yes", "True"),
        ("bool", "[y/n]", "maybe", "Type y or n", "false", "False"),
        ("list", "(JSON)", "[1,", "JSON is needed", "[1, 2]", "[1, 2]"),
        ("maybe", "(integer or null)", "x", "A number is needed", "", "None"),
        ("either", "(integer or string)", "", "", "some text", "'some text'"),
        ("plan", "(JSON: title, steps)", '{"title":"x"}', "steps", '{"title":"x","steps":2}', "Pl"),
        ("colour", "[green/red]", "blue", "green, red", "green", "<Colour.GREEN"),
    ],
)  # fmt: skip
def test_an_answer_is_typed_by_the_schema_and_a_wrong_one_is_told_and_asked_again(
    sits: Callable[..., Person],
    kind: str,
    invitation: str,
    wrong: str,
    complaint: str,
    right: str,
    result: str,
) -> None:
    person = sits("SCRIPT", "once", kind)
    asked = person.sees(invitation)
    # The question's own control characters do not reach the terminal.
    assert r"What is \x1b[31mit?" in asked
    assert "for: you" in asked
    if complaint:
        person.types(f"{wrong}\n")
        person.sees(complaint)
        person.sees(invitation)
    person.types(f"{right}\n")
    person.line()
    assert person.line().startswith(f"result {result}")
    assert person.program.wait(STUCK_SECONDS) == 0


def test_waits_of_an_async_flow_are_asked_one_after_the_other(sits: Callable[..., Person]) -> None:
    person = sits("SCRIPT", "twice", "int")
    person.sees("first")
    person.sees("(integer)")
    person.types("1\n")
    person.sees("second")
    person.sees("(integer)")
    person.types("2\n")
    person.line()
    assert person.line() == "result (1, 2)"


def test_kitaru_run_asks_too(sits: Callable[..., Person], tmp_path: Path) -> None:
    target = f"{tmp_path}/program.py:asks"
    person = sits("-m", "kitaru", "run", target, "--args", '{"kind": "int"}')
    person.sees("(integer)")
    person.types("42\n")
    person.line()
    assert person.line() == "42"
    assert person.program.wait(STUCK_SECONDS) == 0


def test_an_answer_from_elsewhere_ends_the_question(sits: Callable[..., Person]) -> None:
    person = sits("SCRIPT", "once", "int")
    exec_id = person.line()
    person.sees("(integer)")
    person.types("4")  # half a line, which must not become half an answer to anything
    kitaru.KitaruClient().executions.input(exec_id, wait="ask", value=7)
    person.sees("no answer is needed any more")
    assert person.line() == "result 7"


def test_ctrl_d_leaves_it_open_for_others(sits: Callable[..., Person]) -> None:
    person = sits("SCRIPT", "once", "int")
    exec_id = person.line()
    person.sees("(integer)")
    person.types("\x04")
    person.sees(f"kitaru executions input {exec_id} --wait 'ask#1'")
    executions = kitaru.KitaruClient().executions
    assert [wait.wait_id for wait in executions.pending_waits(exec_id)] == ["ask#1"]
    executions.input(exec_id, wait="ask", value=7)
    assert person.line() == "result 7"


def test_ctrl_c_ends_the_script_and_the_execution_waits(sits: Callable[..., Person]) -> None:
    person = sits("SCRIPT", "once", "int")
    exec_id = person.line()
    person.sees("(integer)")
    person.types("\x03")
    assert person.program.wait(STUCK_SECONDS) in (-signal.SIGINT, 128 + signal.SIGINT, 1)
    executions = kitaru.KitaruClient().executions
    assert [wait.wait_id for wait in executions.pending_waits(exec_id)] == ["ask#1"]
    assert not executions.get(exec_id).status.is_finished


@pytest.mark.parametrize("variables", [{"KITARU_PROMPT": "off"}, {"CI": "true"}])
def test_it_can_be_switched_off_and_is_off_in_ci(
    sits: Callable[..., Person], variables: dict[str, str]
) -> None:
    person = sits("SCRIPT", "once", "int", **variables)
    exec_id = person.line()
    executions = kitaru.KitaruClient().executions
    end = time.monotonic() + STUCK_SECONDS
    while not executions.pending_waits(exec_id):
        assert time.monotonic() < end
    person.types("3\n")
    executions.input(exec_id, wait="ask", value=7)
    assert person.line() == "result 7"


def test_nobody_is_asked_without_a_terminal() -> None:
    assert not prompt.is_wanted()


def test_a_switch_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_PROMPT", "sometimes")
    with pytest.raises(kitaru.KitaruUsageError, match="sometimes"):
        prompt.is_wanted()


@pytest.mark.parametrize(
    ("line", "schema", "value"),
    [
        ("red", {"enum": ["red", "green"]}, "red"),
        ("null", {"type": "string"}, "null"),
        ("7", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, 7),
        ("", {"type": ["integer", "null"]}, None),
        ("n", {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
    ],
)
def test_what_a_line_stands_for(line: str, schema: dict[str, Any], value: Any) -> None:
    assert prompt.value_of(line, schema) == value
