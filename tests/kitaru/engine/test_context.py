"""Code knows where it stands, and being let go of cannot be handled away."""

import contextvars
from typing import Any

import pytest

from kitaru.engine.context import (
    CheckpointScope,
    ExecutionSuspended,
    FlowScope,
    flow_scope,
    scope,
)
from kitaru.errors import KitaruContextError

RUNNER: Any = object()


def inside(here: Any) -> FlowScope:
    """What `flow_scope` says where this is the scope."""

    def look() -> FlowScope:
        scope.set(here)
        return flow_scope("work()")

    return contextvars.Context().run(look)


def test_in_a_flows_body_its_runner_is_found() -> None:
    assert inside(FlowScope(RUNNER)).runner is RUNNER


def test_outside_a_flow_it_is_said_how_to_get_in() -> None:
    with pytest.raises(KitaruContextError, match=r"work\(\) can only be used inside a @flow.*run"):
        inside(None)


def test_inside_a_checkpoint_the_checkpoint_is_named() -> None:
    with pytest.raises(KitaruContextError, match=r"inside a @checkpoint \(this is 'fetch#2'\)"):
        inside(CheckpointScope(RUNNER, "fetch#2", 1, "fetch#2"))


def test_no_scope_leaks_out() -> None:
    inside(FlowScope(RUNNER))
    assert scope.get() is None


def test_being_let_go_of_is_no_exception_that_a_body_would_catch() -> None:
    assert not issubclass(ExecutionSuspended, Exception)
    assert "Do not handle this" in str(ExecutionSuspended())
