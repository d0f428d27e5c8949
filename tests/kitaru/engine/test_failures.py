"""Exceptions of every shape survive the journal: the same clauses catch them, no code runs."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.domain.values import ErrorData
from kitaru.engine.codec import Codec, digest
from kitaru.engine.failures import (
    INNER_FRAMES,
    LONGEST_MESSAGE_BYTES,
    MOST_ERRORS,
    OUTER_FRAMES,
    attach,
    describe,
    render_traceback,
    revive,
)

CODEC = Codec()
MODULE = __name__


class KeywordOnly(Exception):
    made = 0

    def __init__(self, *, code: int, reason: str) -> None:
        type(self).made += 1
        super().__init__(f"{reason} ({code})")
        self.code = code


class Reserved(Exception):
    def __new__(cls, *args: object) -> "Reserved":
        raise AssertionError("not to be called")


class Holding(Exception):
    def __init__(self) -> None:
        super().__init__("holding")
        self.lock = threading.Lock()
        self.stream: Any = iter([])
        self.size = 3


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Spoken(Exception):
    def __init__(self, client: object, name: str) -> None:
        self.client = client
        self.name = name

    def __str__(self) -> str:
        return f"{self.client!r} lost {self.name}"


class Slotted(ValueError):
    __slots__ = ("place",)
    place: str


class ApiError(ConnectionError):
    pass


class Mixed(KeyError, AttributeError):
    pass


class Many(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        return Many(self.message, excs)


class Outer:
    class Inner(LookupError):
        pass


class Twisted(Exception):
    """Lies about itself in every way that Python lets it."""

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("args")

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("class")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def stored(data: ErrorData) -> ErrorData:
    return msgspec.json.decode(msgspec.json.encode(data), type=ErrorData)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def again(error: BaseException) -> BaseException:
    """The error as it comes out of the journal."""
    return revive(stored(describe(error, CODEC)), CODEC)


def raising(action: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        action()
    return caught.value


def slotted() -> Slotted:
    error = Slotted("x")
    error.place = "there"
    return error


ORDINARY = {
    "plain": ValueError("a", 1, ("b",)),
    "empty": ValueError(),
    "keyword-only": KeywordOnly(code=3, reason="no"),
    "unpicklable attribute": Holding(),
    "slots": slotted(),
    "nested class": Outer.Inner("x"),
    "mixed": Mixed("key"),
    "key": KeyError("key"),
    "missing file": raising(lambda: Path("/no/such/file").read_text()),
    "rename": raising(lambda: Path("/no/such/file").rename("/no/such/place")),
    "os": OSError("only text"),
    "connection": ApiError(111, "refused"),
    "timeout": TimeoutError("late"),
    "sqlite": sqlite3.OperationalError("database is locked"),
    "decoding": raising(lambda: b"a\xff".decode()),
    "encoding": raising(lambda: "a\ud800".encode()),
    "json": raising(lambda: json.loads("{")),
    "syntax": raising(lambda: compile("a b", "<text>", "exec")),
    "import": raising(lambda: __import__("no_such_module")),
    "attribute": raising(lambda: (3).size),  # type: ignore[attr-defined]
    "name": raising(lambda: eval("no_such_name")),
    "stop": StopIteration(3),
    "exit": SystemExit(3),
    "exit without a code": SystemExit(),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError("stop"),
    "assertion": AssertionError(),
    "recursion": RecursionError("deep"),
    "nul": ValueError("a\0b"),
    "surrogate": ValueError("a\ud800b", "\udcff"),
    "surrogate key": KeyError("\ud800"),
    "terminal": ValueError("\x1b]0;x\x07"),
    "text of its own": Spoken("client", "it"),
}


@pytest.mark.parametrize("error", ORDINARY.values(), ids=ORDINARY)
def test_the_same_class_with_the_same_parts_comes_back(error: BaseException) -> None:
    made = KeywordOnly.made
    copy = again(error)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert repr(copy) == repr(error)
    assert KeywordOnly.made == made
    assert describe(copy, CODEC).message == describe(error, CODEC).message


PARTS = {
    "missing file": ("errno", "strerror", "filename", "filename2"),
    "rename": ("errno", "strerror", "filename", "filename2"),
    "connection": ("errno", "strerror"),
    "decoding": ("encoding", "object", "start", "end", "reason"),
    "encoding": ("encoding", "object", "start", "end", "reason"),
    "json": ("msg", "doc", "pos", "lineno", "colno"),
    "syntax": ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"),
    "import": ("name", "path", "msg"),
    "attribute": ("name",),
    "name": ("name",),
    "stop": ("value",),
    "exit": ("code",),
    "exit without a code": ("code",),
    "keyword-only": ("code",),
    "unpicklable attribute": ("size",),
    "slots": ("place",),
}


@pytest.mark.parametrize(("shape", "names"), PARTS.items(), ids=PARTS)
def test_what_clauses_look_at_is_the_same(shape: str, names: tuple[str, ...]) -> None:
    error = ORDINARY[shape]
    copy = again(error)
    for name in names:
        assert getattr(copy, name) == getattr(error, name)
        assert type(getattr(copy, name)) is type(getattr(error, name))


@given(st.text(st.characters()), st.lists(st.text(st.characters()) | st.integers() | st.none()))
def test_any_text_survives(text: str, more: list[Any]) -> None:
    error = ValueError(text, *more)
    assert str(again(error)) == str(error)
    assert again(error).args == error.args
    assert str(again(KeyError(text))) == str(KeyError(text))


def test_an_attribute_that_cannot_be_kept_does_not_lose_the_others() -> None:
    copy = again(Holding())
    assert vars(copy) == {"size": 3}


@pytest.mark.parametrize("error", [Mute("x"), Leaving("x")])
def test_an_exception_without_a_text_says_so(error: Exception) -> None:
    copy = again(error)
    assert isinstance(copy, type(error))
    assert str(copy).startswith(f"<the text of this {type(error).__name__} raised ")


def test_a_text_that_cannot_be_made_anew_is_kept() -> None:
    error = Spoken(threading.Lock(), "it")
    copy = again(error)
    assert isinstance(copy, Spoken)
    assert str(copy) == str(error)
    assert (copy.name, type(copy).__name__, type(copy).__module__) == ("it", "Spoken", MODULE)


def test_an_exception_that_lies_about_itself_is_described_all_the_same() -> None:
    data = describe(Twisted("x"), CODEC)
    assert data.type == f"{MODULE}.Twisted"
    assert type(revive(stored(data), CODEC)).__name__ == "Twisted"


@pytest.mark.parametrize("size", [5_000_000, 10_000_000])
@pytest.mark.parametrize("letter", ["x", "é", "\ud800"])
def test_a_huge_message_is_cut_and_says_so(size: int, letter: str) -> None:
    error = ValueError(letter * (size // len(letter.encode("utf-8", "surrogatepass"))))
    data = describe(error, CODEC)
    whole = str(error).encode("utf-8", "surrogatepass")
    assert data.message_digest == digest(whole)
    assert len(whole) - data.truncated_bytes <= LONGEST_MESSAGE_BYTES
    assert data.message.endswith(f"... ({data.truncated_bytes:,} more bytes)")
    assert len(msgspec.json.encode(data)) < 150_000
    copy = revive(stored(data), CODEC)
    assert str(copy).startswith(letter * 1000)
    assert str(copy).endswith("more bytes)")
    assert describe(copy, CODEC).message == data.message


def test_huge_attributes_are_left_out() -> None:
    error = ValueError("small")
    vars(error).update({f"part{number}": "x" * 10_000 for number in range(100)})
    error.body = "x" * 10_000_000  # type: ignore[attr-defined]
    assert len(msgspec.json.encode(describe(error, CODEC))) < 150_000


def test_the_middle_of_a_long_traceback_is_left_out() -> None:
    def descend(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom")
        descend(depth - 1)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        error = raising(lambda: descend(10_000))
    finally:
        sys.setrecursionlimit(limit)
    data = describe(error, CODEC)
    assert len(data.frames) == OUTER_FRAMES + INNER_FRAMES
    assert data.frames_left_out > 9_900
    assert data.frames[-1].source == 'raise ValueError("at the bottom")'
    assert f"  [{data.frames_left_out:,} frames left out]\n" in render_traceback(data)


def chain(length: int, link: str) -> BaseException:
    error: BaseException = ValueError(0)
    for number in range(1, length):
        following = ValueError(number)
        setattr(following, link, error)
        error = following
    return error


def links(error: BaseException | None, link: str) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, link)


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_a_chain_of_fifty_survives(link: str) -> None:
    found = [error.args[0] for error in links(again(chain(50, link)), link)]
    assert found == list(range(49, -1, -1))


def test_an_endless_chain_is_cut() -> None:
    data = describe(chain(10_000, "__cause__"), CODEC)
    assert len(list(links(revive(stored(data), CODEC), "__cause__"))) < MOST_ERRORS


def test_a_raise_from_inside_a_handler_is_told_once_per_error() -> None:
    def deep(depth: int) -> None:
        try:
            if depth:
                deep(depth - 1)
            raise ValueError(depth)
        except (ValueError, KeyError) as error:
            raise KeyError(depth) from error

    error = raising(lambda: deep(20))
    assert len(list(links(again(error), "__cause__"))) == len(list(links(error, "__cause__"))) == 22


def test_circles_of_causes_and_members_end() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__context__ = second, first
    group = ExceptionGroup("all", [first, second])
    first.__context__ = group
    copy = again(first)
    assert isinstance(copy.__cause__, ValueError)
    assert isinstance(again(group), ExceptionGroup)
    assert render_traceback(describe(group, CODEC))


def test_cause_context_and_their_suppression_are_kept() -> None:
    error = ValueError("x")
    error.__context__ = KeyError("context")
    assert not again(error).__suppress_context__
    error.__cause__ = None
    copy = again(error)
    assert copy.__suppress_context__
    assert copy.__cause__ is None
    assert isinstance(copy.__context__, KeyError)


def test_groups_can_be_split_as_before() -> None:
    group = BaseExceptionGroup(
        "all",
        [
            KeywordOnly(code=1, reason="x"),
            Many("inner", [OSError(2, "gone"), ValueError("v")]),
            KeyboardInterrupt(),
        ],
    )
    copy = again(group)
    assert type(copy) is BaseExceptionGroup
    assert str(copy) == str(group)
    assert isinstance(copy, BaseExceptionGroup)
    matched, rest = copy.split(OSError)
    assert matched is not None
    assert rest is not None
    assert type(matched.exceptions[0]) is Many
    assert [type(error) for error in rest.exceptions] == [KeywordOnly, Many, KeyboardInterrupt]
    gone = []
    try:
        raise again(Many("inner", [FileNotFoundError(2, "gone")]))
    except* OSError as caught:
        gone = [error.args for error in caught.exceptions]
    assert gone == [(2, "gone")]


def test_a_group_of_thousands_says_how_many_are_missing() -> None:
    group = ExceptionGroup("all", [ValueError(number) for number in range(5_000)])
    copy = again(group)
    assert isinstance(copy, ExceptionGroup)
    assert str(copy) == str(group) == "all (5000 sub-exceptions)"
    assert len(copy.exceptions) == MOST_ERRORS - 1
    assert copy.__notes__ == ["(4,901 more exceptions of this group were not recorded)"]


def test_deeply_nested_groups_end() -> None:
    error: Exception = ValueError("innermost")
    for _ in range(500):
        error = ExceptionGroup("g", [error])
    assert isinstance(again(error), ExceptionGroup)
    assert "not recorded" in render_traceback(describe(error, CODEC))


def test_notes_are_kept_and_odd_ones_are_not_a_problem() -> None:
    error = ValueError("x")
    error.add_note("look here")
    error.add_note("\ud800")
    assert again(error).__notes__ == ["look here", r"\ud800"]
    error.__notes__ = 3  # type: ignore[assignment]
    assert not hasattr(again(error), "__notes__")


def local_class() -> type[Exception]:
    class Local(OSError):
        pass

    return Local


def test_a_local_class_gets_a_stand_in_that_the_same_clauses_catch() -> None:
    error = local_class()(2, "gone")
    copy = again(error)
    assert isinstance(copy, OSError)
    assert (str(copy), copy.errno) == (str(error), 2)
    assert type(copy).__qualname__ == type(error).__qualname__
    assert type(copy).__module__ == MODULE
    assert type(again(error)) is type(copy)


def test_a_stand_in_is_described_as_the_original_was() -> None:
    error = local_class()(2, "gone")
    data = describe(error, CODEC)
    assert msgspec.structs.replace(describe(again(error), CODEC), frames=()) == data


def module_with(name: str, *classes: type) -> ModuleType:
    module = ModuleType(name)
    for cls in classes:
        cls.__module__ = name
        cls.__qualname__ = cls.__name__
        setattr(module, cls.__name__, cls)
    return module


def test_a_class_that_is_gone_is_stood_in_for_by_its_nearest_bases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Base(Exception):
        pass

    class Middle(Base, TimeoutError):
        pass

    class Last(Middle):
        pass

    module = module_with("shop", Base, Middle, Last)
    monkeypatch.setitem(sys.modules, "shop", module)
    data = stored(describe(Last("late"), CODEC))
    assert type(revive(data, CODEC)) is Last
    del module.Last
    assert isinstance(revive(data, CODEC), Middle)
    del module.Middle
    copy = revive(data, CODEC)
    assert isinstance(copy, Base)
    assert isinstance(copy, TimeoutError)
    monkeypatch.delitem(sys.modules, "shop")
    copy = revive(data, CODEC)
    assert not isinstance(copy, Base)
    assert isinstance(copy, TimeoutError)
    assert f"{type(copy).__module__}.{type(copy).__qualname__}: {copy}" == "shop.Last: late"


def test_a_renamed_class_is_caught_by_its_new_name_where_the_old_one_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The law: a name in the journal means what the module has under that name today."""

    class OutOfStock(LookupError):
        pass

    class SoldOut(LookupError):
        pass

    module = module_with("shop", OutOfStock)
    monkeypatch.setitem(sys.modules, "shop", module)
    data = stored(describe(OutOfStock("no lamp"), CODEC))
    del module.__dict__["OutOfStock"]
    renamed = module_with("shop", SoldOut)
    monkeypatch.setitem(sys.modules, "shop", renamed)
    stand_in = revive(data, CODEC)
    assert not isinstance(stand_in, SoldOut)
    assert isinstance(stand_in, LookupError)
    renamed.__dict__["OutOfStock"] = SoldOut
    assert type(revive(data, CODEC)) is SoldOut
    assert str(revive(data, CODEC)) == "no lamp"


def test_the_base_of_a_control_flow_exception_is_not_exception() -> None:
    class Stop(BaseException):
        pass

    copy = again(Stop("x"))
    assert not isinstance(copy, Exception)
    assert str(copy) == "x"


def test_classes_of_the_main_module_are_found_under_its_other_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OutOfStock(Exception):
        pass

    module_with("__main__", OutOfStock)
    data = describe(OutOfStock("x"), CODEC)
    monkeypatch.setitem(sys.modules, "shop_flow", module_with("shop_flow", OutOfStock))
    assert type(revive(data, CODEC, main_module="shop_flow")) is OutOfStock
    assert type(revive(data, CODEC)) is not OutOfStock


FRESH = """
import json, sys
import msgspec
from kitaru.domain.values import ErrorData
from kitaru.engine.codec import Codec
from kitaru.engine.failures import describe, revive, render_traceback

loaded = set(sys.modules)
for line in sys.stdin:
    data = msgspec.json.decode(line, type=ErrorData)
    error = revive(data, Codec())
    builtin = next(base for base in type(error).__mro__ if base.__module__ == "builtins")
    assert render_traceback(data)
    assert describe(error, Codec()).bases
    cls = type(error)
    print(json.dumps([cls.__module__, cls.__qualname__, builtin.__name__, str(error)]))
assert set(sys.modules) == loaded, set(sys.modules) - loaded
"""


def test_a_process_that_knows_none_of_the_classes_sees_the_same() -> None:
    errors = [*ORDINARY.values(), local_class()(2, "x"), Many("m", [Mixed("x")]), Mute("m")]
    lines = [msgspec.json.encode(describe(error, CODEC)).decode() for error in errors]
    done = subprocess.run(
        [sys.executable, "-c", FRESH], input="\n".join(lines), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    for error, (module, qualname, builtin, text) in zip(errors, seen, strict=True):
        cls = type(error)
        bases = [base.__name__ for base in cls.__mro__ if base.__module__ == "builtins"]
        assert (module, qualname) == (cls.__module__, cls.__qualname__)
        assert builtin == bases[0]
        assert text == describe(error, CODEC).message or text == str(error)


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("os", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "object"),
        ("builtins", "type"),
        ("antigravity", "Error"),
        ("os", "path.join"),
        ("sys", "modules"),
        ("", ""),
        ("builtins", "ValueError.__class__"),
        ("builtins", ".."),
        ("shop\0", "a\0b"),
        ("lazy", "Anything"),
    ],
)
def test_only_loaded_exception_classes_are_ever_made(
    module: str, qualname: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("a look-up ran code")

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    loaded = set(sys.modules)
    data = ErrorData(type="x", module=module, qualname=qualname, message="text")
    error = revive(data, CODEC)
    assert isinstance(error, Exception)
    assert str(error) == "text"
    assert set(sys.modules) == loaded


@pytest.mark.parametrize(
    "attributes",
    [
        b'{"__class__":1,"__traceback__":2,"__dict__":{},"__cause__":3,"args":4,"__notes__":5}',
        b'{"encoding":"utf-8","object":{"$":["bytes","YQ=="]},"start":-999999,"end":5,"reason":"x"}',
        b'{"encoding":"utf-8","object":"text","start":0,"end":1,"reason":"x"}',
        b'{"errno":"x","lineno":[],"code":{},"start":"x"}',
        b"[1]",
        b'{"$":1}',
    ],
)
@pytest.mark.parametrize("name", ["UnicodeDecodeError", "OSError", "SyntaxError", "ExceptionGroup"])
def test_hostile_parts_make_no_trouble(name: str, attributes: bytes) -> None:
    data = ErrorData(
        type=name,
        qualname=name,
        message="text",
        arguments=msgspec.Raw(b'{"$":["tuple",{"$":1}]}'),
        attributes=msgspec.Raw(attributes),
    )
    error = revive(stored(data), CODEC)
    assert type(error).__name__ == name
    assert str(error) == "text"
    assert repr(error)
    assert error.__cause__ is None
    assert error.__traceback__ is None


def without_markers(text: str) -> str:
    """Python's own traceback without the lines that underline a part of the source."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not re.fullmatch(r"[ |]*[~^]+\n", line)
    )


def fail_plainly() -> None:
    raise ValueError("plain\nin two lines")


def fail_with_a_cause() -> None:
    try:
        fail_plainly()
    except ValueError as error:
        raise KeywordOnly(code=1, reason="caused") from error


def fail_while_handling() -> None:
    try:
        fail_with_a_cause()
    except KeywordOnly:
        raise KeyError("while handling") from None


def fail_in_a_handler() -> None:
    try:
        fail_plainly()
    except ValueError:
        raise KeyError()  # noqa: B904


def fail_in_groups() -> None:
    errors: list[Exception] = []
    for fail in (fail_plainly, fail_with_a_cause, fail_in_a_handler):
        try:
            fail()
        except Exception as error:
            error.__context__ = None if error.__cause__ is None else error.__context__
            errors.append(error)
    inner = ExceptionGroup("inner", errors[1:])
    inner.add_note("a note\nof two lines")
    raise ExceptionGroup("outer", [inner, errors[0]]) from OSError(2, "gone")


@pytest.mark.parametrize(
    "fail",
    [fail_plainly, fail_with_a_cause, fail_while_handling, fail_in_a_handler, fail_in_groups],
)
def test_a_rendered_traceback_reads_like_pythons_own(fail: Callable[[], None]) -> None:
    error = raising(fail)
    expected = without_markers("".join(traceback.format_exception(error)))
    assert render_traceback(stored(describe(error, CODEC))) == expected


def test_a_live_error_keeps_the_frames_of_the_original() -> None:
    error = raising(fail_with_a_cause)
    copy = attach(revive(describe(error, CODEC), CODEC), error)
    text = "".join(traceback.format_exception(copy))
    assert "in fail_with_a_cause" in text
    assert "in fail_plainly" in text
    group = raising(fail_in_groups)
    assert "in fail_plainly" in "".join(traceback.format_exception(attach(again(group), group)))
