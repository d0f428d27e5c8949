"""The public surface as it is recorded: whoever changes it sees that, and says so.

``python -m tests.test_public_api`` writes the record anew.
"""

import enum
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import journal
import kitaru

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "public_api.txt"
PAGES = [ROOT / "docs" / "reference" / name for name in ("python-api.md", "errors.md")]


def surface() -> str:
    """Every public name with what can be done with it, one a line."""
    return "\n".join([*_package(kitaru), "", *_package(journal)]) + "\n"


def _package(package: Any) -> Iterator[str]:
    for name in package.__all__:
        yield from _lines(f"{package.__name__}.{name}", getattr(package, name))


def _lines(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        yield f"{name}{_constructor(thing)}{_bases(thing)}"
        yield from (f"    {line}" for line in _members(thing))
    elif inspect.isfunction(thing):
        yield f"{name}{_parameters(thing)}"
    elif callable(thing):
        yield f"{name}{_parameters(thing.__call__)}"
        yield from (f"    {line}" for line in _members(type(thing)))
    else:
        yield f"{name}: {type(thing).__name__}"


def _bases(cls: type) -> str:
    if not issubclass(cls, BaseException):
        return ""
    return " <- " + ", ".join(base.__name__ for base in cls.__bases__)


def _constructor(cls: type) -> str:
    """What a user says to make one; nothing where only Kitaru makes them."""
    if issubclass(cls, enum.Enum) or inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        return ""
    if issubclass(cls, msgspec.Struct):
        return _shown(inspect.signature(cls).parameters.values())
    if issubclass(cls, BaseException) and "__init__" in cls.__dict__:
        return _parameters(cls.__init__, skip=1)
    return ""


def _members(cls: type) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in cls)
        return
    for name in sorted({name for base in cls.__mro__[:-1] for name in base.__dict__}):
        if name.startswith("_") and name not in ("__call__", "__await__"):
            continue
        member = inspect.getattr_static(cls, name)
        origin = next(base for base in cls.__mro__ if name in base.__dict__)
        if not origin.__module__.startswith(("kitaru", "journal")):
            continue
        if isinstance(member, property):
            yield f"{name}: property"
        elif inspect.isfunction(member):
            word = "async " if inspect.iscoroutinefunction(member) else ""
            yield f"{word}{name}{_parameters(member, skip=1)}"


def _parameters(function: Any, skip: int = 0) -> str:
    parameters = list(inspect.signature(function).parameters.values())
    return _shown(parameters[skip:] if not inspect.ismethod(function) else parameters)


def _shown(parameters: Any) -> str:
    # Without annotations, which each Python writes in its own way; tests/typing holds the types.
    bare = [
        each.replace(
            annotation=inspect.Parameter.empty,
            default=each.default if each.default is each.empty else _Default(each.default),
        )
        for each in parameters
    ]
    return str(inspect.Signature(bare))


class _Default:
    """A default as it is written; of what has no good words, that there is one."""

    def __init__(self, value: Any) -> None:
        self._text = re.sub(r"<.* at 0x.*>", "...", repr(value))

    def __repr__(self) -> str:
        return self._text


def test_the_public_surface_is_the_recorded_one() -> None:
    assert surface() == RECORD.read_text(encoding="utf-8"), (
        "The public surface has changed. Where that is meant: python -m tests.test_public_api, and "
        "a line in docs/changelog.md."
    )


@pytest.mark.parametrize("package", [kitaru, journal], ids=lambda package: str(package.__name__))
def test_every_public_name_is_there_sorted_and_told(package: Any) -> None:
    assert list(package.__all__) == sorted(package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        thing = getattr(package, name)
        # An alias of a type, as `journal.Watcher` is one, has no words of its own.
        if inspect.isclass(thing) or inspect.isroutine(thing):
            assert (inspect.getdoc(thing) or "").strip(), name


def _told() -> Iterator[tuple[str, Any]]:
    for name in kitaru.__all__:
        thing = getattr(kitaru, name)
        if not inspect.isclass(thing) or issubclass(thing, enum.Enum):
            continue
        for member, value in vars(thing).items():
            if not member.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                yield f"{name}.{member}", value


def test_every_public_method_has_a_docstring() -> None:
    assert [name for name, member in _told() if not (inspect.getdoc(member) or "").strip()] == []


@pytest.mark.parametrize("name", kitaru.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert any(
        re.search(rf"(?<!\w){name}(?!\w)", page.read_text(encoding="utf-8")) for page in PAGES
    ), f"{name} is neither in docs/reference/python-api.md nor in errors.md"


ERRORS = {
    # As the reference product has them; what it alone has is not here.
    "KitaruUsageError": ("KitaruError", ValueError),
    "KitaruWaitValidationError": ("KitaruUsageError", ValueError),
    "KitaruContextError": ("KitaruError", RuntimeError),
    "KitaruStateError": ("KitaruError", RuntimeError),
    "KitaruRuntimeError": ("KitaruError", RuntimeError),
    "KitaruBackendError": ("KitaruRuntimeError", RuntimeError),
    "KitaruExecutionError": ("KitaruRuntimeError", RuntimeError),
    "KitaruUserCodeError": ("KitaruExecutionError", RuntimeError),
    "KitaruDivergenceError": ("KitaruExecutionError", RuntimeError),
    "KitaruFeatureNotAvailableError": ("KitaruError", NotImplementedError),
    "KitaruTimeoutError": ("KitaruError", TimeoutError),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_stand_where_they_are_expected(name: str) -> None:
    parent, builtin = ERRORS[name]
    error = getattr(kitaru, name)
    assert getattr(kitaru, parent) in error.__bases__
    assert issubclass(error, builtin)


def test_the_tree_of_errors_is_the_true_one_wherever_it_is_drawn() -> None:
    drawn = (inspect.getdoc(kitaru.KitaruError) or "").split("\n\n", 1)[1].strip()
    assert drawn in PAGES[1].read_text(encoding="utf-8")
    errors = [
        getattr(kitaru, name)
        for name in kitaru.__all__
        if inspect.isclass(getattr(kitaru, name))
        and issubclass(getattr(kitaru, name), kitaru.KitaruError)
    ]
    assert sorted(re.findall(r"Kitaru\w+", drawn)) == sorted(error.__name__ for error in errors)
    depths = {
        match[2]: len(match[1]) // 4
        for match in re.finditer(r"^([│├└─ ]*)(Kitaru\w+)", drawn, re.MULTILINE)
    }
    for error in errors:
        above = [base for base in error.__mro__ if issubclass(base, kitaru.KitaruError)]
        assert depths[error.__name__] == len(above) - 1


def test_both_packages_say_that_they_are_typed() -> None:
    for package in (kitaru, journal):
        assert package.__file__ is not None
        assert (Path(package.__file__).parent / "py.typed").exists()


if __name__ == "__main__":
    RECORD.write_text(surface(), encoding="utf-8")
