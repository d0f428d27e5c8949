"""Only what still stands where it was judged, and what nobody has, is moved to another version."""

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from journal import Append, ClaimQuery, NewEvent
from kitaru.bootstrap import Runtime
from kitaru.domain.deployment.events import EntryPoint, VersionDeployed
from kitaru.domain.execution.commands import Cancel
from kitaru.domain.execution.events import FrozenOptions
from kitaru.engine.bundles import bundle_of
from kitaru.engine.executions import CATEGORY, state_of, stream_of
from kitaru.operations import candidates, deployments
from kitaru.operations.candidates import move_safe
from kitaru.operations.deployments import Invocation
from kitaru.operations.executions import append_decided
from kitaru.operations.packaging import Package
from kitaru.stacks.candidates import CandidateSpec, Judged, answer_of
from kitaru.stacks.pool import RunnerPool
from kitaru.verdicts import Judgement, Verdict


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runtime that starts no runner."""

    async def look(_: RunnerPool) -> None:
        """Nobody runs anything here."""

    monkeypatch.setattr(RunnerPool, "look", look)
    runtime = await Runtime.open(f"sqlite:///{tmp_path}/journal.db", 30)
    yield runtime
    await runtime.close()


@pytest.fixture
async def second(runtime: Any, tmp_path: Path) -> Any:
    """The second version of a flow, of whose first one `e1` is an execution."""
    root = tmp_path / "project"
    root.mkdir()
    views = []
    for number in (1, 2):
        (root / "flows.py").write_text(f"x = {number}\n")
        bundle = bundle_of(str(root))
        facts = VersionDeployed(
            version=0,
            entry=EntryPoint(module="flows", qualname="agent", file="flows.py"),
            bundle=bundle.digest,
            size=1,
            files=1,
            fingerprint=f"f{number}",
            schema=Raw(b'{"properties":{},"required":[]}'),
            options=FrozenOptions(),
        )
        made = Package(facts, bundle, (bundle.data,))
        views.append(await deployments.deploy(runtime, "agent", made, tags={"default": True}))
        if number == 1:
            await deployments.invoke(runtime, "e1", Invocation(flow="agent", inputs={}))
    return views[1]


def judged(**changes: Any) -> Judged:
    facts: dict[str, Any] = {
        "exec_id": "e1",
        "status": "running",
        "deployed": 1,
        "is_running": False,
        "events": 1,
        "verdict": Verdict(judgement=Judgement.SAFE, version=1, summary="all agrees"),
    }
    return Judged(**{**facts, **changes})


async def state(runtime: Any) -> Any:
    return state_of(await runtime.journal.read_stream(stream_of("e1")))


async def test_what_is_safe_is_moved_and_given_back(runtime: Any, second: Any) -> None:
    [moved] = await move_safe(runtime, second, [judged()])
    assert moved.is_moved
    found = await state(runtime)
    head = await runtime.journal.head(stream_of("e1"))
    assert (found.deployment.version, found.deployment.bundle) == (2, second.bundle)
    assert (head.owner, head.route) == (None, f"deployment:{second.bundle}")
    [known] = await move_safe(runtime, second, [judged(deployed=2)])
    assert "already" in known.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"deployed": None}, "started with run()"),
        ({"events": 7}, "gone on since"),
        (
            {"verdict": Verdict(judgement=Judgement.DIVERGES, version=2, summary="no")},
            "diverges: no",
        ),
        ({"verdict": Verdict(judgement=Judgement.UNKNOWN, version=2, summary="?")}, "unknown: ?"),
    ],
)
async def test_the_others_are_left_with_the_reason(
    runtime: Any, second: Any, changes: dict[str, Any], reason: str
) -> None:
    before = await runtime.journal.read_stream(stream_of("e1"))
    [left] = await move_safe(runtime, second, [judged(**changes)])
    assert not left.is_moved
    assert reason in left.reason
    assert await runtime.journal.read_stream(stream_of("e1")) == before
    head = await runtime.journal.head(stream_of("e1"))
    assert head.owner is None


async def test_what_a_runner_has_is_left_alone(runtime: Any, second: Any) -> None:
    query = ClaimQuery(
        category=CATEGORY, names=(), claim=runtime.worker.claim, stream=stream_of("e1")
    )
    assert len(await runtime.journal.claim(query)) == 1
    [left] = await move_safe(runtime, second, [judged()])
    assert (left.is_moved, left.reason) == (False, "a runner has it now")


async def test_what_a_client_has_written_meanwhile_counts(runtime: Any, second: Any) -> None:
    await append_decided(runtime, "e1", lambda _: Cancel("enough"))
    [left] = await move_safe(runtime, second, [judged()])
    assert "gone on since" in left.reason


FLOW = """
from kitaru import flow

@flow
def agent() -> int:
    return 1
"""


async def test_an_execution_that_cannot_be_read_is_unknown_and_hides_none_of_the_others(
    runtime: Any, second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 2)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for number in range(2, 6):
        await deployments.invoke(runtime, f"e{number}", Invocation(flow="agent", inputs={}))
    await runtime.journal.append(
        Append(
            stream=stream_of("e3"),
            events=(NewEvent("of_a_later_version", b"{}"),),
            expected_version=1,
        )
    )
    root = tmp_path / "candidate"
    root.mkdir()
    (root / "candidate_flows.py").write_text(FLOW)
    bundle = bundle_of(str(root))
    (tmp_path / bundle.digest).write_bytes(bundle.data)
    spec = CandidateSpec(
        journal=f"{tmp_path}/journal.db",
        flow="agent",
        folder=str(tmp_path),
        digest=bundle.digest,
        entry=EntryPoint(
            module="candidate_flows",
            qualname="agent",
            file="candidate_flows.py",
            import_roots=("",),
        ),
        seconds=10,
    )
    candidates.answer(spec)
    found = answer_of(spec)
    assert found.is_done
    assert list(found.judged) == [f"e{number}" for number in range(1, 6)]
    unreadable = found.judged.pop("e3")
    assert (unreadable.deployed, unreadable.verdict.judgement) == (2, Judgement.UNKNOWN)
    assert "of_a_later_version" in unreadable.verdict.summary
    assert {each.verdict.judgement for each in found.judged.values()} == {Judgement.SAFE}
