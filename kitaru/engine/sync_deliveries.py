"""What the outcomes of a sync flow's calls and waits give to its body."""

from typing import Any

from journal import JournalError
from kitaru.domain.execution.events import CheckpointCompleted, CheckpointFailed
from kitaru.engine.calls import Call, Delivery, delivery_of
from kitaru.engine.history import Outcome
from kitaru.engine.sync_futures import CallFuture
from kitaru.engine.sync_recording import Recording
from kitaru.errors import KitaruError


class Deliveries:
    """Read from what is recorded; from any thread but the host's loop."""

    def __init__(self, recording: Recording, main_module: str | None) -> None:
        self._recording = recording
        self._main_module = main_module

    def of_outcome(self, outcome: Outcome, call: Call) -> Delivery:
        """What a call's outcome gives. Raises UnreadableValueError."""
        if call.delivery is not None:
            return call.delivery
        event = outcome.event
        assert isinstance(event, CheckpointCompleted | CheckpointFailed)
        blob = self.blob_of(outcome)
        return delivery_of(event, call, self._recording.host.codec, blob, self._main_module)

    def blob_of(self, outcome: Outcome) -> bytes | None:
        """The bytes of a large value, where the outcome has one."""
        if outcome.blob is None:
            return None
        recording = self._recording
        try:
            blob: bytes = recording.on_loop(recording.host.journal.get_blob(outcome.blob))
        except JournalError as error:
            raise recording.let_down(error) from error
        return blob

    def of_future(self, future: CallFuture) -> Delivery:
        """What a submitted call that is settled gives."""
        if future.outcome is None:
            return Delivery(error=future.failure)
        try:
            return self.of_outcome(future.outcome, future.call)
        except KitaruError as error:
            return Delivery(error=error)

    def value_of(self, future: CallFuture) -> Any:
        """What a submitted call that has completed has returned."""
        return self.of_future(future).value
