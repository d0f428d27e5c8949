"""Forks: new executions that take over from another's history what came before a certain call."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from journal import Append, HeadQuery, JournalError, StaleLease, WrongExpectedVersion
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.commands import Start
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.events import (
    EventOffered,
    ExecutionStarted,
    ForkedFrom,
    FrozenOptions,
    SourceReference,
    WaitRequested,
)
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.ids import checked_id
from kitaru.domain.values import StoredValue
from kitaru.engine.arguments import Named
from kitaru.engine.codec import TypeScope, digest
from kitaru.engine.codec.scope import function_hints
from kitaru.engine.definitions import FlowDefinition
from kitaru.engine.deployed import Code, code_of
from kitaru.engine.executions import CATEGORY, exec_id_of, fold, head_of, new_event, stream_of
from kitaru.engine.forks import WAIT, Override, Past, PastCall
from kitaru.engine.history import RecordedFact
from kitaru.engine.schema import convert_json, converted, plain_json, problem_with
from kitaru.engine.upcasts import decode_event
from kitaru.engine.values import Blobs, classes_in, stored
from kitaru.errors import (
    KitaruBackendError,
    KitaruError,
    KitaruUsageError,
    KitaruWaitValidationError,
)
from kitaru.operations import deployments, executions, placing
from kitaru.operations.inputs import merged

MOST_FORKS = 1_000
_plain = TypeScope.of()


class ForkRequest(Struct, frozen=True, kw_only=True):
    """What somebody wants of a fork."""

    source: str
    """The execution's id, or an unambiguous beginning of it."""
    anchor: str
    """From which call on everything runs: its path, its id, or a name that no other call has."""
    overrides: Mapping[str, Any] = {}
    """What takes the place of outcomes, by ``checkpoint.<path>`` and ``wait.<path>``."""
    inputs: Mapping[str, Any] = {}
    """The flow's arguments that are to be others."""
    idempotency_key: str | None = None
    is_json: bool = False
    """Whether overrides and inputs came as JSON, to be made what the code's annotations say."""


class Target(Struct, frozen=True, kw_only=True):
    """The flow that a fork runs."""

    definition: FlowDefinition
    reference: SourceReference
    fingerprint: str
    options: FrozenOptions
    wanted: placing.Wanted


class Source(Struct, frozen=True):
    """The execution that a fork is made from, as it stands now."""

    exec_id: str
    facts: list[RecordedFact]

    @property
    def started(self) -> ExecutionStarted:
        """Its first event."""
        event = self.facts[0][2]
        assert isinstance(event, ExecutionStarted)
        return event

    @property
    def code(self) -> Code:
        """What it runs now."""
        return code_of(event for _, _, event in self.facts)

    @property
    def clock(self) -> int:
        """When its body's time begins, in microseconds."""
        forked_from = self.started.forked_from
        return self.facts[0][1] if forked_from is None else forked_from.started_at


class Arguments(Struct, frozen=True):
    """The arguments of the flow, encoded, and as its body would read them."""

    value: StoredValue
    digest: str
    blobs: Blobs = ()
    named: Named = {}
    """Empty where the flow's code is not at hand."""
    plain: tuple[str, ...] = ()
    """Those that are plain JSON still."""


class Plan(Struct, frozen=True):
    """All that a fork begins with."""

    event: ExecutionStarted
    offers: tuple[EventOffered, ...]
    blobs: Blobs


def checked_request(request: ForkRequest) -> ForkRequest:
    """The request, when it makes sense whatever its source is. Raises KitaruUsageError."""
    checked_id(request.source, "An execution id")
    if request.idempotency_key is not None:
        checked_id(request.idempotency_key, "An idempotency key")
    if not isinstance(request.anchor, str) or not request.anchor:
        raise KitaruUsageError(
            f"from_={request.anchor!r}: the path, the id or the name of a call is needed."
        )
    overrides = request.overrides
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise KitaruUsageError(
            f"overrides={overrides!r}: a dict is needed, such as {{'checkpoint.fetch': 'text'}}."
        )
    return request


async def fork(runtime: Runtime, exec_id: str, request: ForkRequest, target: Target) -> None:
    """Starts a fork that this process runs, under this id; returns once it is durable.

    Raises KitaruUsageError for a source of another flow, an unknown or ambiguous call, a bad
    override or input; KitaruWaitValidationError for an answer that does not fit its wait;
    KitaruSerializationError for a value that cannot be kept; KitaruStateError when there is no such
    source, or when the idempotency key was used for something else; KitaruBackendError when the
    journal cannot be read or written. The source is only read.
    """
    source = await _source(runtime, request.source)
    definition = target.definition
    placement = await placing.find(runtime, target.wanted)
    placing.check_findable(target.reference, placement)
    options = placement.onto(target.options)
    target = msgspec.structs.replace(target, options=options)
    if source.started.flow != definition.name:
        raise KitaruUsageError(
            f"Execution {source.exec_id} is one of flow {source.started.flow!r}, not of "
            f"{definition.name!r}."
        )
    arguments = await _arguments(runtime, request, source, definition)
    event = _started(runtime, request, source, arguments, target)
    if await _is_known(runtime, exec_id, request):
        await executions.check_same_start(runtime, exec_id, event, arguments.blobs)
        executions.serve(runtime, target.reference, definition)
        return
    plan = _planned(runtime, request, source, arguments, event, definition)
    prepared = executions.Prepared(
        exec_id=exec_id,
        definition=definition,
        reference=target.reference,
        event=plan.event,
        state=fold(ABSENT, [plan.event]),
        append=_append(runtime, exec_id, plan, claimed=True),
        arguments=arguments.named,
        offers=plan.offers,
    )
    await placing.start_on(runtime, prepared, placement)


async def fork_for_others(
    runtime: Runtime, request: ForkRequest, *, retries: int | None, cache: bool | None
) -> str:
    """Makes a fork that whoever serves its flow runs; returns its id once it is durable.

    Its code is where its source's was, and its options are the source's where none are given. The
    code is loaded only for new inputs. Raises as `fork` does, and KitaruUsageError when code that
    is needed cannot be loaded.
    """
    source = await _source(runtime, request.source)
    started = source.started
    exec_id = executions.new_exec_id(started.flow, request.idempotency_key)
    definition = await _definition(runtime, request, source)
    options = msgspec.structs.replace(
        started.options,
        retries=started.options.retries if retries is None else retries,
        # What is run anew is not to be served from where it ran before.
        cache=False if cache is None else cache,
    )
    arguments = await _arguments(runtime, request, source, definition)
    event = _started(runtime, request, source, arguments, None, options)
    if not await _is_known(runtime, exec_id, request):
        plan = _planned(runtime, request, source, arguments, event, definition)
        try:
            await runtime.journal.append(_append(runtime, exec_id, plan, claimed=False))
        except (WrongExpectedVersion, StaleLease):
            await executions.check_same_start(runtime, exec_id, event, arguments.blobs)
        except JournalError as error:
            raise KitaruBackendError(str(error)) from error
    else:
        await executions.check_same_start(runtime, exec_id, event, arguments.blobs)
    runtime.worker.look_now()
    if event.deployment is not None:
        await executions.wake_runners(runtime)
    return exec_id


async def forks_of(runtime: Runtime, exec_id: str) -> tuple[str, ...]:
    """The ids of an execution's forks, oldest first; of more than a thousand, the newest."""
    query = HeadQuery(category=CATEGORY, parent=stream_of(exec_id), limit=MOST_FORKS)
    with _told():
        heads = await runtime.journal.heads(query)
    return tuple(exec_id_of(head.stream) for head in reversed(heads))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the journal raises when it cannot be read, as whoever has asked is told of it."""
    try:
        yield
    except JournalError as error:
        raise KitaruBackendError(str(error)) from error


async def _source(runtime: Runtime, exec_id: str) -> Source:
    full_id = await executions.find_id(runtime, exec_id)
    with _told():
        recorded = await runtime.journal.read_stream(stream_of(full_id))
    facts = [(fact.version, fact.recorded_at, decode_event(fact)) for fact in recorded]
    return Source(full_id, facts)


async def _definition(
    runtime: Runtime, request: ForkRequest, source: Source
) -> FlowDefinition | None:
    if source.code.deployment is not None:
        # Nobody but its runners loads that code.
        return None
    if not request.inputs and not (request.is_json and request.overrides):
        return None
    try:
        return runtime.worker.registry.find(source.started.source)
    except KitaruError:
        if request.inputs:
            raise
        # Overrides are taken as they are: what their JSON says may be all that is needed.
        return None


async def _is_known(runtime: Runtime, exec_id: str, request: ForkRequest) -> bool:
    """Whether the idempotency key has been used: then nothing of the source is looked at again."""
    if request.idempotency_key is None:
        return False
    with _told():
        return await runtime.journal.head(stream_of(exec_id)) is not None


# the flow's arguments


async def _arguments(
    runtime: Runtime, request: ForkRequest, source: Source, definition: FlowDefinition | None
) -> Arguments:
    started = source.started
    if definition is None and request.inputs:
        return await _of_version(runtime, request, source)
    if definition is None:
        plain = started.plain
        return Arguments(started.arguments, started.arguments_digest, plain=plain)
    data: Any = started.arguments.json
    if started.arguments.blob is not None:
        with _told():
            data = await runtime.journal.get_blob(started.arguments.blob)
    codec, types = runtime.codec, definition.types
    named: Named = codec.decode(data, types)
    as_json = {name: named[name] for name in started.plain}
    named = {**named, **convert_json(definition.function, as_json)}
    given = dict(request.inputs)
    if not given:
        plain = started.plain
        return Arguments(started.arguments, started.arguments_digest, (), named, plain)
    if request.is_json:
        given = convert_json(definition.function, given)
    binder = definition.binder
    positional, keywords = binder.spread({**named, **given})
    merged = binder.name_all(tuple(positional), keywords)
    encoded, named = codec.roundtrip(merged, where="arguments", types=types)
    value, blobs = stored(encoded)
    return Arguments(value, digest(encoded), blobs, named)


async def _of_version(runtime: Runtime, request: ForkRequest, source: Source) -> Arguments:
    """The same for a deployed version, whose schema says what fits."""
    started, deployment = source.started, source.code.deployment
    assert deployment is not None
    facts = await deployments.facts_of(runtime, deployment.flow, deployment.version)
    inputs = await merged(
        runtime, started.flow, facts, started.arguments, started.plain, request.inputs
    )
    return Arguments(inputs.value, inputs.digest, inputs.blobs, plain=inputs.plain)


# the first event


def _started(
    runtime: Runtime,
    request: ForkRequest,
    source: Source,
    arguments: Arguments,
    target: Target | None,
    options: FrozenOptions | None = None,
) -> ExecutionStarted:
    """The first event, but for the anchor's path, which only the plan tells."""
    started = source.started
    forked_from = ForkedFrom(
        exec_id=source.exec_id,
        version=source.facts[-1][0],
        anchor=request.anchor,
        started_at=source.clock,
        inputs=tuple(request.inputs),
        request=_request_digest(runtime, request, source, arguments),
    )
    event = msgspec.structs.replace(
        started,
        arguments=arguments.value,
        arguments_digest=arguments.digest,
        idempotency_key=request.idempotency_key,
        seed=started.seed or source.exec_id,
        forked_from=forked_from,
        plain=arguments.plain,
    )
    if target is None:
        code = source.code
        return msgspec.structs.replace(
            event,
            source=code.source,
            fingerprint=code.fingerprint,
            deployment=code.deployment,
            options=options or started.options,
        )
    return msgspec.structs.replace(
        event,
        source=target.reference,
        deployment=None,
        fingerprint=target.fingerprint,
        asynchronous=target.definition.asynchronous,
        options=target.options,
    )


def _request_digest(
    runtime: Runtime, request: ForkRequest, source: Source, arguments: Arguments
) -> str:
    """The digest of what is asked for, in the asker's own words."""
    digests = {
        key: digest(_encoded(runtime, key, value)) for key, value in request.overrides.items()
    }
    words = [source.exec_id, request.anchor, sorted(digests.items()), arguments.digest]
    return hashlib.sha256(msgspec.json.encode(words)).hexdigest()


# what is taken over


def _planned(
    runtime: Runtime,
    request: ForkRequest,
    source: Source,
    arguments: Arguments,
    event: ExecutionStarted,
    definition: FlowDefinition | None,
) -> Plan:
    past = Past(source.exec_id, source.facts)
    anchor = past.find(request.anchor)
    overrides: dict[str, Override] = {}
    blobs = arguments.blobs
    for key, value in request.overrides.items():
        call = past.overridden(key)
        if call.key in overrides:
            raise KitaruUsageError(f"The overrides name {call.key!r} twice.")
        data = _override(runtime, request, key, call, value, definition)
        kept, more = stored(data)
        blobs += more
        overrides[call.key] = Override(call, kept)
    assert event.forked_from is not None
    forked_from = msgspec.structs.replace(
        event.forked_from, anchor=anchor.path, overrides=tuple(overrides)
    )
    event = msgspec.structs.replace(event, forked_from=forked_from)
    offers = past.offers(anchor, list(overrides.values()))
    return Plan(event, tuple(offers), blobs)


def _override(
    runtime: Runtime,
    request: ForkRequest,
    key: str,
    call: PastCall,
    value: Any,
    definition: FlowDefinition | None,
) -> bytes:
    if call.kind == WAIT:
        _check_answer(key, call, value)
    elif request.is_json and definition is not None:
        value = converted(value, _result_hint(definition, call.name), f"overrides[{key!r}]")
    return _encoded(runtime, key, value)


def _encoded(runtime: Runtime, key: str, value: Any) -> bytes:
    if key.startswith(f"{WAIT}."):
        value = _as_answer(key, value)
    types = TypeScope.of(*classes_in(value))
    return runtime.codec.encode(value, where=f"overrides[{key!r}]", types=types)


def _as_answer(key: str, value: Any) -> Any:
    try:
        return plain_json(value)
    except KitaruUsageError as error:
        raise KitaruWaitValidationError(f"overrides[{key!r}]: {error}") from error


def _check_answer(key: str, call: PastCall, value: Any) -> None:
    asked = call.request
    assert isinstance(asked, WaitRequested)
    answer = _as_answer(key, value)
    schema = bytes(asked.schema)
    if schema:
        problem = problem_with(answer, msgspec.json.decode(schema), call.path)
    else:
        problem = None if answer is None else "it asks only to go on and takes no value"
    if problem is not None:
        raise KitaruWaitValidationError(
            f"overrides[{key!r}] does not fit wait {call.path!r}: {problem}."
        )


def _result_hint(definition: FlowDefinition, name: str) -> Any:
    """What a checkpoint of the flow's module says that it returns; Any where it is not found."""
    for value in getattr(definition.function, "__globals__", {}).values():
        found = getattr(type(value), "__kitaru_checkpoint__", False) is True and value.definition
        if found and found.name == name:
            return function_hints(found.function).get("return", Any)
    return Any


def _append(runtime: Runtime, exec_id: str, plan: Plan, *, claimed: bool) -> Append:
    (event,) = decide(ABSENT, Start(plan.event))
    return Append(
        stream=stream_of(exec_id),
        events=tuple(new_event(each) for each in (event, *plan.offers)),
        expected_version=0,
        head=head_of(fold(ABSENT, [event])),
        claim=runtime.worker.claim if claimed else None,
        blobs=plan.blobs,
    )
