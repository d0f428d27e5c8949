"""Calls that a sync flow's body submits: admitted, held back, and begun after others."""

import functools
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from kitaru.domain.execution.events import CheckpointFailed
from kitaru.engine.calls import Call
from kitaru.engine.context import ExecutionSuspended
from kitaru.engine.divergence import Asked
from kitaru.engine.history import Outcome
from kitaru.engine.sync_attempts import Attempts
from kitaru.engine.sync_deliveries import Deliveries
from kitaru.engine.sync_futures import CallFuture, resolve
from kitaru.engine.sync_pass import PassState
from kitaru.engine.sync_replay import Replay
from kitaru.errors import KitaruError

Request = Callable[[Call], Outcome | None]


class Submissions:
    """Those of one execution: each runs on a thread of its own, once what it needs is there."""

    def __init__(
        self,
        state: PassState,
        replay: Replay,
        deliveries: Deliveries,
        attempts: Attempts,
        request: Request,
    ) -> None:
        """`request` asks for a call, and gives its recorded outcome, if there is one."""
        self.state = state
        self._replay = replay
        self._deliveries = deliveries
        self._attempts = attempts
        self._request = request
        self._host = state.host
        self.next_pass()

    def next_pass(self) -> None:
        """Nothing has been submitted in the pass that begins."""
        self._held: list[Callable[[], None]] = []
        """Submitted calls that wait until the replay has come to its end."""

    def submit(self, future: CallFuture, needed: list[CallFuture]) -> None:
        """Starts a call once what it depends on is there."""
        call, state = future.call, self.state
        future.needs = needed
        for each in needed:
            # What goes wrong in it is this call's error from now on, whenever that turns out.
            each.seen = True
        if not needed:
            self._admit(future)
        elif call.path in state.history.log and all(each.settled for each in needed):
            # Not by taking their outcomes: the body has not looked at them, and a cancel request
            # that stands between them is for what the body looks at next.
            self._start_dependent(needed, future)
        else:
            state.requested.add(call.path)
            self._when_settled(needed, future)
        state.submitted.append(future)

    def _admit(self, future: CallFuture) -> None:
        """Hands over the recorded outcome of a submitted call, or lets it run."""
        future.call.encode(self._host.codec)
        with self.state.changed:
            # A thread that belongs to a pass that is over must not ask on behalf of the next.
            self.state.check_pass(future.pass_number)
            outcome = self._request(future.call)
            if outcome is None:
                self._start_or_hold(future)
                return
        future.settle(outcome)

    def _start_or_hold(self, future: CallFuture) -> None:
        replay = self._replay
        if self.state.misfit or replay.first_unrequested() or replay.unrequested_wait():
            self._held.append(functools.partial(self.start, future))
            return
        self._release_held()
        self.start(future)

    # after others

    def _when_settled(self, needed: list[CallFuture], future: CallFuture) -> None:
        left = [len(needed)]

        def one_settled() -> None:
            with self.state.changed:
                left[0] -= 1
                # What waited in a pass that is over asks nothing on behalf of the next.
                ready = left[0] == 0 and future.pass_number == self.state.pass_number
            if ready and not (self._failed_with(needed, future) or self._reused(needed, future)):
                self._host.spawn(functools.partial(self._start_dependent, needed, future))

        for dependency in needed:
            if not dependency.follow(one_settled):
                one_settled()

    def _failed_with(self, needed: list[CallFuture], future: CallFuture) -> bool:
        """Settles a call that cannot begin; at once, so that the order is that of the journal."""
        for dependency in needed:
            outcome = dependency.outcome
            if outcome is not None and not isinstance(outcome.event, CheckpointFailed):
                continue
            failure = self._deliveries.of_future(dependency).error
            last = max(each.settled_at for each in needed)
            future.settle(None, failure, failed_at=last)
            return True
        return False

    def _reused(self, needed: list[CallFuture], future: CallFuture) -> bool:
        """Settles a call whose kept outcome fits the results it depends on; at once, too."""
        call = future.call
        kept = self.state.history.kept.get(call.path)
        if kept is None:
            return False
        try:
            arguments = self._resolved(call)
            known = Call(call.definition, call.path, call.site, arguments)
            known.encode(self._host.codec)
        except KitaruError:
            # Told when the call is started.
            return False
        if not kept.is_of(call.definition.name, known.digest):
            return False
        call.arguments, call.encoded, call.digest = arguments, known.encoded, known.digest
        self.state.history.take(call.path)
        last = max(needed, key=lambda each: (each.settled_at, each.follows))
        future.follows = last.follows + 1
        future.settle(replace(kept, version=max(kept.version, last.settled_at)))
        return True

    def _start_dependent(self, needed: list[CallFuture], future: CallFuture) -> None:
        try:
            self._begin_dependent(needed, future)
        except BaseException as error:
            # ExecutionSuspended, or a fault: the body's thread raises it where it needs it.
            future.settle(None, error)

    def _begin_dependent(self, needed: list[CallFuture], future: CallFuture) -> None:
        call = future.call
        for dependency in needed:
            delivery = self._deliveries.of_future(dependency)
            if delivery.error is not None:
                last = max(each.settled_at for each in needed)
                future.settle(None, delivery.error, failed_at=last)
                return
        try:
            call.arguments = self._resolved(call)
            self._admit(future)
        except (KitaruError, ExecutionSuspended) as error:
            future.settle(None, error)

    def _resolved(self, call: Call) -> dict[str, Any]:
        value_of = self._deliveries.value_of
        return {name: resolve(value, value_of) for name, value in call.arguments.items()}

    # running

    def before_live(self, asked: Asked) -> None:
        """The body blocks on something that is not recorded: the replay must be at its end."""
        self._replay.check_all_fits([asked])
        self._release_held()

    def _release_held(self) -> None:
        with self.state.changed:
            held, self._held = self._held, []
        for start in held:
            start()

    def start(self, future: CallFuture) -> None:
        """Runs a call on a thread of its own, unless it is withheld."""
        with self.state.changed:
            if self.state.cancel_pending:
                self.state.withheld[future] = None
                return
        self._host.spawn(functools.partial(self._run, future))

    def start_withheld(self, future: CallFuture) -> None:
        """The body, which was given the cancel request, looks at a call from before it."""
        withheld = self.state.withheld
        looked_at: dict[CallFuture, None] = {}
        left = [future]
        while left and withheld:
            each = left.pop()
            if each not in looked_at:
                looked_at[each] = None
                left.extend(each.needs)
        with self.state.changed:
            ready = [] if self.state.cancel_pending else [f for f in looked_at if f in withheld]
            for each in ready:
                del withheld[each]
        for each in ready:
            self.start(each)

    def _run(self, future: CallFuture) -> None:
        try:
            if self._attempts.is_in_doubt(future.call):
                self._submit_for_review(future)
            else:
                self._attempts.run(future.call, future.settle, future.pass_number)
        except BaseException as error:
            # ExecutionSuspended, or a fault: the body's thread raises it where it needs it.
            future.settle(None, error)

    # what may run only once

    def _submit_for_review(self, future: CallFuture) -> None:
        """No thread waits for what comes of it."""
        self._attempts.request_review(future.call)
        with self.state.changed:
            self.state.check_pass(future.pass_number)
            self.state.reviews[future.call.path] = future
            self.take_review(future.call.path)
            self.state.changed.notify_all()

    def take_review(self, path: str) -> None:
        """Goes on with a submitted call that somebody has reviewed; with the lock held."""
        state = self.state
        future = state.reviews.get(path)
        if future is None:
            return
        outcome = state.history.log.pop(path, None)
        if outcome is not None:
            del state.reviews[path]
            future.settle(outcome)
        elif path in state.run_again:
            del state.reviews[path]
            self.start(future)
