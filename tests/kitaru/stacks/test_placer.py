"""An execution that cannot be placed keeps none of the others from their runners."""

from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec import Raw

from journal import Append, HeadChange, NewEvent, open_journal
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import ExecutionStarted, FrozenOptions, SourceReference
from kitaru.domain.execution.events import StackReference as Stack
from kitaru.domain.execution.state import ABSENT
from kitaru.domain.values import StoredValue as Value
from kitaru.engine.executions import CATEGORY, fold, head_of, new_event
from kitaru.errors import KitaruBackendError
from kitaru.image import ImageSettings
from kitaru.stacks.placer import Placer
from kitaru.stacks.port import Ended, Placed, Work


class Executor:
    """A type of stack whose runners are only written down."""

    def __init__(self) -> None:
        self.works: list[str] = []
        self.refuses: set[str] = set()

    def prepare(self, image: ImageSettings) -> ImageSettings:
        return image

    def place(self, work: Work, secrets: dict[str, str]) -> bool:
        if work.exec_id in self.refuses:
            raise KitaruBackendError("there is no room on the disk")
        self.works.append(work.exec_id)
        return True

    def placed(self) -> Sequence[Placed]:
        return ()

    def ended(self) -> Sequence[Ended]:
        return ()

    def stop(self, exec_id: str) -> bool:
        return False


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    journal = await open_journal("memory://")
    runtime = Runtime.over(journal, "memory://", 30)
    yield runtime
    await runtime.close()


async def start(runtime: Runtime, exec_id: str, *, kind: str = "process") -> None:
    event = ExecutionStarted(
        flow="agent",
        source=SourceReference("flows", "agent", "flows.py", ""),
        arguments=Value(json=Raw(b"{}")),
        arguments_digest="",
        asynchronous=False,
        fingerprint="",
        options=FrozenOptions(stack=Stack("far", kind)),
        seed="00",
    )
    head = head_of(fold(ABSENT, [event]))
    append = Append(f"{CATEGORY}-{exec_id}", (new_event(event),), 0, head)
    await runtime.journal.append(append)


async def start_unreadable(runtime: Runtime, exec_id: str) -> None:
    head = HeadChange("running", "agent", 0, route="stack:far")
    append = Append(f"{CATEGORY}-{exec_id}", (NewEvent("of_a_later_version", b"{}"),), 0, head)
    await runtime.journal.append(append)


async def test_what_cannot_be_read_hides_none_of_the_others(
    runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Executor()
    placer = Placer(runtime.journal, {"process": executor}, runtime.worker.note_not_placed)
    await start_unreadable(runtime, "e1")
    await start(runtime, "e2")
    await start_unreadable(runtime, "e3")
    await placer.look(0.0)
    assert executor.works == ["e2"]
    told = capsys.readouterr().err
    assert "of_a_later_version" in told
    assert "e1" in told
    # Nobody keeps it: whoever can read it may have it at once.
    for exec_id in ("e1", "e3"):
        head = await runtime.journal.head(f"{CATEGORY}-{exec_id}")
        assert head is not None
        assert (head.owner, head.version) == (None, 1)


async def test_why_there_is_no_runner_is_recorded_where_it_can_be(runtime: Runtime) -> None:
    executor = Executor()
    executor.refuses.add("e1")
    placer = Placer(runtime.journal, {"process": executor}, runtime.worker.note_not_placed)
    await start(runtime, "e1")
    await start(runtime, "e2", kind="kubernetes")
    await start(runtime, "e3")
    await placer.look(0.0)
    assert executor.works == ["e3"]
    for exec_id, why in (("e1", "no room on the disk"), ("e2", "no stacks of type")):
        head = await runtime.journal.head(f"{CATEGORY}-{exec_id}")
        assert head is not None
        assert why in head.summary.decode()
        assert head.owner is None
