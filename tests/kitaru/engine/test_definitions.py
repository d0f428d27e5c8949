"""What the decorators keep of a function; its annotations are read only when they are needed."""

from dataclasses import dataclass

from kitaru.domain.execution.retry import Retry
from kitaru.engine.codec import Codec
from kitaru.engine.definitions import CheckpointDefinition, FlowDefinition


def uses_what_is_defined_below(order: "Order") -> "Order":
    return order


# Made before `Order` exists: a decorator runs at once, and must not read the annotations yet.
FLOW = FlowDefinition(uses_what_is_defined_below, asynchronous=False)
CHECKPOINT = CheckpointDefinition(
    uses_what_is_defined_below,
    asynchronous=True,
    policy=Retry(max_attempts=2),
    type="tool_call",
    record_inputs=True,
)


@dataclass
class Order:
    number: int


def test_annotations_may_name_what_is_defined_later() -> None:
    codec = Codec()
    for definition in (FLOW, CHECKPOINT):
        data = codec.encode(Order(3), where="", types=definition.types)
        assert codec.decode(data, definition.types) == Order(3)
        assert definition.types is definition.types


def test_a_definition_is_called_what_its_function_is_called() -> None:
    assert FLOW.name == CHECKPOINT.name == "uses_what_is_defined_below"
    assert (FLOW.asynchronous, CHECKPOINT.asynchronous) == (False, True)
    assert (CHECKPOINT.type, CHECKPOINT.record_inputs) == ("tool_call", True)
    assert CHECKPOINT.policy.max_attempts == 2


def test_arguments_are_named_as_the_function_names_them() -> None:
    named = FLOW.binder.name_all((Order(1),), {})
    assert named == {"order": Order(1)}
    args, kwargs = FLOW.binder.spread(named)
    assert FLOW.function(*args, **kwargs) == Order(1)
