"""One durable call: its identity, its place in the source, its attempts and what it gives."""

import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from kitaru.domain.execution.retry import Retry
from kitaru.domain.ids import checked_id
from kitaru.engine.calls import Call, call_site, delivery_of
from kitaru.engine.codec import Codec, digest
from kitaru.engine.definitions import CheckpointDefinition
from kitaru.errors import KitaruSerializationError, KitaruUsageError

codec = Codec()


def work(items: list[int], label: str = "x") -> list[int]:
    return items


def call(**options: Any) -> Call:
    given = {"policy": Retry(max_attempts=3), "type": "tool_call", "record_inputs": None}
    definition = CheckpointDefinition(work, asynchronous=False, **{**given, **options})
    made = Call(definition, "task[1]/work#2", "a.py:3", {"items": [1, 2], "label": "x"})
    made.encode(codec)
    return made


# identity


@pytest.mark.parametrize("given", ["a", "fetch page", "Zürich/日本", "x" * 500])
def test_an_id_is_any_text_that_can_be_printed(given: str) -> None:
    assert checked_id(given, "An id") == given


@pytest.mark.parametrize("given", ["", "  ", "a\nb", "\x00", "\ud800", "x" * 501, 3, None, b"a"])
def test_an_id_that_nobody_could_type_again_is_refused(given: Any) -> None:
    with pytest.raises(KitaruUsageError, match="An id"):
        checked_id(given, "An id")


def test_the_same_arguments_have_the_same_digest_and_others_another() -> None:
    one, same, other = call(), call(), call()
    other.arguments = {"items": [2, 1], "label": "x"}
    other.encode(codec)
    assert one.digest == same.digest == digest(one.encoded)
    assert other.digest != one.digest


# the place in the source


def test_a_site_is_the_line_of_the_call_relative_to_where_the_program_runs() -> None:
    def called() -> str:
        return call_site(1)

    frame = inspect.currentframe()
    assert frame is not None
    site = called()
    line = frame.f_lineno - 1
    assert site == f"{os.path.relpath(__file__)}:{line}"


def test_a_file_outside_the_working_directory_is_named_in_full(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.py"
    namespace: dict[str, Any] = {"call_site": call_site}
    exec(compile("def f():\n    return call_site(0)\n", str(file), "exec"), namespace)
    assert namespace["f"]() == f"{file}:2"


# attempts


def test_an_outcome_tells_the_call_its_attempt_and_its_arguments() -> None:
    made = call()
    made.attempt = 4
    made.begin()
    event, blobs = made.completed([1, 2], codec)
    assert (event.path, event.name, event.attempt) == ("task[1]/work#2", "work", 5)
    assert (event.site, event.type, event.arguments_digest) == ("a.py:3", "tool_call", made.digest)
    assert event.arguments is not None
    assert bytes(event.arguments.json) == made.encoded
    assert event.duration_us >= 0
    assert blobs == ()


def test_what_the_body_is_given_is_a_copy_as_a_replay_would_read_it() -> None:
    made = call()
    made.begin()
    result = [1, 2]
    event, _ = made.completed(result, codec)
    assert made.delivery is not None
    assert made.delivery.value == result
    assert made.delivery.value is not result
    replayed = delivery_of(event, made, codec, None, None)
    assert (replayed.value, replayed.error) == (result, None)


def test_a_result_that_cannot_be_kept_leaves_nothing_to_deliver() -> None:
    made = call()
    made.begin()
    with pytest.raises(KitaruSerializationError, match="result"):
        made.completed(object(), codec)
    assert made.delivery is None


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_failed_attempt_counts_and_can_be_raised_again() -> None:
    made = call()
    for tried in (1, 2):
        made.begin()
        command, blobs = made.failed(raised(KeyError("k")), codec, 1_000, 0.5)
        assert (command.tried, command.call.attempt, command.retryable) == (tried, tried, True)
        assert (command.now, command.jitter, blobs) == (1_000, 0.5, ())
        assert command.bases[:2] == ("KeyError", "LookupError")
        assert command.call.arguments is not None
    assert made.delivery is not None
    assert isinstance(made.delivery.error, KeyError)


def test_what_the_body_no_longer_waits_for_is_not_tried_again() -> None:
    made = call()
    made.begin()
    made.abandoned = True
    assert not made.failed(raised(ValueError("boom")), codec, 0, 0)[0].retryable


def test_kitarus_own_refusals_are_not_tried_again() -> None:
    made = call()
    made.begin()
    assert not made.failed(raised(KitaruUsageError("no")), codec, 0, 0)[0].retryable


def test_a_start_and_a_cancellation_name_the_attempt() -> None:
    made = call(record_inputs=False)
    made.begin()
    started, blobs = made.started_event()
    cancelled = made.cancelled()
    assert (started.attempt, cancelled.attempt, blobs) == (1, 1, ())
    assert started.arguments is None
    assert started.arguments_digest == cancelled.arguments_digest == made.digest
    assert made.asked.path == cancelled.path
