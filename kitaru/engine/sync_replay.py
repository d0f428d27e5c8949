"""Holds what a sync flow's body asks for against what is recorded, in the order of the journal."""

from kitaru.engine.calls import Call
from kitaru.engine.divergence import Asked, never_asked_for, not_asked_for
from kitaru.engine.history import Outcome
from kitaru.engine.sync_pass import PassState
from kitaru.errors import KitaruCancelled


class Replay:
    """What the body must have asked for, and must be told of, before it is given something."""

    def __init__(self, state: PassState) -> None:
        self.state = state

    def check_fits(self) -> None:
        """The body needs a value: what it has submitted so far must fit."""
        if self.state.misfit is not None:
            raise self.state.driver.diverge(self.state.misfit)

    def check_passed_over(self, version: int, asked: Asked | Call) -> None:
        """Whatever is recorded before an outcome was asked for before the body was given it."""
        if not self.state.history.order:
            return
        unrequested = self.first_unrequested()
        if unrequested is not None and unrequested.version < version:
            shown = asked.asked if isinstance(asked, Call) else asked
            raise self.state.driver.diverge(not_asked_for(unrequested.event.path, [shown]))

    def first_unrequested(self) -> Outcome | None:
        """The first recorded outcome that the body has not asked for."""
        with self.state.changed:
            order = self.state.history.order
            while order and order[0].event.path in self.state.requested:
                order.popleft()
            return order[0] if order else None

    def check_all_fits(
        self, asked: list[Asked], error: BaseException | None = None, *, ended: bool = False
    ) -> None:
        """All that is recorded, open waits too, must have been asked for."""
        self.check_fits()
        unrequested = self.first_unrequested()
        if unrequested is not None and not ended:
            # Recorded by a handler, if a cancel request stands before it.
            self.deliver_cancel_before(unrequested.version)
        path = unrequested.event.path if unrequested is not None else self.unrequested_wait()
        if path is None:
            return
        mismatch = never_asked_for(path, error) if ended else not_asked_for(path, asked)
        raise self.state.driver.diverge(mismatch)

    def unrequested_wait(self) -> str | None:
        """An open wait, or an offer that was taken before, that the body has not asked for."""
        state = self.state
        with state.changed:
            waits = state.history.waits
            left = next((path for path in waits if path not in state.requested), None)
            return left or state.history.unasked(state.requested)

    def deliver_cancel_before(self, version: int | None) -> None:
        """Raises the cancel request once, before the first outcome that was recorded after it."""
        cancelled_at = self.state.history.cancelled_at
        if cancelled_at is None or self.state.cancel_delivered:
            return
        if version is None or version > cancelled_at:
            self.state.cancel_delivered = True
            raise KitaruCancelled(self.state.history.cancel_reason)
