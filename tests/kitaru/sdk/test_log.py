"""What `log()` attaches, over passes and flow attempts."""

from collections.abc import Callable
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.domain.execution.events import FlowAttemptFailed, MetadataLogged
from kitaru.projections.executions import execution_of

tries: list[int] = []


@checkpoint(cache=False)
def note(text: str) -> str:
    return text


@flow(retries=2)
def sync_flow() -> str:
    tries.append(1)
    kitaru.log(constant="same", tries=len(tries))
    kitaru.log(progress={f"try {len(tries)}": "begun"})
    note("before")
    if len(tries) < 3:
        raise ValueError("try again")
    kitaru.log(end=True)
    return note("end")


@flow(retries=2)
async def async_flow() -> str:
    tries.append(1)
    kitaru.log(constant="same", tries=len(tries))
    kitaru.log(progress={f"try {len(tries)}": "begun"})
    await note.aio("before")
    if len(tries) < 3:
        raise ValueError("try again")
    kitaru.log(end=True)
    return await note.aio("end")


@flow(retries=1)
def unchanging() -> str:
    tries.append(1)
    kitaru.log(constant="same")
    if len(tries) < 2:
        raise ValueError("try again")
    return "end"


@pytest.fixture(autouse=True)
def _no_tries() -> None:
    tries.clear()


async def metadata(exec_id: str) -> dict[str, Any]:
    runtime = current_runtime()
    head = await runtime.journal.head(f"execution-{exec_id}")
    assert head is not None
    return execution_of(head, await runtime.journal.read_stream(head.stream)).metadata


WHOLE = {
    "constant": "same",
    "tries": 3,
    "progress": {"try 1": "begun", "try 2": "begun", "try 3": "begun"},
    "end": True,
}


@pytest.mark.parametrize("body", [sync_flow, async_flow])
async def test_what_a_later_flow_attempt_logs_counts(bench: Any, body: Any) -> None:
    handle = await body.aio.run()
    assert await bench.result(handle.exec_id, body) == "end"
    assert await metadata(handle.exec_id) == WHOLE


@pytest.mark.parametrize("body", [sync_flow, async_flow])
async def test_a_replay_logs_nothing_again(bench: Any, body: Any) -> None:
    handle = await body.aio.run()
    await bench.result(handle.exec_id, body)
    events = await bench.events(handle.exec_id)
    recorded = await bench.recorded(handle.exec_id)
    failed = [n for n, event in enumerate(events) if isinstance(event, FlowAttemptFailed)]
    # It dies in its second attempt, and once more; both times what it had logged is recorded.
    tries[:] = [1]
    await bench.crashed_after(body, recorded[: failed[1]], "crashed")
    assert await bench.result("crashed", body) == "end"
    assert await metadata("crashed") == WHOLE
    logged = [e.metadata for e in await bench.events("crashed") if isinstance(e, MetadataLogged)]
    assert len(logged) == len({bytes(each) for each in logged}) == 7


async def test_what_every_attempt_logs_alike_is_recorded_once(bench: Any) -> None:
    handle = await unchanging.aio.run()
    assert await bench.result(handle.exec_id, unchanging) == "end"
    logged = [e for e in await bench.events(handle.exec_id) if isinstance(e, MetadataLogged)]
    assert len(logged) == 1


@pytest.mark.parametrize("call", [lambda: kitaru.log(a=1), lambda: kitaru.log()])
def test_logging_outside_a_flow_is_refused(call: Callable[[], None]) -> None:
    with pytest.raises(kitaru.KitaruContextError, match="inside a @flow"):
        call()
