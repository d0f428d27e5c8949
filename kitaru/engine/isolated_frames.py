"""What a runner and the process of one checkpoint attempt say to each other: data, never code."""

import struct
from typing import BinaryIO

import msgspec
from msgspec import Raw, Struct

from kitaru.domain.execution.events import SourceReference
from kitaru.domain.values import ErrorData

LENGTH = struct.Struct(">Q")


class Request(Struct, frozen=True):
    """Runs one attempt of a call."""

    function: SourceReference
    """Where the checkpoint's function is."""
    exec_id: str
    path: str
    attempt: int
    identity: str
    """What no other call of the execution has."""
    arguments: Raw
    """In the codec's JSON."""


class Noted(Struct, frozen=True, tag="noted"):
    """The body has logged or saved something."""

    event_tag: str
    event: Raw
    blobs: tuple[bytes, ...] = ()


class Returned(Struct, frozen=True, tag="returned"):
    """The body has returned."""

    result: Raw
    """In the codec's JSON."""
    is_unshared: bool = False
    """Whether no other execution may reuse it."""


class Failed(Struct, frozen=True, tag="failed"):
    """The body has raised."""

    error: ErrorData
    is_unshared: bool = False


Answer = Noted | Returned | Failed

decode_answer = msgspec.json.Decoder[Answer](Answer).decode
decode_request = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.Encoder().encode


def framed(message: Request | Answer) -> bytes:
    """A message as it is written: its length, and its bytes."""
    data = _encode(message)
    return LENGTH.pack(len(data)) + data


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message's bytes; None where the stream ends before it is whole."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None
