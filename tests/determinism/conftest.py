"""Flows whose code changes under an execution: an old body, a new one, and the history between."""

import asyncio
import contextlib
import importlib.util
import re
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import Append, NewEvent, RecordedEvent
from kitaru.bootstrap import Runtime, current_runtime
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.executions import fold, head_of, stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.operations.preflight import preflight
from kitaru.verdicts import Judgement, Verdict

HEAD = """\
import asyncio, os, random, time, uuid
from datetime import UTC, datetime
import kitaru
from kitaru import checkpoint, flow

RUNS = []

@checkpoint
DEF fetch(url):
    RUNS.append(("fetch", url))
    return url

@checkpoint
DEF load(url):
    RUNS.append(("load", url))
    return url

@checkpoint
DEF prepare(n):
    RUNS.append(("prepare", n))
    return n

@checkpoint
DEF save(data):
    RUNS.append(("save", data))
    return "saved"

@flow(retries=RETRIES, cache=False)
DEF body():
"""
BLOB = re.compile(rb'"blob":"([0-9a-f]{64})"')
CALLS = re.compile(r"(?<![\w.])((?:fetch|load|prepare|save)\(|kitaru\.(?:wait|sleep)\()")


class Workshop:
    """Writes flows into a file of its own and runs them on one journal in memory."""

    def __init__(self, runtime: Runtime, folder: Path, colour: str) -> None:
        self.runtime = runtime
        self.folder = folder
        self.colour = colour
        self.file = folder / "changing.py"
        self.module: Any = None
        self.end: bytes | None = None
        """The payload of the last event of an execution that came to its end."""

    def write(self, body: str, *, retries: int = 0, head: str = HEAD) -> Any:
        """The flow with this body, written for sync flows; ``await`` is put in for async ones."""
        text = textwrap.dedent(body).strip("\n")
        asynchronous = self.colour == "async"
        if asynchronous and "await" not in text:
            text = CALLS.sub(r"await \1", text)
        head = head.replace("DEF ", "async def " if asynchronous else "def ")
        head = head.replace("RETRIES", str(retries))
        self.file.write_text(head + textwrap.indent(text, "    ") + "\n", encoding="utf-8")
        specification = importlib.util.spec_from_file_location("changing", self.file)
        assert specification is not None
        assert specification.loader is not None
        self.module = importlib.util.module_from_spec(specification)
        sys.modules["changing"] = self.module
        specification.loader.exec_module(self.module)
        return self.module.body

    def line_of(self, text: str) -> int:
        """The number of the only line that holds a text."""
        lines = self.file.read_text(encoding="utf-8").splitlines()
        (found,) = [number for number, line in enumerate(lines, 1) if text in line]
        return found

    async def history_of(self, body: str, **options: Any) -> list[RecordedEvent]:
        """What the flow records up to its end, or up to where it waits for people."""
        flow = self.write(body, **options)
        handle = flow.aio.run()
        await handle
        stream = stream_of(handle.exec_id)
        if "kitaru.wait(" not in body:
            with contextlib.suppress(kitaru.KitaruUserCodeError):
                await handle.wait()
            *recorded, end = await self.runtime.journal.read_stream(stream)
            self.end = end.payload
            return recorded
        async with asyncio.timeout(30):
            while True:
                recorded = await self.runtime.journal.read_stream(stream)
                if any(fact.type == "wait_requested" for fact in recorded):
                    return recorded
                await asyncio.sleep(0.01)

    async def plant(
        self, flow: Any, history: Sequence[RecordedEvent], exec_id: str = "planted"
    ) -> None:
        """A new execution with another's events: as if its process had died there."""
        self.runtime.worker.registry.serve(flow.reference, flow.definition)
        await self.runtime.journal.append(
            Append(
                stream=stream_of(exec_id),
                events=tuple(NewEvent(fact.type, fact.payload, fact.schema) for fact in history),
                expected_version=0,
                head=head_of(fold(ABSENT, [decode_event(fact) for fact in history])),
            )
        )
        self.runtime.worker.look_now()

    def serve(self, flow: Any) -> None:
        """This process has the flow's code now."""
        self.runtime.worker.registry.serve(flow.reference, flow.definition)

    async def recorded(self, exec_id: str = "planted") -> list[RecordedEvent]:
        """The execution's events."""
        return await self.runtime.journal.read_stream(stream_of(exec_id))

    async def result(self, flow: Any, exec_id: str = "planted") -> Any:
        """The execution's result; raises what its handle raises."""
        event = await executions.ending_of(self.runtime, exec_id, 30)
        return await executions.outcome_of(self.runtime, exec_id, event, flow.definition.types)

    async def diverged(self, old: str, new: str, **options: Any) -> kitaru.KitaruDivergenceError:
        """What the new body is told on the old one's history."""
        history = await self.history_of(old, **options)
        flow = self.write(new, **options)
        verdict = await self.foreseen(flow, history)
        runs = [*self.module.RUNS]
        await self.plant(flow, history)
        with pytest.raises(kitaru.KitaruDivergenceError) as raised:
            await self.result(flow)
        assert runs == [], "the preflight has run a checkpoint"
        check_foreseen(verdict, raised.value)
        return raised.value

    async def foreseen(self, flow: Any, history: Sequence[RecordedEvent]) -> Verdict:
        """What the preflight says of an execution with these events."""
        blobs: dict[str, bytes] = {}
        for name in {name for fact in history for name in BLOB.findall(fact.payload)}:
            blobs[name.decode()] = await self.runtime.journal.get_blob(name.decode())
        return await asyncio.to_thread(preflight, history, blobs, flow.definition)


def check_foreseen(verdict: Verdict, error: kitaru.KitaruDivergenceError) -> None:
    """The law: what a runner is stopped by, the preflight has told before, in the same words."""
    assert verdict.judgement is Judgement.DIVERGES
    facts = error.divergence
    assert verdict.path == facts.recorded.path
    assert verdict.version == facts.recorded.version or facts.recorded.version is None
    assert verdict.story == facts.story
    assert verdict.summary == facts.summary
    assert verdict.recorded_site == facts.recorded.site
    assert verdict.site == (facts.asked[0].site if facts.asked else "")
    # Not the whole: bodies here take the time and random numbers as arguments.
    assert verdict.report.partition("\n")[0] == str(error).partition("\n")[0]


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> str:
    """Each test is for flows of both colours."""
    return str(request.param)


@pytest.fixture
async def workshop(
    colour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workshop]:
    """A place where flows are changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "changing", sys)
    async with kitaru.runtime(journal="memory://"):
        yield Workshop(current_runtime(), tmp_path, colour)
