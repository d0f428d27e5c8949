"""The source around a call is read, and nothing of it is run."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from kitaru import checkpoint
from kitaru.engine.code_reading import Code, CodeCall, Source, calls_in, read_code
from kitaru.engine.codec import Codec, digest


class At(Struct):
    """A call of the body."""

    name: str
    site: str


@checkpoint
def fetch(url: str, depth: int = 0) -> str:
    return url


@checkpoint
def save(data: Any) -> None:
    pass


class Place:
    """Runs a function with some body; where that calls `here()`, its source is read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.codes: list[Code] = []
        self.function: Any = None
        self.at = At("", "")

    def here(self) -> None:
        self.codes.append(read_code(self.function, [sys._getframe(1)], self.at, Codec()))

    def read(self, body: str, name: str, line: int) -> Code:
        """What is read at `here()` around the call of `name` on `line`."""
        self.at = At(name, f"reading.py:{line}")
        text = "def body(url='u', urls=('p', 'q')):\n" + textwrap.indent(body, "    ") + "\n"
        self.file.write_text(text, encoding="utf-8")
        space: dict[str, Any] = {"fetch": fetch, "save": save, "here": self.here, "sys": sys}
        exec(compile(text, str(self.file), "exec"), space)
        self.function = space["body"]
        self.function()
        return self.codes[-1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A file of the test's own."""
    return Place(tmp_path / "reading.py")


def digest_of(**arguments: Any) -> str:
    return digest(Codec().encode(arguments, where="arguments", types=fetch.definition.types))


def ahead(code: Code) -> list[tuple[str, int]]:
    return [(call.name, call.line) for call in code.ahead]


def test_calls_come_in_the_order_in_which_they_are_made(place: Place) -> None:
    place.read("if False:\n    save(fetch(fetch('a')))\nhere()", "fetch", 3)
    function = place.function
    source = Source(function.__code__.co_filename)
    assert source.tree is not None
    calls = calls_in(source, source.tree, function.__globals__, None)
    assert [call.name for call in calls] == ["fetch", "fetch", "save"]


def test_what_comes_after_a_call_is_known_with_its_arguments(place: Place) -> None:
    code = place.read(
        (
            "page = 'x'; here()\nif False:\n    pass\n"
            "try:\n    fetch\nfinally:\n    0 and fetch(url)\n0 and fetch(urls[1], depth=-1)\n"
            "0 and fetch(unknown())\n0 and fetch('a', **{})\n0 and save([page, {'k': 1}])"
        ),
        "fetch",
        2,
    )
    assert ahead(code) == [("fetch", 8), ("fetch", 9), ("fetch", 10), ("fetch", 11), ("save", 12)]
    known = [call.digest for call in code.ahead]
    assert known[0] == digest_of(url="u")
    assert known[1] == digest_of(url="q", depth=-1)
    assert known[2:] == ["", "", ""]


def test_nothing_is_run_to_tell_arguments(place: Place) -> None:
    code = place.read(
        (
            "class Trap:\n    def __getitem__(self, key):\n        raise SystemExit\n"
            "    def __getattr__(self, name):\n        raise SystemExit\n"
            "    def __eq__(self, other):\n        raise SystemExit\n"
            "    __hash__ = None\n"
            "trap = Trap(); here()\n0 and fetch(trap['a'])\n0 and fetch(trap.b)\n"
            "0 and fetch({trap})\n0 and fetch(trap)\n0 and trap.fetch(1)\n0 and fetch(f'{trap}')"
        ),
        "fetch",
        10,
    )
    assert code.fault == ""
    assert [call.digest for call in code.ahead] == [""] * 5


def test_conditions_and_loops_are_told(place: Place) -> None:
    code = place.read(
        (
            "late = sys.maxsize < 0\nhere()\nif late:\n    save(1)\nelif url == 'v':\n    save(2)\n"
            "for each in set(urls) if late else ():\n    save(each)\nwhile late:\n    save(3)"
        ),
        "fetch",
        1,
    )
    one, two, three, four = code.ahead
    assert [guard.text for guard in one.guards] == ["if late"]
    assert "sys.maxsize < 0" in one.guards[0].made_of
    assert [guard.text for guard in two.guards] == ["if not (late)", "if url == 'v'"]
    assert three.loop is not None
    assert three.loop.over_set
    assert four.loop is not None
    assert four.loop.text == "while late"


def test_a_call_in_a_loop_comes_again(place: Place) -> None:
    body = "for each in urls[:1]:\n    0 and save(each)\n    here() and fetch(each)"
    code = place.read(body, "fetch", 4)
    assert code.here is not None
    assert code.here.line == 4
    assert ("save", 3) in ahead(code)


@pytest.mark.parametrize("text", ["", "def broken(:\n", "\0"])
def test_without_a_source_there_is_no_story_and_no_error(place: Place, text: str) -> None:
    place.read("here()", "fetch", 2)
    place.file.write_text(text)
    assert read_code(place.function, [], At("fetch", "reading.py:2"), Codec()) == Code()


def test_a_fault_of_the_reading_is_told() -> None:
    code = read_code(None, [], None, Codec())
    assert "NoneType" in code.fault


def test_a_call_knows_its_line() -> None:
    assert CodeCall("fetch", "a.py", (3, 4), (3, 9)).line == 3
