"""Values and errors are plain data: what is left out stays out, and what is there comes back."""

import msgspec
from msgspec import Raw

from kitaru.domain.values import NO_JSON, ErrorData, FrameData, StoredValue


def test_a_value_is_in_the_event_or_in_a_blob_that_it_names() -> None:
    inline = StoredValue(json=Raw(b'{"a":1}'))
    assert msgspec.json.encode(inline) == b'{"json":{"a":1}}'
    assert msgspec.json.decode(msgspec.json.encode(inline), type=StoredValue) == inline
    elsewhere = StoredValue(blob="ab" * 32, size=5)
    again = msgspec.json.decode(msgspec.json.encode(elsewhere), type=StoredValue)
    assert again == elsewhere
    assert again.json is NO_JSON
    assert b"json" not in msgspec.json.encode(elsewhere)


def test_an_error_with_causes_and_members_is_read_back_as_it_was() -> None:
    inner = ErrorData(type="KeyError", message="'k'", frames=(FrameData("a.py", 3, "f"),))
    error = ErrorData(
        type="m.Group",
        module="m",
        qualname="Group",
        bases=(("builtins", "ExceptionGroup"),),
        message="two",
        cause=inner,
        context=ErrorData(type="ValueError", context=inner),
        suppress_context=True,
        members=(inner, inner),
        notes=("a note",),
    )
    assert msgspec.json.decode(msgspec.json.encode(error), type=ErrorData) == error


def test_what_an_error_does_not_have_takes_no_room() -> None:
    assert msgspec.json.encode(ErrorData(type="ValueError")) == b'{"type":"ValueError"}'
