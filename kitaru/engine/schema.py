"""Inputs that come as JSON from outside: checked against a function's signature and converted."""

import functools
import inspect
import itertools
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from kitaru.engine import formats
from kitaru.engine.codec.registry import REGISTRY
from kitaru.engine.codec.scope import function_hints
from kitaru.engine.codec.shapes import CustomShape
from kitaru.errors import KitaruUsageError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

MOST_PROBLEMS = 10
LONGEST_PROBLEM = 300
NOTHING: dict[str, Any] = {"not": {}}
"""The schema of a parameter that no input can be given for by name."""
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
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
    try:
        (schema,), definitions = _components([hint])
    except Exception as error:  # msgspec says no in several ways
        raise KitaruUsageError(f"{where}: {hint!r} has no JSON schema: {error}") from error
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
        # By the names that it is given by.
        return value.model_dump(mode="json", by_alias=True)
    registered = REGISTRY.by_class(type(value))
    if registered is not None and isinstance(registered.shape, CustomShape):
        (data,) = registered.shape.apart(value)
        return data
    raise TypeError(f"`{type(value).__qualname__}` cannot be given as JSON")


def problem_with(value: object, schema: Schema, name: str) -> str | None:
    """Why a plain JSON value does not fit a JSON schema, naming the field; None when it does."""
    checks = _validator()(schema, format_checker=formats.checker())
    found = list(itertools.islice(checks.iter_errors(value), MOST_PROBLEMS + 1))
    problems = [_problem(error, name) for error in found]
    if len(found) > MOST_PROBLEMS:
        problems[-1] = "and more"
    return "; ".join(problems) or None


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"contentEncoding": _check_encoding}
    )


def _check_encoding(
    _: object, encoding: object, value: object, __: object
) -> "Iterator[ValidationError]":
    from jsonschema.exceptions import ValidationError

    if encoding == "base64" and isinstance(value, str) and not formats.is_base64(value):
        yield ValidationError(f"{value!r} is not base64")


def _problem(error: "ValidationError", name: str) -> str:
    from jsonschema.exceptions import best_match

    # Of a union, the member that fits best.
    nearest = best_match([error]) or error
    message = nearest.message
    if nearest.validator == "not" and nearest.schema == NOTHING:
        message = "it has no name to be given by"
    if len(message) > LONGEST_PROBLEM:
        half = LONGEST_PROBLEM // 2
        message = f"{message[:half]} ... {message[-half:]}"
    return f"{name}{nearest.json_path.removeprefix('$')}: {message}"


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
        "properties": {name: schemas[name] | _default(each) for name, each in inputs.items()}
        # Else they would be taken for some of the `**kwargs`.
        | {name: NOTHING for name, each in parameters.items() if each.kind in _BY_PLACE},
        "required": [
            name for name, each in inputs.items() if each.default is inspect.Parameter.empty
        ],
        "additionalProperties": schemas.get(_rest(parameters), False),
    }
    return schema | {"$defs": definitions} if definitions else schema


def _schemas(hints: Mapping[str, Any]) -> tuple[dict[str, Schema], Schema]:
    """The schema of each hint, and the definitions that they share."""
    sound = {name: hint for name, hint in hints.items() if _has_schema(hint)}
    # All at once, so that two classes of one name get two definitions.
    schemas, definitions = _components(list(sound.values()))
    # Not what a wait asks for: that is recorded, and compared with what today's code asks for.
    formats.say_times(list(sound.values()), schemas, definitions)
    found = dict(zip(sound, schemas, strict=True))
    return {name: found.get(name, {}) for name in hints}, definitions


def _has_schema(hint: Any) -> bool:
    try:
        _components([hint])
    except Exception:  # msgspec says no in several ways
        return False
    return True


def _components(hints: Sequence[Any]) -> tuple[tuple[Schema, ...], Schema]:
    """The schema of each hint, and the definitions that they share."""
    models = _Models(())
    schemas, own = _asked(hints, models)
    if models.definitions.keys() & own.keys():
        # Which names msgspec needs is known when it is done.
        models = _Models(own)
        schemas, own = _asked(hints, models)
    return schemas, {**models.definitions, **own}


def _asked(hints: Sequence[Any], models: "_Models") -> tuple[tuple[Schema, ...], Schema]:
    return msgspec.json.schema_components(
        hints, schema_hook=models.schema_of, ref_template=_DEFINITIONS
    )


class _Models:
    """The classes that msgspec does not know, and the definitions that pydantic's refer to."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.definitions: Schema = {}
        self._taken = frozenset(taken)

    def schema_of(self, cls: Any) -> Schema:
        if isinstance(cls, type) and issubclass(cls, PurePath):
            return {"type": "string", "format": "path"}
        if not hasattr(cls, "model_json_schema"):
            return {}
        model: Schema = cls.model_json_schema()
        definitions: Schema = model.pop("$defs", {})
        # Each model names its definitions for itself: one name may mean two things.
        for suffix in itertools.chain([""], map("_{}".format, itertools.count(2))):
            named = {f"{name}{suffix}": each for name, each in definitions.items()}
            renamed = _renamed(named, definitions, suffix)
            if all(self._is_free(name, each) for name, each in renamed.items()):
                break
        self.definitions.update(renamed)
        return dict(_renamed(model, definitions, suffix))

    def _is_free(self, name: str, schema: Schema) -> bool:
        return name not in self._taken and self.definitions.get(name, schema) == schema


def _renamed(schema: Any, names: Iterable[str], suffix: str) -> Any:
    """The same schema, whose references to these definitions have the suffix."""
    references = {f"#/$defs/{name}": f"#/$defs/{name}{suffix}" for name in names}

    def renamed(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: renamed(each) for name, each in part.items()}
        if isinstance(part, list):
            return [renamed(each) for each in part]
        return references.get(part, part) if isinstance(part, str) else part

    return renamed(schema)


def _default(parameter: inspect.Parameter) -> Schema:
    if parameter.default is inspect.Parameter.empty:
        return {}
    try:
        said = json.dumps(plain_json(parameter.default), allow_nan=False, ensure_ascii=False)
        return {"default": json.loads(said.encode())}
    except (KitaruUsageError, TypeError, ValueError, RecursionError):
        return {}  # a default that JSON cannot say
