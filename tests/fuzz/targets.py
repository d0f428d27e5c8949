"""Everything that reads bytes or texts which may come from anybody, each with what it may raise.

A target takes bytes and raises nothing; what it reads may be refused with a typed error only. It
returns whether what it was given could be read.
"""

import contextlib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from journal import Head, JournalError, RecordedEvent, verify_stream
from journal.hashing import event_hash
from journal.records import GENESIS
from journal.urls import parse_url
from kitaru import settings
from kitaru.divergence import divergence_of
from kitaru.domain.deployment import events as deployment
from kitaru.domain.execution.events import EVENT_TYPES
from kitaru.domain.ids import checked_id
from kitaru.domain.stack import events as stack
from kitaru.domain.values import ErrorData, StoredValue
from kitaru.engine.bundles import FORMAT, BundleDamaged, opened
from kitaru.engine.codec import Codec, TypeScope
from kitaru.engine.failures import render_traceback, revive
from kitaru.engine.history_file import (
    DamagedHistory,
    History,
    NewerHistory,
    blobs_named,
    read,
    written,
)
from kitaru.engine.upcasts import (
    DamagedEvent,
    UnknownEvent,
    decode_deployment_event,
    decode_event,
    decode_stack_event,
)
from kitaru.errors import KitaruError
from kitaru.projections.executions import summary_of
from kitaru.projections.timeline import timeline_of
from kitaru.surfaces.cli import values as cli_values
from kitaru.surfaces.cli.text import escaped

Types = Mapping[str, tuple[type[Any], int]]
_TAGS = sorted(EVENT_TYPES)
_codec = Codec()
_nothing = TypeScope.of()


def value(data: bytes) -> bool:
    """A recorded value; whatever is read is written again as the same bytes, or refused."""
    is_read = False
    for known_only in (False, True):
        try:
            found = _codec.decode(data, _nothing, known_only=known_only)
        except KitaruError:
            continue
        is_read = True
        try:
            known = _codec.encode(found, where="value", types=_nothing)
        except KitaruError:
            continue
        again = _codec.decode(known, _nothing)
        assert _codec.encode(again, where="value", types=_nothing) == known
    return is_read


def shown_value(data: bytes) -> bool:
    """A recorded value as the command line shows it: nothing in it reaches the terminal's ear."""
    try:
        stored = StoredValue(json=msgspec.Raw(data))
        texts = [cli_values.preview(stored), cli_values.arguments_preview(stored)]
        texts.append(cli_values.whole(data).replace("\n", ""))
    except msgspec.DecodeError:
        return False
    for text in texts:
        assert _is_harmless(text), text
    assert len(texts[0]) <= cli_values.PREVIEW
    return True


def event(data: bytes) -> bool:
    """An event of an execution, of any type and schema, as a row of the journal."""
    return _is_read(data, EVENT_TYPES, decode_event)


def deployment_event(data: bytes) -> bool:
    """The same of a flow's deployments."""
    return _is_read(data, deployment.EVENT_TYPES, decode_deployment_event)


def stack_event(data: bytes) -> bool:
    """The same of a stack."""
    return _is_read(data, stack.EVENT_TYPES, decode_stack_event)


def _is_read(data: bytes, types: Types, decode: Callable[[RecordedEvent], object]) -> bool:
    """Two bytes for the type and the schema, then the payload."""
    tags = [*sorted(types), "no_such_event"]
    number, schema = (data[0], data[1]) if len(data) > 1 else (255, 0)
    tag = tags[number % len(tags)]
    now = types[tag][1] if tag in types else 1
    recorded = msgspec.structs.replace(
        _recorded(1, tag, data[2:]), schema=now + 1 - schema % (now + 1)
    )
    try:
        decode(recorded)
    except (UnknownEvent, DamagedEvent):
        return False
    return True


def history(data: bytes) -> bool:
    """Several events in a row: what is shown of an execution, and whether its chain is whole."""
    events = []
    for number, part in enumerate(data.split(b"\n"), start=1):
        if part:
            events.append(_recorded(number, _TAGS[part[0] % len(_TAGS)], part[1:]))
    list(timeline_of(events))
    verify_stream(events)
    return True


def history_file(data: bytes) -> bool:
    """An exported execution: what can be read is sound, and written again as the same thing."""
    try:
        found = read(data, "fuzzed")
    except (DamagedHistory, NewerHistory):
        return False
    assert not list(verify_stream(found.events))
    blobs_named(found.events)
    assert read(written(found), "written again") == found
    return True


def head(data: bytes) -> bool:
    """The row that stands for an execution in lists, whatever its summary holds."""
    state, _, summary = data.partition(b"\n")
    summary_of(
        Head(
            stream="execution-x",
            category="execution",
            version=1,
            hash=b"",
            state=state.decode("latin-1"),
            name="f",
            due_at=len(data),
            parent=None,
            summary=summary,
            created_at=0,
            updated_at=0,
            owner=None,
            epoch=0,
            lease_until=0,
        )
    )
    return True


def failure(data: bytes) -> bool:
    """A failure that is recorded: it becomes an exception, and a traceback that can be printed."""
    try:
        error = msgspec.json.decode(data, type=ErrorData)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    assert isinstance(revive(error, _codec), BaseException)
    render_traceback(error)
    return True


def divergence(data: bytes) -> bool:
    """The facts of a divergence."""
    return bool(divergence_of(data).story)


def bundle(data: bytes) -> bool:
    """Deployed source, whose digest is right: whatever is in it stays inside its folder."""
    try:
        files = opened(data, hashlib.sha256(data).hexdigest())
    except BundleDamaged:
        return False
    for file in files:
        parts = file.path.split("/")
        assert file.path[0] != "/"
        assert not {"", ".", ".."} & set(parts)
        assert "\0" not in file.path
    return True


def url(data: bytes) -> bool:
    """The URL of a journal, for the journal itself and among the settings."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(JournalError):
        parse_url(text)
    try:
        settings.configure(journal=text)
    except KitaruError:
        return False
    finally:
        settings.configure(journal=None)
    return True


def text(data: bytes) -> bool:
    """An id, a name or a key that somebody has typed, and what a message makes of it."""
    given = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")
    refusal: KitaruError | None = None
    try:
        assert checked_id(given, "An id").isprintable()
    except KitaruError as error:
        refusal = error
    assert len(str(refusal)) < 5_000
    assert _is_harmless(escaped(given))
    return refusal is None


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _is_harmless(text: str) -> bool:
    """Whether a terminal only shows it: letters, and spaces of all widths."""
    return all(char.isprintable() or unicodedata.category(char) == "Zs" for char in text)


def _recorded(version: int, tag: str, payload: bytes) -> RecordedEvent:
    return RecordedEvent(
        stream="execution-x",
        version=version,
        position=version,
        type=tag,
        schema=EVENT_TYPES[tag][1] if tag in EVENT_TYPES else 1,
        recorded_at=1_700_000_000_000_000,
        epoch=1,
        payload=payload,
        previous_hash=b"\0" * 32,
        hash=b"\0" * 32,
    )


Target = Callable[[bytes], bool]
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        value,
        shown_value,
        event,
        deployment_event,
        stack_event,
        history,
        history_file,
        head,
        failure,
        divergence,
        bundle,
        url,
        text,
    )
}


def seeds(name: str) -> Iterable[bytes]:
    """Inputs to begin with: sound ones, and what has gone wrong before."""
    yield from (b"", b"{}", b"[]", b"null", b"\x00", b"\xff\xfe", b'"\\ud800"', b"[" * 2_000)
    if name in ("value", "shown_value"):
        for body in _VALUES:
            yield msgspec.json.encode({"$": body})
            yield msgspec.json.encode([{"a": {"$": body}}, 1.5, True, None, "text\x1b[2J"])
    elif name in ("event", "deployment_event", "stack_event", "history"):
        types, payloads = {
            "deployment_event": (deployment.EVENT_TYPES, _DEPLOYMENT_EVENTS),
            "stack_event": (stack.EVENT_TYPES, _STACK_EVENTS),
        }.get(name, (EVENT_TYPES, _EVENTS))
        for number in range(len(types)):
            for payload in payloads:
                kind = [number] if name == "history" else [number, 1]
                yield bytes(kind) + msgspec.json.encode(payload)
    elif name == "history_file":
        yield from _history_files()
    elif name == "head":
        for state in ("running", "failed", "done"):
            yield state.encode() + b'\n{"flow":"f","status":"failed","attempt":1,"reason":"x"}'
    elif name == "failure":
        yield msgspec.json.encode(_ERROR)
        yield msgspec.json.encode({**_ERROR, "cause": _ERROR, "members": [_ERROR, _ERROR]})
    elif name == "divergence":
        yield msgspec.json.encode({"story": "inserted", "recorded": {"path": "a"}})
    elif name == "bundle":
        file = ["a/b.py", b"x = 1"]
        for files in ([], [file], [file, ["c.py", b""]], [["../a", b"x"], ["/etc/passwd", b""]]):
            yield msgspec.msgpack.encode([FORMAT, files])
        yield msgspec.msgpack.encode([FORMAT + "1", [file]])
        yield msgspec.msgpack.encode({"format": FORMAT, "files": [file]})
    elif name == "url":
        for given in ("sqlite:////a/b.db", "sqlite:///b.db", "memory://", "/a/b", "~/x", "a%00b"):
            yield given.encode()
    else:
        for given in ("a", "../x", "é", "\u202e", "x" * 501, "\x1b]0;"):
            yield given.encode()


def _history_files() -> Iterable[bytes]:
    """Small ones, sound but for the last: its payload is not the one that is hashed."""
    for payloads in ((b"{}",), (b"{}", b'{"a":{"blob":"00"}}'), (b"\xff", b"")):
        previous, events = GENESIS, []
        for version, payload in enumerate(payloads, start=1):
            tag = _TAGS[version]
            digest = hashlib.sha256(payload).digest()
            key = ("execution-x", version, tag, 1, 1_700_000_000_000_000, 1, digest, previous)
            made = _recorded(version, tag, payload)
            made = msgspec.structs.replace(
                made, schema=1, position=0, previous_hash=previous, hash=event_hash(*key)
            )
            events.append(made)
            previous = made.hash
        blobs = {hashlib.sha256(blob).hexdigest(): blob for blob in (b"1", b"\xff\n")}
        yield written(History(tuple(events), blobs, ("00" * 32,)))
    yield written(History(tuple(events), blobs)).replace(b'"base64":"/w=="', b'"payload":[1,"/"]')


_VALUES: list[list[Any]] = [
    ["tuple", 1, 2],
    ["set", 1],
    ["frozenset"],
    ["dict", [1, 2], [{"$": ["tuple", 1]}, None]],
    ["int", "123456789012345678901234567890"],
    ["float", "nan"],
    ["bytes", "AP8="],
    ["str", "AO2ggA=="],
    ["complex", 1.5, -2],
    ["range", 0, 10, 2],
    ["datetime", "2026-01-01T00:00:00", {"$": ["timezone", 0]}],
    ["date", "2026-01-01"],
    ["time", "10:00:00"],
    ["timedelta", 1, 2, 3],
    ["zone", "Europe/Berlin"],
    ["decimal", "0.10"],
    ["uuid", "00000000-0000-0000-0000-000000000007"],
    ["posix_path", "/tmp/x"],
    ["ndarray", "<f8", [2], "AAAAAAAAAAAAAAAAAAAAAA=="],
    ["object", "shop:Item", {"name": "tea"}],
    ["enum", "Colour", "RED"],
    ["derived", "Name", "x"],
    ["custom", "Celsius", 20.5],
]
_ERROR: dict[str, Any] = {
    "type": "ValueError",
    "module": "builtins",
    "qualname": "ValueError",
    "message": "no",
    "bases": [["builtins", "Exception"]],
    "frames": [{"file": "a.py", "line": 1, "function": "f", "source": "f()"}],
}
_EVENTS: list[dict[str, Any]] = [
    {},
    {"path": "a", "name": "a", "attempt": 1, "site": "a.py:1", "arguments_digest": "x"},
    {"path": "a", "error": _ERROR, "retry_at": 1, "attempt": 1, "name": "a", "result": {}},
    {"flow": "f", "source": {"module": "m", "qualname": "f"}, "arguments": {"json": {}}},
    {"path": "w", "name": "w", "question": "?", "schema": {"type": "string"}, "value": {}},
    {"metadata": {"a": 1}, "reason": "x", "due_at": 2**63, "paths": ["a"], "report": "r"},
    {"path": "a", "reason": "x", "due_at": 1, "decision": "again"},
    {"report": "r", "facts": {"story": "inserted", "recorded": {"path": "a"}}},
    {"path": "a", "name": "a", "problem": "p", "failures": 1, "retry_at": 1, "type": "t"},
    {"path": "a", "name": "a", "type": "t", "value": {"json": 1}, "tags": ["x"]},
    {"previous_owner": "w", "recoveries": 1, "error": _ERROR, "origin": "runtime"},
    {
        "deployment": {"flow": "f", "version": 1, "bundle": "ab"},
        "source": {"module": "m", "qualname": "f"},
    },
    {
        "flow": "f",
        "source": {"module": "m", "qualname": "f"},
        "arguments": {"json": {}},
        "arguments_digest": "x",
        "fingerprint": "x",
        "options": {"retries": 1},
        "seed": "00",
    },
    {
        "path": "a",
        "exec_id": "x",
        "version": 1,
        "recorded_at": 1,
        "type": "timer_fired",
        "schema": 1,
        "event": {"path": "a", "due_at": 1},
    },
]
_DEPLOYMENT_EVENTS: list[dict[str, Any]] = [
    {},
    {"version": 1, "tag": "t", "exclusive": False},
    {
        "version": 1,
        "entry": {"module": "m", "qualname": "f", "file": "m.py"},
        "bundle": "ab",
        "size": 1,
        "files": 1,
        "schema": {"type": "object"},
        "defaults": {"json": {}},
        "commit": {"sha": "x"},
    },
]
_STACK_EVENTS: list[dict[str, Any]] = [
    {},
    {"name": "n", "stack_id": "i", "type": "local", "labels": {"a": "b"}},
]
