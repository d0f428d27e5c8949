"""Everything that reads bytes or texts which may come from anybody, each with what it may raise.

A target takes bytes and raises nothing; what it reads may be refused with a typed error only.
"""

import contextlib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from journal import Head, JournalError, RecordedEvent, verify_stream
from journal.urls import parse_url
from kitaru import settings
from kitaru.divergence import divergence_of
from kitaru.domain.execution.events import EVENT_TYPES
from kitaru.domain.ids import checked_id
from kitaru.domain.values import StoredValue
from kitaru.engine.bundles import BundleDamaged, opened
from kitaru.engine.codec import Codec, TypeScope
from kitaru.engine.failures import render_traceback, revive
from kitaru.engine.upcasts import DamagedEvent, UnknownEvent, decode_event
from kitaru.errors import KitaruError
from kitaru.projections.executions import summary_of
from kitaru.projections.timeline import timeline_of
from kitaru.surfaces.cli import values as cli_values
from kitaru.surfaces.cli.text import escaped

_TAGS = sorted(EVENT_TYPES)
_codec = Codec()
_nothing = TypeScope.of()


def value(data: bytes) -> None:
    """A recorded value; whatever is read is written again as the same bytes, or refused."""
    for known_only in (False, True):
        try:
            read = _codec.decode(data, _nothing, known_only=known_only)
        except KitaruError:
            continue
        try:
            written = _codec.encode(read, where="value", types=_nothing)
        except KitaruError:
            continue
        again = _codec.decode(written, _nothing)
        assert _codec.encode(again, where="value", types=_nothing) == written


def shown_value(data: bytes) -> None:
    """A recorded value as the command line shows it: nothing in it reaches the terminal's ear."""
    try:
        stored = StoredValue(json=msgspec.Raw(data))
        texts = [cli_values.preview(stored), cli_values.arguments_preview(stored)]
        texts.append(cli_values.whole(data).replace("\n", ""))
    except msgspec.DecodeError:
        return
    for text in texts:
        assert _is_harmless(text), text
    assert len(texts[0]) <= cli_values.PREVIEW


def event(data: bytes) -> None:
    """An event of any type and schema, as a row of the journal."""
    tag = _TAGS[data[0] % len(_TAGS)] if data else "no_such_event"
    recorded = _recorded(1, tag, data[1:])
    try:
        decode_event(recorded)
    except (UnknownEvent, DamagedEvent):
        return


def history(data: bytes) -> None:
    """Several events in a row: what is shown of an execution, and whether its chain is whole."""
    events = []
    for number, part in enumerate(data.split(b"\n"), start=1):
        if part:
            events.append(_recorded(number, _TAGS[part[0] % len(_TAGS)], part[1:]))
    list(timeline_of(events))
    verify_stream(events)


def head(data: bytes) -> None:
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


def failure(data: bytes) -> None:
    """A failure that is recorded: it becomes an exception, and a traceback that can be printed."""
    from kitaru.domain.values import ErrorData

    try:
        error = msgspec.json.decode(data, type=ErrorData)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    assert isinstance(revive(error, _codec), BaseException)
    render_traceback(error)


def divergence(data: bytes) -> None:
    """The facts of a divergence."""
    divergence_of(data)


def bundle(data: bytes) -> None:
    """Deployed source, whose digest is right: whatever is in it stays inside its folder."""
    try:
        files = opened(data, hashlib.sha256(data).hexdigest())
    except BundleDamaged:
        return
    for file in files:
        parts = file.path.split("/")
        assert file.path[0] != "/"
        assert not {"", ".", ".."} & set(parts)
        assert "\0" not in file.path


def url(data: bytes) -> None:
    """The URL of a journal, for the journal itself and among the settings."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(JournalError):
        parse_url(text)
    try:
        settings.configure(journal=text)
    except KitaruError:
        return
    finally:
        settings.configure(journal=None)


def text(data: bytes) -> None:
    """An id, a name or a key that somebody has typed, and what a message makes of it."""
    given = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")
    refusal: KitaruError | None = None
    try:
        assert checked_id(given, "An id").isprintable()
    except KitaruError as error:
        refusal = error
    assert len(str(refusal)) < 5_000
    assert _is_harmless(escaped(given))


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


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        value,
        shown_value,
        event,
        history,
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
    elif name in ("event", "history"):
        for number, tag in enumerate(_TAGS):
            for payload in _EVENTS:
                yield bytes([number]) + msgspec.json.encode(payload)
            assert tag
    elif name == "head":
        for state in ("running", "failed", "done"):
            yield state.encode() + b'\n{"flow":"f","status":"failed","attempt":1,"reason":"x"}'
    elif name == "failure":
        yield msgspec.json.encode(_ERROR)
        yield msgspec.json.encode({**_ERROR, "cause": _ERROR, "members": [_ERROR, _ERROR]})
    elif name == "divergence":
        yield msgspec.json.encode({"story": "inserted", "recorded": {"path": "a"}})
    elif name == "bundle":
        files = [{"path": "a/b.py", "content": b"x = 1"}, {"path": "c.py", "content": b""}]
        yield msgspec.msgpack.encode({"format": 1, "files": files})
        yield msgspec.msgpack.encode([1, [["../a", b"x"], ["/etc/passwd", b""]]])
    elif name == "url":
        for given in ("sqlite:////a/b.db", "sqlite:///b.db", "memory://", "/a/b", "~/x", "a%00b"):
            yield given.encode()
    else:
        for given in ("a", "../x", "é", "\u202e", "x" * 501, "\x1b]0;"):
            yield given.encode()


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
]
