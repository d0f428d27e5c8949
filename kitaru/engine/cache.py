"""Reusing results of earlier executions: for which calls, under which keys, from what."""

import hashlib
from collections.abc import Iterable, Mapping

from journal import KeyQuery, RecordedEvent
from kitaru.domain.execution.events import CheckpointCompleted, ExecutionStarted
from kitaru.engine.calls import Call, Hit
from kitaru.engine.codec import CODEC_VERSION
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.engine.executions import exec_id_of, lookup_key
from kitaru.engine.runner import Loaded
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_event


class ResultCache:
    """What one execution may reuse of earlier ones of its flow, and offers to later ones.

    A key stands for the flow's name, the checkpoint's name and the fingerprint of its code, the
    arguments and the codec's version. Only the outcome of a body that ran carries one, so what is
    found is always the origin and never a copy.
    """

    def __init__(self, loaded: Loaded) -> None:
        started = loaded.facts[0][2]
        assert isinstance(started, ExecutionStarted)
        self._flow = started.flow
        self._setting = started.options.cache
        self._anchor = None if started.forked_from is None else started.forked_from.anchor
        self._stream = loaded.execution.stream
        self._begun: dict[CheckpointDefinition, hashlib._Hash | None] = {}

    def next_pass(self) -> None:
        """The code may have changed since the last one."""
        self._begun = {}

    def give_key(self, call: Call) -> bool:
        """Sets the call's key; False when its result is neither to be reused nor offered."""
        definition = call.definition
        if definition not in self._begun:
            self._begun[definition] = self._beginning(definition)
        begun = self._begun[definition]
        if begun is None:
            return False
        whole = begun.copy()
        whole.update(call.digest.encode())
        # Half of it: enough that no two keys are ever the same, in half of the bytes.
        call.cache_key = whole.hexdigest()[:32]
        return True

    def query(self, calls: Iterable[Call]) -> KeyQuery:
        """The look-up for calls that have their keys."""
        return KeyQuery([lookup_key(call.cache_key) for call in calls], self._stream)

    def hit(self, call: Call, found: Mapping[int, RecordedEvent]) -> Hit | None:
        """The result for a call among what a look-up has found."""
        if not found or not call.cache_key:
            return None
        if call.path == self._anchor:
            # Whoever forks an execution from a call wants that call to run.
            return None
        recorded = found.get(lookup_key(call.cache_key))
        if recorded is None or recorded.payload_digest is not None:
            return None
        try:
            event = decode_event(recorded)
        except (UnknownEvent, DamagedEvent):
            # What is wrong with another execution must not stop this one: its body can run.
            return None
        # The look-up goes by a part of the key: this is what decides.
        if not isinstance(event, CheckpointCompleted) or event.cache_key != call.cache_key:
            return None
        return Hit(exec_id_of(recorded.stream), event)

    def _beginning(self, definition: CheckpointDefinition) -> "hashlib._Hash | None":
        if not is_on(self._setting, definition):
            return None
        fingerprint = definition.fingerprint.current()
        if fingerprint is None:
            return None
        parts = (self._flow, definition.name, fingerprint, str(CODEC_VERSION))
        # A zero byte cannot be in a function's name: no two lists of parts share their bytes.
        return hashlib.sha256("\0".join((*parts, "")).encode())


def is_on(setting: bool | None, definition: CheckpointDefinition) -> bool:
    """Whether results are reused: as the execution says, else as the checkpoint says, else yes.

    Never where the body is there for its effect.
    """
    if definition.once or definition.transaction is not None:
        return False
    return definition.cache is not False if setting is None else setting
