"""What is stored has the form that it had: `stored_form.txt` names every field and its default.

A journal outlives its writer. A field that is new needs a default; one that changes its name, its
meaning or its default needs a new schema and an upcast. Where a change is meant, write the file
anew: ``python -m tests.kitaru.domain.test_stored_form``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import kitaru.domain
from kitaru.domain import deployment, execution, stack

FORM = Path(__file__).with_name("stored_form.txt")
FLAGS = ("frozen", "omit_defaults", "forbid_unknown_fields", "array_like", "eq", "order", "gc")


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(kitaru.domain.__path__, "kitaru.domain."):
        yield importlib.import_module(found.name)


def structs() -> list[type[Struct]]:
    """Every class of the domain, in the order of its source."""
    return [
        value
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Struct)
        and value.__module__ == module.__name__
    ]


def form() -> str:
    lines = []
    for package in (execution, deployment, stack):
        events = importlib.import_module(f"{package.__name__}.events")
        for tag, (cls, schema) in events.EVENT_TYPES.items():
            lines.append(f"{tag} {schema}: {cls.__module__}.{cls.__qualname__}")
    for cls in structs():
        lines += ["", f"{cls.__module__}.{cls.__qualname__}: {', '.join(flags_of(cls))}"]
        lines += [f"    {line}" for line in fields_of(cls)]
    return "\n".join(lines) + "\n"


def flags_of(cls: type[Struct]) -> list[str]:
    return [flag for flag in FLAGS if getattr(cls.__struct_config__, flag)]


def fields_of(cls: type[Struct]) -> Iterator[str]:
    parameters = inspect.signature(cls).parameters
    for field in msgspec.structs.fields(cls):
        by_name = parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        default = "" if field.required else f" = {shown(field)}"
        yield f"{'*' if by_name else ''}{field.encode_name}{default}"


def shown(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return f"{field.default_factory.__name__}()"
    if isinstance(field.default, msgspec.Raw):
        return repr(bytes(field.default))
    return repr(field.default)


def test_everything_that_is_stored_has_the_form_that_it_had() -> None:
    assert form() == FORM.read_text(encoding="utf-8")


if __name__ == "__main__":
    FORM.write_text(form(), encoding="utf-8")
