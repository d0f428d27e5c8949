"""Deploying and invoking from a body, or while a file is loaded, would happen again and again."""

from collections.abc import Iterator
from typing import Any

import pytest

import kitaru
from kitaru import KitaruClient, checkpoint, flow
from kitaru.bootstrap import close_background
from kitaru.sdk.deployments import AsyncDeployments, Deployments
from kitaru.sdk.places import check_place


@pytest.fixture
def memory() -> Iterator[None]:
    """A journal that no runner process can open, so that none is started."""
    kitaru.configure(journal="memory://")
    yield
    close_background()


@flow
def other() -> int:
    return 1


@checkpoint
def asks(what: str) -> str:
    try:
        _ask(what)
    except kitaru.KitaruError as error:
        return type(error).__name__
    return "done"


def _ask(what: str) -> None:
    match what:
        case "deploy":
            other.deploy()
        case "invoke":
            other.invoke()
        case _:
            KitaruClient().deployments.invoke(flow="other")


@flow
def from_body(what: str) -> str:
    try:
        _ask(what)
    except kitaru.KitaruContextError as error:
        return str(error)
    return "done"


@flow
def from_checkpoint(what: str) -> str:
    return asks(what)


@pytest.mark.parametrize("what", ["deploy", "invoke", "client"])
def test_a_body_neither_deploys_nor_invokes(what: str, memory: Any) -> None:
    assert "each replay would start it again" in from_body.run(what).wait(30)


def test_a_checkpoint_may_deploy_and_where_it_cannot_invoke_it_says_why(memory: Any) -> None:
    assert from_checkpoint.run("deploy").wait(30) == "done"
    assert from_checkpoint.run("client").wait(30) == "KitaruUsageError"


def test_outside_of_everything_a_flow_may_be_started() -> None:
    check_place("other")


def test_both_colours_have_the_same_methods() -> None:
    public = [
        {name for name in dir(each) if not name.startswith("_")}
        for each in (Deployments, AsyncDeployments)
    ]
    assert public[0] == public[1]


@pytest.mark.parametrize("inputs", ["text", {1: 2}, ["a"]])
def test_inputs_are_a_mapping_by_name(inputs: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="a dict is needed"):
        KitaruClient().deployments.invoke(flow="other", inputs=inputs)


async def test_what_would_block_the_callers_loop_is_refused_by_name(memory: Any) -> None:
    for call in (other.deploy, other.invoke, other.deployments, other.deployment):
        with pytest.raises(kitaru.KitaruUsageError, match=r"await other\.aio\."):
            call()
    with pytest.raises(kitaru.KitaruUsageError, match="AsyncKitaruClient"):
        KitaruClient().deployments.list()
