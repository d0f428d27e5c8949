"""Versions have no gaps, an exclusive tag leads to one version, and `default` is never lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.domain.deployment.commands import (
    Command,
    DeleteVersion,
    Deploy,
    MoveTag,
    RemoveTag,
)
from kitaru.domain.deployment.decide import (
    LONGEST_TAG,
    checked_tag,
    checked_version,
    decide,
    version_of,
)
from kitaru.domain.deployment.events import (
    EVENT_TYPES,
    TAGS,
    EntryPoint,
    TagMoved,
    TagRemoved,
    VersionDeployed,
)
from kitaru.domain.deployment.state import NOTHING_DEPLOYED, DeploymentState, TagState, evolve
from kitaru.errors import KitaruDeploymentNotFoundError, KitaruStateError, KitaruUsageError

FACTS = VersionDeployed(
    version=0,
    entry=EntryPoint(module="flows", qualname="agent", file="flows.py"),
    bundle="ab" * 32,
    size=10,
    files=1,
)


def after(*commands: Command) -> DeploymentState:
    state = NOTHING_DEPLOYED
    for command in commands:
        for event in decide(state, command):
            state = evolve(state, event)
    return state


def deploy(**tags: bool) -> Deploy:
    return Deploy(FACTS, tags)


PLAIN = Deploy(FACTS, {"default": True})


def test_versions_count_from_one_and_a_deleted_one_does_not_come_back() -> None:
    state = after(PLAIN, PLAIN, PLAIN, DeleteVersion(2), PLAIN)
    assert (state.latest, state.versions) == (4, (1, 3, 4))


def test_default_moves_with_a_plain_deploy() -> None:
    assert version_of(after(PLAIN, PLAIN), "agent", None, None) == 2


def test_the_first_version_gets_default_whatever_its_tags_are_unless_told_otherwise() -> None:
    assert after(deploy(stable=True)).tags_of(1) == {"stable": True, "default": True}
    assert after(Deploy(FACTS, {}, default_on_first=False)).tags == {}
    assert after(PLAIN, deploy(stable=True)).tags_of(2) == {"stable": True}
    assert after(Deploy(FACTS, {}, default_on_first=False), deploy()).tags == {}


def test_an_exclusive_tag_leaves_where_it_was_in_one_event() -> None:
    state = after(deploy(stable=True), deploy(stable=True))
    assert (state.tags_of(1), state.tags_of(2)) == ({"default": True}, {"stable": True})
    assert len(decide(state, MoveTag("stable", 1, exclusive=True))) == 1


def test_a_shared_tag_may_lead_to_several_and_then_names_none() -> None:
    state = after(deploy(beta=False), deploy(beta=False))
    with pytest.raises(KitaruStateError, match=r"ambiguous.*1, 2"):
        version_of(state, "agent", None, "beta")
    for event in decide(state, RemoveTag("beta", 1)):
        state = evolve(state, event)
    assert version_of(state, "agent", None, "beta") == 2


def test_a_shared_tag_can_be_made_exclusive_and_not_the_other_way_round() -> None:
    state = after(deploy(beta=False), deploy(beta=False), MoveTag("beta", 1, exclusive=True))
    assert version_of(state, "agent", None, "beta") == 1
    with pytest.raises(KitaruStateError, match=r"exclusive and leads to version 1"):
        decide(state, MoveTag("beta", 2, exclusive=False))


def test_a_tag_that_stands_where_it_is_to_go_is_no_event() -> None:
    assert decide(after(PLAIN), MoveTag("default", 1, exclusive=True)) == ()
    shared = after(deploy(beta=False), deploy(beta=False))
    assert decide(shared, MoveTag("beta", 1, exclusive=False)) == ()


def test_a_shared_tag_is_made_exclusive_where_it_stands() -> None:
    state = after(deploy(beta=False))
    moved = TagMoved(tag="beta", version=1, exclusive=True)
    assert decide(state, MoveTag("beta", 1, exclusive=True)) == (moved,)


def test_a_tag_that_goes_leaves_the_others() -> None:
    state = after(deploy(stable=True, beta=False), deploy(beta=False), RemoveTag("stable", 1))
    assert state.tags_of(1) == {"beta": False, "default": True}
    assert after(deploy(stable=True), RemoveTag("stable", 1)).tags == {
        "default": TagState((1,), exclusive=True)
    }
    assert evolve(state, TagRemoved(tag="x", version=1)) == state


def test_a_deleted_version_leaves_its_shared_tags() -> None:
    state = after(deploy(a=False, b=False), deploy(a=False), PLAIN, DeleteVersion(1))
    assert state.tags == {
        "a": TagState((2,), exclusive=False),
        "default": TagState((3,), exclusive=True),
    }


@pytest.mark.parametrize(
    ("command", "error", "text"),
    [
        (MoveTag("default", 2), KitaruUsageError, "always exclusive"),
        (deploy(default=False), KitaruUsageError, "always exclusive"),
        (MoveTag("kitaru:x", 2), KitaruUsageError, "reserved"),
        (MoveTag("", 2), KitaruUsageError, "no tag"),
        (MoveTag(" a", 2), KitaruUsageError, "no tag"),
        (MoveTag("a\nb", 2), KitaruUsageError, "printed"),
        (MoveTag("a" * 129, 2), KitaruUsageError, "no tag"),
        (MoveTag(None, 2), KitaruUsageError, "no tag"),  # type: ignore[arg-type]
        (MoveTag(5, 2), KitaruUsageError, "no tag"),  # type: ignore[arg-type]
        (Deploy(FACTS, {"a": "yes"}), KitaruUsageError, "True for"),  # type: ignore[dict-item]
        (MoveTag("a", 0), KitaruUsageError, "whole number"),
        (MoveTag("a", True), KitaruUsageError, "whole number"),
        (MoveTag("a", "2"), KitaruUsageError, "whole number"),  # type: ignore[arg-type]
        (MoveTag("a", 9), KitaruDeploymentNotFoundError, "Version 9 does not exist; there are: 2"),
        (MoveTag("a", 1), KitaruDeploymentNotFoundError, "Version 1 was deleted"),
        (RemoveTag("default", 2), KitaruStateError, "only moved"),
        (RemoveTag("a", 2), KitaruDeploymentNotFoundError, "its tags: default"),
        (RemoveTag("a", 9), KitaruDeploymentNotFoundError, "Version 9 does not exist"),
        (DeleteVersion(2), KitaruStateError, r"exclusive tag\(s\): default"),
        (DeleteVersion(1), KitaruDeploymentNotFoundError, "was deleted"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    command: Command, error: type[Exception], text: str
) -> None:
    state = after(PLAIN, PLAIN, DeleteVersion(1))
    with pytest.raises(error, match=text):
        decide(state, command)


def test_what_there_is_none_of_is_said() -> None:
    bare = after(Deploy(FACTS, {}, default_on_first=False))
    with pytest.raises(KitaruDeploymentNotFoundError, match=r"its tags: none\.$"):
        decide(bare, RemoveTag("a", 1))
    with pytest.raises(KitaruDeploymentNotFoundError, match=r"has no tag 'x'; there are: none\.$"):
        version_of(bare, "agent", None, "x")
    gone = after(Deploy(FACTS, {}, default_on_first=False), DeleteVersion(1))
    with pytest.raises(KitaruDeploymentNotFoundError, match=r"was deleted; there are: none\.$"):
        decide(gone, DeleteVersion(1))


def test_the_longest_tag_and_any_version_are_fine() -> None:
    assert checked_tag("a" * LONGEST_TAG) == "a" * LONGEST_TAG
    assert checked_version(7) == 7


def test_a_version_is_found_by_number_or_tag_and_not_by_both() -> None:
    state = after(deploy(stable=True), PLAIN)
    assert version_of(state, "agent", 1, None) == 1
    assert version_of(state, "agent", None, "stable") == 1
    with pytest.raises(KitaruUsageError, match="mutually exclusive"):
        version_of(state, "agent", 1, "stable")
    with pytest.raises(LookupError, match="has no tag 'x'; there are: default, stable"):
        version_of(state, "agent", None, "x")
    with pytest.raises(LookupError, match="Version 7 of flow 'agent' does not exist"):
        version_of(state, "agent", 7, None)


def test_without_deployments_or_without_default_it_is_said_what_to_do() -> None:
    with pytest.raises(LookupError, match="No deployments found for flow 'agent'"):
        version_of(NOTHING_DEPLOYED, "agent", None, None)
    state = after(Deploy(FACTS, {}, default_on_first=False))
    with pytest.raises(KitaruStateError, match="kitaru flow tag agent default"):
        version_of(state, "agent", None, None)


def test_every_event_has_a_tag_of_its_own() -> None:
    assert len({tag for tag, _ in TAGS.values()}) == len(EVENT_TYPES) == 4


names = st.sampled_from(["default", "stable", "beta"])
numbers = st.integers(1, 5)
commands = st.one_of(
    st.builds(
        Deploy,
        st.just(FACTS),
        st.dictionaries(names, st.booleans(), max_size=2),
        st.booleans(),
    ),
    st.builds(MoveTag, names, numbers, st.booleans()),
    st.builds(RemoveTag, names, numbers),
    st.builds(DeleteVersion, numbers),
)


@given(st.lists(commands, max_size=20))
def test_whatever_is_asked_the_laws_hold(asked: list[Command]) -> None:
    state = NOTHING_DEPLOYED
    had_default = False
    for command in asked:
        try:
            events: Any = decide(state, command)
        except (KitaruStateError, KitaruUsageError):
            continue
        for event in events:
            state = evolve(state, event)
        had_default |= "default" in state.tags
        assert set(state.versions) <= set(range(1, state.latest + 1))
        assert list(state.versions) == sorted(set(state.versions))
        for name, tag in state.tags.items():
            assert tag.versions
            assert set(tag.versions) <= set(state.versions)
            assert len(tag.versions) == 1 or not (tag.exclusive or name == "default")
        assert ("default" in state.tags) == had_default
        moved = [event for event in events if isinstance(event, TagMoved)]
        assert all(checked_tag(event.tag) for event in moved)
