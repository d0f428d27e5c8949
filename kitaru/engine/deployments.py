"""The stream of a flow's deployments: its events in bytes, its state in its head."""

from collections.abc import Sequence

import msgspec

from journal import HeadChange, NewEvent, RecordedEvent
from kitaru.domain.deployment.events import TAGS, Event
from kitaru.domain.deployment.state import NOTHING_DEPLOYED, DeploymentState, evolve
from kitaru.engine.upcasts import decode_deployment_event

CATEGORY = "deployment"
_encode = msgspec.json.Encoder().encode


def stream_of(flow: str) -> str:
    """The stream of a flow's deployments."""
    return f"{CATEGORY}-{flow}"


def flow_of(stream: str) -> str:
    """The flow whose deployments a stream holds."""
    return stream.removeprefix(f"{CATEGORY}-")


def new_event(event: Event) -> NewEvent:
    """The event as it is appended."""
    tag, schema = TAGS[type(event)]
    return NewEvent(tag, _encode(event), schema)


def fold(state: DeploymentState, events: Sequence[Event]) -> DeploymentState:
    """The state after these events."""
    for event in events:
        state = evolve(state, event)
    return state


def state_of(recorded: Sequence[RecordedEvent]) -> DeploymentState:
    """The state that a stream's events lead to."""
    return fold(NOTHING_DEPLOYED, [decode_deployment_event(fact) for fact in recorded])


def head_of(flow: str, state: DeploymentState) -> HeadChange:
    """The head row that stands for a state."""
    return HeadChange(
        state="deployed" if state.versions else "deleted",
        name=flow,
        due_at=None,
        summary=_encode(state),
    )
