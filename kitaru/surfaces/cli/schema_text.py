"""The inputs of a flow, as one would write them, from their JSON schema."""

from typing import Any

import msgspec

Schema = dict[str, Any]
ANYTHING = "anything"
DEEPEST = 4
"""Further in, what a schema consists of is left out."""


def inputs_of(schema: Schema) -> list[tuple[str, str, str]]:
    """Of every input its name, its type, and its default as JSON; empty where it has none."""
    known = schema.get("$defs", {})
    found = [
        (name, type_text(each, known), _json(each["default"]) if "default" in each else "")
        for name, each in schema.get("properties", {}).items()
        if each != {"not": {}}
    ]
    rest = schema.get("additionalProperties", False)
    return found if rest is False else [*found, ("**", type_text(rest, known), "")]


def type_text(schema: Any, known: Schema, depth: int = 0) -> str:
    """A schema in short: ``list of integer``, ``string (date) or null``, ``Order``.

    `known` are the definitions that it may refer to.
    """
    if not isinstance(schema, dict) or depth > DEEPEST:
        return ANYTHING
    match schema:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            match known.get(name):
                case {"enum": _} as one_of:
                    return type_text(one_of, known, depth + 1)
                case _:
                    return name or ANYTHING
        case {"const": value}:
            return _json(value)
        case {"enum": [_, *_] as values}:
            return " or ".join(map(_json, values))
        case {"anyOf": [_, *_] as members} | {"oneOf": [_, *_] as members}:
            texts = [type_text(each, known, depth + 1) for each in members]
            return " or ".join(dict.fromkeys(texts))
        case {"allOf": [one]}:
            return type_text(one, known, depth + 1)
        case {"type": [_, *_] as kinds}:
            return " or ".join(map(_json, kinds))
        case {"type": "array"}:
            return _array(schema, known, depth)
        case {"type": "object", "additionalProperties": dict(inner)} if inner:
            return f"object of {type_text(inner, known, depth + 1)}"
        case {"type": "object", "title": str(title)} if title:
            return title
        case {"type": str(kind)} if kind:
            form = schema.get("format") or schema.get("contentEncoding")
            return f"{kind} ({form})" if form else kind
        case _:
            return ANYTHING


def _array(schema: Schema, known: Schema, depth: int) -> str:
    match schema.get("prefixItems"):
        case [_, *_] as places:
            return f"[{', '.join(type_text(each, known, depth + 1) for each in places)}]"
        case _:
            item = type_text(schema.get("items", {}), known, depth + 1)
            return "list" if item == ANYTHING else f"list of {item}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
