"""Gives the calls of an async flow what earlier executions have found out, where they have."""

import asyncio
import functools
from collections.abc import Mapping

from journal import BlobNotFound, RecordedEvent
from kitaru.engine.async_attempts import Attempts
from kitaru.engine.async_pass import PassState, guarded
from kitaru.engine.async_recording import Recording
from kitaru.engine.cache import ResultCache
from kitaru.engine.calls import Call, Hit


class LookUps:
    """Those of one execution; on the host's loop."""

    __slots__ = ("_attempts", "_cache", "_host", "_recording", "looking_up", "state")

    def __init__(
        self, state: PassState, recording: Recording, attempts: Attempts, cache: ResultCache
    ) -> None:
        self.state = state
        self._recording = recording
        self._attempts = attempts
        self._cache = cache
        self._host = state.host
        self.next_pass()

    def next_pass(self) -> None:
        """Nothing is looked up in the pass that begins."""
        self.looking_up: dict[str, Call] = {}
        """Calls that may be answered by an earlier execution's results."""
        self._cache.next_pass()

    def look_up_or_start(self, calls: list[Call]) -> None:
        """Starts calls, but for those whose result an earlier execution has."""
        wanted = list(filter(self._cache.give_key, calls))
        if not wanted:
            self._looked_up(calls, {})
            return
        self.looking_up.update((call.path, call) for call in calls)
        query = self._cache.query(wanted)
        self._host.journal.find_soon(query, functools.partial(self._found, calls))

    @guarded
    def _found(
        self,
        calls: list[Call],
        found: dict[int, RecordedEvent] | None,
        error: BaseException | None,
    ) -> None:
        if self.state.stopped:
            return
        if found is None:
            self.state.driver.give_up(error)
            return
        self._looked_up([call for call in calls if self._is_looked_up(call)], found)
        self._recording.flush()
        if not self._attempts.running:
            self.state.driver.consider_suspending()

    def _is_looked_up(self, call: Call) -> bool:
        """Whether the pass still waits for what a call's look-up brings."""
        if self.looking_up.get(call.path) is not call:
            return False
        del self.looking_up[call.path]
        return not (self.state.ending or call.abandoned)

    def _looked_up(self, calls: list[Call], found: Mapping[int, RecordedEvent]) -> None:
        for call in calls:
            hit = self._cache.hit(call, found) if found else None
            if hit is None:
                self._attempts.start_call(call)
            elif hit.event.result.blob is None:
                self._reuse(call, hit, None)
            else:
                self.looking_up[call.path] = call
                reading = self._host.journal.get_blob(hit.event.result.blob)
                task = self._host.loop.create_task(reading)
                task.add_done_callback(functools.partial(self._blob_found, call, hit))

    @guarded
    def _blob_found(self, call: Call, hit: Hit, task: "asyncio.Task[bytes]") -> None:
        if self.state.stopped or not self._is_looked_up(call):
            _ = task.cancelled() or task.exception()
        elif isinstance(task.exception(), BlobNotFound):
            self._attempts.start_call(call)
        else:
            self._reuse(call, hit, task.result())
        self._recording.flush()
        self.state.driver.consider_suspending()

    def _reuse(self, call: Call, hit: Hit, blob: bytes | None) -> None:
        call.attempt = self.state.history.last_attempt_of(call.path)
        reused = call.reused(hit, blob, self._host.codec)
        if reused is None:
            self._attempts.start_call(call)
        else:
            self._recording.put_outcome(*reused)
