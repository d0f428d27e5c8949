"""One execution as one file: its events and the values beside them, byte by byte.

A file is lines of JSON: a head, an event on each line, a blob on each line, and an end. An event's
payload stands there as it is where it is JSON, so that people can read and compare the file; its
hash covers every byte of it, and each event's hash covers the one before it. Reading makes nothing
of a payload: it is data, and stays bytes.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import NoReturn, TypeVar

import msgspec
from msgspec import Raw, Struct

from journal import RecordedEvent, verify_stream
from kitaru.domain.execution.events import EventOffered
from kitaru.domain.values import NO_JSON, StoredValue
from kitaru.engine.executions import exec_id_of, stream_of
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_event, offered_event
from kitaru.errors import KitaruStateError

SUFFIX = ".history.jsonl"
FORMAT = 1
_GENESIS = bytes(32)
_T = TypeVar("_T")
_NAMED = re.compile(rb'"blob":"([0-9a-f]{64})"')


class DamagedHistory(KitaruStateError):
    """A file is no history of an execution, or not the one that was written."""

    def __init__(self, source: str, line: int, what: str) -> None:
        super().__init__(
            f"{source}:{line}: {what}. The file is not as `kitaru journal export` wrote it; "
            "export it again."
        )
        self.source = source
        self.line = line
        self.what = what


class NewerHistory(KitaruStateError):
    """A later version wrote the file in a form that this one does not know."""

    def __init__(self, source: str, found: int) -> None:
        super().__init__(
            f"{source} has the form {found} of a history, and this version of Kitaru knows up to "
            f"{FORMAT}: use the version that wrote it, or a later one."
        )
        self.source = source
        self.format = found


class History(Struct, frozen=True):
    """One execution out of a file, or for one."""

    events: tuple[RecordedEvent, ...]
    blobs: Mapping[str, bytes]
    """By hexadecimal SHA-256."""
    missing: tuple[str, ...] = ()
    """The values that were gone already when it was written."""

    @property
    def exec_id(self) -> str:
        """Whose history it is."""
        return exec_id_of(self.events[0].stream)


def blobs_named(events: Iterable[RecordedEvent]) -> list[str]:
    """The digests of the values that events keep beside them, each once."""
    return list(dict.fromkeys(digest for event in events for digest in _named_by(event)))


def _named_by(event: RecordedEvent) -> Iterator[str]:
    try:
        decoded = decode_event(event)
        yield from _in_struct(decoded)
        if isinstance(decoded, EventOffered):
            yield from _in_struct(offered_event(decoded))
    except (DamagedEvent, UnknownEvent):
        # Of a newer version: what looks like the name of a value is taken for one.
        yield from (digest.decode() for digest in _NAMED.findall(event.payload))


def _in_struct(value: object) -> Iterator[str]:
    if isinstance(value, StoredValue):
        if value.blob is not None:
            yield value.blob
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _in_struct(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _in_struct(item)


class _Head(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    kitaru_history: int
    exec_id: str
    flow: str = ""
    """For people: the events decide."""
    written_by: str = ""


class _Event(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    version: int
    type: str
    schema: int
    recorded_at: int
    epoch: int
    hash: str
    payload: Raw = NO_JSON
    base64: str | None = None
    erased: str | None = None


class _Blob(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    blob: str
    content: Raw = NO_JSON
    base64: str | None = None


class _End(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    end: str
    """The hash of the last event."""
    events: int
    blobs: int
    missing: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def written(history: History, *, flow: str = "", written_by: str = "") -> bytes:
    """The file's content."""
    lines: list[bytes] = [
        _encode(_Head(FORMAT, history.exec_id, flow=flow, written_by=written_by)),
        *map(_event_line, history.events),
        *(_blob_line(digest, content) for digest, content in history.blobs.items()),
        _encode(
            _End(
                history.events[-1].hash.hex(),
                len(history.events),
                len(history.blobs),
                history.missing,
            )
        ),
    ]
    return b"".join(line + b"\n" for line in lines)


def _event_line(event: RecordedEvent) -> bytes:
    fields = _Event(
        version=event.version,
        type=event.type,
        schema=event.schema,
        recorded_at=event.recorded_at,
        epoch=event.epoch,
        hash=event.hash.hex(),
    )
    if event.payload_digest is not None:
        return _encode(msgspec.structs.replace(fields, erased=event.payload_digest.hex()))
    if _stands_in_json(event.payload):
        return _encode(msgspec.structs.replace(fields, payload=Raw(event.payload)))
    return _encode(msgspec.structs.replace(fields, base64=_base64(event.payload)))


def _blob_line(digest: str, content: bytes) -> bytes:
    if _stands_in_json(content):
        return _encode(_Blob(digest, content=Raw(content)))
    return _encode(_Blob(digest, base64=_base64(content)))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _stands_in_json(content: bytes) -> bool:
    """Whether these bytes come back the same from within a line of JSON."""
    if b"\n" in content or b"\r" in content or content[:1].isspace() or content[-1:].isspace():
        return False
    try:
        content.decode()
        return bytes(_fields(b'{"content":' + content + b"}").get("content", b"")) == content
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return False


def read(content: bytes, source: str) -> History:
    """The execution in a file's content, whole and sound; `source` names the file in errors.

    Raises DamagedHistory, or NewerHistory for a form that this version does not know.
    """
    return _Reading(content, source).history()


class _Reading:
    """One pass over a file's lines."""

    def __init__(self, content: bytes, source: str) -> None:
        self._source = source
        self._lines = content.split(b"\n")
        self._events: list[RecordedEvent] = []
        self._blobs: dict[str, bytes] = {}

    def history(self) -> History:
        if self._lines[-1] != b"":
            self._refuse(len(self._lines), "its last line is cut off")
        self._lines.pop()
        if not self._lines:
            self._refuse(1, "it is empty")
        stream = self._stream()
        previous = _GENESIS
        for number, line in enumerate(self._lines[1:-1], 2):
            if line.startswith(b'{"blob":'):
                self._add_blob(number, line)
            elif self._blobs:
                self._refuse(number, "an event stands behind the values")
            else:
                previous = self._add_event(number, line, stream, previous)
        return self._ended()

    def _refuse(self, line: int, what: str) -> NoReturn:
        raise DamagedHistory(self._source, line, what)

    def _stream(self) -> str:
        head = self._decoded(1, self._lines[0], dict[str, Raw])
        try:
            form = msgspec.json.decode(head.get("kitaru_history", b"null"), type=int)
        except msgspec.DecodeError:
            raise DamagedHistory(self._source, 1, "this is no history of an execution") from None
        if form > FORMAT:
            raise NewerHistory(self._source, form)
        exec_id = self._decoded(1, self._lines[0], _Head).exec_id
        if not exec_id or not exec_id.isprintable():
            self._refuse(1, "it names no execution")
        return stream_of(exec_id)

    def _add_event(self, number: int, line: bytes, stream: str, previous: bytes) -> bytes:
        fields = self._decoded(number, line, _Event)
        payload, digest = self._payload(number, fields)
        event = RecordedEvent(
            stream=stream,
            version=fields.version,
            position=0,
            type=fields.type,
            schema=fields.schema,
            recorded_at=fields.recorded_at,
            epoch=fields.epoch,
            payload=payload,
            previous_hash=previous,
            hash=self._hex(number, fields.hash),
            payload_digest=digest,
        )
        if event.version != len(self._events) + 1:
            what = f"event {len(self._events) + 1} is missing: here stands event {event.version}"
            self._refuse(number, what)
        self._events.append(event)
        return event.hash

    def _payload(self, number: int, fields: _Event) -> tuple[bytes, bytes | None]:
        given = [bytes(fields.payload) != b"", fields.base64 is not None, fields.erased is not None]
        if sum(given) != 1:
            self._refuse(number, "an event has one payload, or is erased")
        if fields.erased is not None:
            return b"", self._hex(number, fields.erased)
        if fields.base64 is not None:
            return self._unpacked(number, fields.base64), None
        return bytes(fields.payload), None

    def _add_blob(self, number: int, line: bytes) -> None:
        fields = self._decoded(number, line, _Blob)
        content = bytes(fields.content)
        if fields.base64 is not None:
            content = self._unpacked(number, fields.base64)
        if sha256(content).hexdigest() != fields.blob:
            self._refuse(number, f"the value {fields.blob[:12]}… is not what its hash says")
        self._blobs[fields.blob] = content

    def _ended(self) -> History:
        number = len(self._lines)
        if number < 2 or not self._lines[-1].startswith(b'{"end":'):
            self._refuse(number, "its end is missing")
        for finding in verify_stream(self._events):
            # Line 1 is the head.
            what = f"event {finding.version} is {finding.kind}: {finding.what}"
            self._refuse(finding.version + 1, what)
        end = self._decoded(number, self._lines[-1], _End)
        if not self._events:
            self._refuse(number, "it has no events")
        found = (self._events[-1].hash.hex(), len(self._events), len(self._blobs))
        if found != (end.end, end.events, end.blobs):
            self._refuse(number, "it does not hold what its end says: lines are missing before it")
        return History(tuple(self._events), self._blobs, end.missing)

    def _decoded(self, number: int, line: bytes, form: type[_T]) -> _T:
        try:
            return msgspec.json.decode(line, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DamagedHistory(self._source, number, f"it cannot be read: {error}") from None

    def _hex(self, number: int, text: str) -> bytes:
        try:
            found = bytes.fromhex(text)
        except ValueError:
            found = b""
        if len(found) != 32 or found.hex() != text:
            self._refuse(number, f"{text[:70]!r} is no hash")
        return found

    def _unpacked(self, number: int, text: str) -> bytes:
        try:
            found = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            found = b""
        if _base64(found) != text:
            self._refuse(number, "its base64 cannot be read")
        return found
