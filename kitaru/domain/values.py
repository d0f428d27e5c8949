"""Values and errors as the journal keeps them: data, never code."""

from msgspec import Raw, Struct

NO_JSON = Raw(b"")
"""Stands for a field that is left out: msgspec cannot decode ``Raw | None``, and leaves out a
default only when it is this very object."""


class StoredValue(Struct, frozen=True, omit_defaults=True, gc=False):
    """An encoded value: in the event itself, or in a blob that the event names."""

    json: Raw = NO_JSON
    """The codec's JSON; empty when the value is in a blob."""
    blob: str | None = None
    """The hexadecimal SHA-256 of the codec's JSON."""
    size: int = 0
    """The bytes of the codec's JSON, when it is in a blob."""


class FrameData(Struct, frozen=True):
    """One line of a traceback."""

    file: str
    line: int
    function: str
    source: str = ""


class ErrorData(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An exception of any shape, as data."""

    type: str
    """``module.Qualified.Name``; builtins without their module."""
    module: str = "builtins"
    qualname: str = ""
    bases: tuple[tuple[str, str], ...] = ()
    """(module, qualified name) of the classes it derives from, nearest first, up to a builtin."""
    message: str = ""
    """The exception's own text; lone surrogates are written as escapes."""
    exact_message: Raw = NO_JSON
    """The text in the codec's JSON, when ``message`` has such escapes."""
    arguments: Raw = NO_JSON
    """``args`` in the codec's JSON; empty when one of them cannot be encoded."""
    attributes: Raw = NO_JSON
    """Those of its attributes that can be encoded, as a dict in the codec's JSON."""
    notes: tuple[str, ...] = ()
    frames: tuple[FrameData, ...] = ()
    """The traceback, outermost frame first; the middle of a long one is left out."""
    frames_left_out: int = 0
    truncated_bytes: int = 0
    """How much of an over-long message was cut."""
    message_digest: str = ""
    """The hexadecimal SHA-256 of the whole message, when it was cut."""
    cause: "ErrorData | None" = None
    context: "ErrorData | None" = None
    suppress_context: bool = False
    members: "tuple[ErrorData, ...]" = ()
    """The exceptions of a group."""
