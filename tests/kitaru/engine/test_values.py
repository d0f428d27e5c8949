"""What stands in an event, what goes into a blob, and which arguments are kept."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kitaru
from kitaru import checkpoint, flow
from kitaru.domain.execution.events import (
    ArtifactSaved,
    CheckpointCompleted,
    CheckpointFailed,
    ExecutionCompleted,
    ExecutionStarted,
)
from kitaru.engine.values import INLINE_BYTES, KEPT_ARGUMENT_BYTES, kept_arguments, stored

SIZES = st.integers(min_value=0, max_value=3 * INLINE_BYTES)


@given(SIZES)
def test_a_value_is_in_the_event_or_in_one_blob_that_the_event_names(size: int) -> None:
    data = b"7" * size
    value, blobs = stored(data)
    if size <= INLINE_BYTES:
        assert (bytes(value.json), value.blob, blobs) == (data, None, ())
    else:
        assert (bytes(value.json), value.size, blobs) == (b"", size, (data,))
        assert value.blob == sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("size", "inline"), [(INLINE_BYTES, True), (INLINE_BYTES + 1, False)], ids=["at", "over"]
)
def test_the_limit_is_thirty_two_kibibytes(size: int, inline: bool) -> None:
    assert INLINE_BYTES == 32 * 1024
    value, blobs = stored(b"7" * size)
    assert (value.blob is None, blobs == ()) == (inline, inline)


@pytest.mark.parametrize(
    ("size", "record", "kept"),
    [
        (KEPT_ARGUMENT_BYTES, None, True),
        (KEPT_ARGUMENT_BYTES + 1, None, False),
        (KEPT_ARGUMENT_BYTES + 1, True, True),
        (INLINE_BYTES + 1, True, True),
        (2, False, False),
    ],
)
def test_arguments_are_kept_when_they_are_small_or_when_it_was_asked(
    size: int, record: bool | None, kept: bool
) -> None:
    data = b"7" * size
    value, blobs = kept_arguments(data, record)
    assert (value is not None) is kept
    assert blobs == ((data,) if kept and size > INLINE_BYTES else ())


# in a flow: what the codec writes around a text of n characters is measured first


def payload(bench: Any, bytes_: int, **of: Any) -> str:
    """A text with which the value that `of` makes of it takes so many bytes."""
    around = len(bench.runtime.codec.encode({"text": ""}, where="", types=of["types"]))
    return "x" * (bytes_ - around)


@checkpoint
def small(text: str) -> str:
    return text


@checkpoint(record_inputs="always")
def always(text: str) -> None: ...


@checkpoint(record_inputs="never")
def never(text: str) -> None: ...


@checkpoint(record_inputs="always", retries=1)
def always_fails(text: str) -> None:
    raise ValueError("boom")


@checkpoint
def fails(text: str) -> None:
    raise ValueError("boom")


@flow
def calls(name: str, text: str) -> None:
    try:
        {c.name: c for c in (small, always, never, always_fails, fails)}[name](text)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("called", "size", "kept"),
    [
        (small, KEPT_ARGUMENT_BYTES, "inline"),
        (small, KEPT_ARGUMENT_BYTES + 1, None),
        (fails, KEPT_ARGUMENT_BYTES, "inline"),
        (fails, KEPT_ARGUMENT_BYTES + 1, None),
        (always, INLINE_BYTES, "inline"),
        (always, INLINE_BYTES + 1, "blob"),
        (always_fails, INLINE_BYTES, "inline"),
        (always_fails, INLINE_BYTES + 1, "blob"),
        (never, 20, None),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
async def test_a_calls_arguments_are_kept_whether_it_succeeds_or_fails(
    bench: Any, called: Any, size: int, kept: str | None
) -> None:
    text = payload(bench, size, types=called.definition.types)
    handle = await calls.aio.run(called.name, text)
    await bench.ending(handle.exec_id)
    outcomes = [
        event
        for event in await bench.events(handle.exec_id)
        if isinstance(event, CheckpointCompleted | CheckpointFailed)
    ]
    assert len(outcomes) == 1 + (called is always_fails)
    for outcome in outcomes:
        assert len(outcome.arguments_digest) == 64
        if kept is None:
            assert outcome.arguments is None
            continue
        assert outcome.arguments is not None
        data = bytes(outcome.arguments.json)
        if kept == "blob":
            assert outcome.arguments.blob is not None
            data = await bench.runtime.journal.get_blob(outcome.arguments.blob)
        assert len(data) == size
        assert sha256(data).hexdigest() == outcome.arguments_digest


@checkpoint
def saves(text: str) -> str:
    kitaru.save("an artifact", text)
    return text


@flow
def large_everywhere(text: str) -> str:
    return saves(text)


@pytest.mark.parametrize(
    ("length", "inline"), [(INLINE_BYTES - 2, True), (INLINE_BYTES - 1, False)]
)
async def test_results_and_artifacts_go_into_blobs_over_the_limit(
    bench: Any, length: int, inline: bool
) -> None:
    text = "x" * length
    handle = await large_everywhere.aio.run(text)
    assert await bench.result(handle.exec_id, large_everywhere) == text
    found = 0
    for event in await bench.events(handle.exec_id):
        match event:
            case CheckpointCompleted(result=value) | ExecutionCompleted(result=value):
                pass
            case ArtifactSaved(value=value):
                pass
            case _:
                continue
        found += 1
        assert (value.blob is None) is inline
        if value.blob is not None:
            assert len(await bench.runtime.journal.get_blob(value.blob)) == value.size == length + 2
    assert found == 3
    started = (await bench.events(handle.exec_id))[0]
    assert isinstance(started, ExecutionStarted)
    assert started.arguments.blob is not None
