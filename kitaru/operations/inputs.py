"""The inputs of deployed versions, from those who have nothing of the flow's code."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from kitaru.bootstrap import Runtime
from kitaru.domain.deployment.events import VersionDeployed
from kitaru.domain.values import StoredValue
from kitaru.engine.codec import TypeScope, digest
from kitaru.engine.codec.plain import is_plain
from kitaru.engine.schema import NOTHING, plain_json, problem_with
from kitaru.engine.values import Blobs, classes_in, stored
from kitaru.errors import KitaruDeploymentInputValuesError, KitaruUsageError


class Inputs(Struct, frozen=True):
    """The arguments that a version is started with."""

    value: StoredValue
    digest: str
    blobs: Blobs
    plain: tuple[str, ...]
    """Those that are plain JSON still: the runner makes of them what the annotations say."""


async def merged(
    runtime: Runtime,
    flow: str,
    facts: VersionDeployed,
    before: StoredValue | None,
    plain_before: Sequence[str],
    inputs: Mapping[str, Any],
) -> Inputs:
    """Recorded arguments with others in the place of some.

    Raises KitaruDeploymentInputValuesError that names every input which is missing, unknown or does
    not fit, and KitaruSerializationError for one that cannot be kept.
    """
    encoded = {name: _encoded(runtime, name, value) for name, value in inputs.items()}
    known = await _recorded(runtime, before)
    _check(flow, facts, known, inputs)
    data = msgspec.json.encode({**known, **encoded})
    value, blobs = stored(data)
    kept = [name for name in plain_before if name not in inputs]
    given = [name for name, each in inputs.items() if is_plain(each)]
    return Inputs(value, digest(data), blobs, (*kept, *given))


def _encoded(runtime: Runtime, name: str, value: Any) -> Raw:
    types = TypeScope.of(*classes_in(value))
    return Raw(runtime.codec.encode(value, where=f"inputs.{name}", types=types))


async def _recorded(runtime: Runtime, before: StoredValue | None) -> dict[str, Raw]:
    if before is None:
        return {}
    data = (
        bytes(before.json) if before.blob is None else await runtime.journal.get_blob(before.blob)
    )
    return msgspec.json.decode(data, type=dict[str, Raw])


def _check(
    flow: str, facts: VersionDeployed, known: Mapping[str, Raw], inputs: Mapping[str, Any]
) -> None:
    schema: dict[str, Any] = msgspec.json.decode(facts.schema)
    known_names = schema["properties"]
    unknown = [
        name
        for name in inputs
        if name not in known_names and schema["additionalProperties"] is False
    ]
    asked = {
        name: _as_json(name, value)
        for name, value in inputs.items()
        # What may be anything has no form to be checked against.
        if name not in unknown and known_names.get(name) != {}
    }
    missing = [name for name in schema["required"] if name not in {*inputs, *known}]
    problems = [f"the input {name!r} is missing" for name in missing]
    there = ", ".join(name for name, each in known_names.items() if each != NOTHING) or "none"
    problems += [f"there is no input {name!r}; there are: {there}" for name in unknown]
    # What is recorded is not asked for again: it fits the version already.
    if (problem := problem_with(asked, {**schema, "required": []}, "inputs")) is not None:
        problems.append(problem)
    if problems:
        raise KitaruDeploymentInputValuesError(
            f"Version {facts.version} of {flow!r} does not take these inputs: "
            f"{'; '.join(problems)}."
        )


def _as_json(name: str, value: Any) -> Any:
    try:
        return plain_json(value)
    except KitaruUsageError as error:
        raise KitaruDeploymentInputValuesError(f"inputs.{name}: {error}") from error
