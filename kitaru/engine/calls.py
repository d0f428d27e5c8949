"""One durable call: its identity, its attempts, and what its outcome gives to the flow's body."""

import os
import sys
from time import perf_counter
from typing import Any

from msgspec import Struct

from kitaru.domain.execution.commands import FailCheckpoint
from kitaru.domain.execution.events import (
    CheckpointCancelled,
    CheckpointCompleted,
    CheckpointEvent,
    CheckpointFailed,
    CheckpointStarted,
)
from kitaru.domain.execution.retry import class_name
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.arguments import Named
from kitaru.engine.codec import Codec, digest
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.engine.divergence import Asked, Mismatch, unreadable
from kitaru.engine.failures import attach, describe, revive
from kitaru.engine.schema import converted
from kitaru.engine.transactions import AttemptTransaction, Found
from kitaru.engine.values import Blobs, kept_arguments, stored
from kitaru.errors import KitaruCheckpointProcessError, KitaruError


class UnreadableValueError(KitaruError):
    """A recorded result that the code of today cannot be given. It never reaches a body."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(mismatch.problem)
        self.mismatch = mismatch


class Delivery(Struct, frozen=True):
    """What a call's outcome gives to the body: a value, or an error to raise."""

    value: Any = None
    error: BaseException | None = None


class Hit(Struct, frozen=True):
    """A result that an earlier execution has."""

    exec_id: str
    """The execution whose own body brought it."""
    event: CheckpointCompleted


class Call:
    """One checkpoint call of one pass."""

    __slots__ = (
        "abandoned",
        "arguments",
        "attempt",
        "cache_key",
        "context",
        "definition",
        "delivery",
        "described",
        "digest",
        "encoded",
        "future",
        "identity",
        "noted",
        "path",
        "running",
        "site",
        "started",
        "transaction",
        "tried",
    )

    def __init__(
        self, definition: CheckpointDefinition, path: str, site: str, arguments: Named
    ) -> None:
        self.definition = definition
        self.path = path
        self.site = site
        self.arguments = arguments
        self.encoded = b""
        self.digest = ""
        self.identity = path
        """What no other call has, of this execution or of one of its flow attempts: the path, and
        the attempt that has completed there before, with other arguments."""
        self.attempt = 0
        """The number of the running attempt, over all flow attempts."""
        self.tried = 0
        """Failed attempts in this flow attempt."""
        self.cache_key = ""
        """Under which its result is offered to later executions; empty: it is not."""
        self.started = 0.0
        self.running: Any = None
        self.noted = False
        self.abandoned = False
        """Whether the body no longer waits for it."""
        self.delivery: Delivery | None = None
        """Known in advance for a call that was made live."""
        self.described: ErrorData | None = None
        """What the running attempt has raised, as another process has described it."""
        self.transaction: AttemptTransaction | None = None
        """That of the running attempt."""
        self.future: Any = None
        self.context: Any = None

    def encode(self, codec: Codec) -> None:
        """Fixes the arguments' bytes. Raises KitaruSerializationError."""
        self.encoded = codec.encode(self.arguments, where="arguments", types=self.definition.types)
        self.digest = digest(self.encoded)

    def comes_after(self, completed: int) -> None:
        """Tells it from the call whose attempt of this number has completed at its path."""
        self.identity = f"{self.path} after attempt {completed}" if completed else self.path

    def begin(self) -> None:
        """Starts the next attempt's clock and number."""
        self.attempt += 1
        self.noted = False
        self.described = None
        self.started = perf_counter()

    def run(self, codec: Codec) -> Any:
        """Calls the checkpoint's function, with arguments of its own.

        What a body does to its arguments must not be seen by the flow, whose replay does not run
        it, nor by the next attempt.
        """
        definition = self.definition
        own = codec.own_copy(self.arguments, self.encoded, definition.types)
        args, kwargs = definition.binder.spread(own)
        return definition.function(*args, **kwargs)

    @property
    def asked(self) -> Asked:
        """The call, for a divergence report."""
        kept, _ = kept_arguments(self.encoded, self.definition.record_inputs)
        shown = b"" if kept is None else self.encoded
        return Asked(self.path, self.definition.name, self.site, shown, self.digest)

    @property
    def duration_us(self) -> int:
        """Microseconds since the attempt began."""
        return round((perf_counter() - self.started) * 1_000_000)

    def started_event(self) -> tuple[CheckpointStarted, Blobs]:
        """That the attempt runs."""
        arguments, blobs = kept_arguments(self.encoded, self.definition.record_inputs)
        event = CheckpointStarted(
            path=self.path,
            name=self.definition.name,
            attempt=self.attempt,
            site=self.site,
            arguments_digest=self.digest,
            arguments=arguments,
            once=self.definition.once,
        )
        return event, blobs

    def completed(
        self, value: Any, codec: Codec, *, offered: bool = True
    ) -> tuple[CheckpointCompleted, Blobs]:
        """That the attempt returned `value`; sets what the body is given.

        `offered` says whether later executions may reuse it, if the call has a key. Raises
        KitaruSerializationError when the value cannot be kept.
        """
        data, copy = codec.roundtrip(value, where="result", types=self.definition.types)
        result, blobs = stored(data)
        arguments, argument_blobs = kept_arguments(self.encoded, self.definition.record_inputs)
        self.delivery = Delivery(copy)
        event = CheckpointCompleted(
            path=self.path,
            name=self.definition.name,
            attempt=self.attempt,
            site=self.site,
            arguments_digest=self.digest,
            arguments=arguments,
            result=result,
            duration_us=self.duration_us,
            type=self.definition.type,
            cache_key=self.cache_key if offered else "",
        )
        return event, blobs + argument_blobs

    def reused(
        self, hit: Hit, blob: bytes | None, codec: Codec
    ) -> tuple[CheckpointCompleted, Blobs] | None:
        """That another execution's result stands for this call's; sets what the body is given.

        None when it cannot be read any more: then the body has to run.
        """
        source = hit.event
        try:
            self.delivery = delivery_of(source, self, codec, blob, None)
        except KitaruError:
            return None
        arguments, blobs = kept_arguments(self.encoded, self.definition.record_inputs)
        event = CheckpointCompleted(
            path=self.path,
            name=self.definition.name,
            attempt=self.attempt + 1,
            site=self.site,
            arguments_digest=self.digest,
            arguments=arguments,
            result=source.result,
            type=self.definition.type,
            cached_from=hit.exec_id,
            cached_path=source.path,
        )
        # Written again, should nothing else keep it: a blob that is there already stays as it is.
        return event, blobs if blob is None else (*blobs, blob)

    def adopted(self, found: Found, codec: Codec) -> tuple[CheckpointCompleted, Blobs]:
        """That an earlier attempt has committed its outcome in the body's own database.

        Sets what the body is given, as a replay would. Raises UnreadableValueError.
        """
        self.delivery = Delivery(_decoded(found.result, self, codec))
        result, blobs = stored(found.result)
        arguments: StoredValue | None = None
        argument_blobs: Blobs = ()
        if found.arguments_digest == self.digest:
            arguments, argument_blobs = kept_arguments(self.encoded, self.definition.record_inputs)
        event = CheckpointCompleted(
            path=self.path,
            name=self.definition.name,
            attempt=self.attempt,
            site=self.site,
            arguments_digest=found.arguments_digest,
            arguments=arguments,
            result=result,
            type=self.definition.type,
        )
        return event, blobs + argument_blobs

    def failed(
        self, error: BaseException, codec: Codec, now: int, jitter: float
    ) -> tuple[FailCheckpoint, Blobs]:
        """The command for an attempt that raised; sets what the body is given."""
        self.tried += 1
        data = self.described or describe(error, codec)
        self.delivery = Delivery(error=attach(revive(data, codec), error))
        arguments, blobs = kept_arguments(self.encoded, self.definition.record_inputs)
        command = FailCheckpoint(
            call=CheckpointEvent(
                path=self.path,
                name=self.definition.name,
                attempt=self.attempt,
                site=self.site,
                arguments_digest=self.digest,
                arguments=arguments,
            ),
            error=data,
            bases=tuple(class_name(kind) for kind in type(error).__mro__),
            policy=self.definition.policy,
            tried=self.tried,
            duration_us=self.duration_us,
            now=now,
            jitter=jitter,
            type=self.definition.type,
            # Kitaru's own refusals (a value that cannot be kept, a call in the wrong place) are the
            # same every time, and what the body no longer waits for is not tried again.
            retryable=not self.abandoned and self._may_help(error),
        )
        return command, blobs

    def _may_help(self, error: BaseException) -> bool:
        """Whether another attempt may end otherwise."""
        if isinstance(error, KitaruCheckpointProcessError):
            # Nobody knows how far it came: what may run only once is not tried again.
            return not self.definition.once
        return not isinstance(error, KitaruError)

    def cancelled(self) -> CheckpointCancelled:
        """That the body no longer waited for it, and its own body was cancelled."""
        return CheckpointCancelled(
            path=self.path,
            name=self.definition.name,
            attempt=self.attempt,
            site=self.site,
            arguments_digest=self.digest,
        )


def delivery_of(
    event: CheckpointCompleted | CheckpointFailed,
    call: Call,
    codec: Codec,
    blob: bytes | None,
    main_module: str | None,
) -> Delivery:
    """What a recorded outcome gives to the body.

    Raises UnreadableValueError for a result that the call's checkpoint cannot have returned.
    """
    if isinstance(event, CheckpointFailed):
        return Delivery(error=revive(event.error, codec, main_module=main_module))
    data: Any = event.result.json if blob is None else blob
    return Delivery(_decoded(data, call, codec, of_person=event.resolved))


def _decoded(data: Any, call: Call, codec: Codec, *, of_person: bool = False) -> Any:
    definition = call.definition
    try:
        value = codec.decode(data, definition.types, known_only=True)
        return _of_person(value, definition) if of_person else value
    except KitaruError as error:
        raise UnreadableValueError(unreadable(call.asked, str(error))) from error


def _of_person(value: Any, definition: CheckpointDefinition) -> Any:
    """A result that came as plain JSON, as the function would have returned it."""
    hint = definition.result_hint
    return value if hint is Any else converted(value, hint, "result")


_sites: dict[str, str] = {}


def call_site(depth: int) -> str:
    """``file:line`` of the caller `depth` frames up, the file relative to the working directory."""
    frame = sys._getframe(depth + 1)
    file = frame.f_code.co_filename
    shown = _sites.get(file)
    if shown is None:
        shown = _sites[file] = _relative(file)
    return f"{shown}:{frame.f_lineno}"


def _relative(file: str) -> str:
    try:
        relative = os.path.relpath(file)
    except (ValueError, OSError):
        return file
    return file if relative.startswith("..") else relative
