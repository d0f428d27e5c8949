"""Recorded events as today's: older ones are brought up to date, newer ones are refused."""

import msgspec
import pytest
from msgspec import Raw

from journal import RecordedEvent
from journal.records import GENESIS
from kitaru.domain.execution.events import CancelRequested, CheckpointCompleted
from kitaru.engine import upcasts
from kitaru.engine.upcasts import DamagedEvent, Fields, UnknownEvent, decode_event


def recorded(
    type_: str, payload: bytes, *, schema: int = 1, erased: bytes | None = None
) -> RecordedEvent:
    return RecordedEvent(
        stream="execution-x",
        version=7,
        position=9,
        type=type_,
        schema=schema,
        recorded_at=0,
        epoch=0,
        payload=payload,
        previous_hash=GENESIS,
        hash=GENESIS,
        payload_digest=erased,
    )


def test_an_unknown_type_is_refused_with_its_place() -> None:
    with pytest.raises(UnknownEvent, match="does not know") as caught:
        decode_event(recorded("from_the_future", b"{}", schema=3))
    assert (caught.value.type, caught.value.schema, caught.value.version) == (
        "from_the_future",
        3,
        7,
    )


def test_a_newer_schema_is_refused_even_when_it_could_be_read() -> None:
    with pytest.raises(UnknownEvent, match="up to schema 1"):
        decode_event(recorded("cancel_requested", b'{"reason":"enough"}', schema=2))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"reason":3}',
        b'{"reason":"\xff"}',
        b'{"reason":' + b"[" * 100_000,
        b"\x00\x01",
    ],
    ids=["empty", "cut", "null", "list", "type", "utf8", "deep", "binary"],
)
def test_a_payload_that_is_not_what_its_type_promises_is_damaged(payload: bytes) -> None:
    with pytest.raises(DamagedEvent, match=r"Event 7 of execution-x \('cancel_requested'\)"):
        decode_event(recorded("cancel_requested", payload))


def test_a_field_that_is_missing_is_damage_and_not_a_default() -> None:
    with pytest.raises(DamagedEvent, match="result"):
        decode_event(recorded("checkpoint_completed", b'{"path":"c","name":"c","attempt":1}'))


def test_erased_content_is_said_to_be_erased() -> None:
    with pytest.raises(DamagedEvent, match="erased"):
        decode_event(recorded("cancel_requested", b"", erased=b"x" * 32))


def test_a_schema_that_never_was_is_damage() -> None:
    with pytest.raises(DamagedEvent, match="no schema 0"):
        decode_event(recorded("cancel_requested", b"{}", schema=0))


def test_old_schemas_are_brought_up_step_by_step_and_what_is_not_touched_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first(fields: Fields) -> Fields:
        fields["why"] = fields.pop("because")
        return fields

    def second(fields: Fields) -> Fields:
        why = msgspec.json.decode(fields.pop("why"))
        return {**fields, "reason": Raw(msgspec.json.encode(why.upper()))}

    monkeypatch.setitem(upcasts.UPCASTS, ("cancel_requested", 1), first)
    monkeypatch.setitem(upcasts.UPCASTS, ("cancel_requested", 2), second)
    decoder, _ = upcasts._DECODERS["cancel_requested"]
    monkeypatch.setitem(upcasts._DECODERS, "cancel_requested", (decoder, 3))
    for schema, payload in ((1, b'{"because":"a"}'), (2, b'{"why":"a"}'), (3, b'{"reason":"A"}')):
        event = decode_event(recorded("cancel_requested", payload, schema=schema))
        assert event == CancelRequested(reason="A")
    with pytest.raises(DamagedEvent):
        decode_event(recorded("cancel_requested", b"[]", schema=1))


def test_fields_that_this_version_does_not_know_are_left_out() -> None:
    payload = b'{"path":"c","name":"c","attempt":1,"result":{"json":[1]},"later":true}'
    event = decode_event(recorded("checkpoint_completed", payload))
    assert isinstance(event, CheckpointCompleted)
    assert bytes(event.result.json) == b"[1]"
