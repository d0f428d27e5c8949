"""Inputs that come as JSON from outside: checked against a function's signature and converted."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from kitaru.engine.codec.registry import REGISTRY
from kitaru.engine.codec.scope import function_hints
from kitaru.engine.codec.shapes import CustomShape
from kitaru.errors import KitaruUsageError

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_DEFINITIONS = "#/$defs/{name}"
_UNIONS = (typing.Union, types.UnionType)

Schema = dict[str, Any]


def bind_json(function: Callable[..., Any], arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments, given by name as plain JSON, converted to what the annotations say.

    Parameters without an annotation take the JSON as it is. Raises ``KitaruUsageError`` that names
    every missing and unknown argument, or the field whose value does not fit.
    """
    parameters = inspect.signature(function).parameters
    _refuse([*_unknown(parameters, arguments), *_missing(parameters, arguments)])
    return convert_json(function, arguments)


def convert_json(
    function: Callable[..., Any], arguments: Mapping[str, object]
) -> dict[str, object]:
    """The same for some of the arguments."""
    parameters = inspect.signature(function).parameters
    _refuse([*_unknown(parameters, arguments)])
    hints = function_hints(function)
    known, rest = _known(parameters), _rest(parameters)
    return {
        name: _converted(value, hints.get(name if name in known else rest, Any), name)
        for name, value in arguments.items()
    }


def converted(value: object, hint: Any, name: str) -> object:
    """A plain JSON value as what an annotation says.

    Raises ``KitaruUsageError`` that names the field which does not fit, from `name` on.
    """
    return _converted(value, hint, name)


def schema_of(hint: Any, where: str) -> bytes:
    """The JSON schema of an annotation, as JSON. Raises ``KitaruUsageError`` when it has none."""
    definitions: Schema = {}
    hook = _schema_hook(definitions)
    try:
        (schema,), shared = msgspec.json.schema_components(
            [hint], schema_hook=hook, ref_template=_DEFINITIONS
        )
    except Exception as error:  # msgspec says no in several ways
        raise KitaruUsageError(f"{where}: {hint!r} has no JSON schema: {error}") from error
    definitions = {**definitions, **shared}
    return msgspec.json.encode(schema | {"$defs": definitions} if definitions else schema)


def plain_json(value: object) -> Any:
    """A value as plain JSON: what stands for it in an input. Raises ``KitaruUsageError``."""
    try:
        return msgspec.to_builtins(value, enc_hook=_plain_model)
    except (TypeError, ValueError, RecursionError) as error:
        raise KitaruUsageError(f"{type(value).__qualname__} is not JSON: {error}") from error


def _plain_model(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"`{type(value).__qualname__}` cannot be given as JSON")


def problem_with(value: object, schema: Schema, name: str) -> str | None:
    """Why a plain JSON value does not fit a JSON schema, naming the field; None when it does."""
    from jsonschema import Draft202012Validator

    found = sorted(Draft202012Validator(schema).iter_errors(value), key=lambda e: list(e.path))
    if not found:
        return None
    places = [f"{name}{error.json_path.removeprefix('$')}" for error in found]
    return "; ".join(f"{at}: {error.message}" for at, error in zip(places, found, strict=True))


def _known(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, parameter in parameters.items() if parameter.kind in _BY_NAME]


def _rest(parameters: Mapping[str, inspect.Parameter]) -> str:
    """The name of ``**kwargs``; empty when there is none."""
    kinds = {parameter.kind: name for name, parameter in parameters.items()}
    return kinds.get(inspect.Parameter.VAR_KEYWORD, "")


def _refuse(problems: list[str]) -> None:
    if problems:
        raise KitaruUsageError("; ".join(problems))


def _unknown(
    parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, object]
) -> Iterator[str]:
    known = _known(parameters)
    for name in arguments:
        parameter = parameters.get(name)
        if parameter is not None and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            yield f"{name!r} is positional-only and cannot be given by name"
        elif name not in known and not _rest(parameters):
            yield f"there is no argument {name!r}; there are: {', '.join(known) or 'none'}"


def _missing(
    parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, object]
) -> Iterator[str]:
    for name, parameter in parameters.items():
        if name in arguments or parameter.default is not inspect.Parameter.empty:
            continue
        if parameter.kind in _BY_NAME:
            yield f"the argument {name!r} is missing"
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            yield f"the argument {name!r} is missing, and being positional-only has no way in"


def _converted(value: object, hint: Any, name: str) -> object:
    if hint in (Any, object):
        return value
    try:
        return _convert(value, hint)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        raise KitaruUsageError(f"{name}{place.rstrip('`')}: {text}") from error
    except Exception as error:
        raise KitaruUsageError(f"{name}: {error}") from error


def _convert(value: object, hint: Any) -> object:
    """Strictly, so that a union gets the member that fits best; then text to numbers and so on."""
    try:
        return msgspec.convert(value, hint, dec_hook=_custom)
    except msgspec.ValidationError as strict:
        try:
            return msgspec.convert(value, hint, strict=False, dec_hook=_custom)
        except msgspec.ValidationError:
            raise strict from None
    except TypeError:
        if typing.get_origin(hint) not in _UNIONS:
            raise
        return _convert_union(value, typing.get_args(hint))


def _convert_union(value: object, members: tuple[Any, ...]) -> object:
    """A union that msgspec does not take, such as ``str | Path``: the first member that fits."""
    problems = []
    for member in members:
        try:
            return _convert(value, member)
        except (msgspec.ValidationError, TypeError) as problem:
            problems.append(str(problem))
    raise msgspec.ValidationError("; ".join(problems))


def _custom(cls: Any, value: Any) -> Any:
    """The classes that msgspec does not know."""
    if isinstance(cls, type) and issubclass(cls, PurePath):
        if not isinstance(value, str):
            raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
        return cls(value)
    if hasattr(cls, "model_validate"):
        return _validated(cls, value)
    registered = REGISTRY.by_class(cls)
    if registered is not None and isinstance(registered.shape, CustomShape):
        return registered.shape.together([value])
    raise ValueError(f"`{getattr(cls, '__qualname__', cls)}` cannot be given as JSON")


def _validated(model: Any, value: Any) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as error:
        problems: list[Any] = getattr(error, "errors", list)()
        texts = [f"{_dotted(problem['loc'])}: {problem['msg']}" for problem in problems]
        raise ValueError("; ".join(texts) or str(error)) from error


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))


def input_schema(function: Callable[..., Any]) -> Schema:
    """The JSON schema of a function's inputs; what has no schema may be anything: ``{}``."""
    parameters = inspect.signature(function).parameters
    hints = function_hints(function)
    inputs = {name: each for name, each in parameters.items() if each.kind in _BY_NAME}
    schemas, definitions = _schemas({name: hints.get(name, Any) for name in parameters})
    schema: Schema = {
        "type": "object",
        "properties": {name: schemas[name] | _default(each) for name, each in inputs.items()},
        "required": [
            name for name, each in inputs.items() if each.default is inspect.Parameter.empty
        ],
        "additionalProperties": schemas.get(_rest(parameters), False),
    }
    return schema | {"$defs": definitions} if definitions else schema


def _schemas(hints: Mapping[str, Any]) -> tuple[dict[str, Schema], Schema]:
    """The schema of each hint, and the definitions that they share."""
    definitions: Schema = {}
    hook = _schema_hook(definitions)
    sound = {name: hint for name, hint in hints.items() if _has_schema(hint, hook)}
    # All at once, so that two classes of one name get two definitions.
    schemas, shared = msgspec.json.schema_components(
        sound.values(), schema_hook=hook, ref_template=_DEFINITIONS
    )
    found = dict(zip(sound, schemas, strict=True))
    return {name: found.get(name, {}) for name in hints}, {**definitions, **shared}


def _has_schema(hint: Any, hook: Callable[[type], Schema]) -> bool:
    try:
        msgspec.json.schema_components([hint], schema_hook=hook, ref_template=_DEFINITIONS)
    except Exception:  # msgspec says no in several ways
        return False
    return True


def _schema_hook(definitions: Schema) -> Callable[[type], Schema]:
    """For the classes that msgspec does not know; adds what they define to ``definitions``."""

    def schema(cls: Any) -> Schema:
        if isinstance(cls, type) and issubclass(cls, PurePath):
            return {"type": "string", "format": "path"}
        if hasattr(cls, "model_json_schema"):
            model: Schema = cls.model_json_schema()
            definitions.update(model.pop("$defs", {}))
            return model
        return {}

    return schema


def _default(parameter: inspect.Parameter) -> Schema:
    if parameter.default is inspect.Parameter.empty:
        return {}
    try:
        return {"default": msgspec.to_builtins(parameter.default)}
    except TypeError:  # a default that JSON cannot say
        return {}
