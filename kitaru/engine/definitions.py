"""What the decorators define: a flow, a checkpoint. The engine runs these; the SDK wraps them."""

from collections.abc import Callable
from typing import Any

from kitaru.domain.execution.retry import Retry
from kitaru.engine.arguments import Binder
from kitaru.engine.codec import TypeScope
from kitaru.engine.codec.scope import function_hints
from kitaru.engine.fingerprint import Fingerprint
from kitaru.engine.transactions import Database


class FlowDefinition:
    """A flow's function and what is known of it."""

    def __init__(self, function: Callable[..., Any], *, asynchronous: bool) -> None:
        self.function = function
        self.name: str = function.__name__
        self.asynchronous = asynchronous
        self.binder = Binder(function)
        self._types: TypeScope | None = None

    @property
    def types(self) -> TypeScope:
        """The classes that its annotations name; read at the first use, when all are defined."""
        if self._types is None:
            self._types = TypeScope.of_function(self.function)
        return self._types


class CheckpointDefinition:
    """A checkpoint's function and what is known of it."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        asynchronous: bool,
        policy: Retry,
        type: str | None,  # noqa: A002 - the decorator's public name
        record_inputs: bool | None,
        cache: bool | None = None,
        on_changed_arguments: str = "diverge",
        once: bool = False,
        transaction: Database | None = None,
        isolated: bool = False,
    ) -> None:
        self.function = function
        self.name: str = function.__name__
        self.asynchronous = asynchronous
        self.policy = policy
        self.type = type
        self.record_inputs = record_inputs
        """True: always keep the arguments; None: when they are small; False: only their digest."""
        self.cache = cache
        """Whether results may be reused by other executions; None: as the execution says."""
        self.once = once
        """Whether an attempt whose outcome is unknown is repeated only when somebody says so."""
        self.transaction = transaction
        """Where its body writes, in a transaction that its outcome belongs to."""
        self.isolated = isolated
        """Whether each attempt has a process of its own, where the stack can do that."""
        self.is_told_inline = False
        """Whether it was said that this process runs it inline all the same."""
        self.fingerprint = Fingerprint(function)
        self.on_changed_arguments = on_changed_arguments
        """``diverge``, ``warn`` or ``ignore``."""
        self.binder = Binder(function)
        self._types: TypeScope | None = None

    @property
    def types(self) -> TypeScope:
        """The classes that its annotations name; read at the first use, when all are defined."""
        if self._types is None:
            self._types = TypeScope.of_function(self.function)
        return self._types

    @property
    def result_hint(self) -> Any:
        """What the function says that it returns; Any when it says nothing."""
        return function_hints(self.function).get("return", Any)
