"""A fingerprint is the same for the same code in every process, and another for any other."""

import dataclasses
import gc
import subprocess
import sys
import textwrap
import types
import weakref
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
    "an object that holds itself": (
        "class A:\n    def __init__(self): self.a = [self]\nK = A()\ndef f(): return K",
    )
    * 2,
    "what an object holds of libraries": (
        "class A:\n    def __init__(self): self.a = object()\nK = A()\ndef f(): return K",
    )
    * 2,
    "what is too much of an object": (
        "class A: pass\nK = A(); K.a = list(range(5_000))\ndef f(): return K",
        "class A: pass\nK = A(); K.a = list(range(6_000))\ndef f(): return K",
    ),
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


# Sources, a place in them, and what makes another source of it.

EDITED = {
    "a key that is looked up": (
        "from operator import itemgetter as g; K = g('a')\ndef f(x): return K(x)",
        "'a'",
        "'b'",
    ),
    "a method that is called": (
        "from operator import methodcaller as g; K = g('a')\ndef f(x): return K(x)",
        "'a'",
        "'b'",
    ),
    "a slice": (
        "K = slice(1)\ndef f(x): return x[K]",
        "(1)",
        "(2)",
    ),
    "a fraction": (
        "from fractions import Fraction as F; K = F(1, 2)\ndef f(): return K",
        "1, 2",
        "1, 3",
    ),
    "a view of a dict": (
        "from types import MappingProxyType as V; K = V({1: 1})\ndef f(): return K",
        ": 1",
        ": 2",
    ),
    "a dict's factory": (
        "from collections import defaultdict as D; K = D(lambda: 1)\ndef f(): return K",
        ": 1",
        ": 2",
    ),
    "a queue": (
        "from collections import deque; K = deque([1])\ndef f(): return K",
        "[1]",
        "[2]",
    ),
    "an ordered dict": (
        "from collections import OrderedDict as D; K = D(a=1)\ndef f(): return K",
        "=1",
        "=2",
    ),
    "a namespace": (
        "from types import SimpleNamespace as N; K = N(a=1)\ndef f(): return K",
        "=1",
        "=2",
    ),
    "a template": (
        "from string import Template as T; K = T('a')\ndef f(): return K",
        "'a'",
        "'b'",
    ),
    "an alias of a type": (
        "from typing import Annotated as A; K = A[int, 1]\ndef f(): return K",
        "1]",
        "2]",
    ),
    "an implementation for a type": (
        (
            "from functools import singledispatch\n@singledispatch\ndef g(x): pass\n"
            "@g.register\ndef _(x: int): return 1\ndef f(): return g(0)"
        ),
        "return 1",
        "return 2",
    ),
    "an implementation of a method for a type": (
        (
            "from functools import singledispatchmethod\nclass A:\n    @singledispatchmethod\n"
            "    def g(self, x): pass\n    @g.register\n    def _(self, x: int): return 1\n"
            "def f(): return A().g(0)"
        ),
        "return 1",
        "return 2",
    ),
    "an argument of a partial method": (
        (
            "from functools import partialmethod\nclass A:\n    def g(self, x): return x\n"
            "    h = partialmethod(g, 1)\ndef f(): return A().h()"
        ),
        "g, 1",
        "g, 2",
    ),
    "a struct's default": (
        "import msgspec\nclass A(msgspec.Struct):\n    m: int = 1\ndef f(): return A()",
        "= 1",
        "= 2",
    ),
    "a struct's names": (
        (
            "import msgspec\nclass A(msgspec.Struct, rename='upper'):\n    m: int\n"
            "def f(): return A(1)"
        ),
        "upper",
        "lower",
    ),
    "a struct's factory": (
        (
            "import msgspec\nclass A(msgspec.Struct):\n"
            "    m: int = msgspec.field(default_factory=lambda: 1)\ndef f(): return A()"
        ),
        ": 1",
        ": 2",
    ),
    "a struct's options": (
        "import msgspec\nclass A(msgspec.Struct, tag='a'): pass\ndef f(): return A()",
        "'a'",
        "'b'",
    ),
    "a model's default": (
        "import pydantic\nclass A(pydantic.BaseModel):\n    m: int = 1\ndef f(): return A()",
        "= 1",
        "= 2",
    ),
    "a model's limit": (
        (
            "import pydantic\nclass A(pydantic.BaseModel):\n"
            "    m: int = pydantic.Field(5, gt=1)\ndef f(): return A()"
        ),
        "gt=1",
        "gt=2",
    ),
    "a model's factory": (
        (
            "import pydantic\nclass A(pydantic.BaseModel):\n"
            "    m: int = pydantic.Field(default_factory=lambda: 1)\ndef f(): return A()"
        ),
        ": 1",
        ": 2",
    ),
    "a class's text with underscores": (
        "class A: __table__ = 'a'\ndef f(): return A",
        "'a'",
        "'b'",
    ),
    "slots": (
        "class A: __slots__ = ('a',)\ndef f(): return A",
        "'a'",
        "'b'",
    ),
    "a metaclass": (
        (
            "class M(type):\n    def m(cls): return 1\nclass A(metaclass=M): pass\n"
            "def f(): return A.m()"
        ),
        "return 1",
        "return 2",
    ),
    "a descriptor": (
        (
            "class D:\n    def __init__(self, v): self.v = v\n"
            "    def __get__(self, *_): return self.v\nclass A: m = D(1)\ndef f(): return A.m"
        ),
        "D(1)",
        "D(2)",
    ),
    "what a decorator's object holds": (
        (
            "class D:\n    def __init__(self, g): self.g = g\n@D\ndef g(): return 1\n"
            "def f(): return g.g()"
        ),
        "return 1",
        "return 2",
    ),
    "what an object holds": (
        "class A:\n    def __init__(self, v): self.v = {'v': [v]}\nK = A(1)\ndef f(): return K.v",
        "A(1)",
        "A(2)",
    ),
    "what an object's object holds": (
        "class A:\n    def __init__(self, v): self.v = v\nK = A(A(1))\ndef f(): return K.v.v",
        "A(1)",
        "A(2)",
    ),
    "what an object with slots holds": (
        (
            "class A:\n    __slots__ = ('v', 'w')\n    def __init__(self, v): self.v = v\n"
            "K = A(1)\ndef f(): return K.v"
        ),
        "A(1)",
        "A(2)",
    ),
    "the object of a method": (
        (
            "class A:\n    def __init__(self, v): self.v = v\n    def m(self): return self.v\n"
            "K = A(1).m\ndef f(): return K()"
        ),
        "A(1)",
        "A(2)",
    ),
}
OTHER.update({name: (text, text.replace(old, new)) for name, (text, old, new) in EDITED.items()})


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


CHANGING = """
class Client:
    def __init__(self): self.calls = 0; self.seen = []; self.hook = hook; self.inner = Inner()
class Inner:
    limit = 1
    def __init__(self): self.limit = 1
def hook(): return LIMIT
L = LIMIT = 1
K = Client()
def f(): return K, L
"""


@pytest.mark.parametrize("change", ["K.calls += 1", "K.seen.append(1)", "K.inner.limit = 2"])
def test_what_changes_in_an_object_is_its_state_and_counts_as_it_was(change: str) -> None:
    module = module_of(CHANGING)
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    for _ in range(CHANGES_ALLOWED + 5):
        exec(change, vars(module))
        assert fingerprint.current() == first
    exec("L = 2", vars(module))
    other = fingerprint.current()
    exec("L = 1", vars(module))
    assert first == fingerprint.current() != other


def test_what_an_object_refers_to_counts_when_it_changes() -> None:
    module = module_of(CHANGING)
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    vars(module)["LIMIT"] = 2
    second = fingerprint.current()
    module.Inner.limit = 2
    assert first != second != fingerprint.current()


def test_checkpoints_that_share_an_object_have_one_first_look_at_it() -> None:
    one, two = module_of(CHANGING), module_of(CHANGING)
    vars(two)["K"] = one.K
    first = Fingerprint(one.f).current()
    one.K.calls += 1
    assert Fingerprint(two.f).current() == first


def test_an_object_that_was_looked_at_can_go() -> None:
    module = module_of(CHANGING)
    Fingerprint(module.f).current()
    gone = weakref.ref(module.K)
    vars(module)["K"] = None
    gc.collect()
    assert gone() is None


def test_an_object_in_the_place_of_another_counts_as_it_is() -> None:
    module = module_of(CHANGING)
    fingerprint = Fingerprint(module.f)
    first = fingerprint.current()
    exec("K = Client()", vars(module))
    assert fingerprint.current() == first
    exec("K = Client(); K.calls = 1", vars(module))
    assert fingerprint.current() != first


def test_data_that_is_nested_too_deeply_is_no_constant() -> None:
    module = module_of("K = []\ndef f(): return K")
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    vars(module)["K"] = deep
    assert Fingerprint(module.f).current() is None


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
