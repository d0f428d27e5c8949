"""Strategies for every event, and walks of executions that the rules allow."""

import types
import typing
from typing import Any

import pytest
from hypothesis import strategies as st
from msgspec import Raw, Struct

from kitaru.domain.execution.events import EVENT_TYPES, Event
from kitaru.domain.values import NO_JSON, ErrorData, FrameData
from kitaru.image import ImageSettings
from kitaru.status import FailureOrigin

WHOLE = st.integers(min_value=-(2**63), max_value=2**63 - 1)
VARIABLES = st.dictionaries(st.from_regex(r"[A-Z_]{1,5}", fullmatch=True), st.just("x"), max_size=2)
IMAGES = st.builds(
    ImageSettings,
    base_image=st.none() | st.just("python:3.12"),
    requirements=st.none() | st.lists(st.sampled_from(["httpx", "attrs>=25"]), max_size=2),
    environment=st.none() | VARIABLES,
    replicate_local_python_environment=st.none() | st.booleans(),
)
JSON = st.sampled_from([Raw(b"1"), Raw(b'{"a":[null,"\\u00fc"]}'), Raw(b'"text"'), Raw(b"[]")])


def _of(hint: Any) -> st.SearchStrategy[Any]:
    origin = typing.get_origin(hint)
    if hint is Raw:
        return JSON
    if hint is int:
        return WHOLE
    if hint is ErrorData:
        return errors()
    if hint is ImageSettings:
        return IMAGES
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _struct(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(_of, typing.get_args(hint)))
    if origin is tuple:
        return st.lists(_of(typing.get_args(hint)[0]), max_size=3).map(tuple)
    return st.from_type(hint)


def _struct(cls: type[Any], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    fields = {
        name: given[name] if name in given else _of(hints[name]) for name in cls.__struct_fields__
    }
    return st.fixed_dictionaries(fields).map(lambda values: cls(**values))


def errors() -> st.SearchStrategy[ErrorData]:
    """Errors, with causes, contexts and members."""
    raw = st.just(NO_JSON) | JSON
    pairs = st.lists(st.tuples(st.text(), st.text()), max_size=2).map(tuple)
    frames = st.lists(_struct(FrameData), max_size=2).map(tuple)

    def plain(inner: st.SearchStrategy[ErrorData | None]) -> st.SearchStrategy[ErrorData]:
        return _struct(
            ErrorData,
            bases=pairs,
            exact_message=raw,
            arguments=raw,
            attributes=raw,
            frames=frames,
            cause=inner,
            context=inner,
            members=st.just(()) if inner is NOTHING else st.tuples(inner),
        )

    return plain(NOTHING) | plain(plain(NOTHING))


NOTHING: st.SearchStrategy[ErrorData | None] = st.none()


def events(cls: type[Event]) -> st.SearchStrategy[Any]:
    """Events of a class, with every field."""
    given: dict[str, st.SearchStrategy[Any]] = {}
    if "origin" in cls.__struct_fields__:
        given["origin"] = st.sampled_from([origin.value for origin in FailureOrigin])
    if "cache_key" in cls.__struct_fields__:
        given["cache_key"] = st.just("") | st.text("0123456789abcdef", min_size=32, max_size=32)
    if cls.__name__ == "ExecutionReopened":
        given["reason"] = st.sampled_from(["retry", "resume"])
    return _struct(cls, **given)


ANY_EVENT = st.one_of(*(events(cls) for cls, _ in EVENT_TYPES.values()))


@pytest.fixture(scope="session")
def any_event() -> st.SearchStrategy[Any]:
    """Any event of any type."""
    return ANY_EVENT


@pytest.fixture(scope="session")
def events_of() -> dict[str, st.SearchStrategy[Any]]:
    """The events of each type, by tag."""
    return {tag: events(cls) for tag, (cls, _) in EVENT_TYPES.items()}
