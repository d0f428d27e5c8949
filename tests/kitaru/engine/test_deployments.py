"""The head of a flow's deployments is what its events lead to."""

import msgspec

from kitaru.domain.deployment.events import EntryPoint, TagMoved, VersionDeleted, VersionDeployed
from kitaru.domain.deployment.state import NOTHING_DEPLOYED, DeploymentState
from kitaru.engine.deployments import flow_of, fold, head_of, new_event, stream_of

DEPLOYED = VersionDeployed(
    version=1,
    entry=EntryPoint(module="m", qualname="agent", file="m.py"),
    bundle="ab" * 32,
    size=1,
    files=1,
)


def test_the_head_holds_the_state() -> None:
    state = fold(NOTHING_DEPLOYED, [DEPLOYED, TagMoved(tag="stable", version=1)])
    head = head_of("agent", state)
    assert (head.state, head.name, head.due_at, head.route) == ("deployed", "agent", None, "")
    assert msgspec.json.decode(head.summary, type=DeploymentState) == state
    gone = fold(state, [VersionDeleted(version=1)])
    assert head_of("agent", gone).state == "deleted"
    assert gone.tags == {}


def test_an_event_is_stored_under_its_tag_and_a_stream_under_its_flow() -> None:
    stored = new_event(DEPLOYED)
    assert (stored.type, stored.schema) == ("version_deployed", 1)
    assert flow_of(stream_of("agent")) == "agent"
