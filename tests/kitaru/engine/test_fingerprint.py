"""A fingerprint is the same for the same code in every process, and another for any other."""

import dataclasses
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kitaru.engine.fingerprint import CHANGES_ALLOWED, Fingerprint


def module_of(source: str) -> types.ModuleType:
    """A module of the project, as a notebook has it: without a file."""
    module = types.ModuleType("project")
    del module.__loader__
    exec(compile(textwrap.dedent(source), "<cell>", "exec"), vars(module))
    return module


def of(source: str, name: str = "f") -> str | None:
    return Fingerprint(getattr(module_of(source), name)).current()


# Pairs of sources that do the same, and pairs that do not.

SAME = {
    "comments": ("def f(): return 1", "def f():\n    # why\n    return 1"),
    "docstring": ('def f():\n    "Old."\n    return 1', 'def f():\n    "New."\n    return 1'),
    "a docstring more": ("def f(): return 1", 'def f():\n    "New."\n    return 1'),
    "place": ("def f(): return 1", "\n\n\nx = 5\ndef f():\n    return 1"),
    "annotations": ("def f(x): return x", "def f(x: int) -> int: return x"),
    "order of definitions": (
        "def g(): return 1\ndef h(): return 2\ndef f(): return g() + h()",
        "def h(): return 2\ndef g(): return 1\ndef f(): return g() + h()",
    ),
    "order of a set": (
        "K = {'a', 'b', 'c'}\ndef f(): return K",
        "K = {'c', 'b', 'a'}\ndef f(): return K",
    ),
    "what is not referred to": ("def f(): return 1\nK = 1", "def f(): return 1\nK = 2"),
    "itself": ("def f(n): return f(n - 1)", "def f(n): return f(n - 1)"),
    "each other": (
        "def f(n): return g(n)\ndef g(n): return f(n)",
        "def g(n): return f(n)\ndef f(n): return g(n)",
    ),
    "a container that holds itself": ("K = []; K.append(K)\ndef f(): return K",) * 2,
    "an address": ("K = object()\ndef f(): return K",) * 2,
    "a local class": ("def f():\n    class A: x = 1\n    return A.x",) * 2,
}
DECORATED = """
import functools
def d(n):
    @functools.wraps(n)
    def w(): return %s
    return w
@d
def f(): return %d
"""
OTHER = {
    "a constant in the code": ("def f(): return 1", "def f(): return 2"),
    "its type": ("def f(): return 1", "def f(): return 1.0"),
    "a zero's sign": ("def f(): return 0.0", "def f(): return -0.0"),
    "a truth value": ("def f(): return 1", "def f(): return True"),
    "an operator": ("def f(x): return x + 1", "def f(x): return x - 1"),
    "a name": ("def f(x): return len(x)", "def f(x): return max(x)"),
    "a default": ("def f(x=1): return x", "def f(x=2): return x"),
    "a keyword's default": ("def f(*, x=1): return x", "def f(*, x=2): return x"),
    "a nested function": (
        "def f():\n    def g(): return 1\n    return g()",
        "def f():\n    def g(): return 2\n    return g()",
    ),
    "a lambda": ("g = lambda: 1\ndef f(): return g()", "g = lambda: 2\ndef f(): return g()"),
    "a helper's helper": (
        "def h(): return 1\ndef g(): return h()\ndef f(): return g()",
        "def h(): return 2\ndef g(): return h()\ndef f(): return g()",
    ),
    "a constant": ("K = 'a'\ndef f(): return K", "K = 'b'\ndef f(): return K"),
    "a constant of a helper": (
        "K = 1\ndef g(): return K\ndef f(): return g()",
        "K = 2\ndef g(): return K\ndef f(): return g()",
    ),
    "an item of a dict": ("K = {1: [2]}\ndef f(): return K", "K = {1: [3]}\ndef f(): return K"),
    "a key of a dict": ("K = {1: 2}\ndef f(): return K", "K = {2: 2}\ndef f(): return K"),
    "a dict's order": (
        "K = {1: 1, 2: 2}\ndef f(): return K",
        "K = {2: 2, 1: 1}\ndef f(): return K",
    ),
    "a function in a dict": (
        "def g(): return 1\nK = {'g': g}\ndef f(): return K['g']()",
        "def g(): return 2\nK = {'g': g}\ndef f(): return K['g']()",
    ),
    "a pattern": (
        "import re\nK = re.compile('a' * 300 + 'b')\ndef f(): return K",
        "import re\nK = re.compile('a' * 300 + 'c')\ndef f(): return K",
    ),
    "a pattern's flags": (
        "import re\nK = re.compile('a')\ndef f(): return K",
        "import re\nK = re.compile('a', re.I)\ndef f(): return K",
    ),
    "a method": (
        "class A:\n    def m(self): return 1\ndef f(): return A().m()",
        "class A:\n    def m(self): return 2\ndef f(): return A().m()",
    ),
    "a class method": (
        "class A:\n    @classmethod\n    def m(cls): return 1\ndef f(): return A.m()",
        "class A:\n    @classmethod\n    def m(cls): return 2\ndef f(): return A.m()",
    ),
    "a property": (
        "class A:\n    @property\n    def m(self): return 1\ndef f(): return A().m",
        "class A:\n    @property\n    def m(self): return 2\ndef f(): return A().m",
    ),
    "a class's constant": (
        "class A: m = 1\ndef f(): return A.m",
        "class A: m = 2\ndef f(): return A.m",
    ),
    "a base class": (
        "class B: m = 1\nclass A(B): pass\ndef f(): return A.m",
        "class B: m = 2\nclass A(B): pass\ndef f(): return A.m",
    ),
    "an object's class": (
        "class A:\n    def m(self): return 1\nK = A()\ndef f(): return K.m()",
        "class A:\n    def m(self): return 2\nK = A()\ndef f(): return K.m()",
    ),
    "a field's default": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    m: int = 1\ndef f(): return A()",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    m: int = 2\ndef f(): return A()",
    ),
    "a field's type": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    m: int\ndef f(): return A(1)",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    m: str\ndef f(): return A(1)",
    ),
    "a cached helper": (
        "import functools\n@functools.cache\ndef g(): return 1\ndef f(): return g()",
        "import functools\n@functools.cache\ndef g(): return 2\ndef f(): return g()",
    ),
    "a partial's argument": (
        "import functools\ng = functools.partial(int, '1')\ndef f(): return g()",
        "import functools\ng = functools.partial(int, '2')\ndef f(): return g()",
    ),
    "a decorator": (DECORATED % ("n()", 1), DECORATED % ("1 + n()", 1)),
    "what is decorated": (DECORATED % ("n()", 1), DECORATED % ("n()", 2)),
    "a closure": (
        "def make(k):\n    def f(): return k\n    return f\nf = make(1)",
        "def make(k):\n    def f(): return k\n    return f\nf = make(2)",
    ),
    "an enum's value": (
        "import enum\nclass E(enum.Enum):\n    A = 1\ndef f(): return E.A",
        "import enum\nclass E(enum.Enum):\n    A = 2\ndef f(): return E.A",
    ),
    "a checkpoint that is named": (
        "import kitaru\n@kitaru.checkpoint\ndef g(): return 1\ndef f(): return g",
        "import kitaru\n@kitaru.checkpoint\ndef g(): return 2\ndef f(): return g",
    ),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_what_does_the_same_has_the_same_fingerprint(pair: tuple[str, str]) -> None:
    assert of(pair[0]) == of(pair[1])


@pytest.mark.parametrize("pair", OTHER.values(), ids=OTHER)
def test_what_does_something_else_has_another(pair: tuple[str, str]) -> None:
    assert of(pair[0]) != of(pair[1])


def test_every_process_has_the_same(tmp_path: Any) -> None:
    sources = {name: pair[0] for name, pair in {**SAME, **OTHER}.items()}
    program = textwrap.dedent(
        """
        import sys, types
        sys.path.insert(0, sys.argv[1])
        from kitaru.engine.fingerprint import Fingerprint
        for source in {sources!r}:
            module = types.ModuleType("project")
            del module.__loader__
            exec(compile(source, "<cell>", "exec"), vars(module))
            print(Fingerprint(module.f).current())
        """
    ).replace("{sources!r}", repr(list(sources.values())))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, "."],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(4)
    }
    (output,) = outputs
    assert len(output.split()) == len(sources)


# It follows what happens in the process.


def test_a_redefined_helper_counts_at_once() -> None:
    module = module_of("def g(): return 1\ndef f(): return g()")
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    assert fingerprint.current() == first
    exec("def g(): return 2", vars(module))
    second = fingerprint.current()
    exec("def g(): return 1", vars(module))
    assert first == fingerprint.current() != second


def test_a_name_that_appears_later_counts() -> None:
    module = module_of("def f(): return K")
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    vars(module)["K"] = 1
    assert fingerprint.current() != first


def test_a_changed_class_counts() -> None:
    module = module_of("class A: x = 1\ndef f(): return A.x")
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    module.A.x = 2
    assert fingerprint.current() != first


@dataclasses.dataclass
class Settings:
    model: str


class Mutable(msgspec.Struct):
    items: list[int]


CHANGED_IN_PLACE: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "list": ([1], lambda k: k.append(2)),
    "dict": ({}, lambda k: k.update(a=1)),
    "set": ({1}, lambda k: k.add(2)),
    "nested": ({"a": [1, {"b": 1}]}, lambda k: k["a"][1].update(b=2)),
    "in a tuple": (([],), lambda k: k[0].append(1)),
    "swapped": ([1, 2], lambda k: k.reverse()),
    "dataclass": (Settings("a"), lambda k: setattr(k, "model", "b")),
    "struct": (Mutable([1]), lambda k: k.items.append(2)),
    "bytearray": (bytearray(b"a"), lambda k: k.extend(b"b")),
}


@pytest.mark.parametrize("case", CHANGED_IN_PLACE)
def test_a_constant_that_is_changed_in_place_counts(case: str) -> None:
    value, change = CHANGED_IN_PLACE[case]
    module = module_of("def f(): return K")
    vars(module)["K"] = value
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    assert fingerprint.current() == first
    change(value)
    assert fingerprint.current() not in (first, None)


def test_what_changes_again_and_again_is_state_and_has_no_fingerprint() -> None:
    module = module_of("K = []\ndef f(): K.append(1)")
    fingerprint = Fingerprint(module.f)
    seen = []
    for _ in range(CHANGES_ALLOWED + 5):
        seen.append(fingerprint.current())
        module.f()
    assert None not in seen[: CHANGES_ALLOWED + 1]
    assert len(set(seen[: CHANGES_ALLOWED + 1])) == CHANGES_ALLOWED + 1
    assert set(seen[CHANGES_ALLOWED + 1 :]) == {None}


def test_an_object_whose_state_changes_is_told_by_its_class() -> None:
    module = module_of(
        "class Client:\n    def __init__(self): self.calls = 0\nK = Client()\ndef f(): return K"
    )
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    module.K.calls += 1
    assert fingerprint.current() == first


def test_an_object_that_answers_every_name_is_not_asked() -> None:
    class Eager:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    module = module_of("def f(): return K")
    vars(module)["K"] = Eager()
    assert Fingerprint(module.f).current()


def test_libraries_count_by_name_alone() -> None:
    module = module_of("import json, textwrap\ndef f(x): return json.dumps(textwrap.dedent(x))")
    first = Fingerprint(module.f).current()
    assert Fingerprint(module.f).current() == first
    vars(module)["textwrap"] = sys
    assert Fingerprint(module.f).current() == first
